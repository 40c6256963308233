import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Client } from 'pg';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { parseConfig } from '../src/app/config.ts';
import type { LocalSystem } from '../src/app/local-system.ts';
import { openSystem } from '../src/app/system.ts';
import { foreshadow } from './command.ts';
import type { EmbeddedServer } from '../src/stores/postgres/embedded.ts';
import { type TestDatabase, createDatabase, startServer } from './postgres.ts';

/** Large transactions that are written to the shadow before they commit, and what may come between. */
const { signal } = new AbortController();
const TAKEN = 'a large transaction was written before it committed';
const GIVEN_UP = 'a large transaction is written after its commit after all';

let directory: string;
let config: string;
/** Its own: whoever makes a slot on the server waits for every transaction that is open there, and what is written ahead gives way. */
let server: EmbeddedServer;
let primary: TestDatabase;
let shadow: TestDatabase;
let system: LocalSystem;
let client: Client;
let told: { readonly message: string; readonly table: unknown }[] = [];
/** Each test has keys of its own. */
let base = 0;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'foreshadow-ahead-'));
  server = await startServer({});
  primary = await createDatabase({ server: server.url });
  shadow = await createDatabase({ server: server.url });
  config = `dataSet: ahead\nprimary: "${primary.url}"\nshadow: "${shadow.url}"\ntables: ["public.*"]\n`;
  await writeFile(join(directory, 'foreshadow.yaml'), config, { mode: 0o600 });
  // The least there is: a few hundred rows do not fit.
  await primary.run(`ALTER DATABASE ${primary.name} SET logical_decoding_work_mem = '64kB'`);
  await primary.run(`CREATE TABLE item (id int PRIMARY KEY, value text);
    INSERT INTO item SELECT n, 'first' FROM generate_series(1, 100) n;
    CREATE TABLE note (id int PRIMARY KEY, text text)`);
  system = await opened();
  expect((await capture()).verdict).toBe('VALID');
  client = await primary.client();
});

afterAll(async () => {
  await system[Symbol.asyncDispose]();
  await primary[Symbol.asyncDispose]();
  await shadow[Symbol.asyncDispose]();
  await server.stop();
  await rm(directory, { recursive: true, force: true });
});

beforeEach(() => {
  base += 100_000;
  told = [];
});

function opened(): Promise<LocalSystem> {
  return openSystem(parseConfig(config, join(directory, 'foreshadow.yaml'), {}), {
    log: (_, message, fields) => told.push({ message, table: fields?.['table'] }),
  });
}

function capture() {
  return system.capture(() => {}, signal);
}

/** Some 6 MB: keys from here on, counted from the test's first. */
async function insert(from: number): Promise<void> {
  await client.query(`INSERT INTO item SELECT ${base} + n, repeat('large ', 100) FROM generate_series(${from}, ${from + 9_999}) n`);
}

async function counted(where: string): Promise<unknown> {
  return (await shadow.run(`SELECT count(*)::int AS n FROM item WHERE ${where}`))[0]?.['n'];
}

const AHEAD = `SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE '%ahead%'`;

/** Until the rows of the open transaction stand in the shadow's own. */
async function untilAhead(): Promise<number> {
  for (;;) {
    const [found] = await shadow.run(`${AHEAD} AND backend_xid IS NOT NULL`);
    if (found !== undefined) return found['pid'] as number;
    await sleep(20);
  }
}

async function untilTold(message: string): Promise<void> {
  while (!told.some((each) => each.message === message)) await sleep(20);
}

/** A capture that is VALID and holds what the primary does, to the row; and what was said of going ahead. */
async function comesOut(outcome: readonly string[] | null): Promise<void> {
  const report = await capture();
  expect(report).toMatchObject({ verdict: 'VALID', differences: [] });
  for (const table of ['item', 'note']) {
    const sql = `SELECT count(*)::int AS n, sum(hashtextextended(t::text, 0))::text AS sum FROM ${table} t`;
    const rows: unknown[] = [];
    for await (const slice of system.query(report.number, sql, signal)) rows.push(...slice.rows);
    const [expected] = await primary.run(sql);
    expect(rows).toEqual([Object.values(expected ?? {})]);
  }
  const messages = told.map(({ message }) => message).filter((message) => [TAKEN, GIVEN_UP].includes(message));
  if (outcome !== null) expect(messages).toEqual(outcome);
  expect(await shadow.run(AHEAD)).toEqual([]);
}

test('what a transaction inserts is in the shadow when it commits, and seen by nobody before', async () => {
  await client.query('BEGIN');
  await insert(0);
  await untilAhead();
  await insert(20_000);
  expect(await counted(`id >= ${base}`)).toBe(0);
  await client.query(`INSERT INTO note VALUES (${base}, 'of the same')`);
  await client.query('COMMIT');
  await comesOut([TAKEN]);
});

