import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ChangesReader, rowsIn } from '../../../test/changes-reader.ts';
import { createDatabase, type TestDatabase } from '../../../test/postgres.ts';
import { captureNumber } from '../../model/capture.ts';
import type { TableSchema } from '../../model/schema.ts';
import { identityOf, keyTuple, type Tuple } from '../../model/tuple.ts';
import type { PackedChunk, Primary, PrimarySnapshot } from '../../tracking/primary.ts';
import { CopyPack } from './copy-pack.ts';
import { openPostgresPrimary } from './primary.ts';
import { Wire } from './wire.ts';

const { signal } = new AbortController();
const FIRST = captureNumber(1);

let database: TestDatabase;
let primary: Primary;
let reader: ChangesReader;

beforeEach(async () => {
  database = await createDatabase();
  const selection = { include: ['public.*'], exclude: [] };
  primary = await openPostgresPrimary({ url: database.url, dataSet: database.name, selection, journaled: async () => new Set() });
});

afterEach(async () => {
  await reader.stop();
  await primary[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
});

/** Makes the table, and begins to read changes, as snapshots ask for. */
async function installed(sql: string): Promise<TableSchema> {
  await database.run(sql);
  const { tables } = await primary.describe(signal);
  reader = new ChangesReader(primary, await primary.install(tables, signal));
  return tables[0] as TableSchema;
}

async function snapshotOf({ table }: TableSchema): Promise<PrimarySnapshot> {
  return primary.snapshot(await primary.now(signal), signal, [table]);
}

async function packed(snapshot: PrimarySnapshot, table: TableSchema, after: Tuple | null, bytes: number): Promise<PackedChunk> {
  const chunk = await snapshot.pack?.(table, after, FIRST, bytes, signal);
  if (chunk === undefined || chunk === null || chunk === 'moved') throw new Error(`no pack: ${String(chunk)}`);
  return chunk;
}

/** All rows of one snapshot, pack by pack. */
async function allPacked(snapshot: PrimarySnapshot, table: TableSchema, bytes: number): Promise<PackedChunk['pack'][]> {
  const packs: PackedChunk['pack'][] = [];
  let after: Tuple | null = null;
  do {
    const chunk = await packed(snapshot, table, after, bytes);
    packs.push(chunk.pack);
    after = chunk.through;
  } while (after !== null);
  return packs;
}

function byKey(table: TableSchema, packs: readonly PackedChunk['pack'][]): Map<string, string> {
  const rows = new Map<string, string>();
  for (const pack of packs) {
    const tuples = Array.from(pack.rows());
    expect(tuples).toHaveLength(pack.count);
    for (const row of tuples) {
      const identity = identityOf(keyTuple(row, table.key));
      expect(rows.has(identity)).toBe(false);
      rows.set(identity, row.toString('hex'));
    }
  }
  return rows;
}

async function byKeyOrder(snapshot: PrimarySnapshot, table: TableSchema): Promise<Map<string, string>> {
  const rows = await rowsIn(snapshot, table);
  return new Map(Array.from(rows.values(), (row) => [identityOf(keyTuple(row, table.key)), row.toString('hex')]));
}

const MIXED = `CREATE TABLE mixed (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), note text, long text);
  ALTER TABLE mixed ALTER long SET STORAGE EXTERNAL;
  INSERT INTO mixed (note, long) SELECT CASE WHEN n % 3 > 0 THEN 'note ' || n END,
    CASE WHEN n BETWEEN 2000 AND 2100 THEN repeat('x', 20000) END FROM generate_series(1, 4000) n;
  DELETE FROM mixed WHERE note LIKE '%7'`;

describe('packs', () => {
  test.each([2000, 50_000, 10_000_000])('of %i bytes hold every row once, as it is read by key', async (bytes) => {
    const table = await installed(MIXED);
    await using snapshot = await snapshotOf(table);
    const packs = await allPacked(snapshot, table, bytes);
    expect(byKey(table, packs)).toEqual(await byKeyOrder(snapshot, table));
    // One place may hold more than is asked for, and then comes alone.
    for (const pack of packs) if (pack.count > 1) expect(pack.bytes).toBeLessThanOrEqual(4 * bytes);
  });

  test('are taken by a server as they came from another', async () => {
    const table = await installed(MIXED);
    await database.run(`CREATE SCHEMA other; CREATE TABLE other.copied (LIKE mixed, since bigint)`);
    await using wire = await Wire.open(database.url, { side: 'shadow', purpose: 'test' });
    await using snapshot = await snapshotOf(table);
    for (const pack of await allPacked(snapshot, table, 20_000)) {
      if (!(pack instanceof CopyPack)) throw new Error('not of this store');
      if (pack.count === 0) continue;
      expect(await wire.copyMessagesIn('COPY other.copied FROM STDIN (FORMAT binary)', pack.messages)).toBe(pack.count);
    }
    const found = await database.run(`SELECT (SELECT count(*)::int FROM other.copied) AS rows,
      (SELECT count(*)::int FROM (SELECT *, 1 FROM mixed EXCEPT TABLE other.copied) d) AS different`);
    expect(found).toEqual([{ rows: (await rowsIn(snapshot, table)).size, different: 0 }]);
  });

  test('of a partitioned table hold the rows of all its leaves; a partition that comes or goes is noticed', async () => {
    const table = await installed(`CREATE TABLE parts (id int PRIMARY KEY, note text) PARTITION BY RANGE (id);
      CREATE TABLE parts_a PARTITION OF parts FOR VALUES FROM (0) TO (100);
      CREATE TABLE parts_b PARTITION OF parts FOR VALUES FROM (100) TO (10000);
      INSERT INTO parts SELECT n, repeat('p', 100) FROM generate_series(0, 5000) n`);
    let through: Tuple | null = null;
    {
      await using snapshot = await snapshotOf(table);
      expect(byKey(table, await allPacked(snapshot, table, 30_000))).toEqual(await byKeyOrder(snapshot, table));
      ({ through } = await packed(snapshot, table, null, 30_000));
    }
    await database.run('CREATE TABLE parts_c PARTITION OF parts FOR VALUES FROM (10000) TO (20000)');
    await using later = await snapshotOf(table);
    expect(await later.pack?.(table, through, FIRST, 30_000, signal)).toBe('moved');
  });

  test('cannot go on where the table was rewritten, nor from a key', async () => {
    const table = await installed(MIXED);
    let through: Tuple | null = null;
    {
      await using snapshot = await snapshotOf(table);
      ({ through } = await packed(snapshot, table, null, 10_000));
      expect(through).not.toBeNull();
      const [row] = (await packed(snapshot, table, null, 10_000)).pack.rows();
      expect(await snapshot.pack?.(table, keyTuple(row as Tuple, table.key), FIRST, 10_000, signal)).toBe('moved');
    }
    await database.run('VACUUM FULL mixed');
    await using later = await snapshotOf(table);
    expect(await later.pack?.(table, through, FIRST, 10_000, signal)).toBe('moved');
  });

  test('a table that is read cannot be truncated, and one that is gone is said to be', async () => {
    const table = await installed(MIXED);
    {
      await using snapshot = await snapshotOf(table);
      await expect(database.run(`SET lock_timeout = '50ms'; TRUNCATE mixed`)).rejects.toMatchObject({ code: '55P03' });
      expect(byKey(table, await allPacked(snapshot, table, 1_000_000)).size).toBe(3733);
    }
    await database.run('TRUNCATE mixed');
    {
      await using snapshot = await snapshotOf(table);
      expect((await packed(snapshot, table, null, 1000)).through).toBeNull();
    }
    await database.run('DROP TABLE mixed');
    await using snapshot = await snapshotOf(table);
    expect(await snapshot.describe(table.table, signal)).toBeNull();
  });
});
