import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client } from 'pg';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { parseConfig } from '../src/app/config.ts';
import type { LocalSystem } from '../src/app/local-system.ts';
import { openSystem } from '../src/app/system.ts';
import { type TestDatabase, createDatabase } from './postgres.ts';

const { signal } = new AbortController();
const quiet = (): void => {};

let directory: string;
let primary: TestDatabase;
let shadow: TestDatabase;
let system: LocalSystem;
let log: string[];

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'foreshadow-ddl-'));
  primary = await createDatabase();
  shadow = await createDatabase();
  log = [];
});

afterEach(async () => {
  await system[Symbol.asyncDispose]();
  await primary[Symbol.asyncDispose]();
  await shadow[Symbol.asyncDispose]();
  await rm(directory, { recursive: true, force: true });
});

async function open(policy = ''): Promise<void> {
  const text = `dataSet: ${primary.name}\nprimary: "${primary.url}"\nshadow: "${shadow.url}"\ntables: ["public.*"]\n${policy}`;
  system = await openSystem(parseConfig(text, join(directory, 'foreshadow.yaml'), {}), {
    log: (_level, message, fields) => {
      if (process.env['DDL_LOG'] !== undefined) console.log(Date.now() % 100000, message, JSON.stringify(fields));
      log.push(`${message} ${JSON.stringify(fields)}`);
    },
  });
}

/** Each statement in a transaction of its own: what is sent together is one. */
async function run(...statements: readonly string[]): Promise<void> {
  const client = new Client({ connectionString: primary.url });
  await client.connect();
  for (const sql of statements) await client.query(sql);
  await client.end();
}

/** Takes a capture that must hold every table and agree with the primary. */
async function capture(): Promise<number> {
  const report = await system.capture(quiet, signal);
  expect(report).toMatchObject({ verdict: 'VALID', differences: [] });
  return report.number;
}

async function queried(at: number, sql: string): Promise<readonly unknown[]> {
  const rows: unknown[] = [];
  for await (const slice of system.query(at, sql, signal)) rows.push(...slice.rows);
  return rows;
}

async function diffOf(from: number, to: number): Promise<unknown> {
  return Object.fromEntries((await system.diff(from, to, signal)).tables.map(({ table, ...counts }) => [table, counts]));
}

const copiedAgain = (): string[] => log.filter((line) => /copied again|compared with the primary|resynced|new table/.test(line));

test('captures under writers and DDL hold whole transactions, and values that nobody wrote', async () => {
  await run(
    'CREATE TABLE item (id int PRIMARY KEY, n int, pad text)',
    "INSERT INTO item SELECT n, 100, repeat('x', 200) FROM generate_series(1, 5000) n",
  );
  await open();
  const stop = new AbortController();
  const writing = writeUntil(stop.signal, async (client) => {
    const [from, to] = [1 + Math.floor(Math.random() * 5000), 1 + Math.floor(Math.random() * 5000)];
    await client.query(`BEGIN; UPDATE item SET n = n - 1 WHERE id = ${from}; UPDATE item SET n = n + 1 WHERE id = ${to}; COMMIT`);
  });
  let made = 0;
  const altering = writeUntil(stop.signal, async (client) => {
    if (made % 3 === 2) await client.query(`ALTER TABLE item DROP COLUMN x${made}`);
    else await client.query(`ALTER TABLE item ADD COLUMN x${made + 1} int DEFAULT ${made + 1}`);
    made++;
    await new Promise((resolve) => setTimeout(resolve, 1500));
  });
  try {
    // The first while the table is copied, the others while it is followed.
    for (let number = 1; number <= 4; number++) {
      const report = await system.capture(quiet, signal);
      expect(report.differences).toEqual([]);
      if ((report.coverage?.skipped ?? []).some(({ reason }) => !reason.includes('shape changed'))) continue;
      expect(await queried(number, 'SELECT count(*), sum(n) FROM item')).toEqual([[5000, 500_000]]);
      const [columns] = (await queried(number, "SELECT to_jsonb(i) - 'n' - 'pad' - 'id' FROM item i LIMIT 1")) as [[string]];
      for (const name of Object.keys(JSON.parse(columns[0]) as object)) {
        expect(await queried(number, `SELECT DISTINCT ${name} FROM item`), name).toEqual([[Number(name.slice(1))]]);
      }
      expect((await system.validate(number, quiet, signal)).verdict).toBe('VALID');
    }
  } finally {
    stop.abort();
    await Promise.all([writing, altering]);
  }
  await capture();
  expect(log.filter((line) => line.includes('copied again'))).toEqual([]);
});

/** Goes on with a statement on a connection of its own. */
async function writeUntil(stopped: AbortSignal, work: (client: Client) => Promise<void>): Promise<void> {
  const client = new Client({ connectionString: primary.url });
  await client.connect();
  while (!stopped.aborted) await work(client);
  await client.end();
}

