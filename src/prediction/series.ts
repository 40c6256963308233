/**
 * What prediction computes on: one number per step of time, without holes in the grid. A gap is NaN and never zero: a minute in which
 * nothing was observed says nothing, a minute in which nothing happened says much.
 */
export interface Series {
  /** When the first step begins, in milliseconds of UTC (of the local clock, after `toLocal`). */
  readonly startMs: number;
  readonly stepMs: number;
  readonly values: Float64Array;
}

export interface Sample {
  readonly atMs: number;
  readonly value: number;
}

export const HOUR_MS = 3_600_000;
export const DAY_MS = 86_400_000;

/** When the last step ends. */
export function endMs({ startMs, stepMs, values }: Series): number {
  return startMs + stepMs * values.length;
}

export function timeAt({ startMs, stepMs }: Series, index: number): number {
  return startMs + stepMs * index;
}

/** The step that holds a moment; below 0 or beyond the last where the series does not reach it. */
export function indexAt({ startMs, stepMs }: Series, atMs: number): number {
  return Math.floor((atMs - startMs) / stepMs);
}

/** The steps from `from` to before `until`, as a view on the same numbers. */
export function slice(series: Series, from: number, until = series.values.length): Series {
  return { startMs: timeAt(series, from), stepMs: series.stepMs, values: series.values.subarray(from, until) };
}

/**
 * Samples as they came, put on a grid whose steps begin at multiples of `stepMs`. Of samples in one step the one that came last counts:
 * so a clock that was set back rewrites the stretch it lived through twice, and nothing else. Samples that are no finite number are gaps.
 *
 * @throws RangeError where the samples lie further apart than `limit` steps, as one wrong clock can make them.
 */
export function fromSamples(samples: Iterable<Sample>, stepMs: number, limit = 4_000_000): Series {
  const steps = new Map<number, number>();
  let [first, last] = [Infinity, -Infinity];
  for (const { atMs, value } of samples) {
    if (!Number.isFinite(value) || !Number.isFinite(atMs)) continue;
    const step = Math.floor(atMs / stepMs);
    first = Math.min(first, step);
    last = Math.max(last, step);
    steps.set(step, value);
  }
  if (steps.size === 0) return { startMs: 0, stepMs, values: new Float64Array(0) };
  if (last - first >= limit) throw new RangeError(`samples span ${last - first + 1} steps of ${stepMs} ms, more than ${limit}`);
  const values = new Float64Array(last - first + 1).fill(Number.NaN);
  for (const [step, value] of steps) values[step - first] = value;
  return { startMs: first * stepMs, stepMs, values };
}

/**
 * Longer steps, beginning at multiples of `stepMs`. A step of which less than half was observed is a gap; a sum over one that was observed
 * in part is scaled up to the whole of it.
 *
 * @throws RangeError where the new step is no multiple of the old one.
 */
export function aggregate(series: Series, stepMs: number, how: 'sum' | 'mean' | 'max'): Series {
  const ratio = stepMs / series.stepMs;
  if (!Number.isInteger(ratio) || ratio < 1) throw new RangeError(`steps of ${series.stepMs} ms do not fill steps of ${stepMs} ms`);
  const first = Math.floor(series.startMs / stepMs);
  const count = series.values.length === 0 ? 0 : Math.floor((endMs(series) - series.stepMs) / stepMs) - first + 1;
  const total = new Float64Array(count);
  const present = new Uint32Array(count);
  for (const [index, value] of series.values.entries()) {
    if (Number.isNaN(value)) continue;
    const step = Math.floor(timeAt(series, index) / stepMs) - first;
    const seen = present[step] as number;
    const sofar = total[step] as number;
    total[step] = how === 'max' && seen > 0 ? Math.max(sofar, value) : how === 'max' ? value : sofar + value;
    present[step] = seen + 1;
  }
  const values = total.map((value, step) => {
    const seen = present[step] as number;
    if (seen * 2 < ratio || seen === 0) return Number.NaN;
    if (how === 'max') return value;
    return how === 'mean' ? value / seen : (value * ratio) / seen;
  });
  return { startMs: first * stepMs, stepMs, values };
}

/**
 * Fills gaps with what was known before them: the value one `period` of steps earlier, or the last one there was. A series that begins
 * with a gap begins after it; one of gaps alone is empty.
 */
export function impute(series: Series, period: number): Series {
  const first = series.values.findIndex((value) => Number.isFinite(value));
  if (first < 0) return { ...series, values: new Float64Array(0) };
  const values = series.values.slice(first);
  for (let index = 1; index < values.length; index++) {
    if (!Number.isFinite(values[index])) values[index] = values[index >= period ? index - period : index - 1] as number;
  }
  return { startMs: timeAt(series, first), stepMs: series.stepMs, values };
}

