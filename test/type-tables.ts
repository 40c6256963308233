import fc from 'fast-check';
import type { Client } from 'pg';
import { captureNumber } from '../src/model/capture.ts';
import type { TableName } from '../src/model/schema.ts';
import { cellsOf, type KeyTuple, type Tuple } from '../src/model/tuple.ts';
import { openPostgresShadow } from '../src/stores/postgres/shadow.ts';
import { Wire } from '../src/stores/postgres/wire.ts';
import { arrays, BUILT_IN, composites, floatPair, ranges, several, type TextValues } from './type-values.ts';

/** Tables with columns of every type: those a server ships with, those users and extensions make, and arrays of each. */

const mood = fc.constantFrom('glad', "it's", 'Ä "b"', '');
const int = BUILT_IN['int4'] as TextValues;
const pointed = composites(int, mood, arrays(mood), BUILT_IN['timestamptz'] as TextValues);
export const USER_TYPES = `
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

export interface TypedColumn {
  readonly name: string;
  readonly type: string;
  readonly values: TextValues;
  /** Carried as text: the type has no binary form. */
  readonly asText: boolean;
}

/** With a column `id int PRIMARY KEY` before these. */
export interface TypedTable {
  readonly table: string;
  readonly columns: readonly TypedColumn[];
}

/** No arrays of these: the server has no binary form of the elements, and would break off the stream. */
const WITHOUT_BINARY = new Set(['aclitem', 'seg', 'isbn']);
const COLUMNS_PER_TABLE = 12;

/** As `schema.name`. */
export const TYPES: ReadonlyMap<string, TextValues> = new Map([
  ...Object.entries(BUILT_IN).map(([name, values]) => [`pg_catalog.${name === 'char' ? '"char"' : name}`, values] as const),
  ...Object.entries(MADE).map(([name, values]) => [`"Odd types".${name}`, values] as const),
  ...Object.entries(MODIFIED),
]);

const typed = ([type, values]: readonly [string, TextValues]): Omit<TypedColumn, 'name'>[] => {
  const plain = { type, values, asText: WITHOUT_BINARY.has(type.replace(/^.*\./, '')) };
  if (plain.asText) return [plain];
  return [plain, { type: `${type}[]`, values: arrays(values, type === 'pg_catalog.box' ? ';' : ','), asText: false }];
};

export const TYPED_TABLES: readonly TypedTable[] = Array.from(
  Map.groupBy(
    Array.from(TYPES)
      .flatMap(typed)
      .map((column, index) => ({
        ...column,
        index,
      })),
    ({ index }) => Math.floor(index / COLUMNS_PER_TABLE),
  ),
  ([number, columns]) => ({ table: `types_${number}`, columns: columns.map(({ index, ...column }) => ({ ...column, name: `v${index}` })) }),
);

export async function makeTables(client: Client): Promise<void> {
  for (const { table, columns } of TYPED_TABLES) {
    await client.query(
      `CREATE TABLE public.${table} (id int PRIMARY KEY, ${columns.map(({ name, type }) => `${name} ${type}`).join(', ')})`,
    );
  }
}

/** Random values, and a NULL, under ids from `first` on; the rows of ids that are there already are replaced. */
export async function writeValues(client: Client, { table, columns }: TypedTable, first: number, count: number): Promise<void> {
  const ids = Array.from({ length: count }, (_, index) => first + index);
  const samples = columns.map(({ values }, index) => fc.sample(values, count).map((text, at) => (at === index ? null : text)));
  const names = columns.map(({ name }) => name);
  const sets = names.map((name) => `${name} = excluded.${name}`).join(', ');
  const unnest = names.map((_, index) => `$${index + 2}::text[]`).join(', ');
  await client.query(
    `INSERT INTO public.${table} SELECT id, ${columns.map(({ name, type }) => `${name}::${type}`).join(', ')}
     FROM unnest($1::int[], ${unnest}) x(id, ${names.join(', ')}) ON CONFLICT (id) DO UPDATE SET ${sets}`,
    [ids, ...samples],
  );
}

/** By column: its cells as the bytes that are carried, in the order of ids. */
export type Cells = ReadonlyMap<string, readonly string[]>;

function byColumn({ columns }: TypedTable, rows: readonly Tuple[]): Cells {
  const cells = rows.map((row) => cellsOf(row).map((cell) => (cell === null ? 'NULL' : (cell?.toString('latin1') ?? 'absent'))));
  return new Map(columns.map(({ name, type }, index) => [`${name} ${type}`, cells.map((row) => row[index + 1] as string)]));
}

export async function storedCells(url: string, table: TypedTable): Promise<Cells> {
  const columns = table.columns.map(({ name, asText }) => (asText ? `${name}::text` : name));
  return byColumn(table, await selected(url, `SELECT id, ${columns.join(', ')} FROM public.${table.table} ORDER BY id`));
}

/** As the types' output functions write them: a cast of xml to text is another. */
export async function storedTexts(url: string, table: TypedTable): Promise<Cells> {
  const columns = table.columns.map(({ name }) => `num_nulls(${name}) || format('%s', ${name})`);
  return byColumn(table, await selected(url, `SELECT id, ${columns.join(', ')} FROM public.${table.table} ORDER BY id`));
}

export async function selected(url: string, sql: string): Promise<Tuple[]> {
  await using wire = await Wire.open(url, { side: 'primary', purpose: 'test' });
  const rows: Tuple[] = [];
  for await (const some of wire.select(sql, [])) rows.push(...some);
  return rows;
}

export async function capturedCells(shadowUrl: string, capture: number, table: TypedTable): Promise<Cells> {
  return byColumn(table, await capturedRows(shadowUrl, capture, table.table));
}

/** In the order of the shadow's keys. */
export async function capturedRows(shadowUrl: string, capture: number, table: string, rowsAtOnce = 1000): Promise<Tuple[]> {
  const { shadow } = await openPostgresShadow(shadowUrl);
  await using _ = shadow;
  const rows: Tuple[] = [];
  for (let after: KeyTuple | null = null; ; ) {
    const limit = { rows: rowsAtOnce, bytes: 1 << 24 };
    const chunk = await shadow.rows(`public.${table}` as TableName, captureNumber(capture), after, limit, AbortSignal.timeout(60_000));
    rows.push(...chunk.rows);
    if (chunk.through === null) return rows;
    after = chunk.through;
  }
}
