import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createDatabase, type TestDatabase } from '../../../test/postgres.ts';
import { messageOf } from '../../model/errors.ts';
import type { DataSetSchema, DdlStatement } from '../../model/schema.ts';
import { openPostgresPrimary } from './primary.ts';

/** One of everything a restore gives back. */
const SHOP = `
  CREATE EXTENSION citext;
  CREATE SCHEMA "Odd schema";
  CREATE TYPE public.mood AS ENUM ('sad', 'it''s ok', 'happy');
  CREATE DOMAIN public.positive AS numeric(10,2) DEFAULT 1 NOT NULL CONSTRAINT above_zero CHECK (VALUE > 0);
  CREATE TYPE public.part AS (name text, mood public.mood, price public.positive);
  CREATE TYPE public.span AS RANGE (SUBTYPE = timestamptz);
  CREATE COLLATION public.numbered (provider = icu, locale = 'en-u-kn-true');
  CREATE FUNCTION public.stamp() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.changed = now(); RETURN NEW; END$$;
  CREATE FUNCTION public.next_code() RETURNS text LANGUAGE sql AS $$SELECT 'c' || (random() * 10)::int$$;
  CREATE SEQUENCE public.shared INCREMENT 5 START 100;
  CREATE TABLE public.customer (id int GENERATED ALWAYS AS IDENTITY (START WITH 10) PRIMARY KEY, email citext NOT NULL UNIQUE, mood public.mood DEFAULT 'happy',
    code text DEFAULT public.next_code(), number int DEFAULT nextval('public.shared'), name text COLLATE public.numbered, low text COLLATE "C",
    upper text GENERATED ALWAYS AS (upper(low)) STORED, changed timestamptz, CHECK (number > 0));
  COMMENT ON TABLE public.customer IS 'people''s';
  COMMENT ON COLUMN public.customer.email IS 'where to';
  CREATE INDEX customer_lower ON public.customer (lower(name)) WHERE mood <> 'sad';
  CREATE TRIGGER stamp BEFORE UPDATE ON public.customer FOR EACH ROW EXECUTE FUNCTION public.stamp();
  CREATE TRIGGER off BEFORE INSERT ON public.customer FOR EACH ROW EXECUTE FUNCTION public.stamp();
  ALTER TABLE public.customer DISABLE TRIGGER off;
  CREATE TABLE "Odd schema"."Order ""x""" (id bigserial PRIMARY KEY, customer int REFERENCES public.customer ON DELETE CASCADE DEFERRABLE,
    parts public.part[], during public.span, EXCLUDE USING gist (during WITH &&));
  CREATE TABLE public.event (at date, id int, note text, PRIMARY KEY (at, id)) PARTITION BY RANGE (at);
  CREATE TABLE public.event_2025 PARTITION OF public.event FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY LIST (id);
  CREATE TABLE public.event_2025_1 PARTITION OF public.event_2025 FOR VALUES IN (1, 2);
  CREATE TABLE public.event_rest PARTITION OF public.event DEFAULT;
  CREATE INDEX event_note ON public.event (note);
  CREATE INDEX event_rest_only ON public.event_rest (id);
  CREATE TABLE public.by_index (a int NOT NULL, b text);
  CREATE UNIQUE INDEX by_index_a ON public.by_index (a);
  ALTER TABLE public.by_index REPLICA IDENTITY USING INDEX by_index_a;
  CREATE VIEW public.happy AS SELECT id, email FROM public.customer WHERE mood = 'happy';
  CREATE VIEW public.happier WITH (security_barrier) AS SELECT * FROM public.happy WHERE id > 0;
  CREATE MATERIALIZED VIEW public.counted AS SELECT count(*) AS n FROM public.happier;
  CREATE UNIQUE INDEX counted_n ON public.counted (n);
  INSERT INTO public.customer (email, low) VALUES ('A@b', 'x'), ('c@d', 'y');
  CREATE TABLE public.keyless (a int);
  CREATE UNLOGGED TABLE public.volatile (id int PRIMARY KEY);`;

