import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { createDatabase, type TestDatabase } from '../../../test/postgres.ts';
import type { DdlStatement, TableName, TableSchema } from '../../model/schema.ts';
import type { Tuple } from '../../model/tuple.ts';
import { openPostgresRestoreTarget } from './restore-target.ts';
import { Wire } from './wire.ts';

const never = new AbortController().signal;

function statement(object: string, sql: string, mayFail = false): DdlStatement {
  return { object, sql, mayFail };
}

function table(name: string, columns: Readonly<Record<string, string>>, create: string, finish: readonly DdlStatement[]): TableSchema {
  return {
    table: `public.${name}` as TableName,
    columns: Object.entries(columns).map(([column, type]) => ({
      name: column,
      type: type.replace(' generated', ''),
      nullable: true,
      generated: type.endsWith(' generated'),
      hidden: false,
    })),
    key: [0],
    keyOrderShared: true,
    shape: name,
    create: [statement(`table ${name}`, create)],
    finish,
  };
}

const CUSTOMERS = table(
  'customers',
  { id: 'bigint', mood: 'public.mood', email: 'public.address', shout: 'text generated' },
  `CREATE TABLE public.customers (id bigint GENERATED ALWAYS AS IDENTITY, mood public.mood NOT NULL, email public.address,
     shout text GENERATED ALWAYS AS (upper(email)) STORED)`,
  [statement('key of customers', 'ALTER TABLE public.customers ADD PRIMARY KEY (id)')],
);
const ORDERS = table(
  'Orders "é"',
  { number: 'integer', customer: 'bigint', total: 'numeric(10,2)' },
  `CREATE TABLE public."Orders ""é""" (number integer DEFAULT nextval('public.numbers'), customer bigint, total numeric(10,2))`,
  [
    statement('key of orders', 'ALTER TABLE public."Orders ""é""" ADD PRIMARY KEY (number)'),
    statement('index', 'CREATE INDEX ON public."Orders ""é""" (customer)'),
  ],
);
const BEFORE = [
  statement('schema public', 'CREATE SCHEMA public'),
  statement('type mood', `CREATE TYPE public.mood AS ENUM ('glad', 'sad')`),
  statement('domain address', `CREATE DOMAIN public.address AS text CHECK (VALUE LIKE '%@%')`),
  statement('sequence numbers', 'CREATE SEQUENCE public.numbers'),
];
const AFTER = [
  statement('foreign key', 'ALTER TABLE public."Orders ""é""" ADD FOREIGN KEY (customer) REFERENCES public.customers (id)'),
  statement('identity', `SELECT pg_catalog.setval('public.customers_id_seq', 2)`),
  statement('sequence', `SELECT pg_catalog.setval('public.numbers', 20)`),
  statement('view glad', `CREATE VIEW public.glad AS SELECT id FROM public.customers WHERE mood = 'glad'`),
  statement('view broken', 'CREATE VIEW public.broken AS SELECT * FROM elsewhere.nothing', true),
];

async function rowsOf(database: TestDatabase, sql: string): Promise<Tuple[]> {
  await using wire = await Wire.open(database.url, { side: 'primary', purpose: 'test' });
  const rows: Tuple[] = [];
  for await (const some of wire.select(sql, [])) rows.push(...some);
  return rows;
}

async function* once(rows: readonly Tuple[]): AsyncIterable<readonly Tuple[]> {
  yield rows.slice(0, 1);
  yield rows.slice(1);
}

