import { parseArgs } from 'node:util';
import type { PredictionPolicy } from '../src/app/config.ts';
import type { CaptureListing } from '../src/app/operations.ts';
import { type Interval, pairedDifference } from '../src/prediction/scores.ts';
import { DailyLoad, type LoadCycle, PEAK_SHARE, SCHEMA, TABLES } from './daily-load.ts';
import { percentile, randomIntegers } from './measuring.ts';
import { type Cluster, startCluster } from './postgres-servers.ts';
import { type Check, type ResultTable, check, record, say, shown, temporaryDirectory } from './recording.ts';
import { type SystemProcess, startSystemProcess } from './system-processes.ts';

/** The live loop under a daily load: the policies of what moves ahead of captures side by side, each with a primary and a shadow of its own. */

const POLICIES = ['predictive', 'quiet-first', 'stream-everything'] as const satisfies readonly PredictionPolicy[];
type Policy = (typeof POLICIES)[number];

/** A day of six minutes: a minute is a quarter of a second, and so is a slot. A capture every half minute: every two hours. */
const DAY_MS = 360_000;
const SLOT_MS = DAY_MS / 1440;
const CYCLE_MS = 30_000;
const SCHEDULE = '0,30 * * * * *';
/** Statements a second at the peak. */
const PEAK_RATE = 100;
/** Of the transactions of the peak: above, nothing moves ahead. */
const CEILING_SHARE = 0.8;
/** Rows a second at the most: some five times the rows that change in a mean cycle. */
const CAPACITY = 120;
/** One day and two captures: until then nobody knows when there will be room. */
const WARM_UP = 14;
const STATUS_EVERY_MS = 500;
/** Row counts of the shadow reach its statistics within a second. */
const SETTLED_MS = 2000;

const SERVER = { shared_buffers: '128MB', autovacuum: 'on' };

interface Side {
  readonly policy: Policy;
  readonly system: SystemProcess;
  readonly shadow: { readonly cluster: Cluster; readonly database: string };
  /** Rows ever written to the shadow's live tables, when a capture was due, by when. */
  readonly written: Map<number, number>;
  readonly lagMs: number[];
}

interface Cycle {
  readonly dueMs: number;
  readonly changes: number;
  readonly distinctRows: number;
  readonly writtenRows: number;
  readonly residualRows: number;
  /** `none`: it was not cut before the next was due. */
  readonly verdict: string;
  readonly note: string | null;
  /** Of statements in hours of peak; null where there was none. */
  readonly peakP99Ms: number | null;
  readonly peakStatements: number;
}

const { values: given } = parseArgs({
  options: { quick: { type: 'boolean', default: false }, cycles: { type: 'string' } },
});
const cycles = given.cycles === undefined ? (given.quick ? 4 : 30) : Number(given.cycles);
if (!Number.isInteger(cycles) || cycles < 1) throw new Error('--cycles takes a number of captures');

function predictionOf(policy: Policy): Readonly<Record<string, unknown>> {
  const unbound = ['host.cpu', 'host.disk', 'sessions.active', 'wal.bytes', 'io.read', 'io.written', 'blocks.hit', 'blocks.read'];
  const ceiling = { ...Object.fromEntries(unbound.map((name) => [name, 1e15])), transactions: CEILING_SHARE * PEAK_RATE };
  return { policy, day: `${DAY_MS}ms`, interval: `${SLOT_MS}ms`, capacity: CAPACITY, ceiling };
}

async function start(policy: Policy, primary: Cluster, shadows: Cluster, directory: string): Promise<Side> {
  const database = policy.replaceAll('-', '_');
  await primary.run('CREATE DATABASE app');
  await primary.run(SCHEMA, 'app');
  await shadows.run(`CREATE DATABASE ${database}`);
  const places = { directory, primary: primary.url('app'), shadow: shadows.url(database), tables: TABLES, schedule: SCHEDULE };
  const system = await startSystemProcess({ ...places, prediction: predictionOf(policy) });
  await system.run();
  await system.caughtUp();
  return { policy, system, shadow: { cluster: shadows, database }, written: new Map(), lagMs: [] };
}

/** Rows that were inserted, updated or deleted in the live tables: what they are called in the shadow is what they are called in the primary. */
async function writtenRows({ shadow: { cluster, database } }: Side): Promise<number> {
  const names = TABLES.map((table) => `'${table.split('.')[1]}'`).join(', ');
  const sql = `SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0) FROM pg_stat_user_tables WHERE schemaname = 'public' AND relname IN (${names})`;
  return Number(await cluster.run(sql, database));
}

