import { Schedule, type Window, Windows } from '../capture/schedule.ts';
import { slotLengths } from '../tracking/history.ts';
import type { Config, PredictionPolicy } from './config.ts';

/** When the next capture is due by itself, and why then. */
export interface Due {
  readonly atMs: number;
  /** Null: the schedule says so, and there is no more to it. */
  readonly because: string | null;
}

/** What came to nothing in a window is tried again after so many slots. */
const AGAIN_SLOTS = 15;

/** How busy the primary is forecast to be in each slot from a moment on, as a share of its ceilings; NaN: nobody knows. */
export type BusyAhead = (fromMs: number, slotMs: number, slots: number) => Float64Array;

/**
 * When captures are due: by schedule, or once in each day's window at its quietest moment. That is chosen anew whenever it is asked, as the
 * forecast changes, until it comes; at the end of the window at the latest. Any capture within a window is that window's, whoever asked for it.
 */
export class DueTimes {
  readonly #schedule: Schedule | null;
  readonly #windows: Windows | null;
  readonly #slotMs: number;
  readonly #busyAhead: BusyAhead;
  #capturedMs = Number.NEGATIVE_INFINITY;
  #againMs = Number.NEGATIVE_INFINITY;

  constructor({ schedule, window }: Config['captures'], slotMs: number, busyAhead: BusyAhead) {
    this.#schedule = schedule === null ? null : new Schedule(schedule.cron, schedule.timeZone);
    this.#windows = window === null ? null : new Windows(window.from, window.to, window.timeZone);
    this.#slotMs = slotMs;
    this.#busyAhead = busyAhead;
  }

  /** When to look at the clock again at the latest: it may be set, and in a window forecasts change. */
  get changesAfterMs(): number {
    return this.#slotMs;
  }

  /** A capture was cut, or one that was due is being taken. */
  captured(atMs: number): void {
    this.#capturedMs = atMs;
  }

  /** Nothing came of the one that was being taken: in a window there is time to try again, but not at once. */
  failed(atMs: number): void {
    this.#capturedMs = Number.NEGATIVE_INFINITY;
    this.#againMs = atMs + AGAIN_SLOTS * this.#slotMs;
  }

  /** Whether what was due is so still: a window has one capture, and another may have come meanwhile. */
  stands({ atMs }: Due): boolean {
    return this.#windows === null || !this.#isCaptured(this.#windows.at(new Date(atMs)));
  }

  next(nowMs: number): Due | null {
    if (this.#schedule !== null) {
      const at = this.#schedule.next(new Date(nowMs));
      return at === null ? null : { atMs: at.getTime(), because: null };
    }
    if (this.#windows === null) return null;
    let window = this.#windows.at(new Date(nowMs));
    if (this.#isCaptured(window) || this.#againMs >= window.untilMs) window = this.#windows.at(new Date(window.untilMs));
    return this.#quietest(Math.max(nowMs, window.fromMs, this.#againMs), window.untilMs);
  }

  /** By a capture of that time: one that a clock dated wrongly, years ahead, is not every window's. */
  #isCaptured({ fromMs, untilMs }: Window): boolean {
    return this.#capturedMs >= fromMs && this.#capturedMs <= untilMs;
  }

  #quietest(beginMs: number, untilMs: number): Due {
    const slots = Math.max(1, Math.ceil((untilMs - beginMs) / this.#slotMs));
    const busy = this.#busyAhead(beginMs, this.#slotMs, slots);
    let quietest = -1;
    for (const [slot, load] of busy.entries()) {
      if (Number.isFinite(load) && (quietest < 0 || load < (busy[quietest] as number))) quietest = slot;
    }
    if (quietest < 0) return { atMs: beginMs, because: 'the load then is not forecast, so that it is the first moment of the window' };
    const [least, most] = [busy[quietest] as number, busy.reduce((found, load) => (load > found ? load : found), 0)];
    const because = `the primary is forecast to be quietest then, at ${percent(least)} of its ceiling; in the window up to ${percent(most)}`;
    return { atMs: beginMs + quietest * this.#slotMs, because };
  }
}

/** Captures must be so many slots apart for anything to be planned ahead of them. */
const CYCLE_SLOTS_MIN = 10;

/** A schedule may have captures closer together at some times than at others: so many are looked at. */
const RUNS_SEEN = 12;

/** As the config says; if it does not, a plan where there is time for one. */
export function policyOf(
  { captures: { schedule, window }, prediction }: Pick<Config, 'captures' | 'prediction'>,
  now = new Date(),
): PredictionPolicy {
  if (prediction.policy !== null) return prediction.policy;
  if (window !== null) return 'predictive';
  if (schedule === null) return 'stream-everything';
  const times = new Schedule(schedule.cron, schedule.timeZone);
  const slotMs = Math.max(prediction.intervalMs, slotLengths(prediction.dayMs).minuteMs);
  let before = times.next(now);
  for (let run = 1; run < RUNS_SEEN && before !== null; run++) {
    const after = times.next(before);
    if (after !== null && after.getTime() - before.getTime() < CYCLE_SLOTS_MIN * slotMs) return 'stream-everything';
    before = after;
  }
  return 'predictive';
}

function percent(share: number): string {
  return `${Math.round(share * 100)} %`;
}
