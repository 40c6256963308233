import { execFile } from 'node:child_process';
import { mkdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs, promisify } from 'node:util';
import { Client } from 'pg';
import { median, percentile } from './measuring.ts';
import { ask, type Cluster, connectionString, dropSlot, installedServers, startCluster, waitUntil } from './postgres-servers.ts';
import { type Check, check, record, type ResultTable, say, shown, temporaryDirectory } from './recording.ts';
import { startSystemProcess, type SystemProcess } from './system-processes.ts';
import { FOREVER, type MeasuredCapture, openBenchSystem, type SystemPlaces } from './systems.ts';
import { createTpcb, startTpcbLoad, TPCB_SUMS, type TpcbScale } from './tpcb-load.ts';

/** Caught up, under a load like TPC-B's: how late the shadow is, and what a capture takes beside `pg_dump -Fc` of the same database. */

interface Settings {
  readonly sizesGb: readonly number[];
  readonly probes: number;
  readonly rounds: number;
  readonly capturesEach: number;
  readonly validated: number;
  readonly ratePerSecond: number;
}

const FULL: Settings = { sizesGb: [0.1, 1, 4], probes: 200, rounds: 3, capturesEach: 25, validated: 5, ratePerSecond: 500 };
const QUICK: Settings = { sizesGb: [0.02], probes: 20, rounds: 1, capturesEach: 8, validated: 2, ratePerSecond: 300 };

/** About what 100,000 accounts take, with their index. */
const GB_PER_BRANCH = 0.0157;
const CONNECTIONS = 4;

interface Size {
  readonly gb: number;
  readonly scale: TpcbScale;
  readonly databaseBytes: number;
  readonly delaysMs: { readonly native: readonly number[]; readonly ours: readonly number[] };
  readonly captures: readonly MeasuredCapture[];
  readonly validated: readonly MeasuredCapture[];
  readonly dumps: readonly { readonly ms: number; readonly bytes: number }[];
}

interface Bed {
  readonly primary: Cluster;
  readonly shadow: Cluster;
  readonly native: string | null;
  readonly directory: string;
  readonly settings: Settings;
  readonly checks: Check[];
}

const DATABASE = 'bench';

async function measureSize(bed: Bed, gb: number): Promise<Size> {
  const { primary, shadow, settings } = bed;
  const scale = { branches: Math.max(1, Math.round(gb / GB_PER_BRANCH)), accountsPerBranch: 100_000 };
  say(`${gb} GB: making ${scale.branches * scale.accountsPerBranch} accounts`);
  await Promise.all([primary.run(`CREATE DATABASE ${DATABASE}`), shadow.run(`CREATE DATABASE ${DATABASE}`)]);
  await createTpcb(primary.url(DATABASE), scale);
  const databaseBytes = Number(await primary.run(`SELECT pg_database_size('${DATABASE}')`));
  const directory = join(bed.directory, String(gb));
  await mkdir(directory);
  const load = startTpcbLoad({
    url: primary.url(DATABASE),
    scale,
    connections: CONNECTIONS,
    ratePerSecond: settings.ratePerSecond,
    seed: 7,
  });
  try {
    // Its copy of a large database takes long and tells nothing more.
    const first = gb === settings.sizesGb[0];
    const native = first ? await delayOfNative(bed) : [];
    const places: SystemPlaces = { directory, primary: primary.url(DATABASE), shadow: shadow.url(DATABASE), tables: ['public.*'] };
    const found = await measureOurs(bed, places, gb);
    await load.stop();
    await sumsAgree(bed, places, `${gb} GB`);
    return { gb, scale, databaseBytes, ...found, delaysMs: { native, ours: found.delaysMs } };
  } finally {
    await load.stop();
    await dropSlot(primary, 'foreshadow_bench');
    await Promise.all([primary.run(`DROP DATABASE ${DATABASE} WITH (FORCE)`), shadow.run(`DROP DATABASE ${DATABASE} WITH (FORCE)`)]);
    await rm(directory, { recursive: true, force: true });
  }
}