/** Watches until so many captures were due: lag all the time, rows written once the rows of each capture must have been counted. */
async function watch(sides: readonly Side[], load: DailyLoad, wanted: number): Promise<void> {
  let counted = 0;
  while (load.cycles.length < wanted || counted < wanted) {
    await new Promise((resolve) => {
      setTimeout(resolve, STATUS_EVERY_MS);
    });
    load.check();
    for (const side of sides) {
      side.system.check();
      const { lagMs } = await side.system.status();
      if (lagMs !== null) side.lagMs.push(lagMs);
    }
    const newest = load.cycles.at(-1);
    if (newest === undefined || counted === load.cycles.length || Date.now() < newest.dueMs + SETTLED_MS) continue;
    for (const side of sides) side.written.set(newest.dueMs, await writtenRows(side));
    counted = load.cycles.length;
    say(`${counted} of ${wanted} captures were due; ${newest.changes} changes of ${newest.distinctRows} rows`);
  }
}

/** Until the last capture has its verdict, where it comes to one. */
async function sealed(sides: readonly Side[]): Promise<void> {
  const untilMs = Date.now() + CYCLE_MS;
  for (const { system } of sides) {
    while (Date.now() < untilMs && (await system.captures()).at(-1)?.verdict === null) {
      await new Promise((resolve) => {
        setTimeout(resolve, STATUS_EVERY_MS);
      });
    }
  }
}

function cyclesOf(side: Side, load: readonly LoadCycle[], captures: readonly CaptureListing[]): Cycle[] {
  return load.slice(WARM_UP).flatMap((cycle, index) => {
    const before = load[WARM_UP + index - 1] as LoadCycle;
    const [now, then] = [side.written.get(cycle.dueMs), side.written.get(before.dueMs)];
    const capture = captures.find(({ at }) => at !== null && Date.parse(at) >= cycle.dueMs && Date.parse(at) < cycle.dueMs + CYCLE_MS);
    if (now === undefined || then === undefined) return [];
    const peak = cycle.peakMs.get(side.policy) ?? [];
    return [
      {
        dueMs: cycle.dueMs,
        changes: cycle.changes,
        distinctRows: cycle.distinctRows,
        writtenRows: now - then,
        residualRows: capture?.residualRows ?? Number.NaN,
        verdict: capture?.verdict ?? 'none',
        note: capture?.note ?? null,
        peakP99Ms: peak.length < 100 ? null : percentile(peak, 0.99),
        peakStatements: peak.length,
      },
    ];
  });
}

type Outcomes = ReadonlyMap<Policy, { readonly cycles: readonly Cycle[]; readonly lagMs: readonly number[] }>;

/** Cycles of which everything is known of every policy. */
function of(outcomes: Outcomes, policy: Policy): readonly Cycle[] {
  const known = (name: Policy): Set<number> =>
    new Set((outcomes.get(name)?.cycles ?? []).filter(({ residualRows }) => !Number.isNaN(residualRows)).map(({ dueMs }) => dueMs));
  const sets = POLICIES.map(known);
  return (outcomes.get(policy)?.cycles ?? []).filter(({ dueMs }) => sets.every((each) => each.has(dueMs)));
}

function total(all: readonly Cycle[], value: (cycle: Cycle) => number): number {
  return all.reduce((sum, cycle) => sum + value(cycle), 0);
}

function differences(outcomes: Outcomes, other: Policy): { moved: Interval; residual: Interval; p99: Interval } {
  const [ours, theirs] = [of(outcomes, 'predictive'), of(outcomes, other)];
  const busy = (all: readonly Cycle[]): readonly Cycle[] => all.filter(({ peakP99Ms }) => peakP99Ms !== null);
  const next = randomIntegers(1);
  return {
    moved: pairedDifference(ours, theirs, ({ writtenRows: rows }) => rows, next),
    residual: pairedDifference(ours, theirs, ({ residualRows }) => residualRows, next),
    p99: pairedDifference(busy(ours), busy(theirs), ({ peakP99Ms }) => peakP99Ms ?? 0, next),
  };
}

function percent({ point, low, high }: Interval): string {
  const signed = (share: number): string => `${share < 0 ? '−' : '+'}${Math.abs(share * 100).toFixed(1)}`;
  return `${signed(point)} % [${signed(low)}, ${signed(high)}]`;
}

