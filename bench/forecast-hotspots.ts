import { Hotspots, recallAt } from '../src/prediction/hotspots.ts';
import { HOUR_MS } from '../src/prediction/series.ts';
import type { Series } from '../src/prediction/series.ts';
import { Track } from '../src/prediction/track.ts';
import { cpuMsSince, OURS } from './forecast-backtest.ts';
import type { Spent } from './forecast-backtest.ts';
import type { Edits } from './forecast-data.ts';
import { mean, Parts, ratioLine } from './forecast-score.ts';
import type { Line } from './forecast-score.ts';

const HOUR_S = HOUR_MS / 1000;
const DAY = 24;
/** Of the exponential means that stand beside ours, in hours. */
const HALF_LIVES = [1, 6, 24];
const HOTSPOTS = 'hotspots of all elements, an hour';

/** Per hour, per element, how much was modified. */
export type Activity = readonly Float64Array[];

/** Modifications per hour and row. */
export function activityOf({ seconds, rows, rowCount }: Edits): Activity {
  const hours = Math.floor((seconds.at(-1) ?? 0) / HOUR_S) + 1;
  const activity = Array.from({ length: hours }, () => new Float64Array(rowCount));
  for (const [index, row] of rows.entries()) {
    const hour = activity[Math.floor((seconds[index] as number) / HOUR_S)] as Float64Array;
    hour[row] = (hour[row] as number) + 1;
  }
  return activity;
}

/** Turns series of one start into activity; a series that ends before others was not observed from then on. */
export function activityOfSeries(series: readonly Series[]): Activity {
  const hours = series.reduce((most, { values }) => Math.max(most, values.length), 0);
  return Array.from({ length: hours }, (_, hour) => Float64Array.from(series, ({ values }) => values[hour] ?? Number.NaN));
}

/**
 * Recall of the hottest 10 and 50 of the next `period` hours, where there are twice as many elements: for periods from `testFrom` on that do
 * not overlap more than by half.
 */
export function recallLines(activity: Activity, period: number, testFrom: number, spent: Spent): Line[] {
  const model = new Hotspots({ period, day: DAY });
  const elements = activity[0]?.length ?? 0;
  const [ten, fifty] = [new Parts(), new Parts()];
  const every = Math.max(1, period >> 1);
  const fading = HALF_LIVES.map(() => new Float64Array((activity[0] as Float64Array).length));
  let advanceMs = 0;
  for (let hour = 0; hour + period <= activity.length; hour++) {
    if (hour >= testFrom && (hour - testFrom) % every === 0) {
      const came = sum(activity, hour, period);
      const said = new Map([
        [OURS, model.forecast()],
        ['persistence', sum(activity, hour - period, period)],
        ['seasonal naive', sum(activity, hour - Math.max(DAY, period), period)],
        ['mean of 4 periods', sum(activity, hour - 4 * period, 4 * period)],
        ...HALF_LIVES.map((halfLife, scale) => [`half-life ${halfLife} h`, fading[scale] as Float64Array] as const),
      ]);
      // Of a period in which nothing was modified there is nothing to find.
      for (const [method, expected] of came.some((value) => value > 0) ? said : []) {
        // Periods that overlap are no two witnesses: what begins within one period is one unit.
        const unit = Math.floor((hour - testFrom) / period);
        ten.add(method, unit, recallAt(10, expected, came));
        fifty.add(method, unit, recallAt(50, expected, came));
      }
    }
    const begun = process.threadCpuUsage();
    model.advance(activity[hour] as Float64Array);
    advanceMs += cpuMsSince(begun);
    for (const [scale, halfLife] of HALF_LIVES.entries()) fade(fading[scale] as Float64Array, activity[hour] as Float64Array, halfLife);
  }
  const found = spent.get(HOTSPOTS) ?? { ms: 0, count: 0 };
  spent.set(HOTSPOTS, { ms: found.ms + advanceMs, count: found.count + activity.length });
  const lines = [ratioLine(`recall of 10, ${period} h`, ten, false), ratioLine(`recall of 50, ${period} h`, fifty, false)];
  // Where most of all elements are named, whoever names them finds the hottest.
  return lines.filter((_, index) => elements >= 2 * (index === 0 ? 10 : 50));
}

function fade(level: Float64Array, values: Float64Array, halfLife: number): void {
  const keep = 0.5 ** (1 / halfLife);
  for (const [index, value] of values.entries()) {
    level[index] = (level[index] as number) * keep + (Number.isNaN(value) ? 0 : value) * (1 - keep);
  }
}

function sum(activity: Activity, from: number, count: number): Float64Array {
  const total = new Float64Array((activity[0] as Float64Array).length);
  for (let hour = Math.max(0, from); hour < from + count; hour++) {
    for (const [index, value] of (activity[hour] as Float64Array).entries())
      total[index] = (total[index] as number) + (Number.isNaN(value) ? 0 : value);
  }
  return total;
}

/** How many distinct rows the next period of `hours` modifies, in all: the error as a share of what came. */
export function distinctLine(edits: Edits, hours: number, testFromHours: number): Line {
  const periodS = hours * HOUR_S;
  const count = Math.floor((edits.seconds.at(-1) ?? 0) / periodS);
  const sets = Array.from({ length: count }, () => new Set<number>());
  const events = new Float64Array(count);
  for (const [index, row] of edits.rows.entries()) {
    const period = Math.floor((edits.seconds[index] as number) / periodS);
    if (period >= count) break;
    sets[period]?.add(row);
    events[period] = (events[period] as number) + 1;
  }
  const values = Float64Array.from(sets, ({ size }) => size);
  const day = Math.max(1, Math.round(DAY / hours));
  const track = new Track({ season: { day, week: 7 * day }, steps: 1, zone: 'UTC', reach: 28 * day });
  const parts = new Parts();
  for (let at = 1; at < count; at++) {
    const forecast = track.turn({ startMs: 0, stepMs: hours * HOUR_MS, values: values.slice(0, at) });
    if (at * hours < testFromHours) continue;
    const last = (back: number) => values[Math.max(0, at - back)] as number;
    const rate = (events[at - 1] as number) / edits.rowCount;
    const said = new Map([
      [OURS, forecast.point[0] as number],
      ['persistence', last(1)],
      ['seasonal naive', last(day)],
      ['mean of 4 periods', mean([1, 2, 3, 4].map(last))],
      ['evenly spread', edits.rowCount * (1 - Math.exp(-rate))],
    ]);
    for (const [method, value] of said) {
      const came = values[at] as number;
      parts.add(method, at, Math.abs(value - came), came);
    }
  }
  return ratioLine(`distinct rows, ${hours} h: WAPE`, parts, true);
}

/** What stands beside ours in the tables of hotspots. */
export const HOTSPOT_METHODS: readonly string[] = [
  OURS,
  'seasonal naive',
  'persistence',
  'mean of 4 periods',
  ...HALF_LIVES.map((halfLife) => `half-life ${halfLife} h`),
  'evenly spread',
];
