import { selects } from '../model/selection.ts';
import type { Selection } from '../model/selection.ts';
import type { TableName } from '../model/schema.ts';
import { dot, Regression } from './forecasters/linear.ts';

/** Half-lives, in parts of a day, of the activity remembered per element: an hour to a week. */
const HALF_LIVES = [1 / 24, 1 / 8, 1 / 4, 1, 3, 7];
const RIDGE = 0.02;
/** How much of what was learned is left after a day. */
const KEEP = 0.97;
/** Rows the regression must have seen before it is believed. */
const ROWS_MIN = 200;

/**
 * What every element will have modified in the coming period, from one model of all of them: sparse ones have too little of their own to
 * learn from. Features are logs of the activity at several scales, of the last period, of the same period a day and a week before, of the
 * mean of all time and of the time since the last change. It learns only from periods that are over.
 *
 * Elements are numbers from 0, and may become more; memory is a week and a period of steps per element.
 */
export class Hotspots {
  /** Steps of the period that is foretold. */
  readonly #period: number;
  readonly #day: number;
  readonly #stride: number;
  readonly #width: number;
  /** In steps; the last is half a period. */
  readonly #halfLives: readonly number[];
  readonly #regression: Regression;
  /** Per step, newest last, what each element did. */
  readonly #steps: Float64Array[] = [];
  readonly #waiting: { readonly step: number; readonly rows: readonly Float64Array[] }[] = [];
  #elements: Element[] = [];
  #step = 0;
  /** What the model said and what came, over the rows it learned from, to bring volume to its size. */
  #said = 0;
  #came = 0;

  /** @param stride it learns from every so many steps; each holds one row of features per element until its period is over. */
  constructor(options: { readonly period: number; readonly day: number; readonly stride?: number }) {
    this.#period = options.period;
    this.#day = options.day;
    this.#stride = options.stride ?? Math.max(1, Math.round(options.period / 4));
    this.#halfLives = [...HALF_LIVES.map((part) => Math.max(1, part * options.day)), options.period / 2];
    this.#width = this.#halfLives.length + 6;
    this.#regression = new Regression(this.#width);
  }