describe('restore into PostgreSQL', () => {
  let home: TestDatabase;
  let url: string;
  let name: string;
  beforeEach(async () => {
    home = await createDatabase();
    name = `${home.name} restored`;
    url = Object.assign(new URL(home.url), { pathname: `/${encodeURIComponent(name)}` }).href;
  });
  afterEach(async () => {
    await home.run(`DROP DATABASE IF EXISTS "${name}" WITH (FORCE)`);
    await home[Symbol.asyncDispose]();
  });

  const exists = async (): Promise<boolean> => (await home.run('SELECT FROM pg_database WHERE datname = $1', [name])).length > 0;

  async function restore(orders: string): Promise<readonly { object: string; reason: string }[]> {
    await home.run(`CREATE TYPE public.mood AS ENUM ('glad', 'sad')`);
    const customers = await rowsOf(home, `SELECT 1::bigint, 'glad'::public.mood, 'a@b', 'A@B' UNION ALL SELECT 2, 'sad', NULL, NULL`);
    await using target = await openPostgresRestoreTarget(url);
    await target.begin([CUSTOMERS, ORDERS], 'empty', never);
    await target.run([...BEFORE, ...CUSTOMERS.create, ...ORDERS.create], never);
    expect(await target.load(CUSTOMERS, once(customers), never)).toBe(2);
    await target.load(ORDERS, once(await rowsOf(home, orders)), never);
    const skipped = await target.run([...CUSTOMERS.finish, ...ORDERS.finish, ...AFTER], never);
    await target.finish(never);
    return skipped;
  }

  test('a database is made with keys, foreign keys, types, identities, sequences and views that work', async () => {
    const skipped = await restore(`SELECT 7, 1::bigint, 1.50::numeric(10,2) UNION ALL SELECT 8, NULL, 'NaN'`);
    expect(skipped.map((each) => each.object)).toEqual(['view broken']);
    const restored = { ...home, url };
    const inside = async (sql: string): Promise<string[]> => (await rowsOf(restored, sql)).map((row) => row.toString('hex'));
    expect(await inside(`SELECT id, mood::text, email::text, shout FROM public.customers ORDER BY 1`)).toEqual(
      await inside(`SELECT 1::bigint, 'glad'::text, 'a@b'::text, 'A@B'::text UNION ALL SELECT 2, 'sad', NULL, NULL ORDER BY 1`),
    );
    expect(await inside(`INSERT INTO public.customers (mood) VALUES ('sad') RETURNING id`)).toEqual(await inside('SELECT 3::bigint'));
    expect(await inside('INSERT INTO public."Orders ""é""" (customer) VALUES (3) RETURNING number')).toEqual(await inside('SELECT 21'));
    expect(await inside('SELECT id FROM public.glad')).toEqual(await inside('SELECT 1::bigint'));
    await expect(inside('INSERT INTO public."Orders ""é""" (customer) VALUES (99)')).rejects.toMatchObject({ code: '23503' });
  });

  test('a foreign key that does not hold fails the whole, and the database made for it is gone', async () => {
    await expect(restore('SELECT 7, 99::bigint, 1.50::numeric(10,2)')).rejects.toMatchObject({
      message: expect.stringContaining('foreign key'),
    });
    expect(await exists()).toBe(false);
  });

  test('a database that holds anything is refused and stays as it is; beside others only the same table is in the way', async () => {
    await home.run('CREATE TABLE public.other (id int); CREATE TABLE public.customers (id int)');
    await using target = await openPostgresRestoreTarget(home.url);
    await expect(target.begin([ORDERS], 'empty', never)).rejects.toMatchObject({
      code: 'TARGET_OCCUPIED',
      message: expect.stringContaining('public.customers'),
    });
    await using beside = await openPostgresRestoreTarget(home.url);
    await expect(beside.begin([CUSTOMERS], 'beside', never)).rejects.toMatchObject({ code: 'TARGET_OCCUPIED' });
    await using good = await openPostgresRestoreTarget(home.url);
    await good.begin([ORDERS], 'beside', never);
    await good.run([...BEFORE, ...ORDERS.create], never);
    expect(await home.run(`SELECT to_regclass('public."Orders ""é"""') AS made`)).toEqual([{ made: null }]);
    await good.finish(never);
    expect(await home.run(`SELECT count(*)::int AS n FROM public."Orders ""é"""`)).toEqual([{ n: 0 }]);
  });

  test('closed before it was finished it leaves nothing', async () => {
    {
      await using target = await openPostgresRestoreTarget(url);
      await target.begin([CUSTOMERS], 'empty', never);
      await target.run([...BEFORE, ...CUSTOMERS.create], never);
      expect(await exists()).toBe(true);
    }
    expect(await exists()).toBe(false);
  });

  test('rows whose source fails, and an abort, leave nothing and say what happened', async () => {
    await using target = await openPostgresRestoreTarget(url);
    await target.begin([CUSTOMERS], 'empty', never);
    await target.run([...BEFORE, ...CUSTOMERS.create], never);
    const broken = (async function* (): AsyncIterable<readonly Tuple[]> {
      yield [];
      await Promise.reject(new Error('the shadow went away'));
    })();
    await expect(target.load(CUSTOMERS, broken, never)).rejects.toThrow('the shadow went away');
    await target[Symbol.asyncDispose]();
    expect(await exists()).toBe(false);
  });
});
