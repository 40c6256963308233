import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { Client } from 'pg';
import type { LocalSystem } from '../src/app/local-system.ts';
import type { CaptureReport, QueryReport, ValidateReport } from '../src/app/operations.ts';
import { startEmbeddedServer } from '../src/stores/postgres/embedded.ts';
import { type Cost, percentile, startMeter } from './measuring.ts';
import { type Check, type ResultTable, check, megabytes, record, say, shown, temporaryDirectory } from './recording.ts';
import { FOREVER, type MeasuredCapture, type SystemPlaces, caughtUp, measureCapture, openBenchSystem } from './systems.ts';
import { TPCB_SUMS, TPCB_TABLES, type TpcbFigures, type TpcbScale, createTpcb, startTpcbLoad } from './tpcb-load.ts';

/** What PostgreSQL has to show under writes: exact copies, captures that are each valid, and damage found and cured. */

interface Settings {
  readonly scale: TpcbScale;
  readonly captures: number;
  readonly copyWriters: number;
  readonly writers: number;
  readonly ratePerSecond: number | null;
  readonly betweenMs: number;
}

const FULL: Settings = {
  scale: { branches: 10, accountsPerBranch: 100_000 },
  captures: 10,
  copyWriters: 8,
  writers: 4,
  ratePerSecond: null,
  betweenMs: 3000,
};
const QUICK: Settings = { ...FULL, scale: { branches: 4, accountsPerBranch: 5000 }, betweenMs: 500 };

interface Bed {
  readonly places: SystemPlaces;
  readonly settings: Settings;
  readonly checks: Check[];
}

interface CopyResult {
  readonly capture: MeasuredCapture;
  readonly transactionsMeanwhile: number;
  readonly validation: ValidateReport;
}

interface CapturesResult {
  readonly captures: readonly MeasuredCapture[];
  /** Of the application with nobody tracking, and while it is tracked, shadowed and captured. */
  readonly alone: TpcbFigures;
  readonly tracked: TpcbFigures;
}

/** The writers write before, during and after the copy; then they stop, and every row must be the same on both sides. */
async function copyUnderWriters({ places, settings, checks }: Bed): Promise<CopyResult> {
  const { scale, copyWriters } = settings;
  const load = startTpcbLoad({ url: places.primary, scale, connections: copyWriters, ratePerSecond: null, seed: 100 });
  const system = await openBenchSystem(places);
  try {
    await sleep(1000);
    const { transactions: before } = await load.figures();
    const capture = await measureCapture(system);
    const transactionsMeanwhile = (await load.stop()).transactions - before;
    const { verdict, rows } = { verdict: capture.report.verdict, rows: capture.report.rows.inserted };
    checks.push(
      check(`the first capture, copied under ${settings.copyWriters} synchronous writers, is VALID`, verdict === 'VALID', verdict),
    );
    checks.push(
      check('the writers wrote during the copy', transactionsMeanwhile > 0, `${transactionsMeanwhile} transactions, ${rows} rows`),
    );
    await caughtUp(system);
    const validation = await system.validate(null, () => {}, FOREVER);
    checks.push(
      check(
        'validation of every row after that copy',
        validation.verdict === 'VALID',
        `${validation.verdict}, ${validation.coverage.rows} rows`,
      ),
    );
    for (const table of TPCB_TABLES) {
      const [primary, shadow] = await Promise.all([
        digest(places.primary, places.primary, table),
        digest(places.primary, places.shadow, table),
      ]);
      checks.push(check(`${table}: count and digest by plain SQL are the same on both sides`, primary === shadow, shadow));
    }
    return { capture, transactionsMeanwhile, validation };
  } finally {
    await load.stop();
    await system[Symbol.asyncDispose]();
  }
}

/** Rows and a digest of all their text, over the primary's columns: says nothing of Foreshadow, and asks nothing of it. */
async function digest(primary: string, url: string, table: string): Promise<string> {
  const columns = await ask(
    primary,
    `SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped`,
    [table],
  );
  const text = `SELECT count(*) || ' rows, ' || coalesce(sum(hashtextextended(ROW(${columns})::text, 0)::numeric), 0) FROM ${table}`;
  return ask(url, text, []);
}

async function ask(url: string, text: string, values: readonly unknown[]): Promise<string> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    const { rows } = await client.query<unknown[]>({ text, values: [...values], rowMode: 'array' });
    return String(rows[0]?.[0]);
  } finally {
    await client.end();
  }
}

