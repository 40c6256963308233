import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client } from 'pg';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { parseConfig } from '../src/app/config.ts';
import type { LocalSystem } from '../src/app/local-system.ts';
import { openSystem } from '../src/app/system.ts';
import { Cluster } from './postgres-cluster.ts';
import { type TestDatabase, createDatabase } from './postgres.ts';

/** The shadow's server crashes, with commits that had not reached the disk or without, and Foreshadow runs on. */
const { signal } = new AbortController();
const LOST = 'the shadow has lost what it had not flushed: it is applied again';
const PATIENCE = { timeout: 50_000, interval: 10 };

/** Nothing but a commit that waits for it brings the log to the disk. */
const LAZY = {
  wal_writer_delay: '10000',
  wal_writer_flush_after: '1GB',
  wal_buffers: '8MB',
  bgwriter_lru_maxpages: '0',
  checkpoint_timeout: '1h',
  autovacuum: 'off',
};

let directory: string;
let primary: TestDatabase;
let shadow: Cluster;
let system: LocalSystem;
let stop: AbortController;
let told: string[];

beforeEach(async () => {
  told = [];
  directory = await mkdtemp(join(tmpdir(), 'foreshadow-shadow-crash-'));
  [primary, shadow] = await Promise.all([createDatabase(), Cluster.create()]);
  await shadow.start(LAZY);
  await primary.run(`CREATE TABLE items (id int PRIMARY KEY, value text);
    INSERT INTO items SELECT n, 'first' FROM generate_series(1, 100) n;
    CREATE TABLE tally (name text); ALTER TABLE tally REPLICA IDENTITY FULL;
    INSERT INTO tally VALUES ('twice'), ('twice')`);
  const config = `dataSet: crash\nprimary: "${primary.url}"\nshadow: "${shadow.url}"\ntables: ["public.*"]\n`;
  system = await openSystem(parseConfig(config, join(directory, 'foreshadow.yaml'), {}), { log: (_, message) => told.push(message) });
  stop = new AbortController();
  system.run(stop.signal).catch((error: unknown) => told.push(String(error)));
});

afterEach(async () => {
  stop.abort();
  await system[Symbol.asyncDispose]();
  await Promise.all([primary[Symbol.asyncDispose](), shadow[Symbol.asyncDispose]()]);
  await rm(directory, { recursive: true, force: true });
});

const ROWS = `SELECT count(*)::int, sum(hashtextextended(t::text, 0))::text FROM
  (SELECT 'item ' || id || value AS row FROM items UNION ALL SELECT 'tally ' || name FROM tally) t`;

async function expected(): Promise<unknown[]> {
  return Object.values((await primary.run(ROWS))[0] ?? {});
}

async function captured(number: number): Promise<unknown[]> {
  const rows: unknown[] = [];
  for await (const slice of system.query(number, ROWS, signal)) rows.push(...slice.rows.flat());
  return rows;
}

async function capture(): Promise<unknown[]> {
  const report = await vi.waitFor(() => system.capture(() => {}, signal), PATIENCE);
  expect(report).toMatchObject({ verdict: 'VALID', differences: [] });
  const rows = await expected();
  expect(await captured(report.number)).toEqual(rows);
  return rows;
}

async function write(name: string): Promise<void> {
  await primary.run(`UPDATE items SET value = '${name}' WHERE id % 3 = 0; DELETE FROM items WHERE id IN (SELECT min(id) FROM items);
    INSERT INTO items SELECT max(id) + 1, '${name}' FROM items; INSERT INTO tally VALUES ('twice'), ('${name}')`);
}

/**
 * More than goes into one fold, of which the next waits for a lock in the shadow. Resolves when the first can be seen there. How much it is goes
 * into few rows: most of the time is the server's.
 */
async function writeMuch(): Promise<void> {
  const [gathering, waiting] = await Promise.all([connected(), connected()]);
  await waiting.query('BEGIN; SELECT FROM items WHERE id = 100 FOR UPDATE');
  await gathering.query('BEGIN; LOCK TABLE items IN SHARE ROW EXCLUSIVE MODE');
  await primary.run(`DO $$ BEGIN FOR i IN 1..160 LOOP
      FOR j IN 1..20 LOOP UPDATE items SET value = 'much ' || j WHERE id <= 51; END LOOP;
      IF i = 160 THEN UPDATE items SET value = 'last' WHERE id = 100; END IF; COMMIT;
    END LOOP; END $$`);
  const pending = async () => (await system.status(signal)).tables.find(({ table }) => table === 'public.items')?.pendingRows;
  await vi.waitFor(async () => expect(await pending()).toBeGreaterThanOrEqual(160_000), PATIENCE);
  await gathering.query('COMMIT');
  const much = async () => (await waiting.query(`SELECT FROM items WHERE value = 'much 20'`)).rowCount;
  await vi.waitFor(async () => expect(await much()).toBeGreaterThan(0), PATIENCE);
  // What was on its way before it gathered is small, and durable.
  await vi.waitFor(async () => expect(await pending()).toBeLessThan(61_000), PATIENCE);
}

async function connected(): Promise<Client> {
  const client = new Client({ connectionString: shadow.url });
  client.on('error', () => undefined); // the server crashes under it
  await client.connect();
  return client;
}

async function crash(): Promise<void> {
  await shadow.stop('immediate');
  await shadow.start(LAZY);
}

test('what the shadow loses in a crash is applied again, once, and captures are what they were', async () => {
  const one = await capture();
  await write('before the capture');
  const two = await capture();
  await writeMuch();
  await crash();
  await write('after the crash');
  const three = await capture();
  expect(told).toContain(LOST);
  await crash();
  expect(await captured(1)).toEqual(one);
  expect(await captured(2)).toEqual(two);
  expect(await captured(3)).toEqual(three);
});

test('what was all there is not lost, and goes on', async () => {
  await capture();
  for (const name of ['first crash', 'second crash']) {
    await write(name);
    await vi.waitFor(async () => expect((await system.status(signal)).tables.every(({ lagMs }) => lagMs === 0)).toBe(true), PATIENCE);
    const items = 'SELECT id, value FROM items ORDER BY id';
    const rows = await vi.waitFor(async () => {
      const found = await shadow.sql(items);
      expect(found).toEqual(await primary.run(items));
      return found;
    }, PATIENCE);
    await crash();
    expect(await shadow.sql(items)).toEqual(rows);
  }
  await capture();
  expect(told).not.toContain(LOST);
});