describe('DDL while running', () => {
  beforeEach(async () => {
    await primary.run(`
      CREATE TABLE item (id int PRIMARY KEY, name varchar(10), stock numeric(6,2));
      INSERT INTO item SELECT n, 'name ' || n, n FROM generate_series(1, 500) n`);
    await open();
    await capture();
    log.length = 0;
  });

  test('columns come, go and are renamed in place, and captures before keep their shape', async () => {
    await run(
      'UPDATE item SET stock = 0 WHERE id = 1',
      "ALTER TABLE item ADD COLUMN note text DEFAULT 'it''s new', ADD COLUMN at timestamptz",
      "UPDATE item SET note = 'changed' WHERE id = 2",
      "INSERT INTO item VALUES (501, 'late', 1, 'inserted', '2026-01-01Z')",
    );
    expect(await capture()).toBe(2);
    await run('ALTER TABLE item DROP COLUMN stock', 'ALTER TABLE item RENAME COLUMN name TO title');
    expect(await capture()).toBe(3);
    await run('ALTER TABLE item ALTER COLUMN title TYPE text', "UPDATE item SET title = repeat('x', 30) WHERE id = 3");
    expect(await capture()).toBe(4);
    expect(copiedAgain()).toEqual([]);
    expect(await queried(1, 'SELECT * FROM item WHERE id IN (1, 2)')).toEqual([
      [1, 'name 1', '1.00'],
      [2, 'name 2', '2.00'],
    ]);
    expect(await queried(2, 'SELECT * FROM item WHERE id IN (1, 2, 3, 501) ORDER BY id')).toEqual([
      [1, 'name 1', '0.00', "it's new", null],
      [2, 'name 2', '2.00', 'changed', null],
      [3, 'name 3', '3.00', "it's new", null],
      [501, 'late', '1.00', 'inserted', expect.anything()],
    ]);
    expect(await queried(4, 'SELECT * FROM item WHERE id IN (2, 3) ORDER BY id')).toEqual([
      [2, 'name 2', 'changed', null],
      [3, 'x'.repeat(30), "it's new", null],
    ]);
    expect(await diffOf(1, 2)).toEqual({ 'public.item': { inserted: 1, updated: 1, deleted: 0 } });
    expect(await diffOf(2, 3)).toEqual({ 'public.item': { inserted: 0, updated: 0, deleted: 0 } });
    for (const number of [1, 2, 3, 4]) expect((await system.validate(number, quiet, signal)).verdict).toBe('VALID');
  });

  test('a new table is taken up by itself, a dropped one leaves, a renamed one goes on', async () => {
    await run(
      'CREATE TABLE later (id int PRIMARY KEY, t text)',
      "INSERT INTO later SELECT n, 'x' FROM generate_series(1, 100) n",
      'ALTER TABLE item RENAME TO goods',
      "UPDATE goods SET name = 'moved' WHERE id = 1",
    );
    expect(await capture()).toBe(2);
    expect(await queried(2, 'SELECT count(*) FROM later')).toEqual([[100]]);
    expect(await queried(2, 'SELECT name FROM goods WHERE id = 1')).toEqual([['moved']]);
    expect(await queried(1, 'SELECT name FROM item WHERE id = 1')).toEqual([['name 1']]);
    await expect(queried(2, 'SELECT * FROM item')).rejects.toMatchObject({ code: 'CAPTURE_ABSENT_TABLE' });
    expect(log.filter((line) => line.startsWith('copied'))).toHaveLength(1);
    await run('DROP TABLE later', 'CREATE SCHEMA other', 'ALTER TABLE goods SET SCHEMA other', 'ALTER TABLE other.goods SET SCHEMA public');
    await run('CREATE TABLE later (id int PRIMARY KEY, other int)', 'INSERT INTO later VALUES (7, 8)');
    expect(await capture()).toBe(3);
    expect(await queried(3, 'SELECT * FROM later')).toEqual([[7, 8]]);
    await run('DROP TABLE later');
    const four = await system.capture(quiet, signal);
    expect(four).toMatchObject({ verdict: 'VALID' });
    expect(four.coverage?.skipped ?? []).toEqual([]);
    expect(await queried(3, 'SELECT * FROM later')).toEqual([[7, 8]]);
    expect(await queried(2, 'SELECT count(*) FROM later')).toEqual([[100]]);
  });

  test('what happened while nothing ran is followed by the same rules', async () => {
    await system[Symbol.asyncDispose]();
    await run(
      "UPDATE item SET name = 'before' WHERE id = 1",
      'ALTER TABLE item ADD COLUMN n int DEFAULT 7',
      "UPDATE item SET name = 'after' WHERE id = 2",
      'ALTER TABLE item RENAME TO goods',
      'CREATE TABLE item (a int PRIMARY KEY)',
      'INSERT INTO item VALUES (1)',
      'UPDATE goods SET n = 8 WHERE id = 3',
    );
    await open();
    expect(await capture()).toBe(2);
    expect(await queried(2, 'SELECT id, name, n FROM goods WHERE id < 5 ORDER BY id')).toEqual([
      [1, 'before', 7],
      [2, 'after', 7],
      [3, 'name 3', 8],
      [4, 'name 4', 7],
    ]);
    expect(await queried(2, 'SELECT * FROM item')).toEqual([[1]]);
    expect(await queried(1, 'SELECT count(*) FROM item')).toEqual([[500]]);
    expect(copiedAgain().filter((line) => !line.includes('new table'))).toEqual([]);
  });

  test('rows rewritten without a change in the log are compared; harmless rewriting is not', async () => {
    await run('VACUUM FULL item', 'CLUSTER item USING item_pkey');
    expect(await capture()).toBe(2);
    expect(copiedAgain()).toEqual([]);
    await run('ALTER TABLE item ALTER COLUMN stock TYPE numeric(6,2) USING stock + 1');
    expect(await capture()).toBe(3);
    await run('ALTER TABLE item ADD COLUMN dice float8 DEFAULT random()');
    expect(await capture()).toBe(4);
    expect(copiedAgain()).toHaveLength(2);
    await run('ALTER TABLE item ALTER COLUMN stock TYPE float8, ALTER COLUMN id TYPE bigint');
    expect(await capture()).toBe(5);
    expect(copiedAgain()).toHaveLength(3);
    expect(await queried(1, 'SELECT stock FROM item WHERE id = 9')).toEqual([['9.00']]);
    expect(await queried(3, 'SELECT stock FROM item WHERE id = 9')).toEqual([['10.00']]);
    expect(await queried(5, 'SELECT stock FROM item WHERE id = 9')).toEqual([[10]]);
  });

  test('a statement among the changes of its own transaction, undone ones, and a column dropped and added anew', async () => {
    await run(
      "BEGIN; UPDATE item SET name = 'old' WHERE id = 1; ALTER TABLE item ADD COLUMN a int DEFAULT 5; UPDATE item SET a = 6 WHERE id = 2; COMMIT",
      'BEGIN; ALTER TABLE item DROP COLUMN name; UPDATE item SET stock = 0; ROLLBACK',
      "UPDATE item SET name = 'kept' WHERE id = 3",
      'ALTER TABLE item DROP COLUMN a',
      'ALTER TABLE item ADD COLUMN a int DEFAULT 9',
    );
    expect(await capture()).toBe(2);
    expect(await queried(2, 'SELECT id, name, a FROM item WHERE id <= 3 ORDER BY id')).toEqual([
      [1, 'old', 9],
      [2, 'name 2', 9],
      [3, 'kept', 9],
    ]);
    await run(
      'BEGIN; ALTER TABLE item DROP COLUMN a; ALTER TABLE item ADD COLUMN a int DEFAULT 10; UPDATE item SET a = 11 WHERE id = 1; COMMIT',
    );
    expect(await capture()).toBe(3);
    expect(await queried(3, 'SELECT id, a FROM item WHERE id <= 2 ORDER BY id')).toEqual([
      [1, 11],
      [2, 10],
    ]);
  });

  test('a new label of an enum, another key, another identity, a new index', async () => {
    await run("CREATE TYPE mood AS ENUM ('sad')", "ALTER TABLE item ADD COLUMN mood mood DEFAULT 'sad'");
    expect(await capture()).toBe(2);
    await run("ALTER TYPE mood ADD VALUE 'happy'", "UPDATE item SET mood = 'happy' WHERE id = 1");
    expect(await capture()).toBe(3);
    await run('ALTER TABLE item DROP CONSTRAINT item_pkey', 'ALTER TABLE item ADD PRIMARY KEY (name)', 'CREATE INDEX ON item (stock)');
    await run("UPDATE item SET stock = 0 WHERE name = 'name 4'");
    expect(await capture()).toBe(4);
    await run('ALTER TABLE item REPLICA IDENTITY FULL', "UPDATE item SET stock = 1 WHERE name = 'name 4'");
    expect(await capture()).toBe(5);
    expect(await queried(5, 'SELECT stock, mood FROM item WHERE id IN (1, 4) ORDER BY id')).toEqual([
      ['1.00', 'happy'],
      ['1.00', 'sad'],
    ]);
    expect((await system.validate(2, quiet, signal)).verdict).toBe('VALID');
  });
});

test('a table whose policy says so halts where its rows would have to be read again, and others go on', async () => {
  await run('CREATE TABLE item (id int PRIMARY KEY, n int)', 'INSERT INTO item VALUES (1, 1)', 'CREATE TABLE other (id int PRIMARY KEY)');
  await open('policy:\n  perTable:\n    public.item: { onSchemaChange: halt }\n');
  await capture();
  await run('ALTER TABLE item ADD COLUMN a int', 'INSERT INTO other VALUES (1)');
  expect(await capture()).toBe(2);
  await run('ALTER TABLE item ALTER COLUMN n TYPE bigint', 'INSERT INTO other VALUES (2)');
  const report = await system.capture(quiet, signal);
  expect(report.verdict).toBe('INCONCLUSIVE');
  expect(report.coverage?.skipped).toEqual([{ table: 'public.item', reason: expect.stringContaining('copied again') }]);
  expect(await queried(3, 'SELECT count(*) FROM other')).toEqual([[2]]);
  await system.resume(quiet, signal);
  expect(await capture()).toBe(4);
  expect(await queried(4, 'SELECT n FROM item')).toEqual([[1]]);
});
