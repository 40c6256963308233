import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { extname } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { messageOf } from '../../model/errors.ts';

/** The process that writes to the shop's database. */
export class ShopStaff implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #paused: (() => void)[] = [];
  #transactions = 0;
  #failure: string | null = null;
  #complaint = '';

  constructor(url: string) {
    // Beside this file, as TypeScript in a checkout and as JavaScript when published.
    const program = fileURLToPath(new URL(`./shop-process${extname(import.meta.url)}`, import.meta.url));
    this.#child = spawn(process.execPath, [program, url], { stdio: ['pipe', 'pipe', 'pipe'] });
    this.#child.on('error', (error) => (this.#failure = messageOf(error)));
    this.#child.on('exit', (code) => {
      if (code !== 0) this.#failure = this.#complaint === '' ? `it ended with ${code}` : this.#complaint;
      for (const told of this.#paused.splice(0)) told();
    });
    this.#child.stdin?.on('error', () => undefined); // told by 'exit'
    this.#child.stderr?.on('data', (text: Buffer) => {
      this.#complaint = (this.#complaint + text.toString('utf8')).slice(-2000);
    });
    if (this.#child.stdout !== null) createInterface(this.#child.stdout).on('line', (line) => this.#hear(line));
  }

  #hear(line: string): void {
    if (line === 'paused') for (const told of this.#paused.splice(0)) told();
    const made = /^made (\d+)$/.exec(line)?.[1];
    if (made !== undefined) this.#transactions = Number(made);
  }

  /** Made so far. */
  get transactions(): number {
    return this.#transactions;
  }

  /** Throws if the shop's program failed: no statement of it may, whatever Foreshadow does. */
  check(): void {
    if (this.#failure !== null) throw new Error(`the shop's own program failed: ${this.#failure}`);
  }

  /** Resolves when its last transaction is over. */
  async pause(): Promise<void> {
    const paused = new Promise<void>((resolve) => this.#paused.push(resolve));
    this.#child.stdin?.write('pause\n');
    await paused;
    this.check();
  }

  go(): void {
    this.#child.stdin?.write('go\n');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null || this.#child.pid === undefined) return;
    const exited = once(this.#child, 'exit');
    this.#child.stdin?.end();
    const late = setTimeout(() => this.#child.kill('SIGKILL'), 5000);
    await exited;
    clearTimeout(late);
  }
}