test('what others commit meanwhile goes on beside it, and comes before it', async () => {
  await client.query('BEGIN');
  await insert(0);
  await untilAhead();
  await primary.run(`UPDATE item SET value = 'changed' WHERE id < 10; DELETE FROM item WHERE id BETWEEN 20 AND 30;
    INSERT INTO item SELECT ${base + 50_000} + n, 'new' FROM generate_series(1, 100) n`);
  while ((await counted('true')) !== Number((await primary.run('SELECT count(*)::int AS n FROM item'))[0]?.['n'])) await sleep(20);
  await primary.run(`DELETE FROM item WHERE id = ${base + 50_001}`);
  await client.query('COMMIT');
  await primary.run(`UPDATE item SET value = 'after' WHERE id IN (5, ${base + 500})`);
  await comesOut([TAKEN]);
});

test('keys that others had, and gave up before it took them', async () => {
  await primary.run(`INSERT INTO item SELECT ${base} + n, 'before' FROM generate_series(1, 5) n`);
  await client.query('BEGIN');
  await insert(20_000);
  await untilAhead();
  for (const n of [1, 2, 3]) await primary.run(`DELETE FROM item WHERE id = ${base + n}`);
  await primary.run(`DELETE FROM item WHERE id IN (${base + 4}, ${base + 5})`);
  for (const n of [6, 7]) await primary.run(`INSERT INTO item VALUES (${base + n}, 'short')`);
  for (const n of [6, 7]) await primary.run(`DELETE FROM item WHERE id = ${base + n}`);
  await insert(0);
  await client.query('COMMIT');
  await comesOut(null);
});

test('what it is given up for, on the primary and in the shadow', async () => {
  const cases: (() => Promise<unknown>)[] = [
    () => client.query('ROLLBACK'),
    async () => {
      await client.query('SAVEPOINT s');
      await insert(20_000);
      await client.query('ROLLBACK TO s');
      await insert(40_000);
    },
    async () => {
      await client.query(`UPDATE item SET value = 'changed' WHERE id % 100 = 0`);
      await insert(20_000);
    },
    async () => shadow.run(`SELECT pg_terminate_backend(${await untilAhead()})`),
    // Somebody else who wants a key of it waits for a moment only.
    () => shadow.run(`INSERT INTO item VALUES (${base + 500}, 'foreign')`),
  ];
  for (const [at, meet] of cases.entries()) {
    base += 100_000;
    await client.query('BEGIN');
    await insert(0);
    await untilAhead();
    await meet();
    await client.query('COMMIT');
    while (told.filter(({ message }) => message === GIVEN_UP).length <= at) await sleep(20);
  }
  await comesOut(cases.map(() => GIVEN_UP));
});

test('a capture in the middle has none of it, and it begins anew for the next', async () => {
  await client.query('BEGIN');
  await insert(0);
  await untilAhead();
  await primary.run(`INSERT INTO note VALUES (${base}, 'before')`);
  expect(await capture()).toMatchObject({ verdict: 'VALID', rows: { inserted: 1 } });
  await insert(20_000);
  await untilAhead();
  await client.query('COMMIT');
  await comesOut([GIVEN_UP, TAKEN]);
});

test('the connection to the primary lost: it comes again from its beginning', async () => {
  await client.query('BEGIN');
  await insert(0);
  await untilAhead();
  await primary.run('SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active AND database = current_database()');
  await untilTold(GIVEN_UP);
  await untilAhead();
  await client.query('COMMIT');
  await comesOut([GIVEN_UP, TAKEN]);
});

test('another table that goes meanwhile waits for a moment only', async () => {
  await primary.run('CREATE TABLE passing (id int PRIMARY KEY); INSERT INTO passing VALUES (1)');
  await capture();
  told = [];
  await client.query('BEGIN');
  await insert(0);
  await untilAhead();
  await primary.run('DROP TABLE passing');
  await untilTold(GIVEN_UP);
  await client.query('COMMIT');
  await comesOut([GIVEN_UP]);
});

test('another shape right after', async () => {
  await client.query('BEGIN');
  await insert(0);
  await untilAhead();
  await client.query('COMMIT');
  await primary.run(`ALTER TABLE item ADD COLUMN more int DEFAULT 7; INSERT INTO item VALUES (${base + 50_000}, 'after', 8)`);
  await comesOut(null);
});

test.each(['ahead', 'ahead-applied'])('killed at %s', async (failpoint) => {
  await system[Symbol.asyncDispose]();
  await client.query('BEGIN');
  await insert(0);
  const running = foreshadow(directory, ['start'], failpoint);
  if (failpoint === 'ahead-applied') {
    await untilAhead();
    await client.query('COMMIT');
  }
  expect(await running).toMatchObject({ killed: true });
  if (failpoint === 'ahead') await client.query('COMMIT');
  system = await opened();
  await comesOut(failpoint === 'ahead' ? null : []);
});
