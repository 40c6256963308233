import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { parseConfig } from '../src/app/config.ts';
import type { ActivityReport, StatusReport } from '../src/app/operations.ts';
import { openSystem } from '../src/app/system.ts';
import { foreshadow, succeeds } from './command.ts';
import { type TestDatabase, createDatabase } from './postgres.ts';

/** What is counted of a primary's changes is what was committed: once, whatever the log repeats. */
let directory: string;
let primary: TestDatabase;
let shadow: TestDatabase;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'foreshadow-activity-'));
  primary = await createDatabase();
  shadow = await createDatabase();
  await writeFile(join(directory, 'foreshadow.yaml'), config(), { mode: 0o600 });
  await primary.run(`ALTER DATABASE ${primary.name} SET logical_decoding_work_mem = '64kB'`);
  await primary.run(`CREATE TABLE item (id int PRIMARY KEY, value text);
    INSERT INTO item SELECT n, 'first' FROM generate_series(1, 100) n;
    CREATE TABLE note (a text, b int, text text, PRIMARY KEY (b, a));
    CREATE TABLE quiet (id int PRIMARY KEY)`);
});

afterEach(async () => {
  await primary[Symbol.asyncDispose]();
  await shadow[Symbol.asyncDispose]();
  await rm(directory, { recursive: true, force: true });
});

function config(): string {
  return `dataSet: counted\nprimary: "${primary.url}"\nshadow: "${shadow.url}"\ntables: ["public.*"]\n`;
}

const idle: ActivityReport = { changes: 0, distinctRows: 0, bytes: 0 };

function activityOf(status: StatusReport): Record<string, ActivityReport | null> {
  return Object.fromEntries(status.tables.map(({ table, lastHour }) => [table, lastHour]));
}

test('a process that dies with what it counted counts the same once more, and no more than that', async () => {
  await succeeds(directory, ['capture']);
  for (const [round, place] of ['spooled', 'appended', 'adopted'].entries()) {
    const base = 10_000 * (round + 1);
    await primary.run(`BEGIN; INSERT INTO item SELECT n, repeat('large ', 80) FROM generate_series(${base}, ${base + 3999}) n;
      SAVEPOINT s; INSERT INTO note SELECT n::text, n, repeat('dropped ', 30) FROM generate_series(1, 900) n; ROLLBACK TO s; COMMIT`);
    await primary.run(`BEGIN; UPDATE item SET value = 'never'; ROLLBACK`);
    await primary.run(`UPDATE item SET value = 'changed' WHERE id = 1; INSERT INTO note VALUES ('n', ${round}, 'short')`);
    expect(await foreshadow(directory, ['capture'], place)).toMatchObject({ killed: true });
  }
  expect(await succeeds(directory, ['capture'])).toMatchObject({ verdict: 'VALID' });
  const status = (await succeeds(directory, ['status'])) as unknown as StatusReport;
  const activity = activityOf(status);
  expect(activity['public.item']?.changes).toBe(3 * 4001);
  expect(Math.abs((activity['public.item']?.distinctRows ?? 0) - 12_001)).toBeLessThan(1000);
  expect(activity['public.note']).toMatchObject({ changes: 3, distinctRows: 3 });
  expect(activity['public.quiet']).toEqual(idle);
  expect(status.learning.troubles).toEqual([]);
});

test('while running, status tells of the last hour', async () => {
  const { signal } = new AbortController();
  await using system = await openSystem(parseConfig(config(), join(directory, 'foreshadow.yaml'), {}), { log: () => {} });
  await system.capture(() => {}, signal);
  expect(activityOf(await system.status(signal))).toEqual({ 'public.item': idle, 'public.note': idle, 'public.quiet': idle });
  for (let each = 0; each < 5; each++) await primary.run(`UPDATE item SET value = 'v${each}' WHERE id <= 3`);
  await primary.run(`UPDATE item SET id = 500 WHERE id = 3; DELETE FROM item WHERE id = 500; DELETE FROM item WHERE id = 7; TRUNCATE note`);
  await system.capture(() => {}, signal);
  const activity = activityOf(await system.status(signal));
  expect(activity['public.item']).toMatchObject({ changes: 18, distinctRows: 5 });
  expect(activity['public.note']).toMatchObject({ changes: 1, distinctRows: 0 });
});