/** This many times what all but one in a hundred stay below is absurd. */
const ABSURD = 10;

/** Winsorised: values that are absurd beside the rest are put at the edge of it, so that one of them bends no model. Gaps stay. */
export function tame(values: Float64Array): Float64Array {
  const cap = ABSURD * quantile(values.filter((value) => Number.isFinite(value)).toSorted(), 0.99);
  return cap > 0 ? values.map((value) => (value > cap ? cap : value)) : values.slice();
}

/** Of ascending values without gaps, between neighbours in proportion (Hyndman and Fan's seventh). NaN where there are none. */
export function quantile(sorted: ArrayLike<number>, share: number): number {
  if (sorted.length === 0) return Number.NaN;
  const place = Math.min(1, Math.max(0, share)) * (sorted.length - 1);
  const below = Math.floor(place);
  const low = sorted[below] as number;
  return low + (place - below) * ((sorted[Math.min(below + 1, sorted.length - 1)] as number) - low);
}

/**
 * The same series by the clock on the wall: people and their batch jobs live by it, so a season of 24 steps stays one through a change of
 * daylight saving. The hour that a spring day leaves out becomes a gap; one that an autumn day has twice becomes their mean.
 *
 * @param zone an IANA name, such as `Europe/Berlin`; an unknown one throws RangeError.
 */
export function toLocal(series: Series, zone: string): Series {
  const offsets = offsetsOf(series, series.values.length, zone);
  const startMs = series.startMs + (offsets[0] ?? 0);
  const places = placesOf(series, offsets, startMs);
  const length = places.reduce((most, place) => Math.max(most, place + 1), 0);
  const total = new Float64Array(length);
  const present = new Uint8Array(length);
  for (const [index, value] of series.values.entries()) {
    const place = places[index] as number;
    if (!Number.isFinite(value) || place < 0) continue;
    total[place] = (total[place] as number) + value;
    present[place] = (present[place] as number) + 1;
  }
  const values = total.map((value, place) => (present[place] === 0 ? Number.NaN : value / (present[place] as number)));
  return { startMs, stepMs: series.stepMs, values };
}

/** How many steps a local series needs to cover `steps` steps of UTC from `startMs`, and where in it each of them lies. */
export interface LocalSteps {
  readonly count: number;
  /** Per step of UTC its place in the local series; one that an hour's repetition visits twice appears twice. */
  readonly places: Int32Array;
}

/** The steps from `startMs` of UTC on, as steps of a local series that begins at `localStartMs`. */
export function localSteps(startMs: number, stepMs: number, steps: number, localStartMs: number, zone: string): LocalSteps {
  const offsets = offsetsOf({ startMs, stepMs }, steps, zone);
  const places = placesOf({ startMs, stepMs }, offsets, localStartMs);
  return { count: places.reduce((most, place) => Math.max(most, place + 1), 0), places };
}

function placesOf({ startMs, stepMs }: Pick<Series, 'startMs' | 'stepMs'>, offsets: Float64Array, localStartMs: number): Int32Array {
  return Int32Array.from(offsets, (offset, index) => Math.floor((startMs + stepMs * index + offset - localStartMs) / stepMs));
}

/** Milliseconds that local time is ahead of UTC, per step. Asked once a day where nothing changes within it: asking is dear. */
function offsetsOf({ startMs, stepMs }: Pick<Series, 'startMs' | 'stepMs'>, count: number, zone: string): Float64Array {
  const ask = offsetIn(zone);
  const offsets = new Float64Array(count);
  const stride = Math.max(1, Math.floor(DAY_MS / stepMs));
  for (let from = 0; from < count; from += stride) {
    const until = Math.min(count, from + stride);
    const [first, last] = [ask(startMs + stepMs * from), ask(startMs + stepMs * (until - 1))];
    for (let index = from; index < until; index++) offsets[index] = first === last ? first : ask(startMs + stepMs * index);
  }
  return offsets;
}

function offsetIn(zone: string): (atMs: number) => number {
  if (zone === 'UTC') return () => 0;
  const format = new Intl.DateTimeFormat('en-US', {
    timeZone: zone,
    hourCycle: 'h23',
    year: 'numeric',
    month: 'numeric',
    day: 'numeric',
    hour: 'numeric',
    minute: 'numeric',
    second: 'numeric',
  });
  return (atMs) => {
    const part = Object.fromEntries(format.formatToParts(atMs).map(({ type, value }) => [type, Number(value)]));
    const { year = 0, month = 1, day = 1, hour = 0, minute = 0, second = 0 } = part;
    return Date.UTC(year, month - 1, day, hour, minute, second) - Math.floor(atMs / 1000) * 1000;
  };
}
