import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { foreshadow, succeeds } from './command.ts';
import { type TestDatabase, createDatabase } from './postgres.ts';

/** Transactions that the server sends while they are in progress, through the whole system, and a process that dies amid them. */
let directory: string;
let primary: TestDatabase;
let shadow: TestDatabase;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'foreshadow-large-'));
  primary = await createDatabase();
  shadow = await createDatabase();
  await writeFile(
    join(directory, 'foreshadow.yaml'),
    `dataSet: large\nprimary: "${primary.url}"\nshadow: "${shadow.url}"\ntables: ["public.*"]\n`,
    { mode: 0o600 },
  );
  // The least there is: a few hundred rows do not fit.
  await primary.run(`ALTER DATABASE ${primary.name} SET logical_decoding_work_mem = '64kB'`);
  await primary.run(`CREATE TABLE item (id int PRIMARY KEY, value text);
    INSERT INTO item SELECT n, 'first' FROM generate_series(1, 100) n;
    CREATE TABLE note (id int PRIMARY KEY, text text)`);
});

afterEach(async () => {
  await primary[Symbol.asyncDispose]();
  await shadow[Symbol.asyncDispose]();
  await rm(directory, { recursive: true, force: true });
});

async function holds(capture: unknown): Promise<void> {
  for (const sql of [
    'SELECT count(*)::int AS n, sum(hashtextextended(i::text, 0))::text AS sum FROM item i',
    'SELECT count(*)::int AS n, sum(hashtextextended(i::text, 0))::text AS sum FROM note i',
  ]) {
    expect(await succeeds(directory, ['query', String(capture), sql])).toEqual(await primary.run(sql));
  }
}

/** Beyond what is held in memory before it goes to the journal. */
const LARGE = `INSERT INTO item SELECT n, repeat('large ', 40) FROM generate_series(1001, 51000) n;
  SAVEPOINT s; INSERT INTO note SELECT n, repeat('dropped ', 30) FROM generate_series(1, 20000) n; ROLLBACK TO s;
  UPDATE item SET value = 'changed' WHERE id % 10 = 0; DELETE FROM item WHERE id % 7 = 0;
  INSERT INTO note VALUES (1, 'stays')`;

test.each([
  ['spooled', 'COMMIT'],
  ['spooled:2', 'ROLLBACK'],
  ['adopted', 'COMMIT'],
])('killed at %s of a large transaction that ends with %s', async (failpoint, end) => {
  await succeeds(directory, ['capture']);
  const client = await primary.client();
  await client.query('BEGIN');
  await client.query(LARGE);
  const isOpen = failpoint.startsWith('spooled');
  if (!isOpen) await client.query(end);
  expect(await foreshadow(directory, ['capture'], failpoint)).toMatchObject({ killed: true });
  await primary.run(`INSERT INTO note VALUES (2, 'from another')`);
  if (isOpen) await client.query(end);
  const report = await succeeds(directory, ['capture']);
  expect(report).toMatchObject({ verdict: 'VALID', differences: [] });
  await holds(report['number']);
});

test('a transaction of many small rows, with captures before, within and after it', async () => {
  const first = await succeeds(directory, ['capture']);
  const client = await primary.client();
  await client.query('BEGIN');
  await client.query('INSERT INTO note SELECT n FROM generate_series(1, 60000) n');
  const within = await succeeds(directory, ['capture']);
  expect(within).toMatchObject({ verdict: 'VALID', rows: { inserted: 0, updated: 0, deleted: 0 } });
  await client.query('INSERT INTO note SELECT n FROM generate_series(60001, 100000) n');
  await client.query('COMMIT');
  const after = await succeeds(directory, ['capture']);
  expect(after).toMatchObject({ verdict: 'VALID', rows: { inserted: 100_000, updated: 0, deleted: 0 } });
  await holds(after['number']);
  const count = 'SELECT count(*)::int AS n FROM note';
  for (const { number } of [first, within] as { number: number }[]) {
    expect(await succeeds(directory, ['query', String(number), count])).toEqual([{ n: 0 }]);
  }
});