type OurFindings = Pick<Size, 'captures' | 'validated' | 'dumps'> & { readonly delaysMs: readonly number[] };

/** Each round: captures while the load goes on; then, with Foreshadow ended, a dump under the same load. */
async function measureOurs(bed: Bed, places: SystemPlaces, gb: number): Promise<OurFindings> {
  const { settings, checks } = bed;
  const captures: MeasuredCapture[] = [];
  const dumps: { ms: number; bytes: number }[] = [];
  let delaysMs: readonly number[] = [];
  for (let round = 0; round < settings.rounds; round++) {
    await using ours = await startSystemProcess({ ...places, validate: 'none' });
    await ours.run();
    const begunMs = performance.now();
    // Not counted: it takes up everything up to where the primary stands now.
    await ours.capture();
    say(`${gb} GB: ${round === 0 ? 'copied' : 'caught up'} after ${shown((performance.now() - begunMs) / 1000)} s`);
    if (round === 0) delaysMs = await delays(bed, settings.probes);
    captures.push(...(await takeCaptures(ours, settings.capturesEach)));
    await ours.stop();
    if (bed.native !== null) dumps.push(await dump(bed, bed.native, places.directory));
    say(
      `${gb} GB round ${round + 1}: due to cut p50 ${shown(median(captures.map(untilCutMs)))} ms, dump ${shown(dumps.at(-1)?.ms ?? null)} ms`,
    );
  }
  await using ours = await startSystemProcess({ ...places, validate: 'changed' });
  await ours.run();
  await ours.capture();
  const validated = await takeCaptures(ours, settings.validated);
  const valid = validated.filter(({ report }) => report.verdict === 'VALID').length;
  checks.push(
    check(`${gb} GB: captures validated against the primary are VALID`, valid === validated.length, `${valid} of ${validated.length}`),
  );
  return { captures, validated, dumps, delaysMs };
}

async function takeCaptures(ours: SystemProcess, count: number): Promise<MeasuredCapture[]> {
  const captures: MeasuredCapture[] = [];
  for (let index = 0; index < count; index++) {
    // Uneven pauses, so that nothing keeps step with the folds.
    await sleep(500 + ((index * 137) % 700));
    captures.push(await ours.capture());
  }
  return captures;
}

const untilCutMs = ({ untilCut }: MeasuredCapture): number => untilCut.wallMs;
/** Planning it, asking the primary, waiting for its log, writing the position down. */
const untilBegunMs = ({ untilCut, report }: MeasuredCapture): number => Math.max(0, untilCut.wallMs - report.drainMs - report.cutMs);

async function dump({ primary }: Bed, native: string, directory: string): Promise<{ ms: number; bytes: number }> {
  const file = join(directory, 'dump');
  const begunMs = performance.now();
  await promisify(execFile)(join(native, 'bin', 'pg_dump'), ['-Fc', '-f', file, primary.url(DATABASE)]);
  const ms = performance.now() - begunMs;
  const bytes = (await stat(file)).size;
  await rm(file);
  return { ms, bytes };
}

/** From the commit of a row of the busiest table until it is seen in the shadow, milliseconds. */
async function delays({ primary, shadow }: Bed, probes: number): Promise<number[]> {
  const writer = new Client({ connectionString: primary.url(DATABASE) });
  const reader = new Client({ connectionString: shadow.url(DATABASE) });
  await Promise.all([writer.connect(), reader.connect()]);
  try {
    const found: number[] = [];
    for (let index = 0; index < probes; index++) {
      await sleep(20 + ((index * 61) % 173));
      const hid = await ask(writer, 'INSERT INTO history (tid, bid, aid, delta) VALUES (1, 1, 1, 0) RETURNING hid');
      const committedMs = performance.now();
      const seen = { name: 'seen', text: 'SELECT FROM public.history WHERE hid = $1', values: [hid] };
      while ((await reader.query(seen)).rowCount === 0) {
        if (performance.now() - committedMs > 60_000) throw new Error('a change was not seen in the shadow within a minute');
        await sleep(2);
      }
      found.push(performance.now() - committedMs);
    }
    return found;
  } finally {
    await Promise.all([writer.end(), reader.end()]);
  }
}

