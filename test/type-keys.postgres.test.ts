import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import type { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parseConfig } from '../src/app/config.ts';
import type { LocalSystem } from '../src/app/local-system.ts';
import { openSystem } from '../src/app/system.ts';
import { createDatabase, type TestDatabase } from './postgres.ts';
import { capturedRows, selected, TYPES, USER_TYPES } from './type-tables.ts';
import { arrays, type TextValues } from './type-values.ts';

/**
 * Every type that a primary key can have: rows are found by it, whatever the type calls equal, in the copy, the stream, a validation, a
 * restore and a rollback.
 */

const quiet = (): void => {};
const { signal } = new AbortController();
const VALUES = 30;
/** Columns of one key: one key for each type would take long. */
const COLUMNS = 4;

/** Types of pg_catalog without an order: no key has them. */
const UNORDERED = [
  'aclitem',
  'box',
  'cid',
  'circle',
  'json',
  'jsonpath',
  'line',
  'lseg',
  'path',
  'pg_snapshot',
  'point',
  'polygon',
  'refcursor',
];
const MORE_UNORDERED = ['txid_snapshot', 'xid', 'xml'];
/** Nobody orders these either, or nobody carries them as a key. */
const UNORDERED_MADE = ['lquery', 'ltxtquery', 'seg', 'isbn'];

const of = (type: string): TextValues => TYPES.get(type) as TextValues;
const COLUMN_TYPES: readonly (readonly [type: string, values: TextValues])[] = [
  ...Array.from(TYPES)
    .filter(([type]) => type.startsWith('pg_catalog.') || type.startsWith('"Odd'))
    .filter(([type]) => ![...UNORDERED, ...MORE_UNORDERED, ...UNORDERED_MADE].includes(type.replace(/^.*\./, ''))),
  ...['numeric', 'text', 'interval', 'bytea'].map((name) => [`pg_catalog.${name}[]`, arrays(of(`pg_catalog.${name}`))] as const),
  ['"Odd types"."Mood"[]', arrays(of('"Odd types"."Mood"'))],
  ['"Odd types".citext[]', arrays(of('"Odd types".citext'))],
  ['text COLLATE "C"', of('pg_catalog.text')],
  ['text COLLATE "Odd types".blind', of('pg_catalog.text')],
];

/** What a type calls equal although its bytes differ: a key may go from the one to the other, and to itself in another spelling. */
const EQUAL: readonly (readonly [type: string, ...values: string[]])[] = [
  ['pg_catalog.numeric', '7.0', '7.00', '7'],
  ['pg_catalog.float8', '0', '-0'],
  ['pg_catalog.float4', '-0', '0'],
  ['pg_catalog.interval', '1 mon', '30 days', '720:00:00'],
  ['pg_catalog.bpchar', 'ab', 'ab  '],
  ['pg_catalog.jsonb', '{"a": 1.0}', '{"a": 1.00}'],
  ['pg_catalog.numrange', '[1.0,2)', '[1,2.00)'],
  ['pg_catalog.nummultirange', '{[1.0,2)}', '{[1,2.00)}'],
  ['pg_catalog.numeric[]', '{7.0,NULL}', '{7.00,NULL}'],
  ['"Odd types".citext', 'same', 'SAME', 'Same'],
  ['"Odd types".citext[]', '{same}', '{SAME}'],
  ['"Odd types".floats', '[0,1)', '[-0,1)'],
  ['text COLLATE "Odd types".blind', 'résumé', 'RÉSUMÉ'],
];

interface KeyTable {
  readonly table: string;
  readonly columns: readonly (readonly [type: string, values: TextValues])[];
}

const TABLES: readonly KeyTable[] = Array.from({ length: Math.ceil(COLUMN_TYPES.length / COLUMNS) }, (_, index) => ({
  table: `public.key_${index}`,
  columns: COLUMN_TYPES.slice(index * COLUMNS, (index + 1) * COLUMNS),
}));
const names = ({ columns }: KeyTable): string[] => columns.map((_, index) => `k${index}`);
const plain = (type: string): string => type.replace(/ COLLATE.*/, '');

let directory: string;
let primary: TestDatabase;
let home: TestDatabase;
let client: Client;
let system: LocalSystem;

let copied: Map<string, string[]>;
let streamed: Map<string, string[]>;
let first: number;
let second: number;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'foreshadow-keys-'));
  primary = await createDatabase();
  home = await createDatabase();
  client = await primary.client();
  await client.query(USER_TYPES);
  await client.query(`CREATE COLLATION "Odd types".blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false)`);
  for (const each of TABLES) {
    const columns = each.columns.map(([type], index) => `k${index} ${type}`);
    await client.query(`CREATE TABLE ${each.table} (n int, ${columns.join(', ')}, PRIMARY KEY (${names(each).join(', ')}))`);
  }
  const text = `dataSet: ${primary.name}\nprimary: "${primary.url}"\nshadow: "${home.url}"\ntables: ["public.*"]\n`;
  system = await openSystem(parseConfig(text, join(directory, 'foreshadow.yaml'), {}), { log: quiet });
});

afterAll(async () => {
  await system[Symbol.asyncDispose]();
  await home[Symbol.asyncDispose]();
  await primary[Symbol.asyncDispose]();
  await rm(directory, { recursive: true, force: true });
});

/** Rows with random keys. */
async function insert(each: KeyTable): Promise<void> {
  const casts = each.columns.map(([type], index) => `k${index}::${plain(type)}`);
  const parameters = each.columns.map((_, index) => `$${index + 1}::text[]`);
  await client.query(
    `INSERT INTO ${each.table} SELECT n, ${casts.join(', ')}
     FROM unnest(${parameters.join(', ')}) WITH ORDINALITY u(${names(each).join(', ')}, n) ON CONFLICT DO NOTHING`,
    each.columns.map(([, values]) => fc.sample(values, VALUES)),
  );
}

