/**
 * What is remembered of how rows change, and what a survival model is shown of one row at one moment. Bounded: rows share a fixed number of
 * slots by the number that stands for their identity; two rows in one slot are taken for one, which blurs a forecast and costs nothing else.
 */

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;

/** Half-lives of a row's decayed counts: how often it changes now, this shift, today, this week. */
const HALF_LIVES_MS = [20 * MINUTE_MS, 2 * HOUR_MS, 12 * HOUR_MS, 96 * HOUR_MS] as const;
const RATES = HALF_LIVES_MS.length;
const GAPS = 3;
/** Stands for the age of a row that was never seen to change. */
const UNSEEN_MS = 30 * 24 * HOUR_MS;

const AGE_EDGES_MIN = [1, 3, 6, 10, 15, 21, 30, 45, 65, 95, 140, 200, 300, 450, 720, 1200, 2200] as const;
const GAP_EDGES_MIN = [0.5, 1.5, 4, 10, 25, 60, 180, 600, 2000] as const;
const RATE_EDGES = [0.05, 0.15, 0.35, 0.7, 1.2, 2, 3.5, 6, 12, 30] as const;
const AGES = AGE_EDGES_MIN.length + 1;
const GAP_CLASSES = GAP_EDGES_MIN.length + 1;
const RATE_CLASSES = RATE_EDGES.length + 1;

/** Each group has one weight at a time. Crossed with a row's pace, one age means different things for different rows. */
const GROUP_SIZES = [
  AGES,
  AGES * RATE_CLASSES, // the pace of the last minutes
  AGES * RATE_CLASSES, // of the last hours
  AGES * RATE_CLASSES, // of the last days
  AGES * GAP_CLASSES, // the time between its last two changes
  GAP_CLASSES * GAP_CLASSES, // and between the two before
  RATE_CLASSES * RATE_CLASSES, // minutes against half a day: whether this is a burst
  24, // hour of the day
] as const;

export const GROUPS = GROUP_SIZES.length;
const GROUP_STARTS = GROUP_SIZES.map((_, group) => GROUP_SIZES.slice(0, group).reduce((sum, size) => sum + size, 0));
export const CLASSES = GROUP_SIZES.reduce((sum, size) => sum + size, 0);
/** A constant, age, gaps, rates, and how busy the data set is beside its usual. */
export const MEASURES = 3 + GAPS + RATES;

/** One row at one moment: `classes` names one weight per group, `measures` are on scales of about -2 to 2. */
export interface RowFeatures {
  readonly classes: Uint16Array;
  readonly measures: Float32Array;
}

export function newFeatures(): RowFeatures {
  return { classes: new Uint16Array(GROUPS), measures: new Float32Array(MEASURES) };
}

/** The past of rows: 7 numbers in each of `slots` slots. */
export class RowHistory {
  readonly #slots: number;
  readonly #lastMs: Float64Array;
  readonly #gapsMs: Float32Array;
  readonly #rates: Float32Array;
  readonly #hour = new DecayedCount(HOUR_MS);
  readonly #week = new DecayedCount(168 * HOUR_MS);

  constructor(slots: number) {
    this.#slots = slots;
    this.#lastMs = new Float64Array(slots).fill(Number.NaN);
    this.#gapsMs = new Float32Array(slots * GAPS).fill(Number.NaN);
    this.#rates = new Float32Array(slots * RATES);
  }

  /** @param row any whole number ≥ 0 that stands for the row's identity. */
  slotOf(row: number): number {
    return row % this.#slots;
  }

  /** When the row last changed; NaN if it was never seen to. */
  lastMs(row: number): number {
    return this.#lastMs[this.slotOf(row)] as number;
  }

