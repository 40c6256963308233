import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client } from 'pg';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { parseConfig } from '../src/app/config.ts';
import type { LocalSystem } from '../src/app/local-system.ts';
import { openSystem } from '../src/app/system.ts';
import { type TestDatabase, createDatabase } from './postgres.ts';

const quiet = (): void => {};
const { signal } = new AbortController();

let directory: string;
let primary: TestDatabase;
let shadow: TestDatabase;
let system: LocalSystem;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'foreshadow-system-'));
  primary = await createDatabase();
  shadow = await createDatabase();
  await primary.run(`
    CREATE TYPE status AS ENUM ('open', 'paid', 'gone');
    CREATE TABLE accounts (id int PRIMARY KEY, name text NOT NULL, balance numeric(12,2) NOT NULL DEFAULT 0 CHECK (balance > -100000));
    CREATE TABLE orders (
      id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account int NOT NULL REFERENCES accounts ON DELETE CASCADE,
      status status NOT NULL DEFAULT 'open', at timestamptz NOT NULL DEFAULT now(), lines jsonb);
    CREATE INDEX orders_by_account ON orders (account) WHERE status = 'open';
    CREATE VIEW open_orders AS SELECT * FROM orders WHERE status = 'open';
    INSERT INTO accounts SELECT n, 'name ' || n, 100 FROM generate_series(1, 2000) n;
    INSERT INTO orders (account, lines) SELECT n, jsonb_build_array(n) FROM generate_series(1, 300) n`);
  system = await open();
});

afterEach(async () => {
  await system[Symbol.asyncDispose]();
  await primary[Symbol.asyncDispose]();
  await shadow[Symbol.asyncDispose]();
  await rm(directory, { recursive: true, force: true });
});

function open(): Promise<LocalSystem> {
  const text = `dataSet: shop\nprimary: "${primary.url}"\nshadow: "${shadow.url}"\ntables: ["public.*"]\n`;
  return openSystem(parseConfig(text, join(directory, 'foreshadow.yaml'), {}), { log: quiet });
}

async function queried(capture: number, sql: string): Promise<readonly unknown[]> {
  const rows: unknown[] = [];
  for await (const slice of system.query(capture, sql, signal)) rows.push(...slice.rows);
  return rows;
}

/** Everything two tables hold, as text that any two servers agree on. */
async function dump(url: string): Promise<unknown> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    const accounts = await client.query('SELECT * FROM public.accounts ORDER BY id');
    const orders = await client.query('SELECT id, account, status::text, at::text, lines::text FROM public.orders ORDER BY id');
    return { accounts: accounts.rows, orders: orders.rows };
  } finally {
    await client.end();
  }
}

function beside(url: string, name: string): string {
  return Object.assign(new URL(url), { pathname: `/${name}` }).href;
}

/** Moves money between random accounts until told to stop: the sum never changes. */
async function transfers(stop: AbortSignal): Promise<number> {
  const client = await primary.client();
  let done = 0;
  while (!stop.aborted) {
    const [from, to] = [1 + Math.floor(Math.random() * 2000), 1 + Math.floor(Math.random() * 2000)];
    if (from === to) continue;
    await client.query('BEGIN');
    const [low, high] = from < to ? [from, to] : [to, from];
    await client.query('UPDATE accounts SET balance = balance - CASE WHEN id = $2 THEN 1 ELSE 0 END WHERE id = $1', [low, from]);
    await client.query('UPDATE accounts SET balance = balance - CASE WHEN id = $2 THEN 1 ELSE 0 END WHERE id = $1', [high, from]);
    await client.query('UPDATE accounts SET balance = balance + 1 WHERE id = $1', [to]);
    await client.query('INSERT INTO orders (account) VALUES ($1)', [to]);
    await client.query(done % 5 === 0 ? 'ROLLBACK' : 'COMMIT');
    done++;
  }
  return done;
}

