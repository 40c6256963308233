import { execFile } from 'node:child_process';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs, promisify } from 'node:util';
import { median, noiseBand } from './measuring.ts';
import { type Cluster, connectionString, dropSlot, installedServers, processCpuMs, startCluster, waitUntil } from './postgres-servers.ts';
import { type Check, check, record, type ResultTable, say, shown, temporaryDirectory } from './recording.ts';
import { startSystemProcess } from './system-processes.ts';
import { createTpcb, startTpcbLoad, type TpcbFigures, type TpcbScale } from './tpcb-load.ts';

/** What an application notices: its transactions a second and their p99 with nothing beside it, native replication, Foreshadow, a dump. */

const SIDES = ['nothing', 'nothing2', 'native', 'ours', 'pg_dump'] as const;
type SideName = (typeof SIDES)[number];

interface Settings {
  readonly scale: TpcbScale;
  readonly rounds: number;
  readonly seconds: number;
  /** Of the load that leaves the machine room; the other takes what it gets. */
  readonly ratePerSecond: number;
}

const FULL: Settings = { scale: { branches: 20, accountsPerBranch: 100_000 }, rounds: 5, seconds: 15, ratePerSecond: 700 };
const QUICK: Settings = { scale: { branches: 2, accountsPerBranch: 20_000 }, rounds: 1, seconds: 2, ratePerSecond: 300 };
const CONNECTIONS = 4;
const DATABASE = 'bench';

interface Cell {
  readonly side: SideName;
  readonly round: number;
  readonly full: Measured;
  readonly rated: Measured;
  /** After the loads, until the side had everything; null where it keeps nothing up to date. */
  readonly behindMs: number | null;
}

interface Measured {
  readonly figures: TpcbFigures;
  /** CPU milliseconds a transaction, of each. */
  readonly cpuMs: { readonly primary: number; readonly shadow: number; readonly process: number };
}

interface Bed {
  readonly primary: Cluster;
  readonly shadow: Cluster;
  readonly native: string | null;
  readonly directory: string;
  readonly settings: Settings;
}

/** Something that runs beside the application. */
interface Beside extends AsyncDisposable {
  readonly pid: number | null;
  /** Resolves when it has everything; null where it keeps nothing. Throws where it failed. */
  readonly caughtUp: (() => Promise<void>) | null;
}

async function measureCell(bed: Bed, side: SideName, round: number): Promise<Cell> {
  await using beside = await begin(bed, side);
  const full = await underLoad(bed, beside, null, round);
  const rated = await underLoad(bed, beside, bed.settings.ratePerSecond, round);
  const endedMs = performance.now();
  await beside.caughtUp?.();
  const behindMs = beside.caughtUp === null ? null : performance.now() - endedMs;
  const told = ({ figures }: Measured): string => `${shown(figures.perSecond)}/s, p99 ${shown(figures.p99Ms)} ms`;
  say(
    `round ${round + 1} ${side}: ${told(full)}; at a rate ${told(rated)}${behindMs === null ? '' : `; caught up ${shown(behindMs)} ms later`}`,
  );
  return { side, round, full, rated, behindMs };
}

async function underLoad(
  { primary, shadow, settings }: Bed,
  { pid }: Beside,
  ratePerSecond: number | null,
  round: number,
): Promise<Measured> {
  await Promise.all([primary.run('CHECKPOINT'), shadow.run('CHECKPOINT')]);
  const cpu = (): [number, number, number] => [primary.cpuMs(), shadow.cpuMs(), pid === null ? 0 : processCpuMs(pid)];
  const load = startTpcbLoad({
    url: primary.url(DATABASE),
    scale: settings.scale,
    connections: CONNECTIONS,
    ratePerSecond,
    seed: 1000 * round + (ratePerSecond ?? 0),
  });
  try {
    const before = cpu();
    await sleep(settings.seconds * 1000);
    const figures = await load.stop();
    const after = cpu();
    const each = (index: 0 | 1 | 2): number => (after[index] - before[index]) / figures.transactions;
    return { figures, cpuMs: { primary: each(0), shadow: each(1), process: each(2) } };
  } finally {
    await load.stop();
  }
}

function begin(bed: Bed, side: SideName): Promise<Beside> {
  switch (side) {
    case 'nothing':
    case 'nothing2':
      return Promise.resolve({ pid: null, caughtUp: null, [Symbol.asyncDispose]: () => Promise.resolve() });
    case 'native':
      return beginNative(bed);
    case 'ours':
      return beginOurs(bed);
    case 'pg_dump':
      return Promise.resolve(beginDumps(bed));
  }
}

const NATIVE = 'bench_native';

