import { CHALLENGERS } from '../src/app/challengers.ts';
import type { Challengers } from '../src/app/challengers.ts';
import { pinball, UPPER_SHARE } from '../src/prediction/intervals.ts';
import { DAY_MS } from '../src/prediction/series.ts';
import type { Series } from '../src/prediction/series.ts';
import { backtest, distance, OURS } from './forecast-backtest.ts';
import type { Origin, Plan, Spent } from './forecast-backtest.ts';
import type { LeftOut, Named } from './forecast-data.ts';
import { mean, middleLine, Parts, ratioLine, RIVALS } from './forecast-score.ts';
import type { Line } from './forecast-score.ts';
import { median } from './measuring.ts';
import { say } from './recording.ts';

/** A series of the run with all its scored origins. */
export interface Backtested {
  readonly name: string;
  readonly origins: readonly Origin[];
}

/** Steps of a day and a week, four weeks looked back, and a day and an hour from one forecast to the next: so every hour of the day is met. */
export function hourlyPlan(length: number): Plan {
  const testFrom = Math.min(1_000, Math.max(96, Math.round(length * 0.45)));
  const warmFrom = Math.max(48, Math.min(336, testFrom >> 1));
  return { season: { day: 24, week: 168 }, steps: 24, reach: 672, warmFrom, testFrom, every: 25 };
}

/** Minutes: a day ahead, one week looked back, scored on the second half, a forecast every four hours and a step. */
export function minutesPlan({ stepMs, values }: Series): Plan {
  const day = Math.round(DAY_MS / stepMs);
  const testFrom = Math.max(2 * day, values.length >> 1);
  return {
    season: { day, week: 7 * day },
    steps: day,
    reach: 7 * day,
    warmFrom: Math.min(2 * day, testFrom),
    testFrom,
    every: Math.round(day / 6) + 1,
  };
}

/** So many origins of a series, spread evenly, are given to the challengers. */
export function heavyOrigins(length: number, { testFrom, steps, every }: Plan, count: number): (test: number) => boolean {
  const tests = Math.max(1, Math.floor((length - steps - testFrom) / every) + 1);
  const stride = Math.max(1, Math.floor(tests / count));
  return (test) => test % stride === 0 && test / stride < count;
}

/** Those that can be scored. What cannot is noted, with the reason. */
export function usable(all: readonly Named[], planOf: (series: Series) => Plan, leftOut: LeftOut): Named[] {
  return all.filter(({ name, series }) => {
    const reason = unusable(series, planOf(series));
    if (reason !== null) leftOut.add(name, reason);
    return reason === null;
  });
}

function unusable({ values }: Series, { testFrom, steps, every }: Plan): string | null {
  const origins = Math.floor((values.length - steps - testFrom) / every) + 1;
  if (origins < 1) return 'shorter than what has to be known before the first forecast that is scored, and a day';
  const known = values.slice(0, testFrom).filter((value) => !Number.isNaN(value));
  if (known.length * 2 <= testFrom) return 'observed less than half of the time before the first forecast that is scored';
  if (!known.some((value) => value > 0)) return 'never more than nothing before the first forecast that is scored';
  return null;
}

/** Every n-th by size before the first scored origin, so that all sizes are there. */
export function stratified(all: readonly Named[], count: number, testFrom: (length: number) => number): Set<Named> {
  const size = ({ series: { values } }: Named) => mean(values.slice(0, testFrom(values.length)).filter((value) => !Number.isNaN(value)));
  const sorted = all.toSorted((a, b) => size(a) - size(b));
  const stride = Math.max(1, sorted.length / count);
  return new Set(sorted.filter((_, index) => Math.floor(index / stride) !== Math.floor((index - 1) / stride)).slice(0, count));
}

export async function backtestAll(
  all: readonly Named[],
  heavy: ReadonlySet<Named>,
  heavyCount: number,
  planOf: (series: Series) => Plan,
  challengers: Challengers,
  spent: Spent,
): Promise<Backtested[]> {
  const done: Backtested[] = [];
  for (const each of all) {
    const plan = planOf(each.series);
    const asks = heavy.has(each) ? heavyOrigins(each.series.values.length, plan, heavyCount) : () => false;
    done.push({ name: each.name, origins: await backtest(each.series, plan, spent, challengers, asks) });
    if (done.length % 50 === 0) say(`${done.length} of ${all.length} series`);
  }
  return done;
}

/** Only the origins at which the challengers spoke. */
export function heavyOnly(all: readonly Backtested[]): Backtested[] {
  const is = ({ points }: Origin) => points.has('Prophet');
  return all.map(({ name, origins }) => ({ name, origins: origins.filter(is) })).filter(({ origins }) => origins.length > 0);
}

/** All origins, without what the challengers said at some of them. */
export function lightOnly(all: readonly Backtested[]): Backtested[] {
  const light = (of: Map<string, Float64Array>) => new Map([...of].filter(([name]) => !(CHALLENGERS as readonly string[]).includes(name)));
  return all.map(({ name, origins }) => ({
    name,
    origins: origins.map((origin) => ({ ...origin, points: light(origin.points), uppers: light(origin.uppers) })),
  }));
}

