import { CHALLENGERS } from '../src/app/challengers.ts';
import type { Challengers } from '../src/app/challengers.ts';
import { medianForecast } from '../src/prediction/forecasters/naive.ts';
import type { Season } from '../src/prediction/forecasters/forecaster.ts';
import { endMs, impute, slice } from '../src/prediction/series.ts';
import type { Series } from '../src/prediction/series.ts';
import { scaleOf, Track } from '../src/prediction/track.ts';

export const OURS = 'Foreshadow';
export const MEDIAN_OF_FIVE = 'median of five';

/** The five of the plain median: one each of smoothing, Holt-Winters, autoregression on logs, and the means by hour of day and of week. */
const FIVE = ['smoothing', 'Holt-Winters', 'autoregression on logs', 'mean of 7 days', 'mean of 4 weeks'];

/** How the names of forecasters read in the tables, of those that stand in one. */
export const SINGLE = { 'seasonal naive': 'day before', persistence: 'persistence' } as const;

export interface Plan {
  readonly season: Season;
  readonly steps: number;
  readonly reach: number;
  /** Steps of the first forecast, of the first that is scored, and from one to the next. */
  readonly warmFrom: number;
  readonly testFrom: number;
  readonly every: number;
}

/** One scored forecast by every method: from the series up to the origin and nothing else. */
export interface Origin {
  readonly at: number;
  readonly came: Float64Array;
  readonly scale: number;
  readonly points: Map<string, Float64Array>;
  readonly uppers: Map<string, Float64Array>;
  readonly expected: Float64Array;
  readonly history: Float64Array;
}

/** CPU milliseconds spent, by who: ours in one sum, since its parts are asked in one go. */
export type Spent = Map<string, { ms: number; count: number }>;

/**
 * Goes through a series as it would have gone live. Each turn is given a copy of the values before its origin, so that nothing later can
 * be seen, and the forecast's state comes from earlier turns alone.
 *
 * @param isHeavy whether the challengers are asked at a test origin: they cost a hundred times as much.
 */
export async function backtest(
  series: Series,
  plan: Plan,
  spent: Spent,
  challengers: Challengers | null,
  isHeavy: (test: number) => boolean,
): Promise<Origin[]> {
  const track = new Track({ season: plan.season, steps: plan.steps, zone: 'UTC', reach: plan.reach });
  const origins: Origin[] = [];
  let test = 0;
  for (let at = plan.warmFrom; at + plan.steps <= series.values.length; at += plan.every) {
    const known = { ...series, values: series.values.slice(0, at) };
    const begun = process.threadCpuUsage();
    const forecast = track.turn(known);
    note(spent, OURS, cpuMsSince(begun));
    if (at < plan.testFrom) continue;
    const came = series.values.slice(at, at + plan.steps);
    if (came.filter(Number.isNaN).length * 2 > came.length || forecast.basis === 'none') continue;
    const recent = slice(known, Math.max(0, at - plan.reach));
    const history = impute(recent, plan.season.day);
    const points = new Map<string, Float64Array>([[OURS, forecast.point]]);
    const five = FIVE.flatMap((name) => forecast.each.get(name) ?? []);
    if (five.length > 0) points.set(MEDIAN_OF_FIVE, medianForecast(five));
    for (const [shown, name] of Object.entries(SINGLE)) points.set(shown, forecast.each.get(name) ?? forecast.point);
    for (const [name, said] of forecast.each) points.set(name, said);
    const uppers = new Map<string, Float64Array>([[OURS, forecast.upper]]);
    if (challengers !== null && isHeavy(test)) await askAll(challengers, history, plan, points, uppers, spent);
    origins.push({
      at,
      came,
      scale: scaleOf(recent.values, plan.season.day),
      points,
      uppers,
      expected: forecast.expected,
      history: history.values,
    });
    test++;
  }
  return origins;
}

async function askAll(
  challengers: Challengers,
  history: Series,
  { steps, season }: Plan,
  points: Map<string, Float64Array>,
  uppers: Map<string, Float64Array>,
  spent: Spent,
): Promise<void> {
  for (const model of CHALLENGERS) {
    const question = { model, values: history.values, startMs: endMs(history), stepMs: history.stepMs, steps, season };
    const { answer, cpuMs } = await challengers.ask(question, AbortSignal.timeout(60_000));
    note(spent, model, cpuMs);
    // Where a challenger is silent it is given the seasonal naive, as the product would.
    const most = 3 * history.values.reduce((found, value) => Math.max(found, value), 0);
    const isUsable = answer !== null && answer.point.every((value) => Number.isFinite(value));
    points.set(model, isUsable ? answer.point.map((value) => Math.min(value, most)) : (points.get('seasonal naive') as Float64Array));
    if (isUsable && answer.upper !== null && answer.upper.every((value) => Number.isFinite(value))) uppers.set(model, answer.upper);
  }
}

/** What this thread computed: other processes on the machine do not count. */
export function cpuMsSince(begun: NodeJS.CpuUsage): number {
  const { user, system } = process.threadCpuUsage(begun);
  return (user + system) / 1000;
}

function note(spent: Spent, who: string, ms: number): void {
  const found = spent.get(who) ?? { ms: 0, count: 0 };
  found.ms += ms;
  found.count++;
  spent.set(who, found);
}

/** The sum of distances and of what came, over the steps of one origin; gaps left out. */
export function distance(
  said: Float64Array,
  came: Float64Array,
  steps: number,
): { readonly error: number; readonly size: number; readonly count: number } {
  let [error, size, count] = [0, 0, 0];
  for (let step = 0; step < Math.min(steps, came.length); step++) {
    const value = came[step] as number;
    if (Number.isNaN(value)) continue;
    error += Math.abs(value - (said[step] as number));
    size += Math.abs(value);
    count++;
  }
  return { error, size, count };
}
