import type { Plan, WaitingRows } from './plan.ts';

/** Which rows move now: what the live loop and the policies of a simulation share. */

/** Classes in which a plan puts rows: finer than this, chances mean nothing. */
const CALM_CLASSES = 48;
const CLEAN_CLASSES = 16;

export interface Grouping {
  readonly nowMs: number;
  readonly slotMs: number;
  /** Up to the capture. */
  readonly slots: number;
  /** Of an element, in force now. */
  readonly toleranceMs: (element: number) => number;
}

/** One row that waits. */
export interface Prospect {
  readonly element: number;
  readonly sinceMs: number;
  /** P(no change before the capture), and P(no change soon). */
  readonly clean: number;
  readonly calm: number;
}

interface Group {
  readonly element: number;
  readonly latest: number;
  readonly rows: number[];
  clean: number;
  calm: number;
}

/** Rows that wait, in groups of one element and equal prospects. */
export class RowGroups {
  readonly #grouping: Grouping;
  readonly #byKey = new Map<number, Group>();
  readonly #groups: Group[] = [];

  constructor(grouping: Grouping) {
    this.#grouping = grouping;
  }

  add(row: number, { element, sinceMs, clean, calm }: Prospect): void {
    const { nowMs, slotMs, slots, toleranceMs } = this.#grouping;
    const latest = Math.min(slots - 1, Math.max(0, Math.floor((sinceMs + toleranceMs(element) - nowMs) / slotMs)));
    const classes = Math.round(calm * CALM_CLASSES) * (CLEAN_CLASSES + 1) + Math.round(clean * CLEAN_CLASSES);
    const key = (element * slots + latest) * (CALM_CLASSES + 1) * (CLEAN_CLASSES + 1) + classes;
    const group = this.#byKey.get(key);
    if (group !== undefined) {
      group.rows.push(row);
      group.clean += clean;
      group.calm += calm;
      return;
    }
    const first = { element, latest, rows: [row], clean, calm };
    this.#byKey.set(key, first);
    this.#groups.push(first);
  }

  /** An entry for each group, as a plan takes them. */
  get waiting(): WaitingRows[] {
    return this.#groups.map(({ element, latest, rows: { length }, clean, calm }) => ({
      element,
      rows: length,
      latest,
      clean: clean / length,
      calm: calm / length,
    }));
  }

  /** The rows that a plan of `waiting` moves now, at most so many: what lag tolerance forces oldest change first, of others the calmest. */
  chosen(
    { now, order, forced }: Pick<Plan, 'now' | 'order' | 'forced'>,
    most: number,
    of: { sinceMs(row: number): number; calm(row: number): number },
  ): number[] {
    const chosen: number[] = [];
    for (const [place, entry] of order.entries()) {
      const count = Math.min(Math.round(now[entry] as number), most - chosen.length);
      const rank = place < forced ? (row: number) => of.sinceMs(row) : (row: number) => -of.calm(row);
      for (const row of ordered((this.#groups[entry] as Group).rows, rank, count)) chosen.push(row);
    }
    return chosen;
  }
}

/** Rows that changed and wait to be moved. */
export interface Waiting {
  list(): readonly number[];
  sinceMs(row: number): number;
}

/** Rows that would pass their lag tolerance before the next slot begins, earliest first. */
export function forcedRows(waiting: Waiting, nextMs: number, toleranceMs: (row: number) => number): number[] {
  const deadlineMs = (row: number): number => waiting.sinceMs(row) + toleranceMs(row);
  const forced = waiting.list().filter((row) => deadlineMs(row) < nextMs);
  return ordered(forced, deadlineMs, forced.length);
}

/** Those that are forced, and then those of the lowest rank; at most so many. */
export function forcedFirst(waiting: Waiting, forced: readonly number[], rank: (row: number) => number, most: number): readonly number[] {
  if (forced.length === 0) return ordered(waiting.list(), rank, most);
  const seen = new Set(forced);
  const others = waiting.list().filter((row) => !seen.has(row));
  return [...forced, ...ordered(others, rank, most - forced.length)].slice(0, most);
}

/** The `count` rows of the lowest rank, lowest first; rows of one rank by number. */
export function ordered(rows: readonly number[], rank: (row: number) => number, count: number): number[] {
  if (count <= 0) return [];
  const ranks = Float64Array.from(rows, rank);
  // Only those that may be among them are put in order.
  const limit = count < rows.length ? (ranks.toSorted()[count - 1] as number) : Infinity;
  const ranked = rows.flatMap((row, index) => ((ranks[index] as number) > limit ? [] : [{ row, rank: ranks[index] as number }]));
  ranked.sort((a, b) => a.rank - b.rank || a.row - b.row);
  return ranked.slice(0, count).map(({ row }) => row);
}
