import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ChangesReader } from '../../../test/changes-reader.ts';
import { createDatabase, startServer, type TestDatabase } from '../../../test/postgres.ts';
import type { Bookmark } from '../../journal/journal.ts';
import type { ForeshadowError } from '../../model/errors.ts';
import type { TableName, TableSchema } from '../../model/schema.ts';
import type { Selection } from '../../model/selection.ts';
import type { Primary } from '../../tracking/primary.ts';
import { installedName } from './installation.ts';
import { openPostgresPrimary } from './primary.ts';

const signal = new AbortController().signal;
let database: TestDatabase;
const opened: AsyncDisposable[] = [];
const readers: ChangesReader[] = [];

beforeEach(async () => {
  database = await createDatabase();
});
afterEach(async () => {
  for (const reader of readers.splice(0)) await reader.stop();
  for (const each of opened.splice(0)) await each[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
});

async function open(url = database.url, lockTimeoutMs = 10_000, more: Partial<Selection> = {}): Promise<Primary> {
  const selection = { include: ['public.*'], exclude: [], ...more };
  const primary = await openPostgresPrimary({
    url,
    dataSet: database.name,
    selection,
    journaled: async () => new Set(),
    lockTimeoutMs,
  });
  opened.push(primary);
  return primary;
}

async function install(primary: Primary): Promise<{ schemas: readonly TableSchema[]; bookmark: Bookmark }> {
  const { tables } = await primary.describe(signal);
  return { schemas: tables, bookmark: await primary.install(tables, signal) };
}

function follow(primary: Primary, from: Bookmark): ChangesReader {
  const reader = new ChangesReader(primary, from);
  readers.push(reader);
  return reader;
}

async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 5));
}

async function shownChanges(primary: Primary, schemas: readonly TableSchema[], reader: ChangesReader): Promise<unknown[]> {
  await reader.reached(await primary.now(signal));
  return schemas.flatMap((schema) =>
    reader.of(schema.table).map((change) => {
      if (change.kind === 'truncate') return 'truncate';
      if (change.kind === 'delete') return { delete: primary.values.key(schema, change.key) };
      const row = primary.values.row(schema, change.row);
      return change.oldKey === null ? row : { ...row, was: primary.values.key(schema, change.oldKey) };
    }),
  );
}

