import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import type { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parseConfig } from '../src/app/config.ts';
import type { LocalSystem } from '../src/app/local-system.ts';
import { openSystem } from '../src/app/system.ts';
import { captureNumber } from '../src/model/capture.ts';
import type { TableName } from '../src/model/schema.ts';
import type { KeyTuple, Tuple } from '../src/model/tuple.ts';
import { openPostgresPrimary } from '../src/stores/postgres/primary.ts';
import { openPostgresShadow } from '../src/stores/postgres/shadow.ts';
import { Wire } from '../src/stores/postgres/wire.ts';
import { createDatabase, type TestDatabase } from './postgres.ts';
import { arrays, BUILT_IN, composites, floatPair, ranges, several, type TextValues } from './type-values.ts';

/** Original = initial copy = streamed = restored, to the byte, for every type a server has and what users make of them. */

const quiet = (): void => {};
const { signal } = new AbortController();
const VALUES = 40;

const mood = fc.constantFrom('glad', "it's", 'Ä "b"', '');
const int = BUILT_IN['int4'] as TextValues;
const pointed = composites(int, mood, arrays(mood), BUILT_IN['timestamptz'] as TextValues);
const USER_TYPES = `
  CREATE SCHEMA "Odd types"; SET search_path = "Odd types";
  CREATE TYPE "Mood" AS ENUM ('glad', 'it''s', 'Ä "b"', '');
  CREATE DOMAIN whole AS int CHECK (VALUE IS DISTINCT FROM -1);
  CREATE DOMAIN price AS numeric(20,3);
  CREATE DOMAIN code AS text COLLATE "C";
  CREATE DOMAIN codes AS code;
  CREATE DOMAIN feeling AS "Mood";
  CREATE DOMAIN feelings AS "Mood"[];
  CREATE TYPE spot AS (x int, "the mood" "Mood", moods "Mood"[], at timestamptz);
  CREATE TYPE nest AS (spot spot, spots spot[], gone int, feeling feeling, price price);
  ALTER TYPE nest DROP ATTRIBUTE gone;
  CREATE TYPE nothing AS ();
  CREATE DOMAIN place AS spot;
  CREATE TYPE floats AS RANGE (SUBTYPE = float8);
  CREATE TYPE moods AS RANGE (SUBTYPE = "Mood");
  CREATE TYPE names AS RANGE (SUBTYPE = text, COLLATION = "C");
  CREATE DOMAIN span AS floats;
  CREATE EXTENSION hstore WITH SCHEMA "Odd types"; CREATE EXTENSION citext WITH SCHEMA "Odd types"; CREATE EXTENSION ltree WITH SCHEMA "Odd types";
  CREATE EXTENSION cube WITH SCHEMA "Odd types"; CREATE EXTENSION seg WITH SCHEMA "Odd types"; CREATE EXTENSION isn WITH SCHEMA "Odd types"`;

/** What no column of a mirror can be, by the name of its table. */
const REFUSED_TYPES = `
  CREATE EXTENSION seg;
  CREATE TYPE public.kept AS (at regclass);
  CREATE DOMAIN public.classes AS regclass[];
  CREATE TABLE public.plain (id int PRIMARY KEY);
  CREATE TABLE public.acl_list (id int PRIMARY KEY, v aclitem[]);
  CREATE TABLE public.seg_key (v public.seg PRIMARY KEY);
  CREATE TABLE public.of_class (id int PRIMARY KEY, v public.kept[]);
  CREATE TABLE public.of_classes (id int PRIMARY KEY, v public.classes);
  CREATE TABLE public.rows_of (id int PRIMARY KEY, v public.plain)`;

