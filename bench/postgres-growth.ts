import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { type Cluster, dropSlot, peakResidentBytes, processCpuMs, startCluster, withClient } from './postgres-servers.ts';
import { type Check, check, record, type ResultTable, say, shown, temporaryDirectory } from './recording.ts';
import { startSystemProcess, type SystemProcess } from './system-processes.ts';
import type { SystemPlaces } from './systems.ts';

/** Time and memory with the number of tables, and of columns: they must grow as the work does. */

interface Settings {
  readonly tables: readonly number[];
  readonly columns: readonly number[];
  /** Of each width: rows times columns. */
  readonly cells: number;
  readonly idleSeconds: number;
}

const FULL: Settings = { tables: [10, 100, 1000, 5000], columns: [1, 10, 100, 1000], cells: 2_000_000, idleSeconds: 20 };
const QUICK: Settings = { tables: [4, 20], columns: [10, 100], cells: 50_000, idleSeconds: 2 };
const ROWS_EACH = 10;
const DATABASE = 'bench';

type StepName = 'install, copy, capture 1' | 'capture of nothing' | 'capture of all' | 'capture of one' | 'start again and capture';

interface Step {
  readonly name: StepName;
  readonly wallMs: number;
  /** Until the capture's cut. */
  readonly cutMs: number;
  /** Tables that did not reach the capture in time. */
  readonly leftOut: number;
  readonly cpuMs: { readonly primary: number; readonly shadow: number; readonly process: number };
}

interface Point {
  readonly kind: 'tables' | 'columns';
  readonly count: number;
  readonly steps: readonly Step[];
  /** CPU milliseconds in a second of idling, of primary, shadow and process together. */
  readonly idleCpuMsPerSecond: number;
  readonly peakResidentBytes: number;
}

interface Bed {
  readonly primary: Cluster;
  readonly shadow: Cluster;
  readonly directory: string;
  readonly settings: Settings;
}

interface Shape {
  readonly kind: Point['kind'];
  readonly count: number;
  /** One statement each. */
  readonly make: string;
  readonly changeOne: string;
  readonly changeAll: string;
}

function manyTables(count: number): Shape {
  const each = (statement: string, times = count): string =>
    `DO $each$ BEGIN FOR i IN 1..${times} LOOP EXECUTE format(${statement}); IF i % 100 = 0 THEN COMMIT; END IF; END LOOP; END $each$`;
  const rows = `INSERT INTO t%1$s SELECT g, ''row '' || g FROM generate_series(1, ${ROWS_EACH}) g`;
  return {
    kind: 'tables',
    count,
    make: each(`'CREATE TABLE t%1$s (id int PRIMARY KEY, note text); ${rows}', i`),
    changeOne: each(`'UPDATE t%s SET note = note || ''!'' WHERE id = 1', i`, 1),
    changeAll: each(`'UPDATE t%s SET note = note || ''!'' WHERE id = 1', i`),
  };
}

function manyColumns(count: number, cells: number): Shape {
  const columns = Array.from({ length: count }, (_, index) => `c${index} ${index % 2 === 0 ? 'int' : 'text'}`);
  const values = Array.from({ length: count }, (_, index) => (index % 2 === 0 ? 'g' : `'v'`));
  const rows = Math.round(cells / count);
  return {
    kind: 'columns',
    count,
    make: `CREATE TABLE wide (id int PRIMARY KEY, ${columns.join(', ')}); INSERT INTO wide SELECT g, ${values.join(', ')} FROM generate_series(1, ${rows}) g`,
    changeOne: 'UPDATE wide SET c0 = c0 + 1 WHERE id = 1',
    changeAll: 'UPDATE wide SET c0 = c0 + 1',
  };
}

