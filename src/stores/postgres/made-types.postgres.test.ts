import { afterEach, beforeEach, expect, test } from 'vitest';
import { createDatabase, type TestDatabase } from '../../../test/postgres.ts';
import { captureNumber, NO_CAPTURE } from '../../model/capture.ts';
import { position } from '../../model/position.ts';
import type { Generation, Progress } from '../../model/progress.ts';
import type { DataSetSchema, TableSchema } from '../../model/schema.ts';
import type { Tuple } from '../../model/tuple.ts';
import { groundOf } from '../../shadowing/shadow-session.contract.ts';
import type { Shadow } from '../../shadowing/shadow.ts';
import { openPostgresPrimary } from './primary.ts';
import { openPostgresShadow } from './shadow.ts';
import { Wire } from './wire.ts';

const never = new AbortController().signal;
let source: TestDatabase;
let home: TestDatabase;
let shadow: Shadow;

beforeEach(async () => {
  source = await createDatabase();
  home = await createDatabase();
  ({ shadow } = await openPostgresShadow(home.url));
  await shadow.claim('the test');
});
afterEach(async () => {
  await shadow[Symbol.asyncDispose]();
  await home[Symbol.asyncDispose]();
  await source[Symbol.asyncDispose]();
});

function progress(clock: bigint): Progress {
  const low = position(clock);
  return { generation: 1 as Generation, low, high: low, capture: captureNumber(1) };
}

async function described(): Promise<DataSetSchema> {
  await using primary = await openPostgresPrimary({
    url: source.url,
    dataSet: 'types',
    selection: { include: ['public.*'], exclude: [] },
    journaled: () => Promise.resolve(new Set()),
  });
  return await primary.describe(never);
}

async function rowsOf(sql: string): Promise<Tuple[]> {
  await using wire = await Wire.open(source.url, { side: 'primary', purpose: 'test' });
  const rows: Tuple[] = [];
  for await (const some of wire.select(sql, [])) rows.push(...some);
  return rows;
}

async function put(table: TableSchema, clock: bigint, rows: Tuple[]): Promise<void> {
  const from = await groundOf(shadow, table.table);
  const work = { table: table.table, rows: [{ deletes: [], puts: rows, fresh: false }], from, progress: progress(clock) };
  await shadow.apply([{ ...work, state: { kind: 'live' }, savedThrough: NO_CAPTURE }], never);
}

test('rows from before a type was altered are written after it was renewed', async () => {
  await source.run('CREATE TYPE pair AS (a int, b int); CREATE TABLE t (id int PRIMARY KEY, p pair)');
  const before = await described();
  const [table] = before.tables as [TableSchema];
  await shadow.prepare(before, progress(1n));
  await put(table, 2n, await rowsOf('SELECT 1, ROW(1, 2)::public.pair'));
  const older = await rowsOf('SELECT 1, ROW(3, 4)::public.pair');
  await source.run('ALTER TYPE pair ADD ATTRIBUTE c int');
  await shadow.prepare({ tables: [], before: (await described()).before, after: [] }, progress(2n));
  await put(table, 3n, older);
  const { rows } = await shadow.rows(table.table, captureNumber(1), null, { rows: 9, bytes: 1 << 20 }, never);
  expect(rows).toEqual(older);
});

test.each(['segment', 'coming', '"a AS b"', `"it's a ""type"", AS ENUM (x"`])('a type named %s is renewed', async (name) => {
  await source.run(
    `CREATE TYPE ${name} AS (a int, b int); CREATE DOMAIN "d AS e" AS int; CREATE TABLE t (id int PRIMARY KEY, p ${name}, d "d AS e")`,
  );
  const before = await described();
  await shadow.prepare(before, progress(1n));
  await source.run(`ALTER TYPE ${name} ADD ATTRIBUTE c int`);
  const now = await described();
  await shadow.prepare({ tables: [], before: now.before, after: [] }, progress(1n));
  expect(await home.run(`SELECT (ROW(1, 2, 3)::public.${name}).c`)).toEqual([{ c: 3 }]);
});
