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
/** What is left of a cycle with each one after it, in how the rows that change divide among elements. */
const FADING = 0.8;
/** An element with a smaller share of them has none: what is gone for good is forgotten some day. */
const SHARE_MIN = 1e-6;
/** Of a slot: captures are due by the clock on the wall, which does not go quite as the steady one does. */
const HARDLY = 0.1;

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
  /** Rows that changed of each element, faded. */
  readonly #elements = new Map<number, number>();
  /** From when on every change was seen; of what was before the last capture nothing is left. */
  #sinceMs: number;
  /** Whether that is when the cycle under way began. */
  #isWhole = false;
  #turn = 0;

  /** @param slots of a cycle: what lies further from a capture is not learned. */
  constructor(slotMs: number, slots: number, nowMs: number) {
    this.#sinceMs = nowMs;
    this.#slotMs = slotMs;
    this.#slots = slots;
    this.#arrivals = new Arrivals(slots);
  }

  /** What another process may go on from: all but what is known of single rows, and of the cycle under way. */
  get learned(): LearnedRows {
    return { survival: this.#survival.learned, arrivals: this.#arrivals.learned, elements: Array.from(this.#elements) };
  }

  /** @throws RangeError for what cannot have been learned in such slots; then this is of no use any more. */
  resume({ survival, arrivals, elements }: LearnedRows): void {
    this.#survival.resume(survival);
    this.#arrivals.resume(arrivals);
    const most = Number.MAX_SAFE_INTEGER;
    for (const [element, rows] of elements) this.#elements.set(checkedNumber(element, 0, most), checkedNumber(rows, 0, most));
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

  /** Rows expected to see their last change before a capture due then, per slot from now on, of all elements; null until so many slots before a capture were seen once. */
  coming(dueMs: number, slots: number): Float64Array | null {
    return this.#arrivals.expected(dueMs, slots);
  }

  /** How those divide among elements. */
  get shares(): ReadonlyMap<number, number> {
    const all = sumOf(this.#elements);
    return new Map(Array.from(this.#elements, ([element, rows]) => [element, rows / all]));
  }

  /**
   * A capture was due: what changed in the cycle that ended is learned from, as far back as it was seen, and another begins.
   *
   * @param labelMs the same moment by the clock on the wall, whose hours are told apart.
   * @returns whether anything was learned.
   */
  due(dueMs: number, labelMs: number): boolean {
    const slots = (dueMs - this.#sinceMs) / this.#slotMs;
    // A slot in which a cycle began has all there is of it; one in which seeing began has not.
    const seen = this.#isWhole ? Math.ceil(slots - HARDLY) : Math.floor(slots + HARDLY);
    if (seen > 0) {
      this.#arrivals.learn(labelMs, this.#changes.profile(dueMs, this.#slotMs, this.#slots), seen);
      this.#share();
    }
    this.#isWhole = dueMs >= this.#sinceMs;
    this.#sinceMs = Math.max(this.#sinceMs, dueMs);
    this.#changes.forget(dueMs);
    return seen > 0;
  }

  /** Nobody knows how long ago was what was seen before. */
  seenFrom(nowMs: number): void {
    this.#sinceMs = nowMs;
    this.#isWhole = false;
  }

  #share(): void {
    const changed = this.#changes.byElement();
    if (changed.size === 0) return;
    for (const [element, rows] of this.#elements) this.#elements.set(element, FADING * rows);
    for (const [element, rows] of changed) this.#elements.set(element, (this.#elements.get(element) ?? 0) + rows);
    const least = SHARE_MIN * sumOf(this.#elements);
    for (const [element, rows] of this.#elements) if (rows < least) this.#elements.delete(element);
  }
}

function sumOf(counts: ReadonlyMap<number, number>): number {
  return counts.values().reduce((sum, count) => sum + count, 0);
}
