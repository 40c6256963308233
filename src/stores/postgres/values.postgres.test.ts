import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createDatabase, type TestDatabase } from '../../../test/postgres.ts';
import type { TableName, TableSchema } from '../../model/schema.ts';
import { cellAt, identityOf, keyTuple, type KeyTuple, type Tuple } from '../../model/tuple.ts';
import type { Primary } from '../../tracking/primary.ts';
import { ChangesReader } from '../../../test/changes-reader.ts';
import { openPostgresPrimary } from './primary.ts';
import { shown } from './values.ts';
import { Wire } from './wire.ts';

const signal = new AbortController().signal;
let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
  await database.run(`CREATE EXTENSION citext; CREATE TYPE public.mood AS ENUM ('sad', 'it''s ok', 'happy');
    CREATE DOMAIN public.code AS text; CREATE DOMAIN public.small AS int`);
});
afterAll(() => database[Symbol.asyncDispose]());

/** Literals whose text, as the server writes it, is what is shown. */
const AS_TEXT: readonly [type: string, ...values: string[]][] = [
  [
    'numeric',
    '0',
    '0.00',
    '-1',
    '123456789012345678901234567890.000000001',
    '1e-20',
    '10000',
    '100000000',
    '-0.0001',
    'NaN',
    'Infinity',
    '-Infinity',
  ],
  ['numeric(10,2)', '12.3', '-99999999.99', '0.5'],
  ['text', '', 'ä€😀', 'line\nbreak'],
  ['character varying(5)', 'abc'],
  ['character(5)', 'abc'],
  ['json', '{"a": [1, 2.50]}'],
  ['jsonb', '{"a": [1, 2.50]}'],
  ['uuid', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'],
  ['bytea', '\\x', '\\x00ff10'],
  [
    'date',
    '2000-01-01',
    '1999-12-31',
    '2024-02-29',
    '1900-03-01',
    '0001-01-01',
    '4713-01-01 BC',
    '0044-03-15 BC',
    '5874897-12-31',
    'infinity',
    '-infinity',
  ],
  ['time without time zone', '00:00:00', '23:59:59.999999', '12:30:00.5', '24:00:00'],
  ['time(3) with time zone', '12:30:00.25+05:30', '01:00:00-08', '00:00:00+00'],
  [
    'timestamp without time zone',
    '2024-02-29 12:34:56.789',
    '1999-12-31 23:59:59.999999',
    '0044-03-15 01:02:03 BC',
    'infinity',
    '-infinity',
  ],
  ['timestamp(0) with time zone', '2024-07-01 12:00:00+02', '1969-12-31 23:59:59+00', 'infinity'],
  [
    'interval',
    '0',
    '1 year 2 mons',
    '-1 year +3 days',
    '-1 mons +4 days -05:00:00',
    '1 day',
    '00:00:00.000001',
    '400:00:00',
    '-00:00:01.5',
    '1 mon -1 day 02:00:00',
  ],
  ['interval day to second(2)', '3 days 04:05:06.78'],
  ['inet', '10.0.0.1', '10.0.0.0/8', '::1', '2001:db8::8:800:200c:417a', '::', '1:0:0:2::/64', 'fe80::1/10'],
  ['cidr', '10.0.0.0/8', '10.1.2.3/32', '2001:db8::/32'],
  ['macaddr', '08:00:2b:01:02:03'],
  ['bit(5)', '10110'],
  ['bit varying', '1', '101100111'],
  ['pg_lsn', '16/B374D848'],
  ['bigint', '9223372036854775807', '-9223372036854775808'],
  ['double precision', 'NaN', 'Infinity'],
];

const AS_VALUES: readonly [type: string, value: string, shown: unknown][] = [
  ['boolean', 'true', true],
  ['smallint', '-32768', -32768],
  ['integer', '2147483647', 2147483647],
  ['bigint', '9007199254740991', 9007199254740991],
  ['oid', '4294967295', 4294967295],
  ['real', '0.1', 0.1],
  ['double precision', '0.1', 0.1],
  ['integer[]', '{1,NULL,3}', [1, null, 3]],
  ['integer[]', '{}', []],
  [
    'text[]',
    '{{a,b},{c,NULL}}',
    [
      ['a', 'b'],
      ['c', null],
    ],
  ],
  ['numeric(10,2)[]', '{1.50}', ['1.50']],
  ['timestamp(3) without time zone[]', '{2020-01-01 00:00:00.5}', ['2020-01-01 00:00:00.5']],
  ['int4range', '[1,5)', '[1,5)'],
  ['integer[]', '[0:1]={1,NULL}', '[0:1]={1,NULL}'],
  ['public.mood', 'sad', '\\x736164'],
];

describe('values', () => {
  test('read as the server writes them', async () => {
    await using wire = await Wire.open(database.url, { side: 'primary', purpose: 'test' });
    const found: unknown[] = [];
    const expected: unknown[] = [];
    for (const [type, ...values] of AS_TEXT) {
      for (const value of values) {
        const cast = `'${value.replaceAll("'", "''")}'::${type}`;
        const [text] = await wire.query(
          `SELECT ${type.startsWith('json') || type.startsWith('character(') ? `${cast}::text` : `format('%s', ${cast})`}`,
        );
        for await (const [row] of wire.select(`SELECT ${cast}`, []))
          found.push(`${type} ${String(shown(type, cellAt(row as Tuple, 0)))}`.trimEnd());
        expected.push(`${type} ${text?.rows[0]?.[0]}`.trimEnd());
      }
    }
    expect(found).toEqual(expected);
  });

  test('numbers, booleans and arrays are what JSON has for them; types that are not known are bytes', async () => {
    await using wire = await Wire.open(database.url, { side: 'primary', purpose: 'test' });
    for (const [type, value, expected] of AS_VALUES) {
      for await (const [row] of wire.select(`SELECT '${value}'::${type}`, []))
        expect([type, shown(type, cellAt(row as Tuple, 0))]).toEqual([type, expected]);
    }
    expect(shown('integer', null)).toBeNull();
  });
});

/** Keys of every kind: paging must neither skip nor repeat, looking up must find, and the stream must name the same bytes. */
const KEYS: readonly [name: string, type: string, values: string][] = [
  ['text', 'text', `VALUES ('a'), ('B'), ('b'), ('A'), ('ä'), (''), ('a b'), ('Z'), ('_')`],
  ['text_c', 'text COLLATE "C"', `VALUES ('a'), ('B'), ('b'), ('ä')`],
  ['citext', 'public.citext', `VALUES ('a'), ('B'), ('c'), ('D')`],
  ['numeric', 'numeric', `VALUES (1.0), (-5), (2.500), (1e30), (0.001), ('NaN'), ('Infinity')`],
  ['mood', 'public.mood', `VALUES ('happy'::public.mood), ('sad'), ('it''s ok')`],
  ['code', 'public.code', `VALUES ('b'), ('a'), ('c')`],
  ['small', 'public.small', 'SELECT generate_series(-3, 3)'],
  ['uuid', 'uuid', 'SELECT gen_random_uuid() FROM generate_series(1, 9)'],
  ['bytea', 'bytea', String.raw`VALUES ('\x00'::bytea), ('\xff00'), ('\x')`],
  ['bigint', 'bigint', 'VALUES (9007199254740993), (-9223372036854775808), (9007199254740992)'],
  ['float8', 'float8', `VALUES (0.1), ('-Infinity'), (1e300), ('NaN')`],
  ['stamp', 'timestamptz', `VALUES ('infinity'::timestamptz), ('2024-01-01'), ('0044-03-15 BC')`],
  ['range', 'int4range', `VALUES ('[1,5)'::int4range), ('[1,3)'), ('empty')`],
  ['array', 'int[]', `VALUES ('{1,2}'::int[]), ('{1}'), ('{}')`],
  ['varchar', 'varchar(10)', `VALUES ('b'), ('a'), ('c')`],
  ['inet', 'inet', `VALUES ('10.0.0.2'::inet), ('10.0.0.1'), ('::1')`],
  ['bool', 'bool', 'VALUES (true), (false)'],
];

describe('keys of all types', () => {
  let primary: Primary;
  let reader: ChangesReader;
  let schemas: readonly TableSchema[];
  beforeAll(async () => {
    for (const [name, type] of KEYS) await database.run(`CREATE TABLE public.k_${name} (n int, k ${type}, m int, PRIMARY KEY (k, n))`);
    const selection = { include: ['public.k_*'], exclude: [] };
    primary = await openPostgresPrimary({ url: database.url, dataSet: database.name, selection, journaled: async () => new Set() });
    ({ tables: schemas } = await primary.describe(signal));
    reader = new ChangesReader(primary, await primary.install(schemas, signal));
    for (const [name, , values] of KEYS)
      await database.run(`INSERT INTO public.k_${name} SELECT n, k, 1 FROM (${values}) v(k), generate_series(1, 2) n`);
    await reader.reached(await primary.now(signal));
  });
  afterAll(async () => {
    await reader.stop();
    await primary[Symbol.asyncDispose]();
  });

  test.each(KEYS.map(([name]) => name))('%s', async (name) => {
    const table = schemas.find((each) => each.table === (`public.k_${name}` as TableName)) as TableSchema;
    await using snapshot = await primary.snapshot(reader.head.at, signal);
    const keyOf = (row: Tuple): string => identityOf(keyTuple(row, table.key));
    const streamed = reader.of(table.table).map((change) => (change.kind === 'put' ? keyOf(change.row) : ''));
    expect(streamed.length).toBeGreaterThan(2);
    for (const size of [1, 3, 100]) {
      const paged: Tuple[] = [];
      for (let after: KeyTuple | null = null; ; ) {
        const chunk = await snapshot.rows(table, after, { rows: size, bytes: 1 << 20 }, signal);
        paged.push(...chunk.rows);
        if (chunk.through === null) break;
        after = chunk.through;
      }
      expect(paged.map(keyOf).toSorted()).toEqual(streamed.toSorted());
    }
    const keys = reader.of(table.table).flatMap((change) => (change.kind === 'put' ? [keyTuple(change.row, table.key)] : []));
    const rows = await snapshot.rowsByKey(table, keys, signal);
    expect(rows.map(keyOf).toSorted()).toEqual(streamed.toSorted());
  });
});