let source: TestDatabase;
let target: TestDatabase;
let schema: DataSetSchema;
const signal = new AbortController().signal;

async function describeOf(url: string): Promise<DataSetSchema> {
  const selection = { include: ['*'], exclude: [] };
  await using primary = await openPostgresPrimary({ url, dataSet: 'shop', selection, journaled: async () => new Set() });
  return await primary.describe(signal);
}

/** Without the values of sequences. */
function plain(each: DataSetSchema): unknown {
  // By its shape and lineage a table is told from every other, and by what they are made of its types.
  const tables = each.tables.map(({ shape: _shape, lineage: _lineage, columns, ...rest }) => ({
    ...rest,
    columns: columns.map(({ made: _made, ...column }) => column),
  }));
  return JSON.parse(JSON.stringify({ ...each, tables }).replace(/GREATEST\(\w+::/g, 'GREATEST(?::'));
}

beforeAll(async () => {
  source = await createDatabase();
  target = await createDatabase();
  await source.run(SHOP);
  schema = await describeOf(source.url);
});
afterAll(async () => {
  await source[Symbol.asyncDispose]();
  await target[Symbol.asyncDispose]();
});

describe('describe', () => {
  test('names tables, keys and columns; leaves out what cannot be identified', () => {
    expect(schema.tables.map(({ table, key, keyOrderShared }) => [table, key, keyOrderShared])).toEqual([
      ['Odd schema.Order "x"', [0], true],
      ['public.by_index', [0], true],
      ['public.customer', [0], true],
      ['public.event', [0, 1], true],
    ]);
    const customer = schema.tables.find(({ table }) => table === 'public.customer');
    expect(customer?.columns.map(({ name, type }) => `${name} ${type}`)).toEqual([
      'id integer',
      'email public.citext',
      'mood public.mood',
      'code text',
      'number integer',
      'name text',
      'low text',
      'changed timestamp with time zone',
    ]);
  });

  test('its statements make the same data set in an empty database', async () => {
    const client = await target.client();
    const run = async (statements: readonly DdlStatement[]): Promise<void> => {
      for (const { object, sql } of statements) {
        await client.query(sql).catch((error: unknown) => {
          throw new Error(`${object}: ${messageOf(error)}\n${sql}`);
        });
      }
    };
    await client.query('BEGIN; SET LOCAL search_path = pg_catalog');
    await run(schema.before);
    for (const { create } of schema.tables) await run(create);
    await client.query(`INSERT INTO public.customer (id, email, low) OVERRIDING SYSTEM VALUE VALUES (10, 'a@b', 'x'), (12, 'c@d', 'y')`);
    for (const { finish } of schema.tables) await run(finish);
    await run(schema.after);
    await client.query('COMMIT');
    const [made] = await target.run(`INSERT INTO public.customer (email) VALUES ('new@x') RETURNING id, mood, number`);
    expect(made).toEqual({ id: 13, mood: 'happy', number: 110 });
    await expect(target.run(`INSERT INTO public.customer (email) VALUES ('NEW@x')`)).rejects.toThrow('customer_email_key');
    const again = await describeOf(target.url);
    expect(schema.refused?.map(({ table }) => table)).toEqual(['public.keyless', 'public.volatile']);
    expect(plain(again)).toEqual(plain({ ...schema, refused: [] }));
  });

  test('the shape follows columns, types and key, and nothing else', async () => {
    const shape = async (): Promise<string | undefined> =>
      (await describeOf(target.url)).tables.find(({ table }) => table === 'public.by_index')?.shape;
    const before = await shape();
    await target.run('CREATE INDEX ON public.by_index (b)');
    expect(await shape()).toBe(before);
    await target.run('ALTER TABLE public.by_index ALTER b TYPE varchar(20)');
    expect(await shape()).not.toBe(before);
  });
});