function tables(outcomes: Outcomes): ResultTable[] {
  return [
    {
      title: 'The policies',
      columns: ['policy', 'captures', 'rows written', 'per distinct row', 'residual rows', 'p99 in peaks ms', 'lag p50 ms', 'lag p99 ms'],
      rows: Array.from(outcomes, ([policy, { lagMs }]) => {
        const all = of(outcomes, policy);
        const peaks = all.flatMap(({ peakP99Ms }) => peakP99Ms ?? []);
        return [
          policy,
          all.length,
          total(all, ({ writtenRows: rows }) => rows),
          shown(total(all, ({ writtenRows: rows }) => rows) / total(all, ({ distinctRows }) => distinctRows)),
          shown(total(all, ({ residualRows }) => residualRows) / all.length),
          peaks.length === 0 ? 'unknown' : shown(peaks.reduce((sum, each) => sum + each, 0) / peaks.length),
          shown(percentile(lagMs, 0.5)),
          shown(percentile(lagMs, 0.99)),
        ];
      }),
    },
    {
      title: 'Predictive beside the others',
      columns: ['beside', 'rows written', 'residual rows', 'p99 in peaks'],
      rows: (['quiet-first', 'stream-everything'] as const).map((other) => {
        const { moved, residual, p99 } = differences(outcomes, other);
        return [other, percent(moved), percent(residual), percent(p99)];
      }),
    },
  ];
}

function checks(outcomes: Outcomes): Check[] {
  const { moved, residual, p99 } = differences(outcomes, 'quiet-first');
  const verdicts = POLICIES.flatMap((policy) => (outcomes.get(policy)?.cycles ?? []).map(({ verdict }) => verdict));
  const valid = verdicts.filter((verdict) => verdict === 'VALID').length;
  return [
    check('at least 15 % fewer rows written than by quiet-first', moved.point <= -0.15, percent(moved)),
    check("residual at most 1.05 times quiet-first's", residual.point <= 0.05, percent(residual)),
    check('p99 in peaks not worse than by quiet-first', p99.low <= 0, percent(p99)),
    check('all captures VALID', valid === verdicts.length && valid > 0, `${valid} of ${verdicts.length}`),
  ];
}

const wanted = WARM_UP + cycles;
await using resources = new AsyncDisposableStack();
const shadows = resources.use(await startCluster({ small: true, settings: SERVER }));
const primaries = new Map<Policy, Cluster>();
const sides: Side[] = [];
for (const policy of POLICIES) {
  const primary = resources.use(await startCluster({ small: true, settings: SERVER }));
  primaries.set(policy, primary);
  const directory = resources.use(await temporaryDirectory()).path;
  const side = await start(policy, primary, shadows, directory);
  resources.use(side.system);
  sides.push(side);
  say(`${policy} follows its primary`);
}
const load = resources.use(await DailyLoad.start({ dayMs: DAY_MS, cycleMs: CYCLE_MS, peakRate: PEAK_RATE }, primaries));
await watch(sides, load, wanted);
await sealed(sides);
const outcomes: Outcomes = new Map(
  await Promise.all(
    sides.map(
      async (side) => [side.policy, { cycles: cyclesOf(side, load.cycles, await side.system.captures()), lagMs: side.lagMs }] as const,
    ),
  ),
);
await record({
  name: given.quick || given.cycles !== undefined ? 'precapture-live-quick' : 'precapture-live',
  title: 'Moving changes ahead of captures, live',
  method: [
    'Three PostgreSQL primaries under the same statements at the same moments, each followed by a Foreshadow of its own with a shadow of its own, that differ in prediction.policy only; all of it shares one machine, so that what one adds to its load all feel. A day is six minutes long, a capture is due every two of its hours.',
    `Statements follow the day from a fifth of the peak up to it (hours above ${PEAK_SHARE * 100} % of it are peaks): rows of a long tail by the law of Zipf, sessions in bursts, a few hot rows. The ceiling is ${CEILING_SHARE * 100} % of the transactions of the peak; above, nothing moves ahead. Below, ${CAPACITY} rows a second may at the most.`,
    `The first ${WARM_UP} captures only teach. Rows written are those inserted, updated and deleted in the live tables of the shadow, the capture's own included, as its server counts them; residual rows those written between the moment a capture was due and its cut. Lag is that of the oldest change, asked twice a second.`,
    'In brackets: 95 % intervals from a paired bootstrap over captures.',
  ],
  settings: { captures: cycles, 'statements a second at the peak': PEAK_RATE, 'day s': DAY_MS / 1000, 'cycle s': CYCLE_MS / 1000 },
  tables: tables(outcomes),
  checks: checks(outcomes),
  measurements: Object.fromEntries(outcomes),
});