/** WAPE over all, and the median over series of MASE, at one horizon. */
export function errorLines(all: readonly Backtested[], methods: readonly string[], horizon: string, steps: number): Line[] {
  const missed = new Parts();
  for (const method of methods) {
    for (const [unit, { origins }] of all.entries()) {
      for (const { points, came } of origins) {
        const { error, size, count } = distance(points.get(method) as Float64Array, came, steps);
        if (count > 0) missed.add(method, unit, error, size);
      }
    }
  }
  return [
    ratioLine(`WAPE ${horizon}`, missed, true),
    middleLine(
      `median MASE ${horizon}`,
      scaledErrors(all, methods, () => steps),
      true,
      median,
    ),
  ];
}

/** The geometric mean over servers of their mean scaled error. */
export function geometricLine(
  all: readonly Backtested[],
  methods: readonly string[],
  horizon: string,
  steps: (series: Backtested) => number,
): Line {
  // What was foretold exactly has no logarithm: a ten-thousandth of the day's own variation is as good as exact.
  const middle = (values: readonly number[]) => Math.exp(mean(values.map((value) => Math.log(Math.max(1e-4, value)))));
  return middleLine(`gmMASE ${horizon}`, scaledErrors(all, methods, steps), true, middle);
}

/** Per method and series the mean error in multiples of the day's own variation. Series of which nothing came are left out of all. */
function scaledErrors(
  all: readonly Backtested[],
  methods: readonly string[],
  steps: (series: Backtested) => number,
): Map<string, number[]> {
  const of = (method: string) =>
    all.map((series) => {
      const scaled = series.origins.map(({ points, came, scale }) => {
        const { error, count } = distance(points.get(method) as Float64Array, came, steps(series));
        return error / count / scale;
      });
      return mean(scaled.filter((value) => !Number.isNaN(value)));
    });
  return new Map(methods.map((method) => [method, of(method).filter((value) => !Number.isNaN(value))]));
}

/** How often the bound held, in percent, and its pinball loss. Beside the models' own: the most of the same hour in seven days. */
export function upperLines(all: readonly Backtested[], day: number): { readonly coverage: Line; readonly loss: Line } {
  const [held, lost] = [new Parts(), new Parts()];
  for (const [unit, { origins }] of all.entries()) {
    for (const { uppers, came, history } of origins) {
      const said = new Map(uppers).set('most of 7 days', mostOfWeek(history, came.length, day));
      for (const [method, upper] of said) {
        for (const [step, value] of came.entries()) {
          if (!Number.isNaN(value)) held.add(method, unit, value <= (upper[step] as number) ? 100 : 0);
        }
        lost.add(method, unit, pinball(upper, came, UPPER_SHARE));
      }
    }
  }
  return { coverage: ratioLine('coverage %', held, false), loss: ratioLine('pinball', lost, true) };
}

function mostOfWeek(history: Float64Array, steps: number, day: number): Float64Array {
  return Float64Array.from({ length: steps }, (_, step) => {
    let most = 0;
    for (let back = 1; back <= 7; back++) most = Math.max(most, history[history.length - back * day + (step % day)] ?? 0);
    return most;
  });
}

const WINDOW = 2;
/** The chosen window counts as right if its true load is at most this much above that of the truly quietest. */
const RIGHT_WITHIN = 10;

/** Of a day ahead, two hours are chosen by each method: how often that was right, in percent, and how much load there was above the least. */
export function quietestLines(all: readonly Backtested[]): Line[] {
  const [right, above] = [new Parts(), new Parts()];
  for (const [unit, { origins }] of all.entries()) {
    for (const { came, points, expected } of origins) {
      if (came.some(Number.isNaN)) continue;
      const [, least] = quietest(came);
      const said = [...points].filter(([method]) => RIVALS.includes(method));
      for (const [method, load] of [[OURS, expected] as const, ...said]) {
        const [at] = quietest(load);
        const excess = windowMean(came, at) - least;
        right.add(method, unit, excess <= RIGHT_WITHIN ? 100 : 0);
        above.add(method, unit, excess);
      }
    }
  }
  return [ratioLine('quietest window right %', right, false), ratioLine('load above the least, points', above, true)];
}

function quietest(load: Float64Array): readonly [at: number, mean: number] {
  let [best, least] = [0, Infinity];
  for (let at = 0; at + WINDOW <= load.length; at++) {
    const here = windowMean(load, at);
    if (here < least) [best, least] = [at, here];
  }
  return [best, least];
}

function windowMean(load: Float64Array, at: number): number {
  return mean([...load.subarray(at, at + WINDOW)]);
}

/**
 * Load in percent of the most there ever is, which stands for a capacity that the trace does not tell; only of machines whose load varies by
 * five points before the first scored origin.
 */
export function variable(all: readonly Named[], testFrom: (length: number) => number, leftOut: LeftOut): Named[] {
  return all.flatMap(({ name, series }) => {
    const known = series.values.slice(0, testFrom(series.values.length)).filter((value) => !Number.isNaN(value));
    const most = series.values.reduce((found, value) => (value > found ? value : found), 0);
    const middle = mean(known);
    const spread = Math.sqrt(mean(known.map((value) => (value - middle) ** 2)));
    if (!((100 * spread) / most >= 5)) {
      leftOut.add(name, 'load varies by less than five points');
      return [];
    }
    return { name, series: { ...series, values: series.values.map((value) => (100 * value) / most) } };
  });
}