describe('a shop on PostgreSQL', () => {
  test('captures under writers are VALID, and each holds whole transactions', async () => {
    const stop = new AbortController();
    const writers = [1, 2, 3].map(() => transfers(stop.signal).catch((error: unknown) => String(error)));
    try {
      for (let round = 0; round < 4; round++) {
        const report = await system.capture(quiet, signal);
        expect(report).toMatchObject({ verdict: 'VALID', differences: [] });
        // Money moves, it is never made: a capture that held half a transfer would show it.
        const [row] = (await queried(report.number, 'SELECT count(*), count(DISTINCT id) FROM public.accounts')) as [[number, number]];
        expect(row).toEqual([2000, 2000]);
        expect(await queried(report.number, 'SELECT sum(balance) FROM accounts')).toEqual([['200000.00']]);
      }
      expect(await system.validate(null, quiet, signal)).toMatchObject({ verdict: 'VALID', differences: [] });
    } finally {
      stop.abort();
      const done = await Promise.all(writers);
      expect(done.every((each) => typeof each === 'number' && each > 0)).toBe(true);
    }
    expect(await system.validate(null, quiet, signal)).toMatchObject({ verdict: 'VALID', coverage: { skipped: [] } });
  });

  test('a capture restores as a working database', async () => {
    const { number } = await system.capture(quiet, signal);
    const then = await dump(primary.url);
    await primary.run("UPDATE accounts SET name = 'later'; DELETE FROM accounts WHERE id < 50");
    await system.capture(quiet, signal);
    const to = beside(shadow.url, `${shadow.name}_restored`);
    const report = await system.restore({ capture: number, to, table: null }, quiet, signal);
    expect(report).toMatchObject({ tables: 2, rows: 2300, proved: true, skipped: [] });
    expect(await dump(to)).toEqual(then);
    const client = new Client({ connectionString: to });
    await client.connect();
    try {
      await expect(client.query('INSERT INTO orders (account) VALUES (999999)')).rejects.toThrow(/foreign key/);
      await expect(client.query("INSERT INTO accounts VALUES (5000, 'poor', -200000)")).rejects.toThrow(/check/);
      const { rows } = await client.query('INSERT INTO orders (account) VALUES (7) RETURNING id, status');
      expect(rows[0]).toEqual({ id: '302', status: 'open' });
      expect((await client.query('SELECT count(*)::int AS n FROM open_orders')).rows[0]).toEqual({ n: 301 });
      const { rows: indexes } = await client.query("SELECT indexname FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1");
      expect(indexes.map(({ indexname }) => indexname as string)).toEqual(['accounts_pkey', 'orders_by_account', 'orders_pkey']);
    } finally {
      await client.end();
      await shadow.run(`DROP DATABASE ${shadow.name}_restored`);
    }
  });

  test('a row altered by an ordinary writer is named, and undone by the next capture', async () => {
    const { number } = await system.capture(quiet, signal);
    await shadow.run('UPDATE public.accounts SET balance = 1 WHERE id = 77; DELETE FROM public.accounts WHERE id = 78');
    expect(await queried(number, 'SELECT balance FROM accounts WHERE id IN (77, 78)')).toEqual([['100.00'], ['100.00']]);
    const report = await system.validate(null, quiet, signal);
    expect(report.verdict).toBe('INVALID');
    expect(report.differences).toContainEqual({ table: 'public.accounts', key: { id: 77 }, diagnosis: 'altered in the shadow' });
    expect(report.differences).toHaveLength(2);
    const next = await system.capture(quiet, signal);
    expect(next.verdict).toBe('VALID');
    expect(next.conflicts).toHaveLength(2);
    expect(await system.validate(null, quiet, signal)).toMatchObject({ verdict: 'VALID', differences: [] });
  });

  test('a row altered past the guard is named, diagnosed, and put right in every capture that reads it', async () => {
    const { number: first } = await system.capture(quiet, signal);
    await primary.run('UPDATE accounts SET balance = balance + 1 WHERE id < 10');
    await system.capture(quiet, signal);
    await shadow.run('SET session_replication_role = replica; UPDATE public.accounts SET balance = 1 WHERE id = 500');
    expect(await system.validate(first, quiet, signal)).toMatchObject({ verdict: 'INVALID' });
    const report = await system.validate(null, quiet, signal);
    expect(report.differences).toEqual([{ table: 'public.accounts', key: { id: 500 }, diagnosis: 'altered in the shadow' }]);
    const cured = await system.capture(quiet, signal);
    expect(cured).toMatchObject({ verdict: 'VALID', cure: { action: 'repair', rows: 1 } });
    expect(await system.validate(first, quiet, signal)).toMatchObject({ verdict: 'VALID' });
    expect((await system.captures(signal)).map(({ verdict }) => verdict)).toEqual(['VALID', 'VALID', 'VALID']);
  });

  test('rollback parks the shadow at a capture, resume follows the primary again', async () => {
    const { number } = await system.capture(quiet, signal);
    await primary.run("UPDATE accounts SET name = 'wrong' WHERE id < 100; DELETE FROM orders WHERE id > 200");
    const report = await system.rollback(number, quiet, signal);
    expect(report).toMatchObject({ to: number, rows: 199, proved: true, parked: true });
    await expect(system.capture(quiet, signal)).rejects.toMatchObject({ code: 'PARKED' });
    await system[Symbol.asyncDispose]();
    system = await open();
    await expect(system.capture(quiet, signal)).rejects.toMatchObject({ code: 'PARKED' });
    expect(await system.resume(quiet, signal)).toMatchObject({ from: number });
    expect(await system.capture(quiet, signal)).toMatchObject({ verdict: 'VALID' });
    expect(await system.diff(number, (report.before ?? 0) + 1, signal)).toMatchObject({
      tables: [
        { table: 'public.accounts', updated: 99 },
        { table: 'public.orders', deleted: 100 },
      ],
    });
  });
});