async function beginNative({ primary, shadow }: Bed): Promise<Beside> {
  await shadow.run(`CREATE DATABASE ${NATIVE}`);
  await createTpcb(shadow.url(NATIVE), { branches: 0, accountsPerBranch: 0 });
  await primary.run(`CREATE PUBLICATION ${NATIVE} FOR ALL TABLES`, DATABASE);
  const parallel = Number(await shadow.run('SHOW server_version_num')) >= 160_000 ? 'parallel' : 'on';
  await shadow.run(
    `CREATE SUBSCRIPTION ${NATIVE} CONNECTION '${connectionString(primary, DATABASE)}' PUBLICATION ${NATIVE}
     WITH (binary = true, streaming = ${parallel})`,
    NATIVE,
  );
  const ready = `SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel`;
  await waitUntil(`native's copy`, async () => (await shadow.run(ready, NATIVE)) === 'true');
  return {
    pid: null,
    caughtUp: async () => {
      const at = await primary.run('SELECT pg_current_wal_lsn()');
      const there = `SELECT coalesce(bool_and(replay_lsn >= '${at}'), false) FROM pg_stat_replication WHERE application_name = '${NATIVE}'`;
      await waitUntil('native to catch up', async () => (await primary.run(there)) === 'true');
    },
    [Symbol.asyncDispose]: async () => {
      await shadow.run(`DROP SUBSCRIPTION ${NATIVE}`, NATIVE);
      await shadow.run(`DROP DATABASE ${NATIVE} WITH (FORCE)`);
      await primary.run(`DROP PUBLICATION ${NATIVE}`, DATABASE);
    },
  };
}

const OURS = 'ours';

async function beginOurs({ primary, shadow, directory: parent }: Bed): Promise<Beside> {
  await shadow.run(`CREATE DATABASE ${OURS}`);
  const directory = join(parent, OURS);
  await mkdir(directory);
  const places = { directory, primary: primary.url(DATABASE), shadow: shadow.url(OURS), tables: ['public.*'], validate: 'none' } as const;
  const ours = await startSystemProcess(places);
  const end = async (): Promise<void> => {
    await ours.stop();
    await dropSlot(primary, 'foreshadow_bench');
    await primary.run('DROP PUBLICATION IF EXISTS foreshadow_bench', DATABASE);
    await shadow.run(`DROP DATABASE ${OURS} WITH (FORCE)`);
    await rm(directory, { recursive: true, force: true });
  };
  try {
    await ours.run();
    await ours.capture();
    return { pid: ours.pid, caughtUp: () => ours.caughtUp(), [Symbol.asyncDispose]: end };
  } catch (error) {
    await end();
    throw error;
  }
}

/** One dump after the other. */
function beginDumps({ primary, native, directory }: Bed): Beside {
  if (native === null) throw new Error('no pg_dump is installed');
  const stopping = new AbortController();
  const file = join(directory, 'dump');
  const dumping = (async () => {
    while (!stopping.signal.aborted) {
      const dump = promisify(execFile)(join(native, 'bin', 'pg_dump'), ['-Fc', '-f', file, primary.url(DATABASE)], {
        signal: stopping.signal,
      });
      await dump.catch((error: unknown) => {
        if (!stopping.signal.aborted) throw error;
      });
    }
  })();
  dumping.catch(() => stopping.abort()); // told by the disposal below
  return {
    pid: null,
    caughtUp: null,
    [Symbol.asyncDispose]: async () => {
      stopping.abort();
      await dumping;
      await rm(file, { force: true });
    },
  };
}

function of(cells: readonly Cell[], side: SideName, pick: (cell: Cell) => number): number[] {
  return cells
    .filter((cell) => cell.side === side)
    .toSorted((a, b) => a.round - b.round)
    .map(pick);
}

type Load = 'full' | 'rated';

function tableOf(cells: readonly Cell[], load: Load, title: string): ResultTable {
  const sides = SIDES.filter((side) => cells.some((cell) => cell.side === side));
  const alone = of(cells, 'nothing', (cell) => cell[load].figures.perSecond);
  const rows = sides.map((side) => {
    const perSecond = of(cells, side, (cell) => cell[load].figures.perSecond);
    const p99 = of(cells, side, (cell) => cell[load].figures.p99Ms);
    const cpu = (whose: keyof Measured['cpuMs']): string => shown(1000 * median(of(cells, side, (cell) => cell[load].cpuMs[whose])));
    const behind = cells.flatMap((cell) => (cell.side === side && cell.behindMs !== null ? [cell.behindMs] : []));
    return [
      side,
      perSecond.map(shown).join(' '),
      shown(median(perSecond)),
      alone.length === 0 ? '–' : `${shown(100 * (median(perSecond) / median(alone) - 1))} %`,
      p99.map(shown).join(' '),
      shown(median(p99)),
      cpu('primary'),
      cpu('shadow'),
      cpu('process'),
      behind.length === 0 ? '–' : shown(median(behind)),
    ];
  });
  const columns = [
    'beside it',
    'transactions a second, each round',
    'median',
    'against nothing',
    'p99 each round, ms',
    'median',
    'CPU µs a transaction: primary',
    'shadow',
    'process',
    'caught up after both loads, ms',
  ];
  return { title, columns, rows };
}

