import { afterEach, beforeEach, expect, test } from 'vitest';
import { createDatabase, type TestDatabase } from '../../../test/postgres.ts';
import { captureNumber, NO_CAPTURE } from '../../model/capture.ts';
import { position } from '../../model/position.ts';
import type { Generation, Progress } from '../../model/progress.ts';
import type { DataSetSchema, TableSchema } from '../../model/schema.ts';
import { keyTuple, type Tuple } from '../../model/tuple.ts';
import type { Shadow } from '../../shadowing/shadow.ts';
import { groundOf } from '../../shadowing/shadow-session.contract.ts';
import { identifier } from './connection.ts';
import { qualified } from './layout.ts';
import { openPostgresPrimary } from './primary.ts';
import { openPostgresRestoreTarget } from './restore-target.ts';
import { openPostgresShadow } from './shadow.ts';
import { Wire } from './wire.ts';

/** What passes through a shadow comes out as it went in: for types whose bytes depend on the database, and keys of odd types. */

const never = new AbortController().signal;
const SOURCE = `
  CREATE EXTENSION citext; CREATE EXTENSION hstore;
  CREATE TYPE mood AS ENUM ('glad', 'sad', 'so''so');
  CREATE TYPE point3 AS (x int, m mood, tags text[]);
  CREATE DOMAIN moods AS mood[];
  CREATE TABLE plain (a int PRIMARY KEY, i2 smallint, i8 bigint, n numeric, f4 real, f8 double precision, b boolean, t text, v varchar(10),
    c char(5), y bytea, d date, ti time, tz timetz, ts timestamp(3), tt timestamptz, iv interval, u uuid, j json, jb jsonb, ip inet, ci cidr,
    mac macaddr, bits varbit(9), ar int[], na numeric(6,2)[], rg int4range, mr nummultirange, tsv tsvector, pt point, mo money);
  INSERT INTO plain VALUES
    (1, -1, 9223372036854775807, 1.500, 'NaN', '-Infinity', true, E'a\\tb\\\\\\n', 'ä', 'x', '\\x00ff', 'infinity', '24:00', '12:00+02', '2026-01-01 10:00:00.123',
     '4713-01-01 BC', '1 mon -2 days 3.5 s', gen_random_uuid(), '{"a" : 1}', '{"b": [1, null]}', '10.0.0.1/8', '10.0.0.0/8', '00:11:22:33:44:55', '101',
     '[0:1]={1,NULL}', '{1.50,NULL}', '[1,5)', '{[1,2),(3,4]}', 'a:1 b', '(1,2)', 12.5);
  INSERT INTO plain (a) VALUES (2), (3);
  CREATE TABLE made (k citext, l numeric, m mood NOT NULL, one mood[], many point3[], single point3, dom moods, h hstore, e hstore[], PRIMARY KEY (k, l, m));
  INSERT INTO made VALUES ('Ab', 1.0, 'glad', '{glad,"so''so",NULL}', ARRAY[ROW(1, 'sad', '{a,b}')::point3, NULL], ROW(NULL, 'glad', NULL), '{sad}', 'a=>1', ARRAY['b=>2'::hstore]),
    ('ab2', 1.00, 'sad', '{}', '{}', NULL, NULL, NULL, NULL), ('ä', 'NaN', 'so''so', NULL, NULL, ROW(5, NULL, '{}'), '{}', '', '{}');
  CREATE TABLE "odd ""names""" ("tableoid2" int, "select" text COLLATE "C", "ключ" uuid DEFAULT gen_random_uuid(), PRIMARY KEY ("select", "ключ"));
  INSERT INTO "odd ""names""" SELECT i, chr(64 + i) FROM generate_series(1, 30) i;`;

let source: TestDatabase;
let home: TestDatabase;
let shadow: Shadow;
let dataSet: DataSetSchema;
const progress = (clock: bigint, capture: number): Progress => {
  const low = position(clock);
  return { generation: 1 as Generation, low, high: low, capture: captureNumber(capture) };
};

