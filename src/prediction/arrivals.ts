import { type LearnedArrivals, checkedNumber, checkedNumbers } from './learned.ts';

/**
 * How many rows see their last change before a capture in each slot before it: the work that is still to come and cannot be done ahead. Rows
 * that change again later count only in their last slot, so the sum over the last slots is the distinct rows changed in them.
 */

/** Weight of the newest cycle once there are many. */
const NEWEST = 0.1;
/** So many cycles due at one hour of the day weigh as much as all the others together. */
const POOLED_CYCLES = 3;
const HOUR_MS = 3_600_000;

interface Profile {
  readonly rows: Float64Array;
  cycles: number;
}

/** Learned from matured cycles, walk-forward: the mean over cycles, drawn to that of cycles due at the same hour. */
export class Arrivals {
  readonly #slots: number;
  readonly #pooled: Profile;
  readonly #byHour = new Map<number, Profile>();

  /** @param slots of one cycle; what lies further from the capture is not learned. */
  constructor(slots: number) {
    this.#slots = slots;
    this.#pooled = { rows: new Float64Array(slots), cycles: 0 };
  }

  /** Everything. */
  get learned(): LearnedArrivals[] {
    const profiles: [number | null, Profile][] = [[null, this.#pooled], ...this.#byHour];
    return profiles.flatMap(([hour, { cycles, rows }]) => (cycles === 0 ? [] : { hour, cycles, rows: Array.from(rows) }));
  }

  /** Goes on from what another process learned. @throws RangeError for what cannot have been, of cycles of so many slots. */
  resume(learned: readonly LearnedArrivals[]): void {
    for (const { hour, cycles, rows } of learned) {
      const profile = hour === null ? this.#pooled : this.#profileOf(checkedNumber(hour, 0, 23) * HOUR_MS);
      profile.cycles = checkedNumber(cycles, 1);
      profile.rows.set(checkedNumbers(rows, this.#slots, 0));
    }
  }

  /** Matured cycles so far: with none there is no forecast. */
  get cycles(): number {
    return this.#pooled.cycles;
  }

  /** @param lastChanges per slot before the capture (0 is the last): rows whose last change fell in it. */
  learn(dueMs: number, lastChanges: ArrayLike<number>): void {
    for (const profile of [this.#pooled, this.#profileOf(dueMs)]) {
      profile.cycles++;
      const weight = Math.max(1 / profile.cycles, NEWEST);
      for (let slot = 0; slot < this.#slots; slot++) {
        const known = profile.rows[slot] as number;
        profile.rows[slot] = known + weight * ((lastChanges[slot] ?? 0) - known);
      }
    }
  }

  /** Rows expected per slot from now (first) to the capture (last). */
  expected(dueMs: number, slots: number): Float64Array {
    const own = this.#profileOf(dueMs);
    const weight = own.cycles / (own.cycles + POOLED_CYCLES);
    return Float64Array.from({ length: slots }, (_, slot) => {
      const before = slots - 1 - slot;
      return weight * (own.rows[before] ?? 0) + (1 - weight) * (this.#pooled.rows[before] ?? 0);
    });
  }

  #profileOf(dueMs: number): Profile {
    const hour = Math.floor(dueMs / HOUR_MS) % 24;
    const known = this.#byHour.get(hour);
    if (known !== undefined) return known;
    const profile = { rows: new Float64Array(this.#slots), cycles: 0 };
    this.#byHour.set(hour, profile);
    return profile;
  }
}