  /** A change of the row. Where the clock went back, no time has passed. */
  changed(row: number, atMs: number): void {
    const slot = this.slotOf(row);
    const last = this.#lastMs[slot] as number;
    const gap = Math.max(0, atMs - last);
    for (let rate = 0; rate < RATES; rate++) {
      const decay = Number.isNaN(gap) ? 0 : 2 ** (-gap / (HALF_LIVES_MS[rate] as number));
      this.#rates[slot * RATES + rate] = (this.#rates[slot * RATES + rate] as number) * decay + 1;
    }
    if (!Number.isNaN(gap)) {
      this.#gapsMs.copyWithin(slot * GAPS + 1, slot * GAPS, (slot + 1) * GAPS - 1);
      this.#gapsMs[slot * GAPS] = gap;
    }
    this.#lastMs[slot] = Number.isNaN(last) ? atMs : Math.max(last, atMs);
    this.#hour.add(atMs);
    this.#week.add(atMs);
  }

  /** Fills in what is known of the row at a moment. */
  describe(row: number, nowMs: number, { classes, measures }: RowFeatures): void {
    const slot = this.slotOf(row);
    const last = this.#lastMs[slot] as number;
    const ageMs = Number.isNaN(last) ? UNSEEN_MS : Math.max(0, nowMs - last);
    const age = classOf(AGE_EDGES_MIN, ageMs / MINUTE_MS);
    measures[0] = 1;
    measures[1] = scaled(ageMs / MINUTE_MS, 30);
    const rate = (index: number): number => {
      const value = (this.#rates[slot * RATES + index] as number) * 2 ** (-ageMs / (HALF_LIVES_MS[index] as number));
      measures[2 + index] = scaled(value, 1);
      return classOf(RATE_EDGES, value);
    };
    const gap = (index: number): number => {
      const value = (this.#gapsMs[slot * GAPS + index] as number) / MINUTE_MS;
      measures[2 + RATES + index] = Number.isNaN(value) ? 1.5 : scaled(value, 30);
      return Number.isNaN(value) ? GAP_CLASSES - 1 : classOf(GAP_EDGES_MIN, value);
    };
    const [minutes, hours, half, days] = [rate(0), rate(1), rate(2), rate(3)];
    const [gap1, gap2] = [gap(0), gap(1)];
    gap(2);
    measures[2 + RATES + GAPS] = this.#busyness(nowMs);
    classes[0] = age;
    classes[1] = placeIn(1, age * RATE_CLASSES + minutes);
    classes[2] = placeIn(2, age * RATE_CLASSES + hours);
    classes[3] = placeIn(3, age * RATE_CLASSES + days);
    classes[4] = placeIn(4, age * GAP_CLASSES + gap1);
    classes[5] = placeIn(5, gap1 * GAP_CLASSES + gap2);
    classes[6] = placeIn(6, minutes * RATE_CLASSES + half);
    classes[7] = placeIn(7, ((Math.floor(nowMs / HOUR_MS) % 24) + 24) % 24);
  }

  /** The logarithm of this hour's changes over those of an hour of this week. */
  #busyness(nowMs: number): number {
    const ratio = Math.log((this.#hour.at(nowMs) + 0.1) / (this.#week.at(nowMs) / 168 + 0.1));
    return Math.max(-2, Math.min(2, ratio));
  }
}

/** A count that halves in every half-life. */
class DecayedCount {
  readonly #halfLifeMs: number;
  #atMs = Number.NEGATIVE_INFINITY;
  #count = 0;

  constructor(halfLifeMs: number) {
    this.#halfLifeMs = halfLifeMs;
  }

  add(atMs: number): void {
    this.#count = this.at(atMs) + 1;
    this.#atMs = Math.max(this.#atMs, atMs);
  }

  at(nowMs: number): number {
    return this.#count === 0 ? 0 : this.#count * 2 ** (-Math.max(0, nowMs - this.#atMs) / this.#halfLifeMs);
  }
}

function placeIn(group: number, place: number): number {
  return (GROUP_STARTS[group] as number) + place;
}

function classOf(edges: readonly number[], value: number): number {
  let index = 0;
  while (index < edges.length && value >= (edges[index] as number)) index++;
  return index;
}

function scaled(value: number, middle: number): number {
  return Math.log((value + middle * 0.02) / middle) / 2;
}
