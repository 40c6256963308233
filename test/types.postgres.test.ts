import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parseConfig } from '../src/app/config.ts';
import type { LocalSystem } from '../src/app/local-system.ts';
import { openSystem } from '../src/app/system.ts';
import { openPostgresPrimary } from '../src/stores/postgres/primary.ts';
import { floatText } from '../src/stores/postgres/composed-values.ts';
import { shownArray } from '../src/stores/postgres/shadow-values.ts';
import { shown } from '../src/stores/postgres/values.ts';
import { Wire } from '../src/stores/postgres/wire.ts';
import { createDatabase, serverVersion, type TestDatabase } from './postgres.ts';
import { capturedCells, type Cells, makeTables, storedCells, storedTexts, TYPED_TABLES, USER_TYPES, writeValues } from './type-tables.ts';
import { BUILT_IN } from './type-values.ts';

/** Original = initial copy = streamed = restored, to the byte, for every type a server has and what users make of them. */

const quiet = (): void => {};
const { signal } = new AbortController();
const VALUES = 40;

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

let directory: string;
let primary: TestDatabase;
let home: TestDatabase;
let client: Client;
let system: LocalSystem;
let last = 0;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'foreshadow-types-'));
  primary = await createDatabase();
  home = await createDatabase();
  // Types that users make have other OIDs in each database.
  await home.run('CREATE TYPE unlike AS (a int); CREATE TYPE unlike2 AS ENUM ()');
  client = await primary.client();
  await client.query(USER_TYPES);
  await makeTables(client);
  const text = `dataSet: ${primary.name}\nprimary: "${primary.url}"\nshadow: "${home.url}"\ntables: ["public.*"]\n`;
  system = await openSystem(parseConfig(text, join(directory, 'foreshadow.yaml'), {}), { log: quiet });
});

afterAll(async () => {
  await system[Symbol.asyncDispose]();
  await home[Symbol.asyncDispose]();
  await primary[Symbol.asyncDispose]();
  await rm(directory, { recursive: true, force: true });
});

/** Values may be far too long to be shown whole. */
function expectSame(found: Cells, expected: Cells): void {
  const differing = (cells: Cells, others: Cells): unknown[] =>
    Array.from(cells, ([column, values]) => [
      column,
      values.length,
      values.flatMap((value, index) => (others.get(column)?.[index] === value ? [] : [value.slice(0, 300)])),
    ]);
  expect(differing(found, expected)).toEqual(differing(expected, found));
}

/** Takes a capture, which must be VALID and hold what the primary does. */
async function capture(): Promise<number> {
  const report = await system.capture(quiet, signal);
  expect(report).toMatchObject({ verdict: 'VALID', differences: [], coverage: { skipped: [] } });
  for (const table of TYPED_TABLES) expectSame(await capturedCells(home.url, report.number, table), await storedCells(primary.url, table));
  return report.number;
}

/** Values that only newer servers have, or write as text. */
const NEWER: Readonly<Record<string, { readonly version: number; readonly value: string }>> = {
  'pg_catalog.interval': { version: 17, value: `CASE id % 2 WHEN 0 THEN 'infinity' ELSE '-infinity' END::interval` },
  'pg_catalog."char"': { version: 16, value: `(id * 37 % 256 - 128)::"char"` },
};

/** Values whose parts are known only to the database are shown as bytes. */
const OPAQUE = /^"Odd types"\.(spot|place|nest|nothing|floats|moods|names|span|cube|\w+_multirange)/;

/** What is to be shown where the server writes this: its text, or the number or truth it means; of an array a list of these. */
function valueOf(type: string, text: string, found: unknown): unknown {
  if (typeof found === 'number') return Number(text);
  if (typeof found === 'boolean') return text === 't';
  if (!type.endsWith('[]')) return text;
  const leaves = (value: unknown, other: unknown): unknown =>
    Array.isArray(value)
      ? value.map((each, index) => leaves(each, (other as unknown[])[index]))
      : value === null
        ? null
        : valueOf('', value as string, other);
  const list = (each: string): unknown => shownArray(TEXT, type.startsWith('box') ? ';' : ',', each);
  // A domain may be an array, in the text of an array as in any other.
  if (type.endsWith('[][]')) return Array.isArray(found) ? deep(list(text), list) : text;
  return leaves(list(text), found);
}

function deep(value: unknown, list: (text: string) => unknown): unknown {
  if (Array.isArray(value)) return value.map((each) => deep(each, list));
  return value === null ? null : list(value as string);
}

const TEXT = 25;

