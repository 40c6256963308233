import { array, constantFrom, nat, sample, tuple } from 'fast-check';
import type { Client } from 'pg';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ChangesReader, fold, rowsIn } from '../../../test/changes-reader.ts';
import { createDatabase, type TestDatabase } from '../../../test/postgres.ts';
import type { Bookmark } from '../../journal/journal.ts';
import type { TableSchema } from '../../model/schema.ts';
import type { Primary } from '../../tracking/primary.ts';
import { openPostgresPrimary } from './primary.ts';

/** Transactions that the server sends while they are in progress, because they do not fit its memory for decoding. */

const signal = new AbortController().signal;
let database: TestDatabase;
let primary: Primary;
const readers: ChangesReader[] = [];

beforeEach(async () => {
  database = await createDatabase();
  await database.run(`ALTER DATABASE ${database.name} SET logical_decoding_work_mem = '64kB'`);
  await database.run(`CREATE TABLE public.item (id int PRIMARY KEY, name text, large text);
    ALTER TABLE public.item ALTER large SET STORAGE EXTERNAL;
    CREATE TABLE public.other (id int PRIMARY KEY, note text)`);
  const selection = { include: ['public.*'], exclude: [] };
  primary = await openPostgresPrimary({ url: database.url, dataSet: database.name, selection, journaled: async () => new Set() });
});
afterEach(async () => {
  for (const reader of readers.splice(0)) await reader.stop();
  await primary[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
});

async function install(): Promise<{ schemas: readonly TableSchema[]; bookmark: Bookmark }> {
  const { tables } = await primary.describe(signal);
  return { schemas: tables, bookmark: await primary.install(tables, signal) };
}

function follow(from: Bookmark): ChangesReader {
  const reader = new ChangesReader(primary, from);
  readers.push(reader);
  return reader;
}

/** What was streamed, folded, is what the tables hold. */
async function expectEqual(reader: ChangesReader, schemas: readonly TableSchema[]): Promise<void> {
  await reader.reached(await primary.now(signal));
  await using snapshot = await primary.snapshot(reader.head.at, signal);
  for (const schema of schemas) {
    const rows = await rowsIn(snapshot, schema);
    const folded = fold(schema, new Map(), reader.of(schema.table));
    expect(folded.size, schema.table).toBe(rows.size);
    for (const [identity, row] of rows) expect(folded.get(identity)?.equals(row), schema.table).toBe(true);
  }
}

async function pieces(reader: ChangesReader): Promise<void> {
  while (reader.pieces === 0) await new Promise((resolve) => setTimeout(resolve, 5));
}

async function insert(client: Client, from: number, to: number, table = 'item'): Promise<void> {
  const values = table === 'item' ? `n, 'name ' || n, repeat('x', 250)` : `n, repeat('y', 250)`;
  await client.query(`INSERT INTO public.${table} SELECT ${values} FROM generate_series(${from}, ${to}) n`);
}

describe('transactions in progress', () => {
  test('several come interleaved with each other and with small ones, and count when they commit', async () => {
    const { schemas, bookmark } = await install();
    const reader = follow(bookmark);
    const [one, two, three] = await Promise.all([database.client(), database.client(), database.client()]);
    await one.query('BEGIN');
    await two.query('BEGIN');
    for (let round = 0; round < 4; round++) {
      await insert(one, 1 + round * 2000, 2000 + round * 2000);
      await insert(two, 100_001 + round * 2000, 102_000 + round * 2000);
      await two.query(`UPDATE public.item SET name = 'again' WHERE id BETWEEN ${100_001 + round * 2000} AND ${100_500 + round * 2000}`);
      await three.query(`INSERT INTO public.item VALUES (${200_000 + round}, 'small', NULL)`);
    }
    await reader.reached(await primary.now(signal));
    expect(reader.of('public.item')).toHaveLength(4);
    await two.query('COMMIT');
    await reader.reached(await primary.now(signal));
    expect(reader.of('public.item')).toHaveLength(4 + 4 * 2500);
    await one.query('DELETE FROM public.item WHERE id % 3 = 0; COMMIT');
    await expectEqual(reader, schemas);
    const ids = new Set(reader.of('public.item').map(({ ref }) => ref.id));
    expect(ids.size).toBe(6);
    expect(reader.streamed).toBeGreaterThan(0);
    expect(reader.events).toEqual([]);
  });

  test('of subtransactions that were rolled back nothing counts, whether they were large or small', async () => {
    const { schemas, bookmark } = await install();
    const reader = follow(bookmark);
    const client = await database.client();
    await client.query('BEGIN');
    await insert(client, 1, 1000);
    for (let round = 0; round < 20; round++) {
      await client.query('SAVEPOINT outer_one');
      await client.query(`UPDATE public.item SET name = 'outer ${round}' WHERE id <= 300`);
      await client.query('SAVEPOINT inner_one');
      await insert(client, 10_000 + round * 1000, 10_900 + round * 1000);
      if (round % 3 === 0) await client.query('ROLLBACK TO inner_one');
      if (round % 3 === 1) await client.query('RELEASE inner_one');
      await insert(client, 50_000 + round * 10, 50_005 + round * 10, 'other');
      await client.query(round % 4 === 0 ? 'ROLLBACK TO outer_one' : 'RELEASE outer_one');
      await client.query(`DELETE FROM public.item WHERE id = ${round + 1}`);
    }
    // Rolled back as a whole, after most of it was sent.
    await client.query('SAVEPOINT last_one');
    await insert(client, 100_000, 130_000);
    await pieces(reader);
    await client.query('TRUNCATE public.other');
    await client.query('ROLLBACK TO last_one');
    await client.query('COMMIT');
    await expectEqual(reader, schemas);
    expect(reader.dropped).toBeGreaterThan(0);
    expect(new Set(reader.of('public.item').map(({ ref }) => ref.id)).size).toBe(1);
  });

  test('one that is rolled back leaves nothing, and its alteration of a table is none', async () => {
    const { schemas, bookmark } = await install();
    const reader = follow(bookmark);
    const client = await database.client();
    await client.query('BEGIN');
    await insert(client, 1, 20_000);
    await client.query('ALTER TABLE public.item ADD extra int DEFAULT 7');
    await client.query(`INSERT INTO public.item SELECT n, 'with extra', NULL, n FROM generate_series(20001, 30000) n`);
    // The newer servers send nothing of what they know to have been rolled back.
    await pieces(reader);
    await client.query('ROLLBACK');
    await insert(client, 5, 10);
    await expectEqual(reader, schemas);
    expect(reader.events).toEqual([]);
    expect(reader.of('public.item')).toHaveLength(6);
    // The same again, and this time it stands.
    await client.query('BEGIN');
    await client.query('ALTER TABLE public.item ADD extra int DEFAULT 7');
    await client.query(`INSERT INTO public.item SELECT n, 'with extra', NULL, n FROM generate_series(20001, 30000) n`);
    await client.query('COMMIT');
    await insert(client, 11, 12, 'other');
    await client.query('DELETE FROM public.item WHERE id = 20001');
    await reader.reached(await primary.now(signal));
    // Said by the transaction itself, and perhaps again once it has committed and the catalog shows it.
    expect(new Set(reader.events.map(({ kind, table }) => `${kind} ${table}`))).toEqual(new Set(['schema-changed public.item']));
    expect(reader.of('public.item').at(-1)).toMatchObject({ kind: 'delete' });
  });

  test('a reader that was stopped amid them goes on from its bookmark without loss or repetition', async () => {
    const { schemas, bookmark } = await install();
    const reader = follow(bookmark);
    const client = await database.client();
    await client.query('BEGIN');
    await insert(client, 1, 30_000);
    await database.run(`INSERT INTO public.other VALUES (1, 'before')`);
    await reader.reached(await primary.now(signal));
    await pieces(reader);
    await reader.stop();
    await insert(client, 30_001, 40_000);
    const again = follow(reader.head);
    await client.query('COMMIT');
    await again.reached(await primary.now(signal));
    expect(again.of('public.item')).toHaveLength(40_000);
    expect(again.of('public.other')).toEqual([]);
    expect(reader.of('public.item')).toEqual([]);
    await expectEqual(
      again,
      schemas.filter(({ table }) => table === 'public.item'),
    );
  });

  test('one that is prepared counts when that is committed, and as one', async () => {
    const { schemas, bookmark } = await install();
    const reader = follow(bookmark);
    const client = await database.client();
    for (const end of ['COMMIT', 'ROLLBACK']) {
      const from = end === 'COMMIT' ? 1 : 100_000;
      await client.query('BEGIN');
      await insert(client, from, from + 20_000);
      await client.query(`PREPARE TRANSACTION '${database.name}'`);
      await database.run(`INSERT INTO public.other VALUES (${from}, 'meanwhile')`);
      await client.query(`${end} PREPARED '${database.name}'`);
    }
    await expectEqual(reader, schemas);
    expect(new Set(reader.of('public.item').map(({ ref }) => ref.id)).size).toBe(1);
    expect(reader.of('public.other').map(({ ref }) => ref.at > (reader.of('public.item')[0]?.ref.at ?? ''))).toEqual([false, true]);
  });

  test('whatever several of them do, with savepoints within savepoints, what is streamed is what the tables hold', async () => {
    const { schemas, bookmark } = await install();
    const reader = follow(bookmark);
    const clients = await Promise.all([0, 1, 2].map(async (range) => new Writer(await database.client(), range * 1_000_000)));
    const steps = array(tuple(nat(2), constantFrom(...MOVES), nat(99)), { minLength: 60, maxLength: 90 });
    for (const run of sample(steps, 3)) {
      for (const [client, move, size] of run) await clients[client]?.[move](size);
      for (const client of clients) await client.commit();
    }
    await expectEqual(reader, schemas);
    expect(reader.streamed).toBeGreaterThan(0);
    expect(reader.events).toEqual([]);
  });
});

const MOVES = ['insert', 'insert', 'update', 'remove', 'savepoint', 'savepoint', 'release', 'rollBackTo', 'commit', 'rollBack'] as const;

/** A client that writes to rows of its own, in transactions of some statements each. */
class Writer {
  readonly #client: Client;
  #next: number;
  #open = false;
  readonly #savepoints: string[] = [];

  constructor(client: Client, from: number) {
    this.#client = client;
    this.#next = from;
  }

  async insert(size: number): Promise<void> {
    await this.#begin();
    const to = this.#next + size * 30;
    await insert(this.#client, this.#next + 1, to, size % 5 === 0 ? 'other' : 'item');
    this.#next = to;
  }

  async update(size: number): Promise<void> {
    await this.#begin();
    const id = size % 7 === 0 ? ', id = id + 500000' : '';
    await this.#client.query(`UPDATE public.item SET name = 'u${size}'${id} WHERE id BETWEEN ${this.#next - size * 20} AND ${this.#next}`);
  }

  async remove(size: number): Promise<void> {
    await this.#begin();
    await this.#client.query(`DELETE FROM public.item WHERE id BETWEEN ${this.#next - size * 5} AND ${this.#next - size}`);
  }

  async savepoint(size: number): Promise<void> {
    await this.#begin();
    const name = `s${this.#savepoints.length}_${size}`;
    this.#savepoints.push(name);
    await this.#client.query(`SAVEPOINT ${name}`);
  }

  async release(): Promise<void> {
    const name = this.#savepoints.pop();
    if (name !== undefined) await this.#client.query(`RELEASE ${name}`);
  }

  async rollBackTo(size: number): Promise<void> {
    const name = this.#savepoints[size % Math.max(1, this.#savepoints.length)];
    if (name === undefined) return;
    this.#savepoints.length = this.#savepoints.indexOf(name) + 1;
    await this.#client.query(`ROLLBACK TO ${name}`);
  }

  async commit(): Promise<void> {
    await this.#end('COMMIT');
  }

  async rollBack(size: number): Promise<void> {
    await this.#end(size < 50 ? 'ROLLBACK' : 'COMMIT');
  }

  async #begin(): Promise<void> {
    if (!this.#open) await this.#client.query('BEGIN');
    this.#open = true;
  }

  async #end(how: string): Promise<void> {
    if (this.#open) await this.#client.query(how);
    this.#open = false;
    this.#savepoints.length = 0;
  }
}
