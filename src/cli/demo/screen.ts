import { styleText } from 'node:util';
import type { Output } from '../output.ts';

const REDRAW_MS = 120;
const PLAIN_EVERY_MS = 3000;
const SPINNER = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];

/** What the demonstration shows: lines that stay, and below them one that tells what goes on right now. */
export class Screen {
  readonly #output: Output;
  #live = '';
  #turn = 0;
  #shownMs = 0;

  constructor(output: Output) {
    this.#output = output;
  }

  /** A new act. */
  async act(title: string): Promise<void> {
    await this.line('');
    await this.line(this.#styled('bold', title));
  }

  async line(text: string): Promise<void> {
    this.clear();
    await this.#output.line(text);
  }

  async good(text: string): Promise<void> {
    await this.line(`  ${this.#styled('green', '✓')} ${text}`);
  }

  async bad(text: string): Promise<void> {
    await this.line(`  ${this.#styled('red', '✗')} ${text}`);
  }

  async block(text: string): Promise<void> {
    for (const line of text.trimEnd().split('\n')) await this.line(`    ${line}`);
  }

  /** What a user would type for the same. */
  async command(text: string): Promise<void> {
    await this.line(`  ${this.#styled('cyan', `$ foreshadow ${text}`)}`);
  }

  /** Replaces the line of what goes on right now; on anything but a terminal, a plain line now and then. */
  live(text: string): void {
    const nowMs = performance.now();
    if (nowMs - this.#shownMs < (this.#output.terminal ? REDRAW_MS : PLAIN_EVERY_MS)) return;
    this.#shownMs = nowMs;
    if (!this.#output.terminal) {
      this.#output.note(`  … ${text}\n`);
      return;
    }
    this.#live = `  ${SPINNER[this.#turn++ % SPINNER.length]} ${text}`.slice(0, this.#output.columns - 1);
    this.#output.note(`\r\u001b[2K${this.#live}`);
  }

  clear(): void {
    if (this.#live !== '') this.#output.note('\r\u001b[2K');
    this.#live = '';
  }

  #styled(style: 'bold' | 'green' | 'red' | 'cyan', text: string): string {
    return this.#output.terminal ? styleText(style, text, { validateStream: false }) : text;
  }
}