describe('installing', () => {
  test.each([
    { insertOnly: false, followed: ['full_only', 'keyed'], refused: ['keyless', 'nothing', 'part'] },
    { insertOnly: true, followed: ['full_only', 'keyed', 'keyless', 'nothing', 'part'], refused: [] },
  ])('never makes an application statement fail, before, during or after (insertOnly: $insertOnly)', async (asked) => {
    await database.run(`CREATE TABLE public.keyed (id int PRIMARY KEY, n int);
      CREATE TABLE public.keyless (id int, n int);
      CREATE TABLE public.full_only (id int, n int); ALTER TABLE public.full_only REPLICA IDENTITY FULL;
      CREATE TABLE public.nothing (id int PRIMARY KEY, n int); ALTER TABLE public.nothing REPLICA IDENTITY NOTHING;
      CREATE TABLE public.part (id int PRIMARY KEY, n int) PARTITION BY LIST (id);
      CREATE TABLE public.part_1 PARTITION OF public.part FOR VALUES IN (1);
      CREATE TABLE public.part_2 PARTITION OF public.part DEFAULT; ALTER TABLE public.part_2 REPLICA IDENTITY NOTHING;`);
    const tables = ['keyed', 'keyless', 'full_only', 'nothing', 'part'];
    const client = await database.client();
    const working = new AbortController();
    let statements = 0;
    const application = (async () => {
      while (!working.signal.aborted) {
        for (const table of tables) {
          await client.query(`INSERT INTO public.${table} VALUES (1, 1), (2, 2)`);
          await client.query(`UPDATE public.${table} SET n = n + 1`);
          await client.query(`DELETE FROM public.${table}`);
          statements += 3;
        }
      }
    })();
    const primary = await open(undefined, undefined, asked.insertOnly ? { insertOnly: [{ pattern: '*', asked: true }] } : {});
    const { bookmark, schemas } = await install(primary);
    expect(schemas.map(({ table }) => table)).toEqual(asked.followed.map((name) => `public.${name}`));
    const reader = follow(primary, bookmark);
    const before = statements;
    await until(() => statements >= before + 100);
    await reader.reached(await primary.now(signal));
    await primary.install(schemas, signal);
    await reader.stop();
    await primary.uninstall(signal);
    expect(await database.run('SELECT FROM pg_publication')).toEqual([]);
    const then = statements;
    await until(() => statements >= then + 15);
    working.abort();
    await application;
    const findings = await primary.check(signal);
    const refused = findings.filter(({ code }) => code === 'TABLE_UNIDENTIFIED');
    expect(refused.map(({ subject }) => subject)).toEqual(asked.refused.map((name) => `public.${name}`));
    expect(refused.every(({ remedy, severity }) => remedy !== null && severity === 'error')).toBe(true);
  });

  test('an old open transaction is named, and nothing is left behind', async () => {
    await database.run('CREATE TABLE public.item (id int PRIMARY KEY)');
    const client = await database.client();
    await client.query('BEGIN; INSERT INTO public.item VALUES (1)');
    const [{ pid }] = (await client.query('SELECT pg_backend_pid() AS pid')).rows as [{ pid: number }];
    const primary = await open(database.url, 300);
    const error: unknown = await install(primary).catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: 'PRIMARY_SETTING', retry: 'later' });
    expect((error as ForeshadowError).message).toContain(`pid ${pid}`);
    expect(await primary.installed(signal)).toBe(false);
    expect(await database.run('SELECT FROM pg_publication')).toEqual([]);
    await client.query('COMMIT');
    await install(primary);
    expect(await primary.installed(signal)).toBe(true);
  });

  test('an ordinary role is told what it lacks, statement by statement, and needs no more than that', async () => {
    const user = `${database.name}_user`;
    await database.run(`CREATE TABLE public.item (id int PRIMARY KEY); CREATE ROLE ${user} LOGIN PASSWORD 'pw'; CREATE ROLE ${user}_owner;
      ALTER TABLE public.item OWNER TO ${user}_owner`);
    try {
      const primary = await open(database.urlAs(user, 'pw'));
      const findings = (await primary.check(signal)).filter(({ severity }) => severity === 'error');
      expect(findings.map(({ code }) => code)).toEqual(Array(4).fill('PRIMARY_ACCESS'));
      await expect(install(primary)).rejects.toMatchObject({ code: 'PRIMARY_ACCESS' });
      await database.run(
        `ALTER ROLE ${user} REPLICATION; GRANT CREATE ON DATABASE ${database.name} TO ${user}; GRANT ${user}_owner TO ${user}`,
      );
      expect((await primary.check(signal)).filter(({ severity }) => severity === 'error')).toEqual([]);
      const { schemas, bookmark } = await install(primary);
      const reader = follow(primary, bookmark);
      await database.run('INSERT INTO public.item VALUES (5)');
      expect(await shownChanges(primary, schemas, reader)).toEqual([{ id: 5 }]);
      {
        await using snapshot = await primary.snapshot(reader.head.at, signal);
        expect((await snapshot.rows(schemas[0] as TableSchema, null, { rows: 10, bytes: 1000 }, signal)).rows).toHaveLength(1);
      }
      await database.run('ALTER TABLE public.item ENABLE ROW LEVEL SECURITY; ALTER TABLE public.item FORCE ROW LEVEL SECURITY');
      await using veiled = await primary.snapshot(reader.head.at, signal);
      const read = veiled.rows(schemas[0] as TableSchema, null, { rows: 10, bytes: 1000 }, signal);
      await expect(read).rejects.toMatchObject({ code: 'PRIMARY_ACCESS' });
      expect((await primary.check(signal)).find(({ severity }) => severity === 'error')?.remedy).toContain('BYPASSRLS');
      await reader.stop();
      await primary.uninstall(signal);
    } finally {
      await database.run(`DROP OWNED BY ${user}_owner, ${user}; DROP ROLE ${user}, ${user}_owner`);
    }
  });

  test('a server without logical log is refused with the remedy', async () => {
    await using server = await startServer({ wal_level: 'replica' });
    await using other = await createDatabase({ server: server.url });
    await other.run('CREATE TABLE public.item (id int PRIMARY KEY)');
    const primary = await open(other.url);
    const found = (await primary.check(signal)).find(({ code, severity }) => code === 'PRIMARY_SETTING' && severity === 'error');
    expect(found?.remedy).toContain('wal_level = logical');
    await expect(install(primary)).rejects.toMatchObject({ code: 'PRIMARY_SETTING' });
    await primary[Symbol.asyncDispose]();
  });

  test('names of data sets that cannot be names of slots do not collide', () => {
    expect(installedName('shop')).toBe('foreshadow_shop');
    const names = ['Shop', 'shop-1', 'shop.1', 'x'.repeat(80), `${'x'.repeat(80)}y`, 'läden'].map(installedName);
    expect(new Set(names).size).toBe(names.length);
    for (const name of names) expect(name).toMatch(/^[a-z0-9_]{1,63}$/);
  });
});