  /** One step is over. `activity` has a number per element: rows, or bytes; NaN where it was not observed, which counts as nothing new. */
  advance(activity: ArrayLike<number>): void {
    while (this.#elements.length < activity.length)
      this.#elements.push({ recent: new Float64Array(this.#halfLives.length), total: 0, since: 0, age: 0 });
    const values = Float64Array.from(activity, (value) => (Number.isFinite(value) ? Math.max(0, value) : 0));
    this.#steps.push(values);
    this.#steps.splice(0, this.#steps.length - (7 * this.#day + this.#period));
    for (const [index, element] of this.#elements.entries()) observe(element, values[index] ?? 0, this.#halfLives);
    this.#step++;
    this.#learn();
    if (this.#step % this.#stride === 0)
      this.#waiting.push({ step: this.#step, rows: this.#elements.map((_, index) => this.#features(index)) });
  }

  /** Per element, what is expected of the coming period. Until enough periods are over it is the mean of what went before. */
  forecast(): Float64Array {
    const coefficients = this.#regression.weight < ROWS_MIN ? null : this.#regression.solve(RIDGE);
    const rescale = this.#said > 0 ? Math.min(3, Math.max(1 / 3, this.#came / this.#said)) : 1;
    return Float64Array.from(this.#elements, (element, index) => {
      if (coefficients === null) return (element.total / Math.max(1, element.age)) * this.#period;
      return rescale * this.#expected(this.#features(index), coefficients);
    });
  }

  #learn(): void {
    for (let first = this.#waiting[0]; first !== undefined && first.step + this.#period <= this.#step; first = this.#waiting[0]) {
      this.#waiting.shift();
      const by = KEEP ** (this.#stride / this.#day);
      const coefficients = this.#regression.weight < ROWS_MIN ? null : this.#regression.solve(RIDGE);
      this.#regression.fade(by);
      this.#said *= by;
      this.#came *= by;
      for (const [index, row] of first.rows.entries()) {
        const came = this.#sum(index, this.#period, this.#period);
        this.#regression.add(row, Math.log1p(came));
        if (coefficients === null) continue;
        this.#said += this.#expected(row, coefficients);
        this.#came += came;
      }
    }
  }

  /**
   * Half way, on logs, between the regression and what the last periods did: a regression on logs draws the few that are hottest towards the
   * many that are not, and it is their order that counts.
   */
  #expected(row: Float64Array, coefficients: Float64Array): number {
    return Math.max(0, Math.expm1((dot(row, coefficients) + (row[this.#halfLives.length] as number)) / 2));
  }

  #features(index: number): Float64Array {
    const { recent, total, since, age } = this.#elements[index] as Element;
    const [period, day] = [this.#period, this.#day];
    const row = new Float64Array(this.#width + 1);
    row[0] = 1;
    for (let scale = 0; scale < recent.length; scale++) row[scale + 1] = Math.log1p((recent[scale] as number) * period);
    const at = recent.length + 1;
    row[at] = Math.log1p(this.#sum(index, period, period));
    row[at + 1] = Math.log1p(this.#sum(index, Math.max(day, period), period));
    row[at + 2] = Math.log1p(this.#sum(index, Math.max(7 * day, period), period));
    row[at + 3] = Math.log1p((total / Math.max(1, age)) * period);
    row[at + 4] = Math.log1p(since);
    row[at + 5] = Math.log1p(this.#active(index, day));
    return row;
  }

  /** What an element did in `count` steps, beginning `back` steps ago; nothing where that is before memory. */
  #sum(index: number, back: number, count: number): number {
    let sum = 0;
    const from = this.#steps.length - back;
    for (let step = Math.max(0, from); step < from + count; step++) sum += this.#steps[step]?.[index] ?? 0;
    return sum;
  }

  /** In how many of the last steps it did anything. */
  #active(index: number, count: number): number {
    let active = 0;
    for (let step = Math.max(0, this.#steps.length - count); step < this.#steps.length; step++) {
      if ((this.#steps[step]?.[index] ?? 0) > 0) active++;
    }
    return active;
  }
}

interface Element {
  readonly recent: Float64Array;
  total: number;
  /** Steps since anything was modified. */
  since: number;
  age: number;
}

function observe(element: Element, value: number, halfLives: readonly number[]): void {
  for (const [scale, halfLife] of halfLives.entries()) {
    const keep = 0.5 ** (1 / halfLife);
    element.recent[scale] = (element.recent[scale] as number) * keep + value * (1 - keep);
  }
  element.total += value;
  element.since = value > 0 ? 0 : element.since + 1;
  element.age++;
}

/** Something that can be hot, with what the data set's schema says of it. */
export interface Candidate {
  readonly table: TableName;
  /** Null where it is not known. */
  readonly sizeBytes: number | null;
  readonly columnTypes: readonly string[];
  readonly expectedRows: number;
  readonly expectedBytes: number;
}

/** Which elements are considered at all. What is not given excludes nothing. */
export interface HotspotFilter {
  readonly tables?: Selection;
  readonly sizeBytesMin?: number;
  readonly sizeBytesMax?: number;
  /** Tables that have a column of one of these types are left out. */
  readonly withoutTypes?: readonly string[];
}

export interface Hotspot extends Candidate {
  readonly rank: number;
  /** Of all that is expected of the elements considered. */
  readonly share: number;
}

/** The elements expected to be modified most, by distinct rows or by bytes. Nothing is hot that is expected to do nothing. */
export function rankHotspots(candidates: readonly Candidate[], by: 'rows' | 'bytes', limit: number, filter: HotspotFilter = {}): Hotspot[] {
  const of = (each: Candidate) => (by === 'rows' ? each.expectedRows : each.expectedBytes);
  const considered = candidates.filter((each) => of(each) > 0 && isConsidered(each, filter));
  const total = considered.reduce((sum, each) => sum + of(each), 0);
  return considered
    .toSorted((a, b) => of(b) - of(a) || (a.table < b.table ? -1 : 1))
    .slice(0, limit)
    .map((each, index) => ({ ...each, rank: index + 1, share: of(each) / total }));
}

function isConsidered({ table, sizeBytes, columnTypes }: Candidate, filter: HotspotFilter): boolean {
  if (filter.tables !== undefined && !selects(filter.tables, table)) return false;
  if (sizeBytes !== null && sizeBytes < (filter.sizeBytesMin ?? 0)) return false;
  if (sizeBytes !== null && sizeBytes > (filter.sizeBytesMax ?? Infinity)) return false;
  return !(filter.withoutTypes ?? []).some((type) => columnTypes.includes(type));
}

/**
 * How many of the truly hottest `k` were among the `k` foretold, as a share. Ties at the edge all count as hottest, elements that did
 * nothing never do. NaN where nothing was modified.
 */
export function recallAt(k: number, expected: ArrayLike<number>, came: ArrayLike<number>): number {
  const order = (values: ArrayLike<number>) =>
    Array.from(values, (_, index) => index).toSorted((a, b) => (values[b] as number) - (values[a] as number) || a - b);
  const edge = came[order(came)[k - 1] ?? -1] ?? 0;
  const hottest = new Set(
    Array.from(came, (_, index) => index).filter((index) => (came[index] as number) > 0 && (came[index] as number) >= edge),
  );
  if (hottest.size === 0) return Number.NaN;
  const found = order(expected)
    .slice(0, k)
    .filter((index) => hottest.has(index)).length;
  return found / Math.min(k, hottest.size);
}
