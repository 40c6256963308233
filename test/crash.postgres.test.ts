import { appendFile, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { foreshadow, holding, succeeds } from './command.ts';
import { type TestDatabase, createDatabase, serverVersion } from './postgres.ts';

/** As `crash.sqlite.test.ts`, on PostgreSQL, where claim, slot and commits in flight die with their connections. */
let directory: string;
let primary: TestDatabase;
let shadow: TestDatabase;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'foreshadow-crash-'));
  primary = await createDatabase();
  shadow = await createDatabase();
  await writeFile(
    join(directory, 'foreshadow.yaml'),
    `dataSet: crash\nprimary: "${primary.url}"\nshadow: "${shadow.url}"\ntables: ["public.*"]\n`,
    { mode: 0o600 },
  );
  await primary.run(`CREATE TABLE items (id int PRIMARY KEY, value text, long text);
    ALTER TABLE items ALTER long SET STORAGE EXTERNAL;
    INSERT INTO items SELECT n, 'first', repeat('x', 3000) FROM generate_series(1, 300) n;
    CREATE TABLE notes (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), note text);
    INSERT INTO notes (note) SELECT 'note ' || n FROM generate_series(1, 300) n`);
});

afterEach(async () => {
  await primary[Symbol.asyncDispose]();
  await shadow[Symbol.asyncDispose]();
  await rm(directory, { recursive: true, force: true });
});

async function write(round: number): Promise<void> {
  await primary.run(`UPDATE items SET value = 'round ${round}' WHERE id % 3 = ${round % 3};
    UPDATE items SET id = id + 1000 WHERE id = ${round + 5};
    DELETE FROM notes WHERE ctid IN (SELECT ctid FROM notes LIMIT 10);
    INSERT INTO notes (note) SELECT 'round ${round}' FROM generate_series(1, 50)`);
}

const ITEMS = 'SELECT id, value, md5(long) AS long FROM public.items ORDER BY id';
const NOTES = 'SELECT id::text, note FROM public.notes ORDER BY id';

async function holds(capture: unknown): Promise<void> {
  for (const sql of [ITEMS, NOTES]) {
    expect(await succeeds(directory, ['query', String(capture), sql])).toEqual(await primary.run(sql));
  }
}

test.each(['installed', 'chunk-applied', 'draining', 'cut'])('killed during the first capture, at %s', async (failpoint) => {
  expect(await foreshadow(directory, ['capture'], failpoint)).toMatchObject({ killed: true });
  await write(1);
  const report = await succeeds(directory, ['capture']);
  expect(report).toMatchObject({ verdict: 'VALID', differences: [] });
  await holds(report['number']);
});

test.each(['appended', 'acknowledged', 'applied', 'crossed', 'sealed'])('killed during a later capture, at %s', async (failpoint) => {
  await succeeds(directory, ['capture']);
  await write(1);
  expect(await foreshadow(directory, ['capture'], failpoint)).toMatchObject({ killed: true });
  await write(2);
  const report = await succeeds(directory, ['capture']);
  expect(report).toMatchObject({ verdict: 'VALID', differences: [] });
  await holds(report['number']);
  const slots = await primary.run(`SELECT count(*)::int AS n FROM pg_replication_slots WHERE database = current_database()`);
  expect(slots).toEqual([{ n: 1 }]);
});

test.each(['moved-ahead', 'moved-ahead:2', 'draining', 'applied'])('killed while rows are held back, at %s', async (failpoint) => {
  await succeeds(directory, ['capture']);
  // Large values that do not change are absent from the log: rows that wait, or went ahead, keep them.
  await primary.run(`UPDATE items SET value = 'cold' WHERE id <= 100;
    UPDATE items SET value = 'hot' WHERE id % 2 = 0;
    DELETE FROM items WHERE id = 7;
    UPDATE items SET long = repeat('y', 3000) WHERE id > 280;
    INSERT INTO notes (note) SELECT 'held' FROM generate_series(1, 50)`);
  expect(await holding(directory, failpoint)).toMatchObject({ killed: true });
  const ahead = await shadow.run('SELECT table_name FROM _foreshadow.progress WHERE low < high');
  expect(ahead.length > 0).toBe(failpoint !== 'applied');
  await write(2);
  const report = await succeeds(directory, ['capture']);
  expect(report).toMatchObject({ verdict: 'VALID', differences: [] });
  await holds(report['number']);
});

