import { parseArgs } from 'node:util';
import { DATABASE, digests, NATIVE_PUBLICATION } from './catchup-bed.ts';
import { COPIED } from './copy-data.ts';
import { type CopyBed, makeCopy, SIDES, type SideName } from './copy-sides.ts';
import { median, noiseBand } from './measuring.ts';
import { installedServers, startCluster, withClient } from './postgres-servers.ts';
import { type Check, check, megabytes, record, type ResultTable, say, shown, temporaryDirectory } from './recording.ts';

/** The initial copy of a data set: by native logical replication, by pg_dump and pg_restore, by Foreshadow. */

interface Run {
  readonly side: SideName;
  readonly round: number;
  readonly wallMs: number;
  readonly cpuMs: { readonly primary: number; readonly shadow: number; readonly process: number };
  readonly peakResidentBytes: number | null;
  readonly equal: boolean;
}

interface ServerRuns {
  readonly postgres: string;
  readonly bytes: number;
  readonly runs: readonly Run[];
}

interface Settings {
  readonly scale: number;
  readonly rounds: number;
  readonly small: boolean;
}

const TABLES = COPIED.map(({ name }) => name);

async function measureOn(native: string | null, sides: readonly SideName[], settings: Settings): Promise<ServerRuns> {
  const { scale, rounds, small } = settings;
  const options = native === null ? { small } : { small, native };
  await using directory = await temporaryDirectory();
  await using primary = await startCluster(options);
  await using shadow = await startCluster(options);
  const postgres = (await primary.run('SHOW server_version')).split(' ')[0] as string;
  say(`PostgreSQL ${postgres}: making the data set`);
  await primary.run(`CREATE DATABASE ${DATABASE}`);
  await withClient(primary.url(DATABASE), async (client) => {
    await client.query('SET synchronous_commit = off');
    for (const { schema, rows } of COPIED) {
      await client.query(schema);
      await client.query(rows(scale));
    }
    await client.query('VACUUM (ANALYZE)');
    await client.query(`CREATE PUBLICATION ${NATIVE_PUBLICATION} FOR TABLE ${TABLES.join(', ')}`);
  });
  const bytes = Number(
    await primary.run(`SELECT sum(pg_table_size(t::regclass)) FROM unnest('{${TABLES.join(',')}}'::text[]) t`, DATABASE),
  );
  const expected = await digests(primary, DATABASE, TABLES);
  const bed: CopyBed = { primary, shadow, directory: directory.path, programs: native === null ? null : `${native}/bin` };
  const runs: Run[] = [];
  for (let round = 0; round < rounds; round++) {
    for (let turn = 0; turn < sides.length; turn++) {
      const side = sides[(turn + round) % sides.length] as SideName;
      runs.push(await measure(bed, side, round, expected));
    }
  }
  return { postgres, bytes, runs };
}

async function measure(bed: CopyBed, side: SideName, round: number, expected: readonly string[]): Promise<Run> {
  const { primary, shadow } = bed;
  await Promise.all([primary.run('CHECKPOINT'), shadow.run('CHECKPOINT')]);
  const before = [primary.cpuMs(), shadow.cpuMs()] as const;
  await using copy = await makeCopy(bed, side);
  const cpuMs = { primary: primary.cpuMs() - before[0], shadow: shadow.cpuMs() - before[1], process: copy.cpuMs };
  const found = await digests(shadow, 'run', TABLES, primary);
  const equal = JSON.stringify(found) === JSON.stringify(expected);
  const cpu = Object.values(cpuMs).map((ms) => shown(ms / 1000));
  say(`${side}, round ${round + 1}: ${shown(copy.wallMs / 1000)} s, CPU ${cpu.join(' + ')} s${equal ? '' : ', NOT EQUAL'}`);
  return { side, round, wallMs: copy.wallMs, cpuMs, peakResidentBytes: copy.peakResidentBytes, equal };
}

const NAMES: Readonly<Record<SideName, string>> = {
  native: 'native initial synchronisation',
  native2: 'the same again (control)',
  ours: 'Foreshadow',
  dump: '`pg_dump -Fd -j2`, then `pg_restore -j2`',
};

function walls(runs: readonly Run[], side: SideName): number[] {
  return runs.filter((run) => run.side === side).map(({ wallMs }) => wallMs);
}