function checksOf(cells: readonly Cell[]): Check[] {
  const compared = ['nothing', 'nothing2', 'native', 'ours'] as const;
  if (!compared.every((side) => cells.some((cell) => cell.side === side))) return [];
  const compare = (load: Load, what: string, pick: (measured: Measured) => number): Check => {
    const values = (side: SideName): number[] => of(cells, side, (cell) => pick(cell[load]));
    const band = noiseBand(values('nothing'), values('nothing2'));
    const ratio = median(values('ours')) / median(values('native'));
    return check(
      `${what}: within the A/A band of native or better`,
      ratio <= 1 + band,
      `ours ÷ native ${shown(ratio)}, band ${shown(band)}`,
    );
  };
  return [
    compare('full', 'time a transaction, as many as go', ({ figures }) => 1 / figures.perSecond),
    compare('full', 'p99, as many as go', ({ figures }) => figures.p99Ms),
    compare('rated', 'p99 at a rate', ({ figures }) => figures.p99Ms),
    compare('rated', 'CPU of the primary a transaction at a rate', ({ cpuMs }) => cpuMs.primary),
  ];
}

const METHOD = [
  `A load as TPC-B's from ${CONNECTIONS} connections in a process of its own, once as many transactions as go and once at the rate below, with beside it:`,
  'nothing; nothing again (the A/A control); a subscription of native logical replication (binary = true, streaming); Foreshadow caught up, in a process of its own;',
  'one `pg_dump -Fc` after the other. Primary, shadow and all processes share this machine, so what a side takes for its shadow the application misses too:',
  'CPU of the primary’s cluster for each transaction (the walsender and what reads of it cost) says what would be left on a machine of its own.',
  'The sides take turns in an order that rotates with the round; each begins anew with a copy, and a checkpoint comes before every load.',
];

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      quick: { type: 'boolean' },
      rounds: { type: 'string' },
      seconds: { type: 'string' },
      rate: { type: 'string' },
      sides: { type: 'string' },
    } as const,
  });
  const quick = values.quick === true;
  const base = quick ? QUICK : FULL;
  const settings: Settings = {
    ...base,
    rounds: Number(values.rounds ?? base.rounds),
    seconds: Number(values.seconds ?? base.seconds),
    ratePerSecond: Number(values.rate ?? base.ratePerSecond),
  };
  const begunMs = performance.now();
  const native = installedServers()[0] ?? null;
  const wanted = values.sides?.split(',') ?? SIDES;
  const sides = SIDES.filter((side) => wanted.includes(side) && (side !== 'pg_dump' || native !== null));
  if (native === null) say('no pg_dump is installed: measured without it');
  const options = { small: quick, settings: { autovacuum: 'on' }, ...(native === null ? {} : { native }) };
  await using directory = await temporaryDirectory();
  await using primary = await startCluster(options);
  await using shadow = await startCluster(options);
  const postgres = (await primary.run('SHOW server_version')).split(' ')[0] as string;
  await primary.run(`CREATE DATABASE ${DATABASE}`);
  await createTpcb(primary.url(DATABASE), settings.scale);
  const bed: Bed = { primary, shadow, native, directory: directory.path, settings };
  await underLoad(bed, await begin(bed, 'nothing'), null, 0); // until caches and files are as they stay
  const cells: Cell[] = [];
  for (let round = 0; round < settings.rounds; round++)
    for (let index = 0; index < sides.length; index++)
      cells.push(await measureCell(bed, sides[(index + round) % sides.length] as SideName, round));
  const { scale, ...others } = settings;
  await record({
    name: quick
      ? 'postgres-cost-quick'
      : (values.rounds ?? values.seconds ?? values.rate ?? values.sides)
        ? 'postgres-cost-trial'
        : 'postgres-cost',
    title: 'What an application on the primary notices',
    method: METHOD,
    settings: { ...others, ...scale, connections: CONNECTIONS, duration: Math.round((performance.now() - begunMs) / 1000) },
    versions: { postgres },
    tables: [
      tableOf(cells, 'full', 'As many transactions as go'),
      tableOf(cells, 'rated', `At ${settings.ratePerSecond} transactions a second`),
    ],
    checks: checksOf(cells),
    measurements: cells,
  });
}

await main();