beforeEach(async () => {
  source = await createDatabase();
  home = await createDatabase();
  await source.run(SOURCE);
  // OIDs of types that users made are then others here than there.
  await home.run('CREATE TYPE unlike AS (a int); CREATE TYPE unlike2 AS (a int)');
  const primary = await openPostgresPrimary({
    url: source.url,
    dataSet: 'types',
    selection: { include: ['public.*'], exclude: [] },
    journaled: () => Promise.resolve(new Set()),
  });
  dataSet = await primary.describe(never);
  await primary[Symbol.asyncDispose]();
  ({ shadow } = await openPostgresShadow(home.url));
  await shadow.claim('the test');
  await shadow.prepare(dataSet, progress(1n, 1));
});
afterEach(async () => {
  await shadow[Symbol.asyncDispose]();
  await home[Symbol.asyncDispose]();
  await source[Symbol.asyncDispose]();
});

async function rowsIn(url: string, table: TableSchema): Promise<Tuple[]> {
  await using wire = await Wire.open(url, { side: 'primary', purpose: 'test' });
  const columns = table.columns.map((column) => identifier(column.name)).join(', ');
  const rows: Tuple[] = [];
  for await (const some of wire.select(`SELECT ${columns} FROM ${qualified(table.table)}`, [])) rows.push(...some);
  return rows;
}

const notes = (rows: readonly Tuple[]): string[] => rows.map((row) => row.toString('hex')).toSorted();

async function apply(
  clock: bigint,
  capture: number,
  change: (table: TableSchema, rows: Tuple[]) => { deletes: Tuple[]; puts: Tuple[]; fresh: boolean },
): Promise<void> {
  for (const table of dataSet.tables) {
    const { deletes, puts, fresh } = change(table, await rowsIn(source.url, table));
    const keys = deletes.map((row) => keyTuple(row, table.key));
    const savedThrough = capture === 1 ? NO_CAPTURE : captureNumber(capture - 1);
    const rows = [{ deletes: keys, puts, fresh }];
    const from = await groundOf(shadow, table.table);
    await shadow.apply(
      [{ table: table.table, rows, from, progress: progress(clock, capture), state: { kind: 'live' }, savedThrough }],
      never,
    );
  }
}

async function shadowRows(table: TableSchema, capture: number): Promise<Tuple[]> {
  const rows: Tuple[] = [];
  for (let after = null; ; ) {
    const chunk = await shadow.rows(table.table, captureNumber(capture), after, { rows: 2, bytes: 1 << 20 }, never);
    rows.push(...chunk.rows);
    if (chunk.through === null) return rows;
    after = chunk.through as never;
  }
}

test.each([true, false])('rows of every type come back to the byte (fresh: %s), by page, key and version', async (fresh) => {
  await apply(2n, 1, (_, rows) => ({ deletes: [], puts: rows, fresh }));
  for (const table of dataSet.tables) {
    const rows = await rowsIn(source.url, table);
    expect(notes(await shadowRows(table, 1))).toEqual(notes(rows));
    const keys = rows.map((row) => keyTuple(row, table.key));
    expect(notes(await shadow.rowsByKey(table.table, captureNumber(1), keys, never))).toEqual(notes(rows));
    for (const [index, key] of keys.entries())
      expect((await shadow.versionAt(table.table, key, captureNumber(1)))?.row).toEqual(rows[index]);
  }
});

test('what is put again as it stands makes no version; what was deleted shows in the diff to the byte', async () => {
  await apply(2n, 1, (_, rows) => ({ deletes: [], puts: rows, fresh: true }));
  await apply(3n, 2, (_, rows) => ({ deletes: rows.slice(0, 1), puts: rows.slice(1), fresh: false }));
  for (const table of dataSet.tables) {
    const [first] = await rowsIn(source.url, table);
    const found = [];
    for await (const slice of shadow.diff(table.table, captureNumber(1), captureNumber(2), never)) found.push(...slice);
    expect(found).toEqual([{ key: keyTuple(first as Tuple, table.key), before: first, after: null }]);
  }
});

