import { readFileSync, writeFileSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { lsnOf } from './catchup-bed.ts';
import { ask, type Cluster, columnsOf, digestSql, runOnce, startCluster, withClient } from './postgres-servers.ts';
import { type Check, check, megabytes, record, say, shown, temporaryDirectory } from './recording.ts';
import { startSystemProcess } from './system-processes.ts';

/** Transactions of millions of rows, tracked while they run: when the shadow has them, and the most memory our process held meanwhile. */

const LIMIT_BYTES = 512 * 2 ** 20;
const DATABASE = 'bench';
const TABLE = 'public.item';

interface Step {
  readonly name: string;
  readonly rows: number;
  readonly sql: string;
  readonly ends: 'COMMIT' | 'ROLLBACK';
}

interface Measured {
  readonly step: string;
  readonly rows: number;
  readonly statementMs: number;
  /** From its begin, and from its end, until the shadow has it on its disk. */
  readonly fromBeginMs: number;
  readonly fromEndMs: number;
  readonly peakBytes: number;
  readonly processCpuMs: number;
  readonly primaryCpuMs: number;
  readonly shadowCpuMs: number;
  readonly journalBytes: number;
  readonly equal: boolean;
}

function steps(rows: number): Step[] {
  const half = rows / 2;
  const made = (from: number, to: number): string =>
    `INSERT INTO ${TABLE} SELECT n, n % 1000, n / 7, md5(n::text) || '-some-text-of-a-name', now() FROM generate_series(${from}, ${to}) n`;
  return [
    { name: 'insert', rows, sql: made(1, rows), ends: 'COMMIT' },
    { name: 'insert, rolled back', rows: half, sql: made(rows + 1, rows + half), ends: 'ROLLBACK' },
    {
      name: 'insert, rolled back to a savepoint',
      rows: half,
      sql: `SAVEPOINT here; ${made(rows + 1, rows + half)}; ROLLBACK TO here; ${made(rows + 1, rows + 100)}`,
      ends: 'COMMIT',
    },
    { name: 'update', rows: half, sql: `UPDATE ${TABLE} SET number = number + 1 WHERE id <= ${half}`, ends: 'COMMIT' },
    { name: 'delete', rows: rows + 100, sql: `DELETE FROM ${TABLE}`, ends: 'COMMIT' },
  ];
}

interface Bed {
  readonly primary: Cluster;
  readonly shadow: Cluster;
  readonly directory: string;
  readonly pid: number;
}

async function measure(bed: Bed, step: Step): Promise<Measured> {
  const { primary, shadow, pid, directory } = bed;
  await Promise.all([primary.run('CHECKPOINT'), shadow.run('CHECKPOINT')]);
  // Linux: the peak is counted anew from here.
  writeFileSync(`/proc/${pid}/clear_refs`, '5');
  const cpu = (): number[] => [ticksOf(pid) * 10, primary.cpuMs(), shadow.cpuMs()];
  const before = cpu();
  const begunMs = performance.now();
  const [endedMs, end] = await withClient(primary.url(DATABASE), async (client) => {
    await client.query('BEGIN');
    await client.query(step.sql);
    // Its end comes after this.
    const lsn = lsnOf(await ask(client, 'SELECT pg_current_wal_insert_lsn()'));
    await client.query(step.ends);
    return [performance.now(), lsn] as const;
  });
  // Of one that was rolled back nothing comes: another table shows that it has been passed.
  await primary.run(`UPDATE ${TABLE}_mark SET id = id + 1`, DATABASE);
  await reached(shadow, step.ends === 'COMMIT' ? TABLE : `${TABLE}_mark`, end);
  const doneMs = performance.now();
  const [node = 0, ours = 0, theirs = 0] = cpu().map((ms, index) => ms - (before[index] as number));
  return {
    step: step.name,
    rows: step.rows,
    statementMs: endedMs - begunMs,
    fromBeginMs: doneMs - begunMs,
    fromEndMs: doneMs - endedMs,
    peakBytes: peakOf(pid),
    processCpuMs: node,
    primaryCpuMs: ours,
    shadowCpuMs: theirs,
    journalBytes: (await stat(join(directory, '.foreshadow', 'journal.db'))).size,
    equal: await isEqual(primary, shadow),
  };
}

async function reached(shadow: Cluster, table: string, end: bigint): Promise<void> {
  await withClient(shadow.url(DATABASE), async (client) => {
    for (;;) {
      const halted = await ask(client, `SELECT string_agg(state, '; ') FROM _foreshadow.progress WHERE state LIKE '%halted%'`);
      if (halted !== '') throw new Error(`a table was halted: ${halted}`);
      const low = await ask(client, `SELECT low FROM _foreshadow.progress WHERE table_name = '${table}'`);
      if (low !== '' && BigInt(`0x${low.slice(0, 16)}`) >= end) return;
      await sleep(50);
    }
  });
}

async function isEqual(primary: Cluster, shadow: Cluster): Promise<boolean> {
  const sql = digestSql(`${TABLE} r`, await columnsOf(primary, DATABASE, TABLE));
  return (await runOnce(primary.url(DATABASE), sql)) === (await runOnce(shadow.url(DATABASE), sql));
}

function peakOf(pid: number): number {
  return Number(/VmHWM:\s+(\d+) kB/u.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024;
}

function ticksOf(pid: number): number {
  const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return Number(fields[11]) + Number(fields[12]);
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { quick: { type: 'boolean' }, rows: { type: 'string' } } });
  const quick = values.quick === true;
  const rows = Number(values.rows ?? (quick ? 200_000 : 10_000_000));
  await using directory = await temporaryDirectory();
  await using primary = await startCluster({ small: quick });
  await using shadow = await startCluster({ small: quick });
  for (const cluster of [primary, shadow]) await cluster.run(`CREATE DATABASE ${DATABASE}`);
  await primary.run(
    `CREATE TABLE ${TABLE} (id bigint PRIMARY KEY, number int, other int, name text, at timestamptz);
     CREATE TABLE ${TABLE}_mark (id int PRIMARY KEY); INSERT INTO ${TABLE}_mark VALUES (1)`,
    DATABASE,
  );
  const places = { directory: directory.path, primary: primary.url(DATABASE), shadow: shadow.url(DATABASE), tables: ['public.*'] };
  const measured: Measured[] = [];
  await using system = await startSystemProcess(places);
  await system.run();
  await system.capture();
  for (const step of steps(rows)) {
    say(`${step.name}: ${step.rows} rows`);
    const found = await measure({ primary, shadow, directory: directory.path, pid: system.pid }, step);
    measured.push(found);
    say(`${shown(found.fromEndMs / 1000)} s from its end, peak ${megabytes(found.peakBytes)} MB`);
  }
  await record({
    name: quick ? 'large-transaction-quick' : 'large-transaction',
    title: 'Transactions of millions of rows',
    method: [
      'Two embedded PostgreSQL clusters and one Foreshadow process, which does what `foreshadow start` does, on this machine; rows of about',
      '100 bytes in one table with a bigint key. Each step is one transaction, tracked while it runs (`streaming = on`, logical_decoding_work_mem',
      'as PostgreSQL ships it). Measured until everything up to its end is in the shadow and on its disk. The peak is VmHWM of the whole process, counted',
      'anew for each step; the digest of the table on both sides is compared after each.',
    ],
    settings: { rows },
    versions: { postgres: (await primary.run('SHOW server_version')).split(' ')[0] ?? '' },
    tables: [
      {
        title: 'Steps, in this order',
        columns: [
          'transaction',
          'rows',
          'it took, s',
          'in the shadow, s from its begin',
          'from its end',
          'peak of the process, MB',
          'CPU s: process',
          'primary',
          'shadow',
          'journal file, MB',
        ],
        rows: measured.map((each) => [
          each.step,
          each.rows,
          ...[each.statementMs, each.fromBeginMs, each.fromEndMs].map((ms) => shown(ms / 1000)),
          megabytes(each.peakBytes),
          ...[each.processCpuMs, each.primaryCpuMs, each.shadowCpuMs].map((ms) => shown(ms / 1000)),
          megabytes(each.journalBytes),
        ]),
      },
    ],
    checks: checksOf(measured),
    measurements: measured,
  });
}

function checksOf(measured: readonly Measured[]): Check[] {
  const peak = Math.max(...measured.map(({ peakBytes }) => peakBytes));
  const equal = measured.filter((each) => each.equal).length;
  return [
    check('the whole process stays under 512 MiB', peak < LIMIT_BYTES, `${megabytes(peak)} MB`),
    check('after each step both sides hold the same rows', equal === measured.length, `${equal} of ${measured.length}`),
  ];
}

await main();
