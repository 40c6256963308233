import { cp, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Workload } from './catchup-workload.ts';
import { ask, type Cluster, columnsOf, connectionString, digestSql, dropSlot, waitUntil, withClient } from './postgres-servers.ts';
import { say } from './recording.ts';
import { FOREVER, openBenchSystem } from './systems.ts';

export const DATABASE = 'bench';
/** Reads nothing, and keeps the log from the end of the copies on; each run reads a copy of it, so all read the same log. */
export const HOLD = 'bench_hold';
export const NATIVE_PUBLICATION = 'bench_native';
export const OUR_SLOT = 'foreshadow_bench';
export const NATIVE_BASE = 'native_base';
const OURS_BASE = 'ours_base';

/** A primary's database and its copies, each as it stood before the load; runs are made on clones of them. */
export interface Bed extends AsyncDisposable {
  readonly primary: Cluster;
  readonly shadow: Cluster;
  readonly workload: Workload;
  readonly scale: number;
  readonly directory: string;
  /** What the copies hold: a digest for each table. */
  readonly base: readonly string[];
  /** The state directory of Foreshadow as it was when it was stopped, and the mark it had left on the primary. */
  readonly oursState: string;
  readonly oursMark: string;
}

export interface BedParts {
  readonly primary: Cluster;
  readonly shadow: Cluster;
  readonly directory: string;
}

export async function makeBed({ primary, shadow, directory }: BedParts, workload: Workload, scale: number): Promise<Bed> {
  const list = workload.tables.join(', ');
  say(`${workload.name}: making the base (${workload.title})`);
  await primary.run(`CREATE DATABASE ${DATABASE}`);
  await primary.run(workload.schema, DATABASE);
  await withClient(primary.url(DATABASE), async (client) => {
    await client.query('SET synchronous_commit = off');
    await client.query(workload.base(scale));
    if (workload.indexes !== undefined) await client.query(workload.indexes);
  });
  await primary.run('VACUUM (ANALYZE)', DATABASE);
  await primary.run(`CREATE PUBLICATION ${NATIVE_PUBLICATION} FOR TABLE ${list}`, DATABASE);
  await primary.run('CHECKPOINT');
  await copyNative(primary, shadow, workload);
  const { state, mark } = await copyOurs(primary, shadow, workload, directory);
  const base = await digests(primary, DATABASE, workload.tables);
  const parts = { primary, shadow, workload, scale, directory, base, oursState: state, oursMark: mark };
  return { ...parts, [Symbol.asyncDispose]: () => removeBed(parts) };
}

async function removeBed({ primary, shadow }: Omit<Bed, typeof Symbol.asyncDispose>): Promise<void> {
  await dropSlot(primary, HOLD);
  await dropSlot(primary, OUR_SLOT);
  await primary.run(`DROP DATABASE ${DATABASE} WITH (FORCE)`);
  for (const name of [NATIVE_BASE, OURS_BASE]) await shadow.run(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`);
  // What the log holds of this workload is not the next one's to write out.
  await Promise.all([primary.run('CHECKPOINT'), shadow.run('CHECKPOINT')]);
}

/** Native's own initial synchronisation, then the subscription is dropped: clones subscribe anew, without a copy. */
async function copyNative(primary: Cluster, shadow: Cluster, workload: Workload): Promise<void> {
  const name = NATIVE_BASE;
  await shadow.run(`CREATE DATABASE ${name}`);
  // The same room on each page as our shadow leaves: an administrator can set it, and updates are quicker with it.
  await shadow.run(`${workload.schema}; ${workload.tables.map((table) => `ALTER TABLE ${table} SET (fillfactor = 90)`).join('; ')}`, name);
  await shadow.run('CREATE EXTENSION pg_prewarm', name);
  await shadow.run(
    `CREATE SUBSCRIPTION ${name} CONNECTION '${connectionString(primary, DATABASE)}' PUBLICATION ${NATIVE_PUBLICATION} WITH (binary = true)`,
    name,
  );
  await waitUntil(
    `native's copy of ${workload.name}`,
    async () => (await shadow.run(`SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel`, name)) === 'true',
  );
  await shadow.run(`DROP SUBSCRIPTION ${name}`, name);
  if (workload.mirrored === true && workload.indexes !== undefined) await shadow.run(workload.indexes, name);
  await shadow.run('VACUUM (ANALYZE)', name);
}

/**
 * Our initial copy is capture 1. Between it and capture 2, which finds no changes, the slot is made that the load will be read from:
 * so the journal ends at or past that slot's beginning.
 */