async function gapAfter(damage: (slot: string) => Promise<void>): Promise<void> {
  await database.run('CREATE TABLE public.item (id int PRIMARY KEY); CREATE TABLE public.other (id int PRIMARY KEY)');
  const primary = await open();
  const { bookmark, schemas } = await install(primary);
  const first = follow(primary, bookmark);
  await database.run('INSERT INTO public.item VALUES (1)');
  await first.reached(await primary.now(signal));
  await first.stop();
  const busy = 'SELECT FROM pg_replication_slots WHERE slot_name = $1 AND active';
  while ((await database.run(busy, [installedName(database.name)])).length > 0) await new Promise((resolve) => setTimeout(resolve, 5));
  await damage(installedName(database.name));
  const again = await open();
  const second = follow(again, first.head);
  await database.run('INSERT INTO public.item VALUES (3)').catch(() => undefined);
  while (second.events.length === 0) await second.reached(await again.now(signal));
  expect(second.events.map(({ kind, table }) => `${kind} ${table}`)).toEqual(['gap public.item', 'gap public.other']);
  await database.run('INSERT INTO public.item VALUES (4)');
  expect(await shownChanges(again, schemas, second)).toContainEqual({ id: 4 });
  const third = follow(again, (await second.stop(), second.head));
  await third.reached(await again.now(signal));
  expect(third.events).toEqual([]);
}

describe('what is no longer there is a gap', () => {
  test('a slot that was dropped', () =>
    gapAfter(async (slot) => {
      await database.run(`SELECT pg_drop_replication_slot('${slot}'); INSERT INTO public.item VALUES (2)`);
    }));

  test('a slot that somebody made anew', () =>
    gapAfter(async (slot) => {
      await database.run(`SELECT pg_drop_replication_slot('${slot}'); INSERT INTO public.item VALUES (2)`);
      await database.run(`SELECT pg_create_logical_replication_slot('${slot}', 'pgoutput')`);
    }));

  test('a slot that was moved on', () =>
    gapAfter(async (slot) => {
      await database.run('INSERT INTO public.item VALUES (2)');
      await database.run(`SELECT pg_replication_slot_advance('${slot}', pg_current_wal_lsn())`);
    }));

  test('a primary put back to an earlier state: its mark is another', () =>
    gapAfter(async (slot) => {
      await database.run(
        `COMMENT ON PUBLICATION ${slot} IS 'Foreshadow: marks 00, base 0. Do not edit: it tells a known history from another.'`,
      );
    }));
});

