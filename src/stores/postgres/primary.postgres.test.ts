import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ChangesReader, fold, rowsIn } from '../../../test/changes-reader.ts';
import { createDatabase, type TestDatabase } from '../../../test/postgres.ts';
import type { Bookmark } from '../../journal/journal.ts';
import type { TransactionId } from '../../model/change.ts';
import type { TableName, TableSchema } from '../../model/schema.ts';
import { keyTuple } from '../../model/tuple.ts';
import { describePrimary, type NeutralRow, type PrimaryFixture } from '../../tracking/primary.contract.ts';
import type { Primary } from '../../tracking/primary.ts';
import type { Client } from 'pg';
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

async function open(include: readonly string[] = ['public.*']): Promise<Primary> {
  const primary = await openPostgresPrimary({
    url: database.url,
    dataSet: database.name,
    selection: { include, exclude: [] },
    journaled: async (ids) => new Set(ids.filter((id) => journaled.has(id))),
  });
  opened.push(primary);
  return primary;
}
const journaled = new Set<TransactionId>();

function follow(primary: Primary, from: Bookmark): ChangesReader {
  const reader = new ChangesReader(primary, from);
  readers.push(reader);
  return reader;
}

async function install(primary: Primary): Promise<{ schemas: readonly TableSchema[]; bookmark: Bookmark }> {
  const { tables } = await primary.describe(signal);
  return { schemas: tables, bookmark: await primary.install(tables, signal) };
}

describePrimary('postgres', async (): Promise<PrimaryFixture> => {
  const own = await createDatabase();
  await own.run(`CREATE TABLE public.things (id integer PRIMARY KEY, label text);
    CREATE TABLE public.links (a integer, b integer, note text, PRIMARY KEY (a, b))`);
  const client = await own.client();
  const selection = { include: ['public.*'], exclude: [] };
  return {
    open: () => openPostgresPrimary({ url: own.url, dataSet: own.name, selection, journaled: async () => new Set() }),
    things: 'public.things' as TableName,
    links: 'public.links' as TableName,
    write: async (rows) => {
      await client.query('BEGIN');
      for (const row of rows) await writeNeutral(client, row);
      await client.query('COMMIT');
    },
    traces: async () => {
      const found = await own.run(`SELECT pubname AS name FROM pg_publication
        UNION ALL SELECT slot_name FROM pg_replication_slots WHERE database = current_database()`);
      return found.map(({ name }) => String(name));
    },
    [Symbol.asyncDispose]: () => own[Symbol.asyncDispose](),
  };
});

async function writeNeutral(client: Client, { table, key, text }: NeutralRow): Promise<void> {
  const [names, column] = table === 'things' ? [['id'], 'label'] : [['a', 'b'], 'note'];
  if (text === null) {
    await client.query(`DELETE FROM public.${table} WHERE ${names.map((name, i) => `${name} = $${i + 1}`).join(' AND ')}`, [...key]);
    return;
  }
  const values = [...names, column].map((_, i) => `$${i + 1}`).join(', ');
  const upsert = `ON CONFLICT (${names.join(', ')}) DO UPDATE SET ${column} = excluded.${column}`;
  await client.query(`INSERT INTO public.${table} VALUES (${values}) ${upsert}`, [...key, text]);
}

