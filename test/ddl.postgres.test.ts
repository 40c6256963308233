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
  const text = `dataSet: ddl\nprimary: "${primary.url}"\nshadow: "${shadow.url}"\ntables: ["public.*"]\n${policy}`;
  system = await openSystem(parseConfig(text, join(directory, 'foreshadow.yaml'), {}), {
    log: (_level, message, fields) => log.push(`${message} ${JSON.stringify(fields)}`),
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
});
