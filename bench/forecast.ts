import { existsSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { Challengers } from '../src/app/challengers.ts';
import { MEDIAN_OF_FIVE, OURS, SINGLE } from './forecast-backtest.ts';
import type { Spent } from './forecast-backtest.ts';
import { LeftOut, readTraces } from './forecast-data.ts';
import type { Traces } from './forecast-data.ts';
import { activityOf, activityOfSeries, distinctLine, HOTSPOT_METHODS, recallLines } from './forecast-hotspots.ts';
import { checkLine, judge, RIVALS, tableOf } from './forecast-score.ts';
import type { Line } from './forecast-score.ts';
import {
  backtestAll,
  errorLines,
  geometricLine,
  heavyOnly,
  lightOnly,
  hourlyPlan,
  minutesPlan,
  quietestLines,
  stratified,
  upperLines,
  usable,
  variable,
} from './forecast-series.ts';
import { record, say, shown } from './recording.ts';
import type { Check, ResultTable } from './recording.ts';
import type { Series } from '../src/prediction/series.ts';

/**
 * How well activity and load are foretold, on real traces, beside what is simpler and what is dearer. Everything is computed as it would
 * have been at the time: no method is shown anything later than its origin.
 */

interface Section {
  readonly tables: ResultTable[];
  readonly checks: Check[];
  readonly measured: readonly unknown[];
}

interface Run {
  readonly isQuick: boolean;
  readonly challengers: Challengers;
  readonly spent: Spent;
  readonly leftOut: LeftOut;
}

/** Half of it to learn from, and of the rest a day's forecast or two. */
const HOURS_MIN = 96;
const LIGHT = [OURS, ...Object.keys(SINGLE), MEDIAN_OF_FIVE];
const ALL = [OURS, ...RIVALS];
const hourly = ({ values }: Series) => hourlyPlan(values.length);
const testFrom = (length: number) => hourlyPlan(length).testFrom;

/** Every figure as it is: the tables round. */
function measuredOf(where: string, lines: readonly Line[]): unknown[] {
  return lines.map(({ what, of }) => ({ where, what, ...Object.fromEntries(of) }));
}

function section(title: string, where: string, lines: readonly Line[], methods: readonly string[]): Section {
  return {
    tables: [tableOf(title, lines, methods)],
    checks: lines.map((line) => checkLine(where, line)),
    measured: measuredOf(where, lines),
  };
}

async function writes({ writes: all }: Traces, { isQuick, challengers, spent, leftOut }: Run): Promise<Section[]> {
  const series = usable(all, hourly, leftOut).filter((_, index) => !isQuick || index % 8 === 0);
  if (series.length === 0) return [];
  say(`writes of ${series.length} machines`);
  const heavy = stratified(series, isQuick ? 4 : 48, testFrom);
  const done = await backtestAll(series, heavy, isQuick ? 2 : 12, hourly, challengers, spent);
  const lines = (of: typeof done, methods: readonly string[]) => [
    ...errorLines(of, methods, '1 h', 1),
    ...errorLines(of, methods, '24 h', 24),
  ];
  const part = heavyOnly(done);
  const origins = (of: typeof done) => of.reduce((sum, each) => sum + each.origins.length, 0);
  return [
    section(`Writes: all ${series.length} machines, ${origins(done)} forecasts`, 'writes', lines(done, LIGHT), LIGHT),
    section(`Writes: ${part.length} machines of all sizes, ${origins(part)} forecasts`, 'writes of a part', lines(part, ALL), ALL),
  ];
}

async function loads({ loads: all }: Traces, { isQuick, challengers, spent, leftOut }: Run): Promise<Section[]> {
  const series = usable(all, minutesPlan, leftOut).slice(0, isQuick ? 2 : Infinity);
  if (series.length === 0) return [];
  say(`load of ${series.length} servers`);
  const done = await backtestAll(series, new Set(series), isQuick ? 2 : 8, minutesPlan, challengers, spent);
  const hour = () => Math.round(minutesPlan((series[0] as (typeof series)[number]).series).season.day / 24);
  const lines = (of: typeof done, methods: readonly string[]) => [
    geometricLine(of, methods, '1 h', hour),
    geometricLine(of, methods, '24 h', () => Infinity),
  ];
  const part = heavyOnly(done);
  const origins = (of: typeof done) => of.reduce((sum, each) => sum + each.origins.length, 0);
  return [
    section(`Load of ${done.length} servers in steps of 5 minutes, ${origins(done)} forecasts`, 'load', lines(done, LIGHT), LIGHT),
    section(`Load, ${origins(part)} forecasts`, 'load of a part', lines(part, ALL), ALL),
  ];
}

async function bounds({ cpu }: Traces, { isQuick, challengers, spent, leftOut }: Run): Promise<Section[]> {
  const series = variable(usable(cpu, hourly, leftOut), testFrom, leftOut).filter((_, index) => !isQuick || index % 8 === 0);
  if (series.length === 0) return [];
  say(`load of ${series.length} variable machines`);
  const heavy = stratified(series, isQuick ? 4 : 24, testFrom);
  const done = await backtestAll(series, heavy, isQuick ? 2 : 8, hourly, challengers, spent);
  const sections: Section[] = [];
  const titles = [`all ${series.length}`, `${heavy.size} of all sizes`];
  for (const [index, of] of [lightOnly(done), heavyOnly(done)].entries()) {
    const where = `variable machines, ${titles[index] as string}`;
    const { coverage, loss } = upperLines(of, 24);
    const held = shown(coverage.of.get(OURS) ?? null);
    const covered = judge(`${where}: the upper bound holds 88 to 94 times in a hundred`, coverage, held, (measure) => {
      return measure(OURS) >= 88 && measure(OURS) <= 94;
    });
    const methods = [OURS, 'most of 7 days', ...RIVALS];
    const quietest = section(`Quietest two hours of a day: ${where}`, where, quietestLines(of), ALL);
    sections.push(
      {
        tables: [tableOf(`Upper bound, 90 %: ${where}`, [coverage, loss], methods)],
        checks: [covered, checkLine(where, loss)],
        measured: measuredOf(where, [coverage, loss]),
      },
      quietest,
    );
  }
  return sections;
}

function hotspots({ edits, writes: machines }: Traces, { isQuick, spent, leftOut }: Run): Section[] {
  const sections: Section[] = [];
  const activity = edits === null ? [] : activityOf(edits);
  if (edits !== null && activity.length < HOURS_MIN) leftOut.add('modifications of rows', `fewer than ${HOURS_MIN} hours of them`);
  else if (edits !== null) {
    const warmHours = Math.min(7 * 24, activity.length >> 1);
    say(`hotspots of ${edits.rowCount} rows`);
    const lines = [1, 6, 24].flatMap((period) => (isQuick && period > 1 ? [] : recallLines(activity, period, warmHours, spent)));
    const distinct = [1, 6, 24].map((hours) => distinctLine(edits, hours, warmHours));
    sections.push(section(`Hotspots: ${edits.rowCount} rows`, 'rows', lines, HOTSPOT_METHODS));
    sections.push(section('Distinct rows of the next period', 'rows', distinct, HOTSPOT_METHODS));
  }
  const series = usable(machines, hourly, leftOut).map((each) => each.series);
  if (series.length > 0 && series.length < 20) leftOut.add('hotspots of machines', 'the hottest ten of fewer than twenty are no choice');
  else if (series.length > 0) {
    say(`hotspots of ${series.length} machines`);
    const known = activityOfSeries(series);
    const lines = [1, 24].flatMap((period) => (isQuick && period > 1 ? [] : recallLines(known, period, testFrom(known.length), spent)));
    sections.push(section(`Hotspots: writes of ${series.length} machines`, 'machines', lines, HOTSPOT_METHODS));
  }
  return sections;
}

function missing({ writes: ofWrites, cpu, loads: ofLoads, edits }: Traces, leftOut: LeftOut): void {
  const kinds: [string, boolean][] = [
    ['writes of machines', ofWrites.length > 0],
    ['load of machines (cpu)', cpu.length > 0],
    ['load of servers', ofLoads.length > 0],
    ['modifications of rows', edits !== null],
  ];
  for (const [kind, isThere] of kinds) if (!isThere) leftOut.add(kind, 'no file of this kind that can be read');
}

function costs({ spent }: Run): ResultTable {
  const rows = [...spent].map(([who, { ms, count }]) => [who, shown(ms / count), count]);
  return { title: 'What a forecast costs', columns: ['who', 'CPU ms each', 'forecasts'], rows };
}

const { values: options } = parseArgs({
  options: { data: { type: 'string' }, quick: { type: 'boolean', default: false } },
});
const directory = options.data;
if (directory === undefined || !existsSync(directory)) {
  const where = directory === undefined ? 'No folder of traces was named' : `There is no folder ${directory}`;
  process.stderr.write(`${where}: npm run bench:forecast -- --data DIR, laid out as bench/README.md says.\n`);
  process.exit(2);
}
const leftOut = new LeftOut();
const traces = readTraces(directory, leftOut);
missing(traces, leftOut);
await using challengers = new Challengers(60_000);
const run: Run = { isQuick: options.quick, challengers, spent: new Map(), leftOut };
const sections: Section[] = [];
for (const part of [writes, loads, bounds, hotspots]) sections.push(...(await part(traces, run)));
const passedOver = { title: 'What was left out', columns: ['how many', 'which', 'why'], rows: leftOut.rows };
if (sections.length === 0) {
  for (const [count, names, reason] of leftOut.rows) process.stderr.write(`${count} left out (${names}): ${reason}\n`);
  process.stderr.write(`Nothing in ${directory} can be scored.\n`);
  process.exit(2);
}
await record({
  name: options.quick ? 'forecast-quick' : 'forecast',
  title: 'Forecasts of activity and load',
  method: [
    'Each series is gone through as it would have gone live: every forecast is made from a copy of the values before it, and what is known of a',
    'method is the errors that had matured by then. Where something does not hold it is told in how many folders, drawn from the same series or',
    'periods with replacement, it would. What rests on fewer than five of them cannot be judged.',
  ],
  settings: { quick: options.quick },
  tables: [...sections.flatMap(({ tables }) => tables), ...(leftOut.rows.length > 0 ? [passedOver] : []), costs(run)],
  checks: sections.flatMap(({ checks }) => checks),
  measurements: sections.flatMap(({ measured }) => measured),
});