async function rowsOf(url: string): Promise<Map<string, string[]>> {
  const found = new Map<string, string[]>();
  for (const each of TABLES) {
    const rows = await selected(url, `SELECT n, ${names(each).join(', ')} FROM ${each.table}`);
    found.set(each.table, rows.map((row) => row.toString('hex')).toSorted());
  }
  return found;
}

async function expectCaptured(number: number, expected: ReadonlyMap<string, string[]>): Promise<void> {
  for (const { table, columns } of TABLES) {
    const rows = await capturedRows(home.url, number, table.replace('public.', ''), 13);
    expect([columns, rows.map((row) => row.toString('hex')).toSorted()]).toEqual([columns, expected.get(table)]);
  }
}

async function capture(): Promise<number> {
  const report = await system.capture(quiet, signal);
  expect(report).toMatchObject({ verdict: 'VALID', differences: [], conflicts: [], coverage: { skipped: [] } });
  return report.number;
}

describe('keys of every type', () => {
  test('every type with an order is among them', async () => {
    const rows = await client.query<{ name: string }>(`SELECT typname AS name FROM pg_type t WHERE typnamespace = 'pg_catalog'::regnamespace
      AND typtype = 'b' AND typcategory <> 'A' AND EXISTS (SELECT FROM pg_opclass c JOIN pg_am a ON a.oid = c.opcmethod WHERE a.amname = 'btree' AND c.opcdefault
        AND c.opcintype = t.oid)`);
    const covered = new Set(COLUMN_TYPES.map(([type]) => type.replace(/^pg_catalog\.|"|\(.*/g, '')));
    expect(rows.rows.map(({ name }) => name).filter((name) => !covered.has(name))).toEqual([]);
  });

  test('are copied', async () => {
    for (const each of TABLES) await insert(each);
    for (const at of EQUAL.keys()) await begin(at);
    copied = await rowsOf(primary.url);
    first = await capture();
    await expectCaptured(first, copied);
  });

  test('are found again by the stream and by a validation', async () => {
    for (const each of TABLES) {
      await insert(each);
      await client.query(
        `UPDATE ${each.table} SET n = n + 100 WHERE n % 3 = 0 AND n < 1000; DELETE FROM ${each.table} WHERE n % 7 = 1 AND n < 1000`,
      );
    }
    for (const at of EQUAL.keys()) await respell(at);
    streamed = await rowsOf(primary.url);
    second = await capture();
    await expectCaptured(second, streamed);
    await expectCaptured(first, copied);
    expect(await system.validate(null, quiet, signal)).toMatchObject({ verdict: 'VALID', differences: [] });
  });

  test('are restored', async () => {
    const to = Object.assign(new URL(home.url), { pathname: `/${home.name}_restored` }).href;
    try {
      expect(await system.restore({ capture: second, to, table: null }, quiet, signal)).toMatchObject({ proved: true, skipped: [] });
      for (const each of TABLES) {
        const values = names(each).map((name) => `format('%s', ${name})`);
        const sql = `SELECT convert_to(concat_ws('|', n, ${values.join(', ')}), 'UTF8') FROM ${each.table} ORDER BY 1`;
        expect(await selected(to, sql)).toEqual(await selected(primary.url, sql));
      }
    } finally {
      await home.run(`DROP DATABASE IF EXISTS ${home.name}_restored WITH (FORCE)`);
    }
  });

  test('are found again by a rollback', async () => {
    expect(await system.rollback(first, quiet, signal)).toMatchObject({ proved: true });
    await system.resume(quiet, signal);
    await expectCaptured(await capture(), streamed);
  });
});

/** Where the spellings of a type are tried: a column, and a row that random changes leave alone. */
function place(at: number): { each: KeyTable; column: number; mark: number; value: (spelling: string) => string } {
  const type = EQUAL[at]?.[0] as string;
  const index = COLUMN_TYPES.findIndex(([name]) => name === type);
  const each = TABLES[Math.floor(index / COLUMNS)] as KeyTable;
  return { each, column: index % COLUMNS, mark: 1000 + at, value: (spelling) => `${client.escapeLiteral(spelling)}::${plain(type)}` };
}

async function begin(at: number): Promise<void> {
  const { each, column, mark, value } = place(at);
  const values = each.columns.map(([type, from], index) =>
    index === column ? value(EQUAL[at]?.[1] as string) : `${client.escapeLiteral(fc.sample(from, 1)[0] as string)}::${plain(type)}`,
  );
  await client.query(`INSERT INTO ${each.table} VALUES (${[mark, ...values].join(', ')})`);
}

/** Spells a key anew, there and back within one transaction, and by way of a delete and an insert. */
async function respell(at: number): Promise<void> {
  const { each, column, mark, value } = place(at);
  const [, spelling, ...others] = EQUAL[at] as readonly string[];
  const to = (table: string, text: string): string => `UPDATE ${table} SET k${column} = ${value(text)} WHERE n = ${mark}`;
  for (const other of others) {
    await client.query(to(each.table, other));
    await client.query(`BEGIN; ${to(each.table, spelling as string)}; ${to(each.table, other)}; COMMIT`);
  }
  if (at % 2 === 0) return;
  await client.query(`BEGIN; CREATE TEMP TABLE saved ON COMMIT DROP AS SELECT * FROM ${each.table} WHERE n = ${mark};
    DELETE FROM ${each.table} WHERE n = ${mark}; ${to('saved', spelling as string)}; INSERT INTO ${each.table} SELECT * FROM saved; COMMIT`);
}