test('killed when many rows are written, and one of two connections has committed its own', async () => {
  await primary.run(`INSERT INTO items SELECT n, 'first', CASE WHEN n % 10 = 0 THEN repeat('x', 3000) ELSE 'short' END
    FROM generate_series(10000, 39999) n`);
  await succeeds(directory, ['capture']);
  const before = await primary.run(ITEMS);
  await primary.run(`UPDATE items SET value = 'second' WHERE id >= 10000 AND id % 4 <> 0;
    DELETE FROM items WHERE id BETWEEN 10000 AND 19999 AND id % 4 = 0;
    UPDATE items SET long = repeat('z', 3000) WHERE id BETWEEN 21000 AND 21100`);
  expect(await foreshadow(directory, ['capture'], 'lane-committed')).toMatchObject({ killed: true });
  expect(await shadow.run('SELECT table_name FROM _foreshadow.progress WHERE low < high')).toEqual([{ table_name: 'public.items' }]);
  await primary.run(`DELETE FROM items WHERE id % 7 = 0; UPDATE items SET value = 'third' WHERE id % 50 = 1;
    UPDATE items SET id = id + 100000 WHERE id BETWEEN 25000 AND 25100`);
  await write(2);
  const report = await succeeds(directory, ['capture']);
  expect(report).toMatchObject({ verdict: 'VALID', differences: [], coverage: { skipped: [] } });
  await holds(report['number']);
  expect(await succeeds(directory, ['query', '1', ITEMS])).toEqual(before);
});

test('killed between the copy and its indexes, and again while one is made', async () => {
  await appendFile(join(directory, 'foreshadow.yaml'), 'policy: { indexes: mirror }\n');
  await primary.run('CREATE INDEX by_value ON items (value); CREATE INDEX by_note ON notes (note)');
  expect(await foreshadow(directory, ['capture'], 'mirroring:2')).toMatchObject({ killed: true });
  // What a process leaves that dies while it makes one.
  await expect(shadow.run('CREATE UNIQUE INDEX CONCURRENTLY _foreshadow_index_1_left ON items ((1))')).rejects.toThrow('unique');
  await write(1);
  const report = await succeeds(directory, ['capture']);
  expect(report).toMatchObject({ verdict: 'VALID', differences: [] });
  await holds(report['number']);
  const indexes = await shadow.run(
    `SELECT indrelid::regclass::text AS table, indisvalid AS valid FROM pg_index
     WHERE indexrelid::regclass::text LIKE '%foreshadow\\_index\\_%' ORDER BY 1`,
  );
  expect(indexes).toEqual([
    { table: 'items', valid: true },
    { table: 'notes', valid: true },
  ]);
});

test('uninstall leaves no slot and no publication, and the next capture begins anew', async () => {
  await succeeds(directory, ['capture']);
  await succeeds(directory, ['uninstall']);
  expect(await primary.run('SELECT slot_name FROM pg_replication_slots WHERE database = current_database()')).toEqual([]);
  expect(await primary.run('SELECT pubname FROM pg_publication')).toEqual([]);
  await write(1);
  const report = await succeeds(directory, ['capture']);
  expect(report).toMatchObject({ number: 2, verdict: 'VALID' });
  await holds(2);
});

test('killed in the middle of the copy of a large table, it goes on from where it was', async () => {
  await primary.run(`CREATE TABLE wide (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), n int, note text);
    ALTER TABLE wide SET (autovacuum_enabled = off);
    INSERT INTO wide (n, note) SELECT n, repeat(md5(n::text), 10) FROM generate_series(1, 150000) n`);
  expect(await foreshadow(directory, ['capture'], 'chunk-applied:2')).toMatchObject({ killed: true });
  const [{ state }] = (await shadow.run(`SELECT state FROM _foreshadow.progress WHERE table_name = 'public.wide'`)) as [{ state: string }];
  const { kind, copiedRows } = JSON.parse(state) as { kind: string; copiedRows: number };
  expect(kind).toBe('copying');
  expect(copiedRows).toBeGreaterThan(20_000);
  // Rows change their places between those that were copied and those that were not.
  await primary.run(
    `UPDATE wide SET note = note || '!' WHERE n % 1000 = 1; DELETE FROM wide WHERE n % 1000 = 2; UPDATE wide SET id = gen_random_uuid() WHERE n % 1000 = 3`,
  );
  // Before 15 the counts come late, and nothing makes them come.
  const counted = (await serverVersion()) >= 15;
  const READ = `SELECT ${counted ? 'pg_stat_force_next_flush(), ' : ''}seq_tup_read::int AS rows FROM pg_stat_user_tables WHERE relname = 'wide'`;
  const [before] = (await primary.run(READ)) as [{ rows: number }];
  const report = await succeeds(directory, ['capture']);
  expect(report).toMatchObject({ verdict: 'VALID', differences: [] });
  const [after] = (await primary.run(READ)) as [{ rows: number }];
  if (counted) {
    expect(after.rows - before.rows).toBeGreaterThan(1000);
    expect(after.rows - before.rows).toBeLessThan(151_000 - copiedRows);
  }
  const SUMS = `SELECT count(*)::int AS rows, sum(hashtextextended(id::text || n || note, 0))::text AS sum FROM public.wide`;
  expect(await succeeds(directory, ['query', String(report['number']), SUMS])).toEqual(await primary.run(SUMS));
}, 60_000);