async function copyOurs(
  primary: Cluster,
  shadow: Cluster,
  workload: Workload,
  directory: string,
): Promise<{ state: string; mark: string }> {
  await shadow.run(`CREATE DATABASE ${OURS_BASE}`);
  await shadow.run('CREATE EXTENSION pg_prewarm', OURS_BASE);
  const places = join(directory, 'base');
  await mkdir(places, { recursive: true });
  const tables = ['public.*'];
  {
    await using system = await openBenchSystem({
      directory: places,
      primary: primary.url(DATABASE),
      shadow: shadow.url(OURS_BASE),
      tables,
      mirrorIndexes: workload.mirrored === true,
    });
    await system.capture(() => {}, FOREVER);
    await primary.run(`SELECT pg_create_logical_replication_slot('${HOLD}', 'pgoutput')`, DATABASE);
    const { verdict } = await system.capture(() => {}, FOREVER);
    if (verdict !== 'VALID') throw new Error(`the capture before the load is ${verdict}`);
  }
  await dropSlot(primary, OUR_SLOT);
  await refuseOtherIndexes(shadow, workload);
  await shadow.run('VACUUM (ANALYZE)', OURS_BASE);
  const mark = await primary.run(
    `SELECT obj_description(oid, 'pg_publication') FROM pg_publication WHERE pubname = '${OUR_SLOT}'`,
    DATABASE,
  );
  const state = join(places, '.foreshadow');
  return { state, mark };
}

/** Both targets have the same number on every table. */
async function refuseOtherIndexes(shadow: Cluster, { tables }: Workload): Promise<void> {
  for (const table of tables) {
    const count = `SELECT count(*) FROM pg_index WHERE indrelid = '${table}'::regclass AND indisvalid`;
    const [native, ours] = [await shadow.run(count, NATIVE_BASE), await shadow.run(count, OURS_BASE)];
    if (native !== ours) throw new Error(`${table} has ${ours} indexes in our shadow and ${native} at native's subscriber`);
  }
}

/** A clone of what Foreshadow kept when it was stopped, for one run. */
export async function cloneOurs(bed: Bed, database: string): Promise<string> {
  await cloneDatabase(bed.shadow, OURS_BASE, database);
  const places = join(bed.directory, database);
  await cp(bed.oursState, join(places, '.foreshadow'), { recursive: true });
  await bed.primary.run(`COMMENT ON PUBLICATION ${OUR_SLOT} IS '${bed.oursMark}'`, DATABASE);
  await bed.primary.run(`SELECT pg_copy_logical_replication_slot('${HOLD}', '${OUR_SLOT}')`, DATABASE);
  return places;
}

/** As it stood when it was stopped, and as warm as a server that never was. */
export async function cloneDatabase(cluster: Cluster, from: string, to: string): Promise<void> {
  await cluster.run(`CREATE DATABASE ${to} TEMPLATE ${from} STRATEGY file_copy`);
  await cluster.run(
    `SELECT count(pg_prewarm(oid)) FROM pg_class WHERE relkind IN ('r', 'i', 't') AND relfilenode > 0 AND NOT relisshared`,
    to,
  );
}

/** Runs the load, and then one transaction that touches a row of every table. Positions are bytes of the log. */
export async function runLoad(bed: Bed): Promise<LoadDone> {
  const { primary, workload, scale } = bed;
  return withClient(primary.url(DATABASE), async (client) => {
    await client.query('SET synchronous_commit = off');
    const from = lsnOf(await ask(client, 'SELECT pg_current_wal_insert_lsn()'));
    const before = Number(await ask(client, CHANGES));
    const begunMs = performance.now();
    await client.query(workload.load(scale));
    const committedMs = performance.now();
    await client.query('SET synchronous_commit = on');
    await client.query('BEGIN');
    for (const table of workload.tables) {
      const column = await ask(
        client,
        `SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = '${table}'::regclass AND attnum = 1`,
      );
      await client.query(`UPDATE ${table} SET ${column} = ${column} WHERE ctid = (SELECT ctid FROM ${table} LIMIT 1)`);
    }
    // Nothing else writes: whoever stands past this has the commit that follows, and so the last change of every table.
    const last = lsnOf(await ask(client, 'SELECT pg_current_wal_insert_lsn()'));
    await client.query('COMMIT');
    await client.query('SELECT pg_stat_force_next_flush()');
    const changes = Number(await ask(client, CHANGES)) - before;
    return { last, walBytes: Number(last - from), changes, begunMs, committedMs };
  });
}

const CHANGES = 'SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0) FROM pg_stat_user_tables';

export interface LoadDone {
  /** Whoever has passed this position has everything. */
  readonly last: bigint;
  readonly walBytes: number;
  readonly changes: number;
  /** By the monotonic clock of this process. */
  readonly begunMs: number;
  readonly committedMs: number;
}

export function lsnOf(text: string): bigint {
  const [high, low] = text.split('/');
  return (BigInt(`0x${high}`) << 32n) | BigInt(`0x${low}`);
}

export async function digests(cluster: Cluster, database: string, tables: readonly string[], columnsFrom?: Cluster): Promise<string[]> {
  const found: string[] = [];
  for (const table of tables) {
    const columns = await columnsOf(columnsFrom ?? cluster, columnsFrom === undefined ? database : DATABASE, table);
    found.push(await cluster.run(digestSql(`${table} r`, columns), database));
  }
  return found;
}
