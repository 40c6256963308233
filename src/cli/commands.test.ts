import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';

/** The commands as a user runs them: processes of their own, on real SQLite files. */

const BIN = fileURLToPath(new URL('../../bin/foreshadow.js', import.meta.url));

let directory: string;
let shop: DatabaseSync;
const running: ChildProcess[] = [];

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'foreshadow-commands-'));
  shop = new DatabaseSync(join(directory, 'shop.db'), { timeout: 5000 });
  shop.exec(`
    PRAGMA journal_mode = WAL;
    CREATE TABLE customers (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE);
    CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER NOT NULL REFERENCES customers (id), total REAL NOT NULL DEFAULT 0.5);
    CREATE INDEX orders_by_customer ON orders (customer);
    CREATE VIEW totals AS SELECT customer, sum(total) AS total FROM orders GROUP BY customer;
    INSERT INTO customers (name) VALUES ('Ada'), ('Grace'), ('Edsger');
    INSERT INTO orders (customer, total) VALUES (1, 10), (1, 20), (2, 30);
  `);
});

afterEach(async () => {
  for (const child of running.splice(0)) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    const exited = once(child, 'exit');
    child.kill('SIGKILL');
    await exited;
  }
  shop.close();
  await rm(directory, { recursive: true, force: true });
});

function begin(given: readonly string[]): ChildProcess {
  const child = spawn(process.execPath, [BIN, ...given], { cwd: directory, stdio: ['ignore', 'pipe', 'pipe'] });
  running.push(child);
  return child;
}

async function foreshadow(...given: string[]): Promise<{ exit: number; out: string; err: string }> {
  const child = begin(given);
  let [out, err] = ['', ''];
  child.stdout?.on('data', (text: Buffer) => (out += text.toString()));
  child.stderr?.on('data', (text: Buffer) => (err += text.toString()));
  const [exit] = (await once(child, 'close')) as [number];
  return { exit, out, err };
}

/** Runs a command with --json, and expects it to do its work. */
async function json(...given: string[]): Promise<unknown> {
  const { exit, out, err } = await foreshadow(...given, '--json');
  expect({ given, exit, err }).toEqual({ given, exit: 0, err: '' });
  return JSON.parse(out);
}

async function init(): Promise<void> {
  await json('init', '--primary', 'sqlite:shop.db', '--shadow', 'sqlite:shadow.db');
}

/** A start that is up and has copied everything. */
async function start(): Promise<ChildProcess> {
  const child = begin(['start', '--json']);
  let err = '';
  child.stderr?.on('data', (text: Buffer) => (err += text.toString()));
  const up = once(child.stdout as NodeJS.ReadableStream, 'data');
  const early = once(child, 'exit').then(() => {
    throw new Error(`start ended: ${err}`);
  });
  early.catch(() => undefined);
  await Promise.race([up, early]);
  return child;
}

function objects(): unknown[] {
  return shop.prepare('SELECT type, name, sql FROM sqlite_master ORDER BY name').all();
}

test('alone, from init to uninstall', async () => {
  const before = objects();
  await init();
  expect(await json('doctor')).toMatchObject({
    findings: expect.not.arrayContaining([expect.objectContaining({ severity: 'error' })]) as unknown,
  });
  expect(objects()).toEqual(before);

  expect(await json('capture')).toMatchObject({ number: 1, verdict: 'VALID', rows: { inserted: 6, updated: 0, deleted: 0 } });
  shop.exec("UPDATE orders SET total = 11 WHERE id = 1; DELETE FROM orders WHERE id = 2; INSERT INTO customers (name) VALUES ('Barbara')");
  expect(await json('capture')).toMatchObject({ number: 2, verdict: 'VALID', rows: { inserted: 1, updated: 1, deleted: 1 } });
  expect(await json('captures')).toMatchObject([
    { number: 1, verdict: 'VALID' },
    { number: 2, verdict: 'VALID' },
  ]);

  const diff = (await json('diff', '1', '2', '--rows')) as { tables: unknown; rows: unknown[] };
  expect(diff.tables).toEqual(
    expect.arrayContaining([
      { table: 'orders', inserted: 0, updated: 1, deleted: 1 },
      { table: 'customers', inserted: 1, updated: 0, deleted: 0 },
    ]),
  );
  expect(diff.rows).toContainEqual({
    table: 'orders',
    key: { id: 1 },
    before: { id: 1, customer: 1, total: 10 },
    after: { id: 1, customer: 1, total: 11 },
  });
  expect((await foreshadow('diff', '1', '2', '--exit-code')).exit).toBe(16);

  const sql = 'SELECT id, total FROM orders ORDER BY id';
  expect(await json('query', '1', sql)).toEqual([
    { id: 1, total: 10 },
    { id: 2, total: 20 },
    { id: 3, total: 30 },
  ]);
  expect((await json('query', '2', sql)) as unknown[]).toHaveLength(2);
  expect(await foreshadow('query', '1', 'DELETE FROM orders')).toMatchObject({
    exit: 1,
    err: expect.stringContaining('QUERY_FAILED') as string,
  });
  expect(await foreshadow('diff', '1', '7')).toMatchObject({ exit: 1, err: expect.stringMatching(/capture 7.*CAPTURE_MISSING/) as string });

  expect(await json('validate')).toMatchObject({ against: 'primary', capture: null, verdict: 'VALID', differences: [] });
  expect(await json('validate', '1')).toMatchObject({ against: 'seal', capture: 1, verdict: 'VALID' });

  expect(await json('uninstall')).toMatchObject({ dataSet: 'shop' });
  expect(objects()).toEqual(before);
  expect((await json('query', '1', sql)) as unknown[]).toHaveLength(3);
});

