import { type LearnedSurvival, checkedNumbers } from './learned.ts';
import { CLASSES, GROUPS, MEASURES, newFeatures, RowHistory } from './row-history.ts';
import type { RowFeatures } from './row-history.ts';
import { Samples } from './samples.ts';

const MINUTE_MS = 60_000;
/** The stretches of time for which survival is learned. In between it is interpolated, beyond the last it goes on falling as before it. */
const HORIZONS_MS = [5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 360, 540, 720, 1080, 1440].map((minutes) => minutes * MINUTE_MS);
const WEIGHTS = CLASSES + MEASURES;
const CLASS_STEP = 0.05;
const MEASURE_STEP = 0.03;
/** So many matured samples weigh as much as the prior. */
const PRIOR_SAMPLES = 400;

/**
 * The prior, for rows and stretches nothing is known of yet: time between changes has a heavy tail, so that the longer a row has been
 * quiet the longer it will be. P(quiet for t more | quiet for a) = ((a + s) / (a + t + s)) ** p.
 */
const PRIOR_SCALE_MS = 5 * MINUTE_MS;
const PRIOR_POWER = 0.5;

export interface SurvivalOptions {
  /** Rows remembered apart: about 70 bytes each. */
  readonly slots: number;
  /** Samples waiting for their outcome: about 100 bytes each. */
  readonly samples: number;
}

/**
 * How likely a row is to stay as it is: one logistic regression per stretch of time, over classes and measures of the row's past, learned
 * as outcomes become known (AdaGrad, one pass). Only the past is ever looked at: a sample counts for a stretch when the stretch is over.
 */
export class Survival {
  readonly #history: RowHistory;
  readonly #samples: Samples;
  readonly #weights = new Float32Array(WEIGHTS * HORIZONS_MS.length);
  readonly #slopes = new Float32Array(WEIGHTS * HORIZONS_MS.length).fill(1);
  /** Per horizon: the next sample to learn from, and how many it learned from. */
  readonly #next = HORIZONS_MS.map(() => 0);
  #learned = HORIZONS_MS.map(() => 0);
  readonly #features = newFeatures();

  constructor({ slots, samples }: SurvivalOptions) {
    this.#history = new RowHistory(slots);
    this.#samples = new Samples(samples, slots);
  }

  /** What was learned of rows in all, and how much: nothing of single rows, and nothing of samples whose outcome is awaited. */
  get learned(): LearnedSurvival {
    return { weights: Array.from(this.#weights), slopes: Array.from(this.#slopes), learned: this.#learned.slice() };
  }

  /** Goes on from what another process learned. @throws RangeError for what cannot have been. */
  resume({ weights, slopes, learned }: LearnedSurvival): void {
    this.#weights.set(checkedNumbers(weights, this.#weights.length, Number.MIN_SAFE_INTEGER));
    this.#slopes.set(checkedNumbers(slopes, this.#slopes.length, 1));
    this.#learned = checkedNumbers(learned, this.#learned.length, 0);
  }

  /** @param row any whole number ≥ 0 that stands for the row's identity. */
  changed(row: number, atMs: number): void {
    this.#samples.end(this.#history.slotOf(row), atMs);
    this.#history.changed(row, atMs);
  }

  /** Remembers how the row looks now, to learn from what becomes of it. */
  sample(row: number, nowMs: number): void {
    this.#history.describe(row, nowMs, this.#features);
    this.#samples.add(this.#history.slotOf(row), nowMs, this.#features);
  }

  /** Learns from every outcome known by now. Where the clock went back, nothing new is known. */
  mature(nowMs: number): void {
    const samples = this.#samples;
    for (const [horizon, forMs] of HORIZONS_MS.entries()) {
      let sample = Math.max(this.#next[horizon] as number, samples.first);
      for (; sample < samples.count && samples.atMs(sample) + forMs <= nowMs; sample++) {
        samples.read(sample, this.#features);
        this.#learn(horizon, this.#features, samples.endedMs(sample) - samples.atMs(sample) >= forMs);
      }
      this.#next[horizon] = sample;
    }
  }

  /** P(the row does not change in the next `forMs`), as known now: 1 for no time at all. */
  clean(row: number, nowMs: number, forMs: number): number {
    if (!(forMs > 0)) return 1;
    this.#history.describe(row, nowMs, this.#features);
    const lastMs = this.#history.lastMs(row);
    const ageMs = Number.isNaN(lastMs) ? 0 : Math.max(0, nowMs - lastMs);
    const last = HORIZONS_MS.length - 1;
    let upper = 0;
    while (upper < last && (HORIZONS_MS[upper] as number) < forMs) upper++;
    const highMs = HORIZONS_MS[upper] as number;
    const high = this.#blended(upper, ageMs);
    if (forMs >= highMs) return forMs === highMs ? high : (high * prior(ageMs, forMs)) / prior(ageMs, highMs);
    const lowMs = upper === 0 ? 0 : (HORIZONS_MS[upper - 1] as number);
    // Staying longer is never likelier; the models are learned apart and may say so by a hair.
    const low = upper === 0 ? 1 : Math.max(high, this.#blended(upper - 1, ageMs));
    const share = (forMs - lowMs) / (highMs - lowMs);
    return low ** (1 - share) * high ** share;
  }

  /** What is learned, and the prior while little is. */
  #blended(horizon: number, ageMs: number): number {
    const weight = PRIOR_SAMPLES / (PRIOR_SAMPLES + (this.#learned[horizon] as number));
    return (1 - weight) * this.#probability(horizon, this.#features) + weight * prior(ageMs, HORIZONS_MS[horizon] as number);
  }

  #probability(horizon: number, { classes, measures }: RowFeatures): number {
    const base = horizon * WEIGHTS;
    const weights = this.#weights;
    let sum = 0;
    for (let group = 0; group < GROUPS; group++) sum += weights[base + (classes[group] as number)] as number;
    for (let index = 0; index < MEASURES; index++) sum += (weights[base + CLASSES + index] as number) * (measures[index] as number);
    return 1 / (1 + Math.exp(-sum));
  }

  #learn(horizon: number, features: RowFeatures, stayed: boolean): void {
    const { classes, measures } = features;
    const error = (stayed ? 1 : 0) - this.#probability(horizon, features);
    const base = horizon * WEIGHTS;
    for (let group = 0; group < GROUPS; group++) this.#step(base + (classes[group] as number), error, CLASS_STEP);
    for (let index = 0; index < MEASURES; index++) this.#step(base + CLASSES + index, error * (measures[index] as number), MEASURE_STEP);
    this.#learned[horizon] = (this.#learned[horizon] as number) + 1;
  }

  #step(at: number, slope: number, step: number): void {
    const slopes = (this.#slopes[at] as number) + slope * slope;
    this.#slopes[at] = slopes;
    this.#weights[at] = (this.#weights[at] as number) + (step * slope) / Math.sqrt(slopes);
  }
}

function prior(ageMs: number, forMs: number): number {
  return ((ageMs + PRIOR_SCALE_MS) / (ageMs + forMs + PRIOR_SCALE_MS)) ** PRIOR_POWER;
}
