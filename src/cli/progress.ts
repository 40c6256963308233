import type { ProgressListener } from '../app/operations.ts';
import type { Output } from './output.ts';
import { duration, number } from './words.ts';

/** Nothing is shown of work that is done sooner than this. */
const QUIET_MS = 2000;
const REDRAW_MS = 100;
const LINE_EVERY_MS = 5000;
const BAR_WIDTH = 24;

type Step = Parameters<ProgressListener>[0];

/** Shows how work goes on: a bar that is redrawn on a terminal, a plain line now and then otherwise. */
export class Progress implements Disposable {
  readonly #output: Output;
  readonly #nowMs: () => number;
  readonly #beganMs: number;
  #shownMs = Number.NEGATIVE_INFINITY;
  #shownPhase: string | null = null;
  #drawn = false;

  constructor(output: Output, nowMs: () => number = () => performance.now()) {
    this.#output = output;
    this.#nowMs = nowMs;
    this.#beganMs = nowMs();
  }

  readonly listener: ProgressListener = (step) => {
    const nowMs = this.#nowMs();
    if (nowMs - this.#beganMs < QUIET_MS) return;
    const due = this.#output.terminal ? REDRAW_MS : LINE_EVERY_MS;
    if (step.phase === this.#shownPhase && nowMs - this.#shownMs < due) return;
    this.#shownMs = nowMs;
    this.#shownPhase = step.phase;
    const text = stepText(step, nowMs - this.#beganMs, this.#output.terminal);
    if (!this.#output.terminal) {
      this.#output.note(`${text}\n`);
      return;
    }
    this.#output.note(`\r\u001b[2K${text.slice(0, this.#output.columns - 1)}`);
    this.#drawn = true;
  };

  /** Takes the bar away. */
  [Symbol.dispose](): void {
    if (this.#drawn) this.#output.note('\r\u001b[2K');
    this.#drawn = false;
  }
}

export function stepText(step: Step, elapsedMs: number, bar: boolean): string {
  const what = step.table === null ? step.phase : `${step.phase} ${step.table}`;
  if (step.total === null || step.total <= 0) return `${what}: ${number(step.done)} ${step.unit} (${duration(elapsedMs)})`;
  const share = Math.min(1, step.done / step.total);
  const filled = Math.round(share * BAR_WIDTH);
  const drawn = bar ? `${'█'.repeat(filled)}${'░'.repeat(BAR_WIDTH - filled)} ` : '';
  return `${what}: ${drawn}${Math.floor(share * 100)} %, ${number(step.done)} of ${number(step.total)} ${step.unit} (${duration(elapsedMs)})`;
}
