import { medianForecast, weightedMedian } from './forecasters/naive.ts';
import { believable } from './forecasters/forecaster.ts';
import type { Forecaster, Season } from './forecasters/forecaster.ts';
import { dayNaive, FORECASTERS, HOURLY } from './forecasters/pool.ts';
import { Bounds } from './intervals.ts';
import { endMs, impute, indexAt, localSteps, slice, tame, toLocal } from './series.ts';
import type { Series } from './series.ts';
import { Standing } from './standing.ts';

/** A voice weighs by its error to the power of minus this: one that errs a tenth more counts for half (docs/decisions). */
const STRICTNESS = 6;
/** Before any error is known, so many of the first speak, all alike. */
const COLD_VOICES = 5;
/** What is known of a voice for a few leads is mixed with what is known of it for all, as if so many more steps had shown that. */
const BORROWED_STEPS = 16;
/** So many of those that weigh most are named. */
const NAMED = 5;
/** What is left of an error's weight when another comes, or of several within this part of a day, when all of them have. */
const KEEP = 0.9;
const KEEP_DAYS = 1 / 6;
/** In multiples of the day's own variation: a day on which all are off by more says nothing of who is better. */
const LOSS_MAX = 3;
/** A challenger is heard once so many of its errors are known, and only where they are so much smaller than the best of ours. */
const CHALLENGER_ORIGINS = 8;
const CHALLENGER_SHARE = 0.97;
/** Worse than seasonal naive by this, and seasonal naive speaks. */
const FALLBACK_RATIO = 1.2;
const FALLBACK_ORIGINS = 8;
/** Fewer steps with anything in them than this within two weeks, and no pattern is sought. */
const SPARSE = 10;

export interface TrackSettings {
  readonly season: Season;
  /** How many steps ahead. */
  readonly steps: number;
  /** An IANA name: the clock by which the days and weeks of this series go. */
  readonly zone: string;
  /** How many steps back are looked at. */
  readonly reach: number;
  readonly forecasters?: readonly Forecaster[];
}

export interface Forecast {
  readonly startMs: number;
  readonly stepMs: number;
  /** Per step ahead. NaN throughout where nothing has ever been observed. */
  readonly point: Float64Array;
  /**
   * The mean of those that know the hour of the day: what to compare hours by. A median of several may pick another voice each hour, and
   * where most say a flat line it says nothing of which hour is the quietest.
   */
  readonly expected: Float64Array;
  /** What is exceeded one time in ten (`intervals.ts`). */
  readonly upper: Float64Array;
  /**
   * What it rests on. `none`: no observation. `cold`: errors of none are known yet. `sparse`: too little to find a pattern in, the mean
   * rate. `measured`: the median of all, weighted by how little they erred. `known-good`: seasonal naive, because the rest did worse, or failed.
   */
  readonly basis: 'none' | 'cold' | 'sparse' | 'measured' | 'known-good';
  /** Who counts most for the first steps. */
  readonly voices: readonly string[];
  /** What each forecaster said, the rejected left out. */
  readonly each: ReadonlyMap<string, Float64Array>;
}

interface Pending {
  readonly forecast: Forecast;
  readonly scale: number;
  /** Per bucket, every bound that could have been said. */
  readonly bounds: readonly ReadonlyMap<string, Float64Array>[];
  /** The first bucket of leads that is not scored yet. */
  bucket: number;
}

const SPOKEN = 'spoken';
/**
 * The plain median of all of ours is a voice like any other: of a series whose bursts nobody foresees, the one that was lucky lately is
 * worse than the middle of all.
 */
const MEDIAN_OF_ALL = 'median of all';
const TINY = 1e-9;

/**
 * One series' forecasters and how they did. Each turn scores what has become known since, and speaks again. It sees nothing but the series up
 * to its end, which is the only clock.
 */
export class Track {
  readonly #settings: TrackSettings;
  readonly #forecasters: readonly Forecaster[];
  readonly #bounds: readonly number[];
  readonly #standings: readonly Standing[];
  readonly #scoredMs: number[];
  readonly #uppers: Bounds;
  #pending: Pending[] = [];