/** The same float may be written with digits of another choice. */
function sameDigits(type: string, value: unknown): unknown {
  if (Array.isArray(value)) return value.map((each) => sameDigits(type, each));
  if (typeof value === 'number') return type.startsWith('real') ? Math.fround(value) : value;
  if (typeof value !== 'string' || !/^(point|line|lseg|box|path|polygon|circle|real|double)/.test(type)) return value;
  const same = type.startsWith('real') ? Math.fround : Number;
  return value.replaceAll(/-?\d+(\.\d+)?(e[+-]\d+)?/g, (digits) => floatText(same(Number(digits))));
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

  test('copied to the byte', async () => {
    for (const table of TYPED_TABLES) await writeValues(client, table, 1, 2 * VALUES);
    await capture();
  });

  test('streamed to the byte', async () => {
    for (const table of TYPED_TABLES) {
      await writeValues(client, table, VALUES + 1, 2 * VALUES);
      await client.query(`DELETE FROM public.${table.table} WHERE id < 10`);
      for (const { name, type } of table.columns) {
        const since = NEWER[type];
        if (since !== undefined && (await serverVersion()) >= since.version)
          await client.query(`UPDATE public.${table.table} SET ${name} = ${since.value} WHERE id % 3 = 0`);
      }
    }
    last = await capture();
  });

  test('shown as the server writes them', async () => {
    const selection = { include: ['public.*'], exclude: [] };
    await using opened = await openPostgresPrimary({ url: primary.url, dataSet: 'shown', selection, journaled: async () => new Set() });
    const { tables } = await opened.describe(signal);
    for (const table of TYPED_TABLES) {
      const schema = tables.find((each) => each.table === `public.${table.table}`);
      const [texts, cells] = [await storedTexts(primary.url, table), await storedCells(primary.url, table)];
      for (const { name, type } of table.columns) {
        const column = schema?.columns.find((each) => each.name === name);
        const mirrored = column?.shownAs ?? column?.type ?? '';
        if (OPAQUE.test(mirrored) && mirrored.endsWith('[]')) continue;
        const written = texts.get(`${name} ${type}`) ?? [];
        for (const [index, bytes] of (cells.get(`${name} ${type}`) ?? []).entries()) {
          const text = Buffer.from(written[index] ?? '', 'latin1').toString('utf8');
          const cell = bytes === 'NULL' ? null : Buffer.from(bytes, 'latin1');
          const value = shown(mirrored, cell);
          const expected = text.startsWith('1')
            ? null
            : OPAQUE.test(mirrored)
              ? `\\x${cell?.toString('hex')}`
              : valueOf(mirrored, text.slice(1), value);
          expect([type, sameDigits(mirrored, value)]).toEqual([type, sameDigits(mirrored, expected)]);
        }
      }
    }
  });

  test('queried as the server writes them', async () => {
    for (const table of TYPED_TABLES) {
      const texts = await storedTexts(primary.url, table);
      const rows: (readonly unknown[])[] = [];
      for await (const slice of system.query(last, `SELECT * FROM public.${table.table} ORDER BY id`, signal)) rows.push(...slice.rows);
      for (const [index, { name, type, asText }] of table.columns.entries()) {
        const written = (texts.get(`${name} ${type}`) ?? []).map((text) => Buffer.from(text, 'latin1').toString('utf8'));
        expect(rows.length).toBe(written.length);
        for (const [at, row] of rows.entries()) {
          const text = written[at] ?? '';
          const value = row[index + 1];
          const kind =
            asText || !Array.isArray(value) ? type.replace(/\[\]$/, '') : `${type.replace(/^pg_catalog\./, '').replace(/\[\]$/, '')}[]`;
          expect([type, value]).toEqual([type, text.startsWith('1') ? null : valueOf(kind, text.slice(1), value)]);
        }
      }
    }
  });

  test('restored by SQL on standard output, whoever runs it', async () => {
    let script = '';
    for await (const text of system.script(last, null, signal)) script += text;
    await using target = await createDatabase();
    await using wire = await Wire.open(target.url, { side: 'primary', purpose: 'test' });
    await wire.query(`SET DateStyle = 'SQL, DMY'; SET IntervalStyle = 'sql_standard'; SET xmloption = document; SET client_encoding = 'LATIN1';
      SET standard_conforming_strings = off; SET TimeZone = 'Asia/Kolkata'; SET bytea_output = 'escape'; SET search_path = public`);
    // As psql does: settings hold from the next statement on, and rows of a COPY end with a line of their own.
    const head = /^(--.*\n|BEGIN;\n|SET .*\n)*/.exec(script)?.[0] ?? '';
    for (const line of head.split('\n')) await wire.query(line);
    for (let at = head.length; at < script.length; ) {
      const copy = /^COPY .* FROM stdin;\n/m.exec(script.slice(at));
      await wire.query(script.slice(at, at + (copy?.index ?? script.length)));
      if (copy === null) break;
      at += copy.index + copy[0].length;
      const end = script.indexOf('\\.\n', script[at] === '\\' && script[at + 1] === '.' ? at : script.indexOf('\n\\.\n', at) + 1);
      await wire.copyIn(copy[0].replace(';\n', ''), [Buffer.from(script.slice(at, end))]);
      at = end + 3;
    }
    for (const table of TYPED_TABLES) expectSame(await storedTexts(target.url, table), await storedTexts(primary.url, table));
  });

  test('restored to the byte', async () => {
    const to = Object.assign(new URL(home.url), { pathname: `/${home.name}_restored` }).href;
    try {
      expect(await system.restore({ capture: last, to, table: null }, quiet, signal)).toMatchObject({ proved: true, skipped: [] });
      for (const table of TYPED_TABLES) {
        expectSame(await storedTexts(to, table), await storedTexts(primary.url, table));
        // Other types have other OIDs there.
        const builtIn = { ...table, columns: table.columns.filter(({ type }) => !type.includes('Odd types')) };
        if (builtIn.columns.length > 0) expectSame(await storedCells(to, builtIn), await storedCells(primary.url, builtIn));
      }
    } finally {
      await home.run(`DROP DATABASE IF EXISTS ${home.name}_restored WITH (FORCE)`);
    }
  });
});