const floats = ranges(floatPair);
const moods = ranges(fc.constantFrom(['glad', "it's"] as const, ["it's", 'Ä "b"'] as const));
const nameRange = ranges(fc.constantFrom(['a', 'ä"\\'] as const, [' ', 'b'] as const));
const label = fc.stringMatching(/^[a-z_0-9]{1,5}$/);
const MADE: Readonly<Record<string, TextValues>> = {
  '"Mood"': mood,
  whole: int.filter((text) => text !== '-1'),
  price: fc.constantFrom('1', '2.50', '99999999999999999.999', 'NaN'),
  code: BUILT_IN['text'] as TextValues,
  codes: BUILT_IN['text'] as TextValues,
  feeling: mood,
  feelings: arrays(mood),
  spot: pointed,
  nest: composites(pointed, arrays(pointed), mood, fc.constantFrom('1.500', '-0.001')),
  nothing: fc.constantFrom('()'),
  place: pointed,
  floats,
  moods,
  names: nameRange,
  floats_multirange: several(floats),
  moods_multirange: several(moods),
  span: floats,
  hstore: fc
    .array(fc.tuple(label, fc.constantFrom('NULL', '"ä \\"x\\""', '""')), { maxLength: 5 })
    .map((list) => list.map((pair) => pair.join('=>')).join(',')),
  citext: BUILT_IN['text'] as TextValues,
  ltree: fc.array(label, { maxLength: 5 }).map((list) => list.join('.')),
  lquery: fc.array(label, { minLength: 1, maxLength: 3 }).map((list) => `${list.join('.*.')}|b@*.!c`),
  ltxtquery: fc.array(label, { minLength: 1, maxLength: 3 }).map((list) => list.join(' & !')),
  cube: fc.constantFrom('(1,2,3)', '(0.1,-0),(5,1e300)', '(1)'),
  seg: fc.constantFrom('1.00', '1.0', '~5.50', '<3', '1.0 .. 2.00'),
  isbn: fc.constantFrom('0-19-852663-6', '978-0-11-000533-1'),
};
const MODIFIED: Readonly<Record<string, TextValues>> = {
  'character(5)': fc.constantFrom('', 'a', 'ab  ', 'äöüßx'),
  'character varying(5)': fc.constantFrom('', 'a ', 'äöüßx'),
  'numeric(10,3)': fc.constantFrom('1', '-0.001', '9999999.999', 'NaN'),
  'time(3) without time zone': fc.constantFrom('12:00:00.123', '24:00:00'),
  'timestamp(0) with time zone': fc.constantFrom('2020-01-01 00:00:00+00', '0044-03-15 01:02:03 BC'),
  'interval day to second(2)': fc.constantFrom('3 days 04:05:06.78', '-1 day 00:00:01'),
  'bit varying(7)': fc.constantFrom('', '1', '1010101'),
  'information_schema.sql_identifier': fc.constantFrom('a', 'B c'),
};

interface Column {
  readonly table: string;
  readonly type: string;
  readonly values: TextValues;
  /** Null: the array of the type cannot be carried. */
  readonly array: TextValues | null;
}

/** No array: the server has no binary form of the elements, and would break off the stream. */
const WITHOUT_BINARY = new Set(['aclitem', 'seg', 'isbn']);

const typed = (prefix: string, types: Readonly<Record<string, TextValues>>, schema: string): Column[] =>
  Object.entries(types).map(([name, values], index) => ({
    table: `${prefix}_${index}`,
    type: schema + (schema === 'pg_catalog.' ? name.replace(/^char$/, '"char"') : name),
    values,
    array: WITHOUT_BINARY.has(name) ? null : arrays(values, name === 'box' ? ';' : ','),
  }));
const COLUMNS = [...typed('built_in', BUILT_IN, 'pg_catalog.'), ...typed('made', MADE, '"Odd types".'), ...typed('modified', MODIFIED, '')];

let directory: string;
let primary: TestDatabase;
let home: TestDatabase;
let client: Client;
let system: LocalSystem;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'foreshadow-types-'));
  primary = await createDatabase();
  home = await createDatabase();
  // Types that users make have other OIDs in each database.
  await home.run('CREATE TYPE unlike AS (a int); CREATE TYPE unlike2 AS ENUM ()');
  await primary.run(USER_TYPES);
  client = await primary.client();
  for (const { table, type, array } of COLUMNS) {
    await client.query(`CREATE TABLE public.${table} (id int PRIMARY KEY, v ${type}${array === null ? '' : `, a ${type}[]`})`);
  }
  const text = `dataSet: types\nprimary: "${primary.url}"\nshadow: "${home.url}"\ntables: ["public.*"]\n`;
  system = await openSystem(parseConfig(text, join(directory, 'foreshadow.yaml'), {}), {
    log: process.env['DEBUG_LOG'] === undefined ? quiet : (...a: unknown[]) => console.log(JSON.stringify(a)),
  });
});