describe('changes', () => {
  test('insert, update, key change, delete and truncate come in order, and only the columns that changed of large ones', async () => {
    await database.run(`CREATE TABLE public.item (id int PRIMARY KEY, name text, large text);
      ALTER TABLE public.item ALTER large SET STORAGE EXTERNAL;
      INSERT INTO public.item VALUES (1, 'one', repeat('x', 10000))`);
    const primary = await open();
    const { schemas, bookmark } = await install(primary);
    const reader = follow(primary, bookmark);
    await database.run(`INSERT INTO public.item VALUES (2, 'two', NULL)`);
    await database.run(`UPDATE public.item SET name = 'ONE' WHERE id = 1`);
    await database.run('UPDATE public.item SET id = 10 WHERE id = 1');
    await database.run('DELETE FROM public.item WHERE id = 2');
    await database.run('TRUNCATE public.item');
    await reader.reached(await primary.now(signal));
    const schema = schemas[0] as TableSchema;
    const shown = reader.of('public.item').map((change) => {
      if (change.kind === 'truncate') return 'truncate';
      if (change.kind === 'delete') return { delete: primary.values.key(schema, change.key) };
      return { put: primary.values.row(schema, change.row), from: change.oldKey && primary.values.key(schema, change.oldKey) };
    });
    expect(shown).toEqual([
      { put: { id: 2, name: 'two', large: null }, from: null },
      { put: { id: 1, name: 'ONE' }, from: null },
      { put: { id: 10, name: 'ONE' }, from: { id: 1 } },
      { delete: { id: 2 } },
      'truncate',
    ]);
  });

  test('a stopped reader goes on from its bookmark without loss or repetition', async () => {
    await database.run('CREATE TABLE public.item (id int PRIMARY KEY)');
    const primary = await open();
    let { bookmark } = await install(primary);
    const seen: number[] = [];
    for (let round = 0; round < 3; round++) {
      const again = round === 0 ? primary : await open();
      const reader = follow(again, bookmark);
      for (let i = 0; i < 20; i++) await database.run('INSERT INTO public.item VALUES ($1)', [round * 100 + i]);
      await reader.reached(await again.now(signal));
      await database.run('INSERT INTO public.item VALUES ($1)', [round * 100 + 20]); // perhaps read, perhaps not
      await reader.stop();
      seen.push(...reader.of('public.item').map((change) => (change.kind === 'put' ? change.row.readInt32BE(6) : Number.NaN)));
      bookmark = reader.head;
    }
    const reader = follow(await open(), bookmark);
    await reader.reached(await primary.now(signal));
    seen.push(...reader.of('public.item').map((change) => (change.kind === 'put' ? change.row.readInt32BE(6) : Number.NaN)));
    expect(seen).toEqual([0, 1, 2].flatMap((round) => Array.from({ length: 21 }, (_, i) => round * 100 + i)));
  });

  test('a snapshot is exactly the changes it says it includes, while eight writers go on', async () => {
    await database.run(`CREATE TABLE public.account (id int PRIMARY KEY, balance int, note text);
      INSERT INTO public.account SELECT i, 0, repeat('n', 50) FROM generate_series(1, 500) i`);
    const primary = await open();
    const { schemas, bookmark } = await install(primary);
    const schema = schemas[0] as TableSchema;
    const reader = follow(primary, bookmark);
    const start = await primary.snapshot(bookmark.at, signal);
    const initial = await rowsIn(start, schema);
    await reader.reached(start.end);
    const writing = new AbortController();
    const writers = Array.from({ length: 8 }, async (_, writer) => {
      const client = await database.client();
      for (let i = 0; !writing.signal.aborted; i++) await write(client, writer, i);
    });
    for (let round = 0; round < 12; round++) {
      const covering = reader.head.at;
      const snapshot = await primary.snapshot(covering, signal);
      const rows = await rowsIn(snapshot, schema, { rows: 90, bytes: 4000 });
      await reader.reached(snapshot.end);
      const all = reader.of('public.account');
      expect(all.filter(({ ref }) => ref.at <= covering).every(({ ref }) => snapshot.includes(ref))).toBe(true);
      expect(all.filter(({ ref }) => snapshot.includes(ref)).every(({ ref }) => ref.at <= snapshot.end)).toBe(true);
      const folded = fold(
        schema,
        new Map(initial),
        all.filter(({ ref }) => !start.includes(ref) && snapshot.includes(ref)),
      );
      expect(folded.size).toBe(rows.size);
      for (const [identity, row] of rows) expect(folded.get(identity)?.equals(row)).toBe(true);
      const keys = [...rows.values()].slice(0, 40).map((row) => keyTuple(row, schema.key));
      expect(await snapshot.rowsByKey(schema, keys, signal)).toHaveLength(keys.length);
      await snapshot[Symbol.asyncDispose]();
    }
    writing.abort();
    await Promise.all(writers);
    await start[Symbol.asyncDispose]();
    expect(reader.failure).toBeNull();
  });
});

async function write(client: Client, writer: number, i: number): Promise<void> {
  const id = 1 + ((writer * 7919 + i * 31) % 500);
  await client.query(`BEGIN; UPDATE public.account SET balance = balance + 1 WHERE id = ${id}; SAVEPOINT s;
    INSERT INTO public.account VALUES (${1000 + writer * 100_000 + i}, ${i}, NULL); RELEASE s;
    DELETE FROM public.account WHERE id = ${1000 + writer * 100_000 + i - 20}; COMMIT`);
}