describe('the log', () => {
  test('an idle data set lets go of it while others write', async () => {
    await database.run('CREATE TABLE public.item (id int PRIMARY KEY); CREATE SCHEMA else_where; CREATE TABLE else_where.item (id int)');
    const primary = await open();
    const { bookmark } = await install(primary);
    const reader = follow(primary, bookmark);
    await reader.reached(await primary.now(signal));
    const [{ lsn }] = (await database.run(`INSERT INTO else_where.item SELECT generate_series(1, 10000);
      SELECT pg_current_wal_lsn()::text AS lsn`)) as [{ lsn: string }];
    const freed = `SELECT confirmed_flush_lsn >= '${lsn}' AS freed FROM pg_replication_slots WHERE slot_name = $1`;
    for (let i = 0; ; i++) {
      const [state] = await database.run(freed, [installedName(database.name)]);
      if (state?.['freed'] === true) break;
      if (i === 200) throw new Error('the slot still holds the log');
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    expect(reader.batches).toBeLessThan(10);
  });

  test('what is not acknowledged is kept', async () => {
    await database.run('CREATE TABLE public.item (id int PRIMARY KEY)');
    const primary = await open();
    const { bookmark } = await install(primary);
    const stop = new AbortController();
    const changes = primary.changes(bookmark, stop.signal)[Symbol.asyncIterator]();
    await database.run('INSERT INTO public.item VALUES (1)');
    const first = await changes.next();
    expect(first.value?.batch.blocks).toHaveLength(1);
    stop.abort();
    expect((await changes.next()).done).toBe(true);
    const again = await primary.install((await primary.describe(signal)).tables, signal);
    expect(again.at).toBe(bookmark.at);
  });
});

describe('tables of all kinds', () => {
  test('partitions, full identity, identity by index, large values that do not change', async () => {
    const large = `repeat('large', 4000)`;
    await database.run(`
      CREATE TABLE public.a_part (id int PRIMARY KEY, note text) PARTITION BY RANGE (id);
      CREATE TABLE public.a_part_1 PARTITION OF public.a_part FOR VALUES FROM (0) TO (10);
      CREATE TABLE public.a_part_2 (note text, id int NOT NULL); ALTER TABLE public.a_part ATTACH PARTITION public.a_part_2 FOR VALUES FROM (10) TO (20);
      CREATE TABLE public.b_full (id int PRIMARY KEY, note text, large text); ALTER TABLE public.b_full REPLICA IDENTITY FULL;
      CREATE TABLE public.c_index (a int, b int NOT NULL, c int NOT NULL, PRIMARY KEY (a)); CREATE UNIQUE INDEX c_b ON public.c_index (c, b);
      ALTER TABLE public.c_index REPLICA IDENTITY USING INDEX c_b;
      ALTER TABLE public.b_full ALTER large SET STORAGE EXTERNAL;
      INSERT INTO public.b_full VALUES (1, 'x', ${large}); INSERT INTO public.c_index VALUES (1, 2, 3)`);
    const primary = await open();
    const { schemas, bookmark } = await install(primary);
    const reader = follow(primary, bookmark);
    await database.run(`INSERT INTO public.a_part VALUES (1, 'one'), (11, 'eleven'); UPDATE public.a_part SET id = 12 WHERE id = 1`);
    await database.run(`UPDATE public.b_full SET note = 'y'; UPDATE public.b_full SET id = 2; DELETE FROM public.b_full`);
    await database.run(`UPDATE public.c_index SET a = 5; UPDATE public.c_index SET b = 6; DELETE FROM public.c_index`);
    const text = 'large'.repeat(4000);
    expect(await shownChanges(primary, schemas, reader)).toEqual([
      { id: 1, note: 'one' },
      { id: 11, note: 'eleven' },
      { delete: { id: 1 } }, // a row that moves to another partition
      { id: 12, note: 'one' },
      { id: 1, note: 'y', large: text },
      { id: 2, note: 'y', large: text, was: { id: 1 } },
      { delete: { id: 2 } },
      { a: 5, b: 2, c: 3 },
      { a: 5, b: 6, c: 3, was: { c: 3, b: 2 } },
      { delete: { c: 3, b: 6 } },
    ]);
  });

  test('a change of shape is an event before the rows of the new shape, once; not one that changed nothing', async () => {
    await database.run('CREATE TABLE public.item (id int PRIMARY KEY, a int)');
    const primary = await open();
    const { schemas, bookmark } = await install(primary);
    const reader = follow(primary, bookmark);
    await database.run('INSERT INTO public.item VALUES (1, 1)');
    await database.run('CREATE INDEX ON public.item (a); ALTER TABLE public.item ALTER a SET DEFAULT 4');
    await database.run('INSERT INTO public.item VALUES (2, 2)');
    await reader.reached(await primary.now(signal));
    expect(reader.events).toEqual([]);
    await database.run('ALTER TABLE public.item ADD b text');
    await database.run(`INSERT INTO public.item VALUES (3, 3, 'x'), (4, 4, 'y')`);
    await reader.reached(await primary.now(signal));
    expect(reader.events.map(({ kind, table }) => `${kind} ${table}`)).toEqual(['schema-changed public.item']);
    const third = reader.of('public.item')[2];
    const at = reader.events[0]?.at ?? '';
    expect(at > (reader.of('public.item')[1]?.ref.at ?? '') && at <= (third?.ref.at ?? '')).toBe(true);
    const after = (await primary.describe(signal)).tables[0] as TableSchema;
    expect(after.shape).not.toBe(schemas[0]?.shape);
    expect(third?.kind === 'put' && primary.values.row(after, third.row)).toEqual({ id: 3, a: 3, b: 'x' });
    await using snapshot = await primary.snapshot(reader.head.at, signal);
    expect((await snapshot.describe('public.item' as TableName, signal))?.shape).toBe(after.shape);
    expect(await snapshot.describe('public.absent' as TableName, signal)).toBeNull();
  });

  test('a huge transaction comes in pieces that count together', async () => {
    await database.run('CREATE TABLE public.item (id int PRIMARY KEY, note text); CREATE TABLE public.other (id int PRIMARY KEY)');
    const primary = await open();
    const { bookmark } = await install(primary);
    await database.run(`INSERT INTO public.other VALUES (1)`);
    await database.run(
      `BEGIN; INSERT INTO public.item SELECT i, repeat('x', 200) FROM generate_series(1, 60000) i; INSERT INTO public.other VALUES (2); COMMIT`,
    );
    await database.run(`INSERT INTO public.other VALUES (3)`);
    const reader = follow(primary, bookmark);
    await reader.reached(await primary.now(signal));
    expect(reader.pieces).toBeGreaterThan(1);
    expect(reader.of('public.item')).toHaveLength(60_000);
    expect(reader.of('public.other')).toHaveLength(3);
  });
});