async function measurePoint(bed: Bed, shape: Shape): Promise<Point> {
  const { primary, shadow, settings } = bed;
  say(`${shape.count} ${shape.kind}: making them`);
  await Promise.all([primary.run(`CREATE DATABASE ${DATABASE}`), shadow.run(`CREATE DATABASE ${DATABASE}`)]);
  await withClient(primary.url(DATABASE), async (client) => {
    await client.query('SET synchronous_commit = off');
    await client.query(shape.make);
  });
  const directory = join(bed.directory, 'data');
  await mkdir(directory);
  const places: SystemPlaces = {
    directory,
    primary: primary.url(DATABASE),
    shadow: shadow.url(DATABASE),
    tables: ['public.*'],
    validate: 'none',
  };
  try {
    return await measureSteps(bed, shape, places, settings.idleSeconds);
  } finally {
    await dropSlot(primary, 'foreshadow_bench');
    await Promise.all([primary.run(`DROP DATABASE ${DATABASE} WITH (FORCE)`), shadow.run(`DROP DATABASE ${DATABASE} WITH (FORCE)`)]);
    await rm(directory, { recursive: true, force: true });
  }
}

async function measureSteps(bed: Bed, shape: Shape, places: SystemPlaces, idleSeconds: number): Promise<Point> {
  const { primary } = bed;
  const steps: Step[] = [];
  const step = async (name: StepName, ours: SystemProcess, begin: () => Promise<void>): Promise<void> => {
    const done = await measured(bed, name, ours, begin);
    steps.push(done);
    say(
      `${shape.count} ${shape.kind}, ${name}: ${shown(done.wallMs)} ms, cut after ${shown(done.cutMs)} ms, process CPU ${shown(done.cpuMs.process)} ms`,
    );
  };
  await using first = await startSystemProcess(places);
  await step('install, copy, capture 1', first, () => first.run());
  await step('capture of nothing', first, () => Promise.resolve());
  await primary.run(shape.changeOne, DATABASE);
  await first.caughtUp();
  await step('capture of one', first, () => Promise.resolve());
  // Not waited for: what is measured is all of the work that the changes make.
  await primary.run(shape.changeAll, DATABASE);
  await step('capture of all', first, () => Promise.resolve());
  await first.caughtUp();
  const before = cpuOf(bed, first);
  await sleep(idleSeconds * 1000);
  const after = cpuOf(bed, first);
  const idle = after.primary + after.shadow + after.process - before.primary - before.shadow - before.process;
  const peak = peakResidentBytes(first.pid);
  await first.stop();
  await using second = await startSystemProcess(places);
  await step('start again and capture', second, () => second.run());
  say(`${shape.count} ${shape.kind}: idle ${shown(idle / idleSeconds)} ms of CPU a second, peak ${shown(peak / 1e6)} MB`);
  const { kind, count } = shape;
  return { kind, count, steps, idleCpuMsPerSecond: idle / idleSeconds, peakResidentBytes: Math.max(peak, peakResidentBytes(second.pid)) };
}

async function measured(bed: Bed, name: StepName, ours: SystemProcess, begin: () => Promise<void>): Promise<Step> {
  const before = cpuOf(bed, ours);
  const begunMs = performance.now();
  await begin();
  const { untilCut, report } = await ours.capture();
  const wallMs = performance.now() - begunMs;
  const after = cpuOf(bed, ours);
  return {
    name,
    wallMs,
    cutMs: untilCut.wallMs,
    leftOut: report.coverage.skipped.length,
    cpuMs: { primary: after.primary - before.primary, shadow: after.shadow - before.shadow, process: after.process - before.process },
  };
}

function cpuOf({ primary, shadow }: Bed, { pid }: SystemProcess): Step['cpuMs'] {
  return { primary: primary.cpuMs(), shadow: shadow.cpuMs(), process: processCpuMs(pid) };
}

function tablesOf(points: readonly Point[], cells: number): ResultTable[] {
  return (['tables', 'columns'] as const).map((kind) => {
    const found = points.filter((point) => point.kind === kind);
    const names = found[0]?.steps.map(({ name }) => name) ?? [];
    const rows = names.flatMap((name) => [
      [name, ...found.map((point) => stepText(point, name))],
      [kind === 'tables' ? '… a table' : '… 1,000 cells', ...found.map((point) => perUnit(point, name, cells))],
    ]);
    rows.push(['idle: CPU ms a second, all processes', ...found.map((point) => shown(point.idleCpuMsPerSecond))]);
    rows.push(['peak of the process, MB', ...found.map((point) => shown(point.peakResidentBytes / 1e6))]);
    const title =
      kind === 'tables'
        ? `Tables of ${ROWS_EACH} rows: ms (CPU ms of primary, shadow, process)`
        : `Columns, ${cells} cells each: ms (CPU ms)`;
    return { title, columns: [kind, ...found.map(({ count }) => count.toLocaleString('en'))], rows };
  });
}

