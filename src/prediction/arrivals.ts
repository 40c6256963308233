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
  /** In how many cycles each slot was seen. */
  readonly cycles: Float64Array;
}

/** Learned from matured cycles, walk-forward: the mean over cycles, drawn to that of cycles due at the same hour. */
export class Arrivals {
  readonly #slots: number;
  readonly #pooled: Profile;
  readonly #byHour = new Map<number, Profile>();

  /** @param slots of one cycle; what lies further from the capture is not learned. */
  constructor(slots: number) {
    this.#slots = slots;
    this.#pooled = newProfile(slots);
  }

  /** Everything. */
  get learned(): LearnedArrivals[] {
    const profiles: [number | null, Profile][] = [[null, this.#pooled], ...this.#byHour];
    const seen = profiles.filter(([, { cycles }]) => cycles.some((count) => count > 0));
    return seen.map(([hour, { cycles, rows }]) => ({ hour, cycles: Array.from(cycles), rows: Array.from(rows) }));
  }

  /** Goes on from what another process learned. @throws RangeError for what cannot have been, of cycles of so many slots. */
  resume(learned: readonly LearnedArrivals[]): void {
    for (const { hour, cycles, rows } of learned) {
      const profile = hour === null ? this.#pooled : this.#profileOf(checkedNumber(hour, 0, 23) * HOUR_MS);
      profile.cycles.set(checkedNumbers(cycles, this.#slots, 0));
      profile.rows.set(checkedNumbers(rows, this.#slots, 0));
    }
  }

  /**
   * @param lastChanges per slot before the capture (0 is the last): rows whose last change fell in it.
   * @param seen how many of these slots were seen: which of them had a row's last change does not depend on what was before them.
   */
  learn(dueMs: number, lastChanges: ArrayLike<number>, seen = this.#slots): void {
    for (const { rows, cycles } of [this.#pooled, this.#profileOf(dueMs)]) {
      for (let slot = 0; slot < Math.min(seen, this.#slots); slot++) {
        const count = (cycles[slot] as number) + 1;
        const known = rows[slot] as number;
        cycles[slot] = count;
        rows[slot] = known + Math.max(1 / count, NEWEST) * ((lastChanges[slot] ?? 0) - known);
      }
    }
  }

  /** Rows expected per slot from now (first) to the capture (last). Null: one of these slots was not seen in any cycle yet. */
  expected(dueMs: number, slots: number): Float64Array | null {
    if (this.#pooled.cycles.subarray(0, slots).includes(0)) return null;
    const own = this.#profileOf(dueMs);
    return Float64Array.from({ length: slots }, (_, slot) => {
      const before = slots - 1 - slot;
      const cycles = own.cycles[before] ?? 0;
      const weight = cycles / (cycles + POOLED_CYCLES);
      return weight * (own.rows[before] ?? 0) + (1 - weight) * (this.#pooled.rows[before] ?? 0);
    });
  }

  #profileOf(dueMs: number): Profile {
    const hour = Math.floor(dueMs / HOUR_MS) % 24;
    const known = this.#byHour.get(hour);
    if (known !== undefined) return known;
    const profile = newProfile(this.#slots);
    this.#byHour.set(hour, profile);
    return profile;
  }
}

function newProfile(slots: number): Profile {
  return { rows: new Float64Array(slots), cycles: new Float64Array(slots) };
}