const NATIVE = 'bench_native';

async function delayOfNative(bed: Bed): Promise<number[]> {
  const { primary, shadow, settings } = bed;
  const database = 'native';
  await shadow.run(`CREATE DATABASE ${database}`);
  // The same tables, empty: what differs is who brings the rows.
  await createTpcb(shadow.url(database), { branches: 0, accountsPerBranch: 0 });
  await primary.run(`CREATE PUBLICATION ${NATIVE} FOR ALL TABLES`, DATABASE);
  try {
    await shadow.run(
      `CREATE SUBSCRIPTION ${NATIVE} CONNECTION '${connectionString(primary, DATABASE)}' PUBLICATION ${NATIVE} WITH (binary = true)`,
      database,
    );
    const ready = `SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel`;
    await waitUntil("native's copy", async () => (await shadow.run(ready, database)) === 'true');
    return await delays({ ...bed, shadow: { ...shadow, url: () => shadow.url(database) } }, settings.probes);
  } finally {
    await shadow.run(`DROP SUBSCRIPTION IF EXISTS ${NATIVE}`, database);
    await shadow.run(`DROP DATABASE ${database} WITH (FORCE)`);
    await primary.run(`DROP PUBLICATION ${NATIVE}`, DATABASE);
  }
}

/** The last capture, taken under the load, holds one state of all tables. */
async function sumsAgree({ checks }: Bed, places: SystemPlaces, name: string): Promise<void> {
  await using system = await openBenchSystem(places);
  const last = (await system.captures(FOREVER)).at(-1);
  if (last === undefined) throw new Error('there are no captures');
  const values: string[] = [];
  for await (const { rows } of system.query(last.number, TPCB_SUMS, FOREVER)) for (const row of rows) values.push(...row.map(String));
  const [accounts, tellers, branches, history] = values;
  const one = accounts !== undefined && accounts === tellers && accounts === branches && accounts === history;
  checks.push(check(`${name}: the sums of the four tables agree in capture ${last.number}`, one, values.slice(0, 4).join(' = ')));
}

function tablesOf(sizes: readonly Size[]): ResultTable[] {
  const percentiles = (values: readonly number[]): string[] =>
    values.length === 0 ? ['–', '–', '–'] : [0.5, 0.99, 1].map((share) => shown(percentile(values, share)));
  const delay = sizes.flatMap(({ gb, delaysMs }) =>
    (['native', 'ours'] as const).map((side) => [`${gb} GB`, side, delaysMs[side].length, ...percentiles(delaysMs[side])]),
  );
  const capture = sizes.map(({ gb, databaseBytes, captures, dumps }) => {
    const dumpMs = dumps.length === 0 ? null : median(dumps.map(({ ms }) => ms));
    return [
      `${gb} GB (${shown(databaseBytes / 1e9)})`,
      captures.length,
      percentiles(captures.map(untilCutMs)).join(' / '),
      percentiles(captures.map(untilBegunMs)).join(' / '),
      percentiles(captures.map(({ report }) => report.drainMs)).join(' / '),
      percentiles(captures.map(({ report }) => report.cutMs)).join(' / '),
      shown(median(captures.map(({ report }) => report.residualRows))),
      dumps.map(({ ms }) => shown(ms)).join(' '),
      shown(dumps.length === 0 ? null : median(dumps.map(({ bytes }) => bytes)) / 1e6),
      dumpMs === null ? '–' : shown(dumpMs / median(captures.map(untilCutMs))),
    ];
  });
  const validation = sizes.map(({ gb, validated }) => [
    `${gb} GB`,
    validated.length,
    percentiles(validated.map(({ report }) => report.validateMs)).join(' / '),
    shown(median(validated.map(({ report }) => report.rows.inserted + report.rows.updated + report.rows.deleted))),
  ]);
  return [
    {
      title: 'From a commit on the primary to the row in the shadow, ms',
      columns: ['database', 'side', 'changes', 'p50', 'p99', 'max'],
      rows: delay,
    },
    {
      title: 'A capture beside a dump, under the load (ms: p50 / p99 / max)',
      columns: [
        'database',
        'captures',
        'due to cut durable',
        'of that: until its position is durable',
        'of that: drain',
        'of that: cut',
        'residual, rows',
        'pg_dump -Fc, ms each',
        'dump, MB',
        'dump ÷ capture, medians',
      ],
      rows: capture,
    },
    { title: 'Validation, apart (ms: p50 / p99 / max)', columns: ['database', 'captures', 'validation', 'rows changed'], rows: validation },
  ];
}