afterAll(async () => {
  await system[Symbol.asyncDispose]();
  await home[Symbol.asyncDispose]();
  await primary[Symbol.asyncDispose]();
  await rm(directory, { recursive: true, force: true });
});

/** Random values under ids from `first` on; those of ids that are there already are replaced. */
async function write(column: Column, first: number, count = VALUES): Promise<void> {
  const { table, type, values, array } = column;
  const sample = (from: TextValues): (string | null)[] => [...fc.sample(from, count - 1), null];
  const ids = Array.from({ length: count }, (_, index) => first + index);
  const parameters = array === null ? [ids, sample(values)] : [ids, sample(values), sample(array)];
  const [names, casts, sets] =
    array === null
      ? ['id, v', `id, v::${type}`, 'v = excluded.v']
      : ['id, v, a', `id, v::${type}, a::${type}[]`, 'v = excluded.v, a = excluded.a'];
  const unnest = parameters.map((_, index) => `$${index + 1}::${index === 0 ? 'int' : 'text'}[]`).join(', ');
  try {
    await client.query(
      `INSERT INTO public.${table} SELECT ${casts} FROM unnest(${unnest}) x(${names}) ON CONFLICT (id) DO UPDATE SET ${sets}`,
      parameters,
    );
  } catch (error) {
    throw new Error(`${type}: ${String(error)}`, { cause: error });
  }
}

async function bytesOf(url: string, { table, type, array }: Column): Promise<string[]> {
  await using wire = await Wire.open(url, { side: 'primary', purpose: 'test' });
  const value = WITHOUT_BINARY.has(type.replace(/^.*\./, '')) ? 'v::text' : 'v';
  const rows: string[] = [];
  const sql = `SELECT id, ${value}${array === null ? '' : ', a'} FROM public.${table} ORDER BY id`;
  for await (const some of wire.select(sql, [])) rows.push(...some.map((row) => row.toString('latin1')));
  return rows;
}

async function textsOf(url: string, tables: readonly string[]): Promise<string[][]> {
  await using wire = await Wire.open(url, { side: 'primary', purpose: 'test' });
  const found: string[][] = [];
  for (const table of tables) {
    const [result] = await wire.query(`SELECT t::text FROM public.${table} t ORDER BY 1`);
    found.push((result?.rows ?? []).map(([text]) => text as string));
  }
  return found;
}

async function capturedBytes(capture: number, tables: readonly string[]): Promise<string[][]> {
  const { shadow, catalog } = await openPostgresShadow(home.url);
  try {
    const found: string[][] = [];
    for (const table of tables) {
      const rows: Tuple[] = [];
      for (let after: KeyTuple | null = null; ; ) {
        const chunk = await shadow.rows(
          `public.${table}` as TableName,
          captureNumber(capture),
          after,
          { rows: 1000, bytes: 1 << 24 },
          signal,
        );
        rows.push(...chunk.rows);
        if (chunk.through === null) break;
        after = chunk.through;
      }
      found.push(rows.map((row) => row.toString('latin1')));
    }
    return found;
  } finally {
    await shadow[Symbol.asyncDispose]();
    void catalog;
  }
}

/** Rows may be far too long to be shown whole. */
function expectSame(type: string, found: readonly string[] | undefined, expected: readonly string[] | undefined): void {
  const short = (rows: readonly string[] | undefined): string[] =>
    (rows ?? []).flatMap((row, index) => (found?.[index] === expected?.[index] ? [] : [row.slice(0, 500)]));
  expect({ type, rows: found?.length, other: short(found) }).toEqual({ type, rows: expected?.length, other: short(expected) });
}