test('restored into a database and run as a script, they are the same rows', async () => {
  await apply(2n, 1, (_, rows) => ({ deletes: [], puts: rows, fresh: true }));
  const url = Object.assign(new URL(home.url), { pathname: `/${home.name}_restored` }).href;
  try {
    await using target = await openPostgresRestoreTarget(url);
    await target.begin(dataSet.tables, 'empty', never);
    await target.run([...dataSet.before, ...dataSet.tables.flatMap((table) => table.create)], never);
    for (const table of dataSet.tables) {
      const rows = await shadowRows(table, 1);
      await target.load(table, [rows] as unknown as AsyncIterable<readonly Tuple[]>, never);
    }
    await target.run([...dataSet.tables.flatMap((table) => table.finish), ...dataSet.after], never);
    await target.finish(never);
    for (const table of dataSet.tables) {
      const sql = `SELECT t::text FROM ${qualified(table.table)} t ORDER BY 1`;
      const restored = { ...home, url };
      const text = async (database: { url: string }): Promise<string[]> => {
        await using wire = await Wire.open(database.url, { side: 'primary', purpose: 'test' });
        return ((await wire.query(sql))[0]?.rows ?? []).map((row) => row[0] as string);
      };
      const expected = await text(source);
      expect(await text(restored)).toEqual(expected);
      let script = '';
      for await (const part of shadow.script(table.table, captureNumber(1), never)) script += part;
      const [head = '', ...data] = script.split('\n');
      await using wire = await Wire.open(url, { side: 'primary', purpose: 'test' });
      await wire.query(`TRUNCATE ${qualified(table.table)}`);
      const body = data.slice(0, data.indexOf('\\.')).map((line) => `${line}\n`);
      await wire.copyIn(head.replace(/;$/, ''), [Buffer.from(body.join(''))]);
      expect(await text(restored)).toEqual(expected);
    }
  } finally {
    await home.run(`DROP DATABASE IF EXISTS ${home.name}_restored WITH (FORCE)`);
  }
});

test('a query speaks of types and functions as on the primary, and shows values as the tool does', async () => {
  await apply(2n, 1, (_, rows) => ({ deletes: [], puts: rows, fresh: true }));
  const sql = `SELECT k, l, m, one, h -> 'a' AS h, 9007199254740993 AS big, 1.50 AS n, true AS yes, 0.5::float8 AS f, '\\x01'::bytea AS bytes, ARRAY[1, NULL] AS list
    FROM public.made WHERE m = 'glad'::mood AND k = 'AB'`;
  const slices = [];
  for await (const slice of shadow.query(captureNumber(1), sql, never)) slices.push(slice);
  expect(slices[0]?.columns).toEqual(['k', 'l', 'm', 'one', 'h', 'big', 'n', 'yes', 'f', 'bytes', 'list']);
  expect(slices[0]?.rows).toEqual([
    ['Ab', '1.0', 'glad', ['glad', "so'so", null], '1', '9007199254740993', '1.50', true, 0.5, '\\x01', [1, null]],
  ]);
});

test('a value too long for its column is refused, however few rows there are', async () => {
  const types = ['varchar', 'char', 'bit', 'varbit'];
  const tables = types.map(
    (
      type,
    ) => `CREATE TABLE ${type}_3 (id int PRIMARY KEY, v ${type}(3), a ${type}(3)[]); CREATE TABLE ${type}_5 (id int PRIMARY KEY, v ${type}(5), a ${type}(5)[]);
      INSERT INTO ${type}_5 VALUES (1, '10101', NULL), (2, NULL, '{10101}')`,
  );
  await source.run(tables.join('; '));
  await using primary = await openPostgresPrimary({
    url: source.url,
    dataSet: 'types',
    selection: { include: ['public.*'], exclude: [] },
    journaled: () => Promise.resolve(new Set()),
  });
  const described = await primary.describe(never);
  await shadow.prepare(described, progress(1n, 1));
  for (const type of types) {
    const [narrow, wide] = [3, 5].map(
      (length) => described.tables.find(({ table }) => table === `public.${type}_${length}`) as TableSchema,
    );
    for (const row of await rowsIn(source.url, wide as TableSchema)) {
      const rows = [{ deletes: [], puts: [row], fresh: false }];
      const { table } = narrow as TableSchema;
      const work = { table, rows, from: progress(1n, 1), progress: progress(2n, 1), savedThrough: NO_CAPTURE };
      await expect(shadow.apply([{ ...work, state: { kind: 'live' } }], never)).rejects.toMatchObject({ code: 'QUERY_FAILED' });
    }
  }
});
