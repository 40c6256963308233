/**
 * What is learned of rows in all, and outlives the process: of single rows nothing does, since what stands for one is another number in another
 * process. Plain numbers, which JSON keeps to the last digit; what takes them back checks them, because they were on a disk.
 */
export interface LearnedRows {
  readonly survival: LearnedSurvival;
  readonly arrivals: readonly LearnedArrivals[];
  /** Of each element, how many rows changed in the cycles that ended: those long past count for less. */
  readonly elements: readonly (readonly [element: number, rows: number])[];
}

/** Of all stretches of time one after the other; `learned` has one number for each. */
export interface LearnedSurvival {
  readonly weights: readonly number[];
  readonly slopes: readonly number[];
  readonly learned: readonly number[];
}

export interface LearnedArrivals {
  /** The hour of the day at which these cycles were due; null: of all cycles. */
  readonly hour: number | null;
  /** Of each slot before a capture. */
  readonly cycles: readonly number[];
  readonly rows: readonly number[];
}

/** @throws RangeError for what is no number from `least` to `most`. */
export function checkedNumber(number: unknown, least: number, most: number): number {
  if (typeof number === 'number' && number >= least && number <= most) return number;
  throw new RangeError(`it has ${String(number)} for a number from ${least} to ${most}`);
}

/** @throws RangeError for what are not so many numbers of at least `least`. */
export function checkedNumbers(numbers: readonly unknown[], count: number, least: number): number[] {
  if (numbers.length !== count) throw new RangeError(`it has ${numbers.length} numbers in place of ${count}`);
  return numbers.map((each) => checkedNumber(each, least, Number.MAX_SAFE_INTEGER));
}