function checksOf(sizes: readonly Size[]): Check[] {
  return sizes.flatMap(({ gb, captures, dumps }) => {
    const cut = percentile(
      captures.map(({ report }) => report.cutMs),
      0.99,
    );
    const checks = [check(`${gb} GB: cut p99 at most 50 ms`, cut <= 50, `${shown(cut)} ms of ${captures.length}`)];
    if (dumps.length > 0 && gb === 1) {
      const ratio = median(dumps.map(({ ms }) => ms)) / median(captures.map(untilCutMs));
      checks.push(check(`${gb} GB: a capture is at least 100 times faster than pg_dump -Fc`, ratio >= 100, shown(ratio)));
    }
    return checks;
  });
}

const METHOD = [
  'Two PostgreSQL clusters on this machine, with commits that reach the disk, hold primary and shadow; servers, load and Foreshadow share its cores.',
  `The load moves amounts as TPC-B does, from ${CONNECTIONS} connections, at the rate below, the whole time; Foreshadow runs in a process of its own, as \`start\` does.`,
  'Delay: a row is inserted into the busiest table; from its commit until another connection sees it in the shadow, asked every 2 ms.',
  'Native: a subscription with binary = true, on the smallest database, the same load and probes.',
  'A capture is timed from the call (it is due) until its cut is durable; validation comes after that and is shown apart. A dump is made under the same',
  'load with Foreshadow ended, in turns with the captures. The servers are of the version whose pg_dump is installed; its files are small, as the filler of TPC-B compresses well.',
];

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { quick: { type: 'boolean' }, sizes: { type: 'string' }, rate: { type: 'string' } } as const });
  const quick = values.quick === true;
  const base = quick ? QUICK : FULL;
  const settings: Settings = {
    ...base,
    sizesGb: values.sizes?.split(',').map(Number) ?? base.sizesGb,
    ratePerSecond: Number(values.rate ?? base.ratePerSecond),
  };
  const begunMs = performance.now();
  const native = installedServers()[0] ?? null;
  if (native === null) say('no pg_dump is installed: captures are measured without it');
  const options = { small: quick, settings: { autovacuum: 'on' }, ...(native === null ? {} : { native }) };
  await using directory = await temporaryDirectory();
  await using primary = await startCluster(options);
  await using shadow = await startCluster(options);
  const postgres = (await primary.run('SHOW server_version')).split(' ')[0] as string;
  const checks: Check[] = [];
  const sizes: Size[] = [];
  for (const gb of settings.sizesGb)
    sizes.push(await measureSize({ primary, shadow, native, directory: directory.path, settings, checks }, gb));
  await record({
    name: quick ? 'postgres-live-quick' : (values.sizes ?? values.rate) ? 'postgres-live-trial' : 'postgres-live',
    title: 'Caught up under TPC-B: delay, and captures beside pg_dump',
    method: METHOD,
    settings: { ...settings, connections: CONNECTIONS, seconds: Math.round((performance.now() - begunMs) / 1000) },
    versions: { postgres },
    tables: tablesOf(sizes),
    checks: [...checks, ...checksOf(sizes)],
    measurements: sizes,
  });
}

await main();