async function expectCaptured(capture: number): Promise<void> {
  const captured = await capturedBytes(
    capture,
    COLUMNS.map(({ table }) => table),
  );
  for (const [index, column] of COLUMNS.entries()) {
    const original = await bytesOf(primary.url, column);
    expect(original.length).toBeGreaterThan(0);
    expectSame(column.type, captured[index], original);
  }
}

describe('every type', () => {
  test('is covered, or refused by name', async () => {
    const rows = await primary.run(`SELECT typname AS name FROM pg_type t WHERE typnamespace = 'pg_catalog'::regnamespace
      AND typtype IN ('b', 'r', 'm', 'e', 'd') AND typcategory <> 'A' ORDER BY 1`);
    const covered = new Set(Object.keys(BUILT_IN).map((name) => name.replace(/\(.*/, '')));
    const left = rows.map(({ name }) => name as string).filter((name) => !covered.has(name));
    await using database = await createDatabase();
    await database.run(REFUSED_TYPES);
    for (const name of left) await database.run(`CREATE TABLE public.${name} (id int PRIMARY KEY, v pg_catalog.${name})`);
    const selection = { include: ['public.*'], exclude: [] };
    await using opened = await openPostgresPrimary({ url: database.url, dataSet: 'refused', selection, journaled: async () => new Set() });
    const findings = (await opened.check(signal)).filter(({ code }) => code === 'TYPE_UNSUPPORTED');
    const reasons = findings.map(({ subject, message }) => `${subject}: ${message.replace(/^.* cannot be (carried|tracked): /, '')}`);
    // Of gtsvector there are no values, only columns.
    expect((await opened.describe(signal)).tables.map(({ table }) => table)).toEqual(['public.gtsvector', 'public.plain']);
    const refused = left.filter((name) => name !== 'gtsvector');
    const reasonOf = (name: string): string =>
      name.startsWith('reg')
        ? `a ${name} is the number of an object of this server, which means another or none elsewhere.`
        : `values of ${name} are written by the server alone.`;
    const unsent = 'which has no binary form: the change stream would break off at its values.';
    expect(reasons.toSorted()).toEqual(
      [
        ...refused.map((name) => `public.${name}: ${reasonOf(name)}`),
        `public.acl_list: it is made of aclitem, ${unsent}`,
        'public.seg_key: its key has v, whose type has no binary form.',
        `public.of_class: ${reasonOf('regclass')}`,
        `public.of_classes: ${reasonOf('regclass')}`,
        'public.rows_of: it is made of the rows of public.plain, which has another shape in a mirror.',
      ].toSorted(),
    );
  });

  test('copied, streamed, restored', async () => {
    for (const column of COLUMNS) await write(column, 1, 2 * VALUES);
    const copied = await system.capture(quiet, signal);
    expect(copied).toMatchObject({ verdict: 'VALID', differences: [], coverage: { skipped: [] } });
    await expectCaptured(copied.number);
    for (const column of COLUMNS) await write(column, VALUES + 1, 2 * VALUES);
    for (const { table } of COLUMNS) await client.query(`DELETE FROM public.${table} WHERE id < 10`);
    const streamed = await system.capture(quiet, signal);
    expect(streamed).toMatchObject({ verdict: 'VALID', differences: [], coverage: { skipped: [] } });
    await expectCaptured(streamed.number);
    const to = Object.assign(new URL(home.url), { pathname: `/${home.name}_restored` }).href;
    try {
      expect(await system.restore({ capture: streamed.number, to, table: null }, quiet, signal)).toMatchObject({
        proved: true,
        skipped: [],
      });
      const tables = COLUMNS.map(({ table }) => table);
      const [restored, original] = [await textsOf(to, tables), await textsOf(primary.url, tables)];
      for (const [index, { type }] of COLUMNS.entries()) expectSame(type, restored[index], original[index]);
      for (const column of COLUMNS) {
        if (column.table.startsWith('made')) continue;
        expectSame(column.type, await bytesOf(to, column), await bytesOf(primary.url, column));
      }
    } finally {
      await home.run(`DROP DATABASE IF EXISTS ${home.name}_restored WITH (FORCE)`);
    }
  });
});
