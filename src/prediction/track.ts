import { medianOf } from './forecasters/naive.ts';
import { believable } from './forecasters/forecaster.ts';
import type { Forecaster, Season } from './forecasters/forecaster.ts';
import { dayNaive, FORECASTERS, HOURLY } from './forecasters/pool.ts';
import { Bounds } from './intervals.ts';
import { endMs, impute, indexAt, localSteps, slice, tame, toLocal } from './series.ts';
import type { Series } from './series.ts';
import { Standing } from './standing.ts';

/** So many of the best speak, and their median is the forecast. Five did better than three on every trace (docs/decisions). */
const VOICES = 5;
/** What a day leaves of an error's weight. */
const KEEP = 0.9;
const LOSS_MAX = 10;
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
   * rate. `measured`: the median of those that erred least. `known-good`: seasonal naive, because the rest did worse, or failed.
   */
  readonly basis: 'none' | 'cold' | 'sparse' | 'measured' | 'known-good';
  /** Who speaks for the first steps. */
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
    for (const [bucket, standing] of this.#standings.entries()) {
      const [from, until] = [this.#bounds[bucket] as number, this.#bounds[bucket + 1] as number];
      const voices = hasFailed(standing) ? [] : best(standing, [...each.keys()], challengers);
      if (bucket === 0) {
        first = voices.length === 0 ? [dayNaive.name] : voices;
        basis = voices.length === 0 ? 'known-good' : standing.of(SPOKEN) === null ? 'cold' : 'measured';
      }
      for (let step = from; step < until; step++) {
        const said = voices.map((name) => (each.get(name) as Float64Array)[step] as number);
        point[step] = said.length === 0 ? (good[step] as number) : medianOf(said);
      }
    }
    return { point, basis, voices: first };
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
      standing.fade(days);
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

function hasFailed(standing: Standing): boolean {
  const [spoken, good] = [standing.of(SPOKEN), standing.of(dayNaive.name)];
  return spoken !== null && good !== null && good.count >= FALLBACK_ORIGINS && spoken.loss > FALLBACK_RATIO * good.loss;
}

/** The names of those that erred least; those of whom nothing is known come after, in the order given. */
function best(standing: Standing, names: readonly string[], challengers: ReadonlySet<string>): string[] {
  const ours = names.filter((name) => !challengers.has(name));
  const least = ours.reduce((found, name) => Math.min(found, standing.of(name)?.loss ?? Infinity), Infinity);
  const heard = names.filter((name) => {
    const known = standing.of(name);
    return !challengers.has(name) || (known !== null && known.count >= CHALLENGER_ORIGINS && known.loss < CHALLENGER_SHARE * least);
  });
  const rank = (name: string) => standing.of(name)?.loss ?? Infinity;
  return heard
    .map((name, order) => ({ name, order, loss: rank(name) }))
    .toSorted((a, b) => (a.loss === b.loss ? a.order - b.order : a.loss - b.loss))
    .slice(0, VOICES)
    .map(({ name }) => name);
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