function tableOf({ postgres, bytes, runs }: ServerRuns): ResultTable {
  const ours = median(walls(runs, 'ours'));
  const rows = SIDES.filter((side) => walls(runs, side).length > 0).map((side) => {
    const of = runs.filter((run) => run.side === side);
    const cpu = (pick: (run: Run) => number): string => shown(median(of.map(pick)) / 1000);
    const wallMs = median(walls(runs, side));
    const peaks = of.map(({ peakResidentBytes }) => peakResidentBytes ?? 0);
    return [
      NAMES[side],
      shown(wallMs / 1000),
      shown(bytes / 1000 / wallMs),
      shown(wallMs / ours),
      cpu(({ cpuMs }) => cpuMs.primary),
      cpu(({ cpuMs }) => cpuMs.shadow),
      cpu(({ cpuMs }) => cpuMs.process),
      side === 'ours' ? megabytes(Math.max(...peaks)) : '',
    ];
  });
  return {
    title: `PostgreSQL ${postgres}: ${megabytes(bytes)} MB in ${TABLES.length} tables`,
    columns: ['', 's', 'MB/s', 'of our time', 'CPU s: primary', 'target', 'other processes', 'peak MB of ours'],
    rows,
  };
}

function checksOf({ postgres, runs }: ServerRuns): Check[] {
  const checks = [
    check(
      `${postgres}: every copy equals the primary, by digest`,
      runs.every(({ equal }) => equal),
      `${runs.length} copies`,
    ),
  ];
  const ours = walls(runs, 'ours');
  const [first, second] = [walls(runs, 'native'), walls(runs, 'native2')];
  const band = first.length > 0 && second.length > 0 ? noiseBand(first, second) : 0;
  for (const side of ['native', 'dump'] as const) {
    const peers = walls(runs, side);
    if (peers.length === 0) continue;
    const ratio = median(peers) / median(ours);
    checks.push(check(`${postgres}: faster than ${NAMES[side]}`, ratio * (1 - band / 2) > 1, `${shown(ratio)} times, band ${shown(band)}`));
  }
  return checks;
}

const METHOD = [
  'Two clusters on this machine hold primary and target; they and whatever copies share its cores. Each copy goes into an empty database, sides',
  'interleaved, after a checkpoint of both. Native: CREATE SUBSCRIPTION with `binary = true` into tables made before, until all are ready,',
  'all four tables at the same time; below version 16 its copy is text. Foreshadow: what `start` does, from opening both ends until all',
  'tables are live and durable in the shadow, keys made. pg_dump and pg_restore by way of a directory, indexes made after the rows.',
  'Every copy is compared with the primary by count and digest.',
];

async function main(): Promise<void> {
  const options = { quick: { type: 'boolean' }, rounds: { type: 'string' }, scale: { type: 'string' }, sides: { type: 'string' } } as const;
  const { values } = parseArgs({ options });
  const quick = values.quick === true;
  const scale = Number(values.scale ?? (quick ? 0.02 : 1));
  const settings: Settings = { scale, rounds: Number(values.rounds ?? (quick ? 1 : 3)), small: scale < 0.2 };
  const wanted = SIDES.filter((side) => values.sides === undefined || values.sides.split(',').includes(side));
  const begunMs = performance.now();
  const results = [
    await measureOn(
      null,
      wanted.filter((side) => side !== 'dump'),
      settings,
    ),
  ];
  const native = installedServers()[0] ?? null;
  if (native === null) say(`skipped: pg_dump and pg_restore, as no PostgreSQL with its programs is installed on this machine`);
  else if (wanted.includes('dump'))
    results.push(
      await measureOn(
        native,
        wanted.filter((side) => side !== 'native2'),
        settings,
      ),
    );
  const whole = scale === 1 && settings.rounds >= 3 && values.sides === undefined;
  await record({
    name: whole ? 'initial-copy' : 'initial-copy-trial',
    title: 'The initial copy of a data set',
    method: METHOD,
    settings: { scale, rounds: settings.rounds, seconds: Math.round((performance.now() - begunMs) / 1000) },
    versions: { postgres: results.map(({ postgres }) => postgres).join(' and ') },
    tables: results.map(tableOf),
    checks: results.flatMap(checksOf),
    measurements: results,
  });
}

await main();