/** The application alone first, so that what tracking costs it shows; then captures while it writes. */
async function captureUnderWriters({ places, settings, checks }: Bed): Promise<CapturesResult> {
  const { scale, writers: connections, ratePerSecond } = settings;
  const application = { url: places.primary, scale, connections, ratePerSecond };
  const before = startTpcbLoad({ ...application, seed: 200 });
  await sleep(Math.max(5000, settings.betweenMs));
  const alone = await before.stop();
  const system = await openBenchSystem(places);
  const load = startTpcbLoad({ ...application, seed: 300 });
  try {
    const captures: MeasuredCapture[] = [];
    for (let index = 0; index < settings.captures; index++) {
      await sleep(settings.betweenMs);
      const capture = await measureCapture(system);
      captures.push(capture);
      const { report, untilCut } = capture;
      say(`capture ${report.number}: cut after ${shown(untilCut.wallMs)} ms, residual ${report.residualRows} rows, ${report.verdict}`);
    }
    const tracked = await load.stop();
    const verdicts = captures.map(({ report }) => report.verdict);
    const valid = verdicts.filter((verdict) => verdict === 'VALID').length;
    checks.push(
      check(
        `${settings.captures} captures under writes from ${settings.writers} connections, each VALID`,
        valid === settings.captures,
        valid,
      ),
    );
    for (const { report } of captures) checks.push(await sumsAgree(system, report));
    return { captures, alone, tracked };
  } finally {
    await load.stop();
    await system[Symbol.asyncDispose]();
  }
}

async function sumsAgree(system: LocalSystem, { number }: Pick<CaptureReport, 'number'>): Promise<Check> {
  const slices: QueryReport[] = [];
  for await (const slice of system.query(number, TPCB_SUMS, FOREVER)) slices.push(slice);
  const [accounts, tellers, branches, history, count] = (slices.flatMap(({ rows }) => [...rows])[0] ?? []).map(String);
  const one = accounts !== undefined && accounts === tellers && accounts === branches && accounts === history;
  return check(
    `capture ${number}: the sums of accounts, tellers, branches and history agree`,
    one,
    `${accounts} = ${tellers} = ${branches} = ${history}, ${count} rows of history`,
  );
}

/** A row that has not changed for several captures is altered: by an ordinary writer, then past the guard. */
async function alterAndCure({ places, checks }: Bed): Promise<void> {
  const ordinary = { aid: 4711, sql: 'UPDATE accounts SET balance = balance + 1000000 WHERE aid = 4711', name: 'by an ordinary writer' };
  const past = {
    aid: 4712,
    sql: 'SET session_replication_role = replica; UPDATE accounts SET balance = balance + 1000000 WHERE aid = 4712',
    name: 'past the guard',
  };
  for (const { aid, sql, name } of [ordinary, past]) {
    await using system = await openBenchSystem({ ...places, validate: 'full' });
    await measureCapture(system);
    await run(places.shadow, sql);
    const found = await system.validate(null, () => {}, FOREVER);
    const named = found.differences.find((each) => each.table === 'public.accounts' && String(each.key['aid']) === String(aid));
    const only = found.differences.length === 1 && found.moreDifferences === 0;
    checks.push(check(`a row altered ${name}: validate says INVALID`, found.verdict === 'INVALID', found.verdict));
    checks.push(check(`… names it by key, and nothing else`, named !== undefined && only, JSON.stringify(found.differences.slice(0, 3))));
    checks.push(check('… and diagnoses it', named?.diagnosis === 'altered in the shadow', named?.diagnosis ?? 'not found'));
    const { report } = await measureCapture(system);
    const told = `${report.verdict}, cure ${report.cure?.action ?? 'none'}, conflicts ${report.conflicts.length}`;
    checks.push(check('… the next capture cures it, and says so', report.cure !== null || report.conflicts.length > 0, told));
    const next = await measureCapture(system);
    checks.push(
      check(
        '… and the capture after it is VALID with nothing to cure',
        next.report.verdict === 'VALID' && next.report.cure === null,
        next.report.verdict,
      ),
    );
    const after = await system.validate(null, () => {}, FOREVER);
    checks.push(check('… as is the live shadow', after.verdict === 'VALID', after.verdict));
    const question = `SELECT balance FROM accounts WHERE aid = ${aid}`;
    const [primary, shadow] = await Promise.all([ask(places.primary, question, []), ask(places.shadow, question, [])]);
    checks.push(check('… and the row is as the primary has it', primary === shadow, shadow));
    checks.push(await sumsAgree(system, next.report));
  }
}