test('restore gives back a working database, whole, by table, and as SQL', async () => {
  await init();
  await json('capture');
  shop.exec('DELETE FROM orders');
  expect(await json('restore', '1', '--to', 'sqlite:copy.db')).toMatchObject({
    capture: 1,
    to: 'sqlite:copy.db',
    tables: 2,
    rows: 6,
    proved: true,
  });
  const copy = new DatabaseSync(join(directory, 'copy.db'));
  expect(copy.prepare('SELECT total FROM totals WHERE customer = 1').all()).toEqual([{ total: 30 }]);
  copy.exec("INSERT INTO customers (name) VALUES ('Barbara')");
  expect(copy.prepare('SELECT max(id) AS id FROM customers').get()).toEqual({ id: 4 });
  copy.close();
  expect(await foreshadow('restore', '1', '--to', 'sqlite:copy.db')).toMatchObject({
    exit: 1,
    err: expect.stringContaining('TARGET_OCCUPIED') as string,
  });

  await json('restore', '1', '--to', 'sqlite:one.db', '--table', 'customers');
  const one = new DatabaseSync(join(directory, 'one.db'));
  expect(one.prepare('SELECT count(*) AS n FROM customers').get()).toEqual({ n: 3 });
  expect(one.prepare("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'").all()).toEqual([
    { name: 'customers' },
  ]);
  one.close();

  const script = await foreshadow('restore', '1', '--to', '-');
  expect(script.exit).toBe(0);
  const typed = new DatabaseSync(':memory:');
  typed.exec(script.out);
  expect(typed.prepare('SELECT id, name FROM customers').all()).toEqual([
    { id: 1, name: 'Ada' },
    { id: 2, name: 'Grace' },
    { id: 3, name: 'Edsger' },
  ]);
  typed.close();
});

test('a row altered in the shadow is found, named, and cured by the next capture', async () => {
  await init();
  await json('capture');
  const shadow = new DatabaseSync(join(directory, 'shadow.db'));
  shadow.exec("UPDATE customers SET name = 'Mallory' WHERE id = 2");
  shadow.close();
  const told = await foreshadow('validate', '--json');
  expect(told.exit).toBe(16);
  expect(JSON.parse(told.out)).toMatchObject({
    verdict: 'INVALID',
    differences: [{ table: 'customers', key: { id: 2 }, diagnosis: 'altered in the shadow' }],
  });
  expect(await json('query', '1', 'SELECT name FROM customers WHERE id = 2')).toEqual([{ name: 'Grace' }]);
  expect(await json('capture')).toMatchObject({ number: 2, verdict: 'VALID' });
  expect(await json('validate')).toMatchObject({ verdict: 'VALID' });
});

test('rollback parks the shadow until resume', async () => {
  await init();
  await json('capture');
  shop.exec('UPDATE orders SET total = 0');
  await json('capture');
  expect(await json('rollback', '1')).toMatchObject({ to: 1, rows: 3, proved: true, parked: true });
  const refused = await foreshadow('capture');
  expect(refused).toMatchObject({ exit: 1, err: expect.stringMatching(/remedy: .*foreshadow resume/) as string });
  expect(await json('status')).toMatchObject({ running: false, captures: { parkedAt: 1 } });
  shop.exec('UPDATE orders SET total = 5 WHERE id = 3');
  expect(await json('resume')).toMatchObject({ from: 1 });
  expect(await json('validate')).toMatchObject({ verdict: 'VALID' });
  const listed = (await json('captures')) as { number: number }[];
  const { number } = (await json('capture')) as { number: number };
  expect(number).toBeGreaterThan(Math.max(...listed.map((each) => each.number)));
  expect(await json('query', String(number), 'SELECT sum(total) AS total FROM orders')).toEqual([{ total: 5 }]);
});

test('through a running start, which survives kill -9', async () => {
  await init();
  const first = await start();
  expect(await json('capture')).toMatchObject({ number: 1, verdict: 'VALID', leaves: null });
  expect(await json('status')).toMatchObject({ running: true, dataSet: 'shop' });
  expect(await foreshadow('start')).toMatchObject({ exit: 1, err: expect.stringContaining('ALREADY_RUNNING') as string });
  expect((await stat(join(directory, '.foreshadow', 'foreshadow.sock'))).mode & 0o777).toBe(0o600);

  const tail = begin(['tail']);
  const line = once(tail.stdout as NodeJS.ReadableStream, 'data');
  // The tail begins at some moment after it was asked for: change something until it has.
  const changing = setInterval(() => shop.exec('UPDATE orders SET total = total + 1 WHERE id = 1'), 50);
  const [text] = (await line) as [Buffer];
  clearInterval(changing);
  expect(JSON.parse(text.toString().split('\n')[0] ?? '')).toMatchObject({ table: 'orders', key: { id: 1 }, row: { id: 1, customer: 1 } });
  tail.kill('SIGINT');
  expect(await once(tail, 'exit')).toEqual([0, null]);

  const killed = once(first, 'exit');
  first.kill('SIGKILL');
  await killed;
  shop.exec("INSERT INTO customers (name) VALUES ('Barbara')");
  const second = await start();
  expect(await json('capture')).toMatchObject({ number: 2, verdict: 'VALID', rows: { inserted: 1, updated: 1, deleted: 0 } });
  const ended = once(second, 'exit');
  second.kill('SIGTERM');
  expect(await ended).toEqual([0, null]);
  expect(await json('status')).toMatchObject({ running: false, captures: { last: 2 } });
});