function stepOf({ steps }: Point, name: StepName): Step {
  const found = steps.find((step) => step.name === name);
  if (found === undefined) throw new Error(`${name} was not measured`);
  return found;
}

function stepText(point: Point, name: StepName): string {
  const { wallMs, cpuMs } = stepOf(point, name);
  return `${shown(wallMs)} (${[cpuMs.primary, cpuMs.shadow, cpuMs.process].map(shown).join(', ')})`;
}

const unitsOf = ({ kind, count }: Point, cells: number): number => (kind === 'tables' ? count : cells / 1000);

function perUnit(point: Point, name: StepName, cells: number): string {
  return shown(stepOf(point, name).wallMs / unitsOf(point, cells));
}

function checksOf(points: readonly Point[]): Check[] {
  const late = points.flatMap(({ count, kind, steps }) =>
    steps.flatMap(({ name, leftOut }) => (leftOut === 0 ? [] : [`${leftOut} of ${count} ${kind} in ${name}`])),
  );
  return [check('no capture left a table out', late.length === 0, late.join('; ') || 'none'), ...growthChecks(points)];
}

/** What grows with the number: from the second to the last point, as the first is mostly what does not depend on it. */
function growthChecks(points: readonly Point[]): Check[] {
  const names = ['install, copy, capture 1', 'capture of all', 'start again and capture'] as const;
  return (['tables', 'columns'] as const).flatMap((kind) => {
    const found = points.filter((point) => point.kind === kind);
    const from = found.at(Math.min(1, found.length - 2));
    const to = found.at(-1);
    if (from === undefined || to === undefined || from === to) return [];
    // The number of cells is the same whatever the number of columns.
    const factor = kind === 'tables' ? to.count / from.count : 1;
    return names.map((name) => {
      const grown = stepOf(to, name).wallMs / stepOf(from, name).wallMs;
      const what = `${name}: from ${from.count} to ${to.count} ${kind}, time grows at most 1.5 times as the work does`;
      return check(what, grown <= 1.5 * factor, `${shown(grown)} times for ${shown(factor)} times the work`);
    });
  });
}

const METHOD = [
  `Databases of many small tables (a key, a text, ${ROWS_EACH} rows), and of one table of many columns (half int, half text) with as many cells each.`,
  'Steps, one after the other, with Foreshadow in a process of its own: begin from nothing to capture 1; a capture with nothing changed; with one row changed',
  'and already shadowed; with a row of every table (every row of the wide table) changed just before; end, start again, and capture.',
  'Each is timed until the capture is sealed (not validated). One measurement each; both servers and the process share this machine.',
];

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { quick: { type: 'boolean' }, tables: { type: 'string' }, columns: { type: 'string' } } as const,
  });
  const quick = values.quick === true;
  const base = quick ? QUICK : FULL;
  const list = (text: string | undefined, otherwise: readonly number[]): readonly number[] =>
    text === undefined ? otherwise : text.split(',').filter(Boolean).map(Number);
  const settings: Settings = { ...base, tables: list(values.tables, base.tables), columns: list(values.columns, base.columns) };
  const begunMs = performance.now();
  await using directory = await temporaryDirectory();
  await using primary = await startCluster({ small: quick });
  await using shadow = await startCluster({ small: quick });
  const postgres = (await primary.run('SHOW server_version')).split(' ')[0] as string;
  const bed: Bed = { primary, shadow, directory: directory.path, settings };
  const points: Point[] = [];
  for (const count of settings.tables) points.push(await measurePoint(bed, manyTables(count)));
  for (const count of settings.columns) points.push(await measurePoint(bed, manyColumns(count, settings.cells)));
  await record({
    // Only the whole is recorded under the name that is quoted.
    name: quick ? 'postgres-growth-quick' : (values.tables ?? values.columns) ? 'postgres-growth-trial' : 'postgres-growth',
    title: 'How time and memory grow with tables and columns',
    method: METHOD,
    settings: { ...settings, seconds: Math.round((performance.now() - begunMs) / 1000) },
    versions: { postgres },
    tables: tablesOf(points, settings.cells),
    checks: checksOf(points),
    measurements: points,
  });
}

await main();