async function run(url: string, sql: string): Promise<void> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    await client.query(sql);
  } finally {
    await client.end();
  }
}

function tablesOf(copy: CopyResult, under: CapturesResult): ResultTable[] {
  const { captures, alone, tracked } = under;
  const line = (name: string, pick: (capture: MeasuredCapture) => number): (string | number)[] => {
    const values = captures.map(pick);
    return [name, ...[0.5, 0.99, 1].map((share) => shown(percentile(values, share)))];
  };
  const cost: Cost = copy.capture.untilCut;
  return [
    {
      title: `${captures.length} captures while the writers wrote`,
      columns: ['ms', 'p50', 'p99', 'max'],
      rows: [
        line('from the call to the cut durable', ({ untilCut }) => untilCut.wallMs),
        line('of that: drain', ({ report }) => report.drainMs),
        line('of that: cut', ({ report }) => report.cutMs),
        line('residual (rows)', ({ report }) => report.residualRows),
        line('rows changed since the capture before', ({ report }) => report.rows.inserted + report.rows.updated + report.rows.deleted),
        line('validation, after the cut', ({ report }) => report.validateMs),
        line('whole capture', ({ report }) => report.elapsedMs),
      ],
    },
    {
      title: 'The application meanwhile',
      columns: ['', 'alone, with nobody tracking', 'tracked, shadowed and captured'],
      rows: [
        ['transactions a second', shown(alone.perSecond), shown(tracked.perSecond)],
        ['transaction p50, ms', shown(alone.p50Ms), shown(tracked.p50Ms)],
        ['transaction p99, ms', shown(alone.p99Ms), shown(tracked.p99Ms)],
      ],
    },
    {
      title: 'Initial copy under writers, with the first capture',
      columns: ['wall ms', 'CPU s', 'MB written by this process', 'transactions meanwhile', 'rows', 'validation of every row, ms'],
      rows: [
        [
          shown(cost.wallMs),
          shown(cost.cpuMs / 1000),
          megabytes(cost.writtenBytes),
          copy.transactionsMeanwhile,
          copy.capture.report.rows.inserted,
          shown(copy.validation.elapsedMs),
        ],
      ],
    },
  ];
}

const METHOD = [
  'Two embedded PostgreSQL servers on this machine, with commits that reach the disk, hold primary and shadow; writers, servers and',
  'Foreshadow share its cores. Each writer has a connection of its own and moves an amount between an account, a teller, a branch',
  'and the history as TPC-B does, synchronously, one transaction after the other.',
  'Validation during captures covers the changed rows and up to 2 s of others; the last part of the run validates every row.',
  'The writers run in a process of their own. CPU is of the Foreshadow process, not of the servers.',
];

async function main(): Promise<void> {
  const options = {
    quick: { type: 'boolean' },
    branches: { type: 'string' },
    captures: { type: 'string' },
    rate: { type: 'string' },
  } as const;
  const { values } = parseArgs({ options });
  const base = values.quick === true ? QUICK : FULL;
  const settings: Settings = {
    ...base,
    scale: { ...base.scale, branches: Number(values.branches ?? base.scale.branches) },
    captures: Number(values.captures ?? base.captures),
    ratePerSecond: values.rate === undefined ? base.ratePerSecond : Number(values.rate),
  };
  await using directory = await temporaryDirectory();
  await using primary = await startEmbeddedServer({ durable: true });
  await using shadow = await startEmbeddedServer({ durable: true });
  const postgres = (await ask(primary.url, 'SHOW server_version', [])).split(' ')[0] as string;
  say(`PostgreSQL ${postgres}: making ${settings.scale.branches * settings.scale.accountsPerBranch} accounts`);
  await createTpcb(primary.url, settings.scale);
  const places = { directory: directory.path, primary: primary.url, shadow: shadow.url, tables: ['public.*'] };
  const bed: Bed = { places, settings, checks: [] };
  const { scale, ...others } = settings;
  const meter = startMeter();
  const copy = await copyUnderWriters(bed);
  const under = await captureUnderWriters(bed);
  await alterAndCure(bed);
  await record({
    name: values.quick === true ? 'tpcb-quick' : 'tpcb',
    title: 'PostgreSQL under a load like TPC-B’s',
    method: METHOD,
    settings: { ...others, ...scale, quick: values.quick === true, seconds: Math.round(meter().wallMs / 1000) },
    versions: { postgres },
    tables: tablesOf(copy, under),
    checks: bed.checks,
    measurements: { copy, under },
  });
}

await main();
