import { Arrivals } from './arrivals.ts';
import { LastChanges } from './last-changes.ts';
import { type LearnedRows, checkedNumber } from './learned.ts';
import { Survival } from './survival.ts';

/** Of the rows that changed in the cycle, so many are looked at per slot to learn survival from. */
const SAMPLED_PER_SLOT = 32;
const SAMPLES_HELD = 1 << 15;
/** Rows whose pace is remembered apart: 70 bytes each. */
const ROWS_REMEMBERED = 1 << 18;
/** Rows of a cycle whose last change is remembered: some 60 bytes each. */
const CHANGES_HELD = 1 << 17;
/** How far ahead a row is asked to be calm, to be moved before others. */
const SOON_MS = 30 * 60_000;
/** Weight of the newest cycle in how the rows that change divide among elements. */
const NEWEST = 0.2;
/** An element with less of them has none: what is gone for good is forgotten some day. */
const SHARE_MIN = 1e-6;

/** How likely a row is to stay as it is. */
export interface Chances {
  /** Until the capture. */
  readonly clean: number;
  /** For a while: half an hour, or until the capture if that is sooner. */
  readonly calm: number;
}

/**
 * What is learned of rows as they change: how likely each is to stay as it is, and how many are yet to see their last change before a
 * capture. Rows are any whole numbers ≥ 0 that stand for identities. Times are of days of 24 hours.
 */
export class RowLearning {
  readonly #slotMs: number;
  readonly #slots: number;
  readonly #survival = new Survival({ slots: ROWS_REMEMBERED, samples: SAMPLES_HELD });
  readonly #arrivals: Arrivals;
  readonly #changes = new LastChanges(CHANGES_HELD);
  readonly #shares = new Map<number, number>();
  /** Whether the cycle under way was seen from its beginning. */
  #isWhole = false;
  #turn = 0;

  /** @param slots of a cycle: what lies further from a capture is not learned. */
  constructor(slotMs: number, slots: number) {
    this.#slotMs = slotMs;
    this.#slots = slots;
    this.#arrivals = new Arrivals(slots);
  }

  /** Cycles seen whole. */
  get cycles(): number {
    return this.#arrivals.cycles;
  }

  /** What another process may go on from: all but what is known of single rows, and of the cycle under way. */
  get learned(): LearnedRows {
    return { survival: this.#survival.learned, arrivals: this.#arrivals.learned, shares: Array.from(this.#shares) };
  }

  /** @throws RangeError for what cannot have been learned in such slots; then this is of no use any more. */
  resume({ survival, arrivals, shares }: LearnedRows): void {
    this.#survival.resume(survival);
    this.#arrivals.resume(arrivals);
    for (const [element, share] of shares) this.#shares.set(checkedNumber(element, 0), checkedNumber(share, 0, 1));
  }

  changed(row: number, element: number, atMs: number): void {
    this.#survival.changed(row, atMs);
    this.#changes.changed(row, element, atMs);
  }

  /** Once a slot: learns from what became of rows it looked at, and looks at some more. */
  look(nowMs: number): void {
    this.#survival.mature(nowMs);
    const { count } = this.#changes;
    const every = Math.max(1, Math.ceil(count / SAMPLED_PER_SLOT));
    for (let index = this.#turn++ % every; index < count; index += every) this.#survival.sample(this.#changes.at(index), nowMs);
  }

  /** @throws RangeError for what is no probability: a plan made of it would mean nothing. */
  chances(row: number, nowMs: number, dueMs: number): Chances {
    const leftMs = dueMs - nowMs;
    const clean = this.#survival.clean(row, nowMs, leftMs);
    const calm = leftMs <= SOON_MS ? clean : this.calm(row, nowMs, dueMs);
    if (!(clean >= 0 && clean <= 1 && calm >= 0 && calm <= 1)) throw new RangeError(`survival says ${clean} and ${calm} of a row`);
    return { clean, calm };
  }

  calm(row: number, nowMs: number, dueMs: number): number {
    return this.#survival.clean(row, nowMs, Math.min(SOON_MS, dueMs - nowMs));
  }

  /** Rows expected to see their last change before a capture due then, per slot from now on, of all elements; null before a cycle was seen whole. */
  coming(dueMs: number, slots: number): Float64Array | null {
    return this.cycles === 0 ? null : this.#arrivals.expected(dueMs, slots);
  }

  /** How those divide among elements. */
  get shares(): ReadonlyMap<number, number> {
    return this.#shares;
  }

  /**
   * A capture was due: what changed in the cycle that ended is learned from, if it was seen whole, and another begins.
   *
   * @param labelMs the same moment by the clock on the wall, whose hours are told apart.
   * @returns whether anything was learned.
   */
  due(dueMs: number, labelMs: number): boolean {
    const learns = this.#isWhole;
    if (learns) {
      this.#arrivals.learn(labelMs, this.#changes.profile(dueMs, this.#slotMs, this.#slots));
      this.#share();
    }
    this.#isWhole = true;
    this.#changes.forget(dueMs);
    return learns;
  }

  /** The cycle under way cannot be seen as it is: nothing is learned of it when it ends. */
  missed(): void {
    this.#isWhole = false;
  }

  #share(): void {
    const counts = this.#changes.byElement();
    const total = Array.from(counts.values()).reduce((sum, count) => sum + count, 0);
    if (total === 0) return;
    const weight = this.#shares.size === 0 ? 1 : NEWEST;
    for (const element of new Set([...this.#shares.keys(), ...counts.keys()])) {
      const before = this.#shares.get(element) ?? 0;
      const share = before + weight * ((counts.get(element) ?? 0) / total - before);
      if (share < SHARE_MIN) this.#shares.delete(element);
      else this.#shares.set(element, share);
    }
  }
}