  constructor(settings: TrackSettings) {
    this.#settings = settings;
    this.#forecasters = settings.forecasters ?? FORECASTERS;
    this.#bounds = leadBounds(settings);
    this.#standings = this.#bounds.slice(1).map(() => new Standing(KEEP, LOSS_MAX));
    this.#scoredMs = this.#standings.map(() => -Infinity);
    this.#uppers = new Bounds(this.#standings.length);
  }

  /**
   * @param series everything known, up to now. Its end may lie before that of an earlier turn, where a clock was set back: what was
   * forecast from later moments is forgotten.
   * @param challengers what the challengers said from the same end on (`Forecast.startMs`).
   */
  turn(series: Series, challengers: ReadonlyMap<string, Float64Array> = new Map()): Forecast {
    const startMs = endMs(series);
    this.#pending = this.#pending.filter(({ forecast }) => forecast.startMs < startMs);
    for (const pending of this.#pending) this.#score(pending, series);
    this.#pending = this.#pending.filter(({ bucket }) => bucket < this.#standings.length);
    const { steps, season } = this.#settings;
    const recent = slice(series, Math.max(0, series.values.length - this.#settings.reach));
    const history = impute(toLocal({ ...recent, values: tame(recent.values) }, this.#settings.zone), season.day);
    const each = this.#ask(history, startMs);
    for (const [name, said] of challengers) {
      const believed = believable(said, history.values, steps);
      if (believed !== null) each.set(name, believed);
    }
    const spoken = this.#speak(history.values, recent.values, each, new Set(challengers.keys()));
    const scale = scaleOf(recent.values, season.day);
    const bounds = history.values.length === 0 ? [] : this.#bound(spoken.point, history.values, scale);
    const upper = spoken.point.slice();
    for (const [bucket, candidates] of bounds.entries()) {
      const from = this.#bounds[bucket] as number;
      upper.set(this.#uppers.choose(bucket, candidates, spoken.point, from), from);
    }
    const expected = meanOf(HOURLY.flatMap(({ name }) => each.get(name) ?? [])) ?? spoken.point;
    const forecast = { startMs, stepMs: series.stepMs, each, expected, upper, ...spoken };
    if (spoken.basis !== 'none') this.#pending.push({ forecast, scale, bounds, bucket: 0 });
    return forecast;
  }

  #bound(point: Float64Array, history: Float64Array, scale: number): ReadonlyMap<string, Float64Array>[] {
    return this.#standings.map((_, bucket) => {
      const [from, until] = [this.#bounds[bucket] as number, this.#bounds[bucket + 1] as number];
      return this.#uppers.candidates(bucket, point, from, until, scale, history, this.#settings.season);
    });
  }

  /** How far a voice was off lately, as a multiple of the day's own variation; null where it is not known. `lead` counts steps from 0. */
  errorOf(name: string, lead: number): number | null {
    const bucket = this.#bounds.findIndex((bound) => bound > lead) - 1;
    return this.#standings[bucket]?.of(name)?.loss ?? null;
  }

  #ask(history: Series, startMs: number): Map<string, Float64Array> {
    const { steps, season, zone } = this.#settings;
    const each = new Map<string, Float64Array>();
    const known = history.values.length;
    if (known === 0) return each;
    const { count, places } = localSteps(startMs, history.stepMs, steps, endMs(history), zone);
    for (const forecaster of this.#forecasters) {
      if (known < forecaster.needs(season)) continue;
      const said = forecaster.forecast(history.values, count, season);
      const believed = believable(said, history.values, count);
      // In an hour that a clock lives twice, the first may lie before the local series' end.
      if (believed !== null)
        each.set(
          forecaster.name,
          Float64Array.from(places, (place) => believed[Math.max(0, place)] as number),
        );
    }
    if (each.size > 2) each.set(MEDIAN_OF_ALL, medianForecast([...each.values()]));
    return each;
  }

  #speak(
    values: Float64Array,
    observed: Float64Array,
    each: ReadonlyMap<string, Float64Array>,
    challengers: ReadonlySet<string>,
  ): Pick<Forecast, 'point' | 'basis' | 'voices'> {
    const { steps, season } = this.#settings;
    if (values.length === 0) return { point: new Float64Array(steps).fill(Number.NaN), basis: 'none', voices: [] };
    const rate = sparseRate(observed.subarray(-14 * season.day));
    if (rate !== null) return { point: new Float64Array(steps).fill(rate), basis: 'sparse', voices: [] };
    const good = each.get(dayNaive.name) ?? new Float64Array(steps).fill(values.at(-1) as number);
    const point = new Float64Array(steps);
    let [basis, first]: [Forecast['basis'], readonly string[]] = ['cold', []];
    const failed = hasFailed(this.#standings, this.#bounds);
    for (const [bucket, standing] of this.#standings.entries()) {
      const [from, until] = [this.#bounds[bucket] as number, this.#bounds[bucket + 1] as number];
      const voices = failed ? new Map<string, number>() : this.#weigh(bucket, [...each.keys()], challengers);
      if (bucket === 0) {
        first = voices.size === 0 ? [dayNaive.name] : heaviest(voices);
        basis = voices.size === 0 ? 'known-good' : standing.of(SPOKEN) === null ? 'cold' : 'measured';
      }
      const weights = [...voices.values()];
      const saying = [...voices.keys()].map((name) => each.get(name) as Float64Array);
      for (let step = from; step < until; step++) {
        const said = saying.map((of) => of[step] as number);
        point[step] = said.length === 0 ? (good[step] as number) : weightedMedian(said, weights);
      }
    }
    return { point, basis, voices: first };
  }

  /** How much each voice counts for one group of leads. Those of whom no error is known are silent where any is known of others. */
  #weigh(bucket: number, names: readonly string[], challengers: ReadonlySet<string>): Map<string, number> {
    const losses = lossesOf(this.#standings, this.#bounds, bucket, names);
    const ours = names.filter((name) => !challengers.has(name));
    if (losses.size === 0) return new Map(ours.slice(0, COLD_VOICES).map((name) => [name, 1]));
    const least = ours.reduce((found, name) => Math.min(found, losses.get(name) ?? Infinity), Infinity);
    const weights = new Map<string, number>();
    for (const [name, loss] of losses) {
      const isProved = (this.#standings[bucket]?.of(name)?.count ?? 0) >= CHALLENGER_ORIGINS && loss < CHALLENGER_SHARE * least;
      // A loss of nothing leaves room for others that lost nothing.
      if (!challengers.has(name) || isProved) weights.set(name, ((loss + TINY) / (least + TINY)) ** -STRICTNESS);
    }
    return weights;
  }

  #score(pending: Pending, series: Series): void {
    const from = indexAt(series, pending.forecast.startMs);
    while (pending.bucket < this.#standings.length) {
      const [first, after] = [this.#bounds[pending.bucket] as number, this.#bounds[pending.bucket + 1] as number];
      if (from + after > series.values.length) return;
      const standing = this.#standings[pending.bucket] as Standing;
      const scoredMs = this.#scoredMs[pending.bucket] as number;
      const dayMs = this.#settings.season.day * series.stepMs;
      const days = Number.isFinite(scoredMs) ? (pending.forecast.startMs - scoredMs) / dayMs : 0;
      standing.fade(Math.min(1, days / KEEP_DAYS));
      this.#scoredMs[pending.bucket] = pending.forecast.startMs;
      const loss = (said: Float64Array) => missed(said, series.values, from, first, after) / pending.scale;
      for (const [name, said] of pending.forecast.each) standing.add(name, loss(said));
      standing.add(SPOKEN, loss(pending.forecast.point));
      const came = series.values.subarray(from + first, from + after);
      this.#uppers.score(
        pending.bucket,
        pending.forecast.point,
        first,
        pending.scale,
        pending.bounds[pending.bucket] as ReadonlyMap<string, Float64Array>,
        came,
        days,
      );
      pending.bucket++;
    }
  }
}

/** Leads are judged in groups: up to a quarter of an hour, an hour, six hours, a day, a week, and beyond, as parts of the day. */
function leadBounds({ season, steps }: TrackSettings): number[] {
  const parts = [1 / 96, 1 / 24, 1 / 4, 1, 7].map((part) => Math.max(1, Math.round(part * season.day)));
  return [...new Set([0, ...parts.filter((bound) => bound < steps), steps])];
}

/** Judged over all leads together: of a few of them, a lucky week of a naive forecast says little. */
function hasFailed(standings: readonly Standing[], bounds: readonly number[]): boolean {
  const [spoken, good] = [overall(standings, bounds, SPOKEN), overall(standings, bounds, dayNaive.name)];
  const count = standings.at(-1)?.of(dayNaive.name)?.count ?? 0;
  return spoken !== null && good !== null && count >= FALLBACK_ORIGINS && spoken > FALLBACK_RATIO * good;
}

/** The mean loss over all leads of which any is known. */
function overall(standings: readonly Standing[], bounds: readonly number[], name: string): number | null {
  let [sum, steps] = [0, 0];
  for (const [bucket, standing] of standings.entries()) {
    const known = standing.of(name);
    if (known === null) continue;
    const length = (bounds[bucket + 1] as number) - (bounds[bucket] as number);
    sum += known.loss * length;
    steps += length;
  }
  return steps === 0 ? null : sum / steps;
}

/** The names of those that count most. */
function heaviest(weights: ReadonlyMap<string, number>): string[] {
  return [...weights]
    .toSorted((a, b) => b[1] - a[1])
    .slice(0, NAMED)
    .map(([name]) => name);
}

/** Lately's mean losses for one group of leads, of those of whom any is known, with what is known of them for all leads mixed in. */
function lossesOf(standings: readonly Standing[], bounds: readonly number[], bucket: number, names: Iterable<string>): Map<string, number> {
  const losses = new Map<string, number>();
  for (const name of names) {
    const own = standings[bucket]?.of(name) ?? null;
    if (own === null) continue;
    const evidence = own.weight * ((bounds[bucket + 1] as number) - (bounds[bucket] as number));
    losses.set(name, (evidence * own.loss + BORROWED_STEPS * (overall(standings, bounds, name) ?? own.loss)) / (evidence + BORROWED_STEPS));
  }
  return losses;
}

function meanOf(each: readonly Float64Array[]): Float64Array | null {
  if (each[0] === undefined) return null;
  return each[0].map((_, step) => each.reduce((sum, said) => sum + (said[step] as number), 0) / each.length);
}

/** The mean of a series that hardly ever does anything, gaps left out; null of any other, and while too little of it is known. */
function sparseRate(observed: Float64Array): number | null {
  const known = observed.filter((value) => !Number.isNaN(value));
  if (known.length < 3 * SPARSE) return null;
  let [active, sum] = [0, 0];
  for (const value of known) {
    if (value > 0) active++;
    sum += value;
  }
  return active < SPARSE ? sum / known.length : null;
}

/** The mean distance from what came, gaps left out; NaN where nothing is known. */
function missed(said: Float64Array, came: Float64Array, from: number, first: number, after: number): number {
  let [sum, count] = [0, 0];
  for (let step = first; step < after; step++) {
    const value = came[from + step];
    if (value === undefined || Number.isNaN(value)) continue;
    sum += Math.abs(value - (said[step] as number));
    count++;
  }
  return sum / count;
}

/** What a forecast's errors are measured in: how far a day is off the one before; of a series without variation, its size. Never 0. */
export function scaleOf(values: Float64Array, day: number): number {
  let [sum, count, size] = [0, 0, 0];
  for (let index = 0; index < values.length; index++) {
    const value = values[index] as number;
    if (Number.isNaN(value)) continue;
    size = Math.max(size, Math.abs(value));
    const change = index < day ? Number.NaN : Math.abs(value - (values[index - day] as number));
    if (Number.isNaN(change)) continue;
    sum += change;
    count++;
  }
  return sum > 0 ? sum / count : size > 0 ? size : 1;
}
