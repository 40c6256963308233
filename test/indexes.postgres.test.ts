import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { parseConfig } from '../src/app/config.ts';
import { doctor } from '../src/app/doctor.ts';
import type { LocalSystem } from '../src/app/local-system.ts';
import { openSystem } from '../src/app/system.ts';
import { type TestDatabase, createDatabase } from './postgres.ts';

const quiet = (): void => {};
const { signal } = new AbortController();

let directory: string;
let primary: TestDatabase;
let shadow: TestDatabase;
let system: LocalSystem;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'foreshadow-indexes-'));
  primary = await createDatabase();
  shadow = await createDatabase();
});

afterEach(async () => {
  await system[Symbol.asyncDispose]();
  await primary[Symbol.asyncDispose]();
  await shadow[Symbol.asyncDispose]();
  await rm(directory, { recursive: true, force: true });
});

function config(policy: string): ReturnType<typeof parseConfig> {
  const text = `dataSet: indexed\nprimary: "${primary.url}"\nshadow: "${shadow.url}"\ntables: ["public.*"]\npolicy: ${policy}\n`;
  return parseConfig(text, join(directory, 'foreshadow.yaml'), {});
}

async function open(policy = '{ indexes: mirror }'): Promise<void> {
  system = await openSystem(config(policy), { log: quiet });
}

async function reopen(policy?: string): Promise<void> {
  await system[Symbol.asyncDispose]();
  await open(policy);
}

async function captured(): Promise<number> {
  const report = await system.capture(quiet, signal);
  expect(report).toMatchObject({ verdict: 'VALID', differences: [] });
  return report.number;
}

/** Definitions of the secondary indexes of a live table, as the server words them; none is unique, unfinished or named otherwise. */
async function mirrored(table: string): Promise<string[]> {
  const rows = await shadow.run(
    `SELECT regexp_replace(pg_get_indexdef(indexrelid), '^.*? USING ', '') AS definition, indisvalid, indisunique, c.relname
     FROM pg_index i JOIN pg_class c ON c.oid = indexrelid WHERE indrelid = $1::regclass AND NOT indisprimary`,
    [table],
  );
  expect(
    rows.filter(({ indisvalid, indisunique, relname }) => !indisvalid || indisunique || !String(relname).startsWith('_foreshadow_index_')),
  ).toEqual([]);
  return rows.map(({ definition }) => String(definition)).toSorted();
}

/** Of each index: it is the same one as before as long as this is. */
async function files(table: string): Promise<unknown> {
  return shadow.run('SELECT indexrelid FROM pg_index WHERE indrelid = $1::regclass ORDER BY 1', [table]);
}

const unmirrored = async (): Promise<readonly { table: string; index: string; reason: string }[]> =>
  (await system.status(signal)).unmirroredIndexes;

const ORDERS = `CREATE TABLE orders (id int PRIMARY KEY, customer int NOT NULL, note text, tags text[], at timestamptz NOT NULL DEFAULT now());
  INSERT INTO orders SELECT n, n % 7, 'note ' || n, ARRAY[n::text] FROM generate_series(1, 3000) n;`;

describe('secondary indexes on request', () => {
  test('all kinds, none of them unique, and queries of captures use them', async () => {
    await primary.run(`${ORDERS}
      CREATE FUNCTION folded(text) RETURNS text IMMUTABLE LANGUAGE sql RETURN lower($1);
      CREATE UNIQUE INDEX "Odd "" name" ON orders (customer DESC NULLS LAST, id) INCLUDE (note) WITH (fillfactor = 70);
      CREATE INDEX ON orders USING hash (note);
      CREATE INDEX ON orders USING gin (tags);
      CREATE INDEX ON orders USING brin (at) WITH (pages_per_range = 8);
      CREATE INDEX ON orders USING gist (int4range(id, id + 1));
      CREATE INDEX ON orders (public.folded(note) text_pattern_ops, note COLLATE "C") WHERE customer > 2 AND note <> 'NULLS NOT DISTINCT)';
      CREATE UNIQUE INDEX ON orders (id, note) NULLS NOT DISTINCT WHERE note <> '(';
      ALTER TABLE orders ADD UNIQUE (customer, id, at), ADD EXCLUDE USING btree (id WITH =)`);
    await open();
    const capture = await captured();
    expect(await mirrored('orders')).toEqual([
      "brin (at) WITH (pages_per_range='8')",
      "btree (customer DESC NULLS LAST, id) INCLUDE (note) WITH (fillfactor='70')",
      'btree (customer, id, at)',
      'btree (folded(note) text_pattern_ops, note COLLATE "C") WHERE ((customer > 2) AND (note <> \'NULLS NOT DISTINCT)\'::text))',
      'btree (id)',
      "btree (id, note) WHERE (note <> '('::text)",
      'gin (tags)',
      'gist (int4range(id, (id + 1)))',
      'hash (note)',
    ]);
    expect(await unmirrored()).toEqual([]);
    // Uniques are of the primary at every moment, of the shadow only at captures.
    await primary.run('UPDATE orders SET id = -id; UPDATE orders SET id = 3001 + id');
    await captured();
    const plan: unknown[] = [];
    await shadow.run('ANALYZE orders');
    const sql = `EXPLAIN SELECT count(*) FROM orders WHERE tags @> ARRAY['17']`;
    for await (const slice of system.query(capture, sql, signal)) plan.push(...slice.rows.flat());
    expect(plan.join('\n')).toMatch(/_foreshadow_index_/);
  });

  test('none without asking, by table where it is asked so, and off and on again at a restart', async () => {
    await primary.run(
      `${ORDERS} CREATE INDEX ON orders (customer); CREATE TABLE other (id int PRIMARY KEY, n int); CREATE INDEX ON other (n)`,
    );
    await open('{}');
    await captured();
    expect([await mirrored('orders'), await mirrored('other')]).toEqual([[], []]);
    await reopen('{ indexes: mirror, perTable: { public.other: { indexes: none } } }');
    await captured();
    expect([await mirrored('orders'), await mirrored('other')]).toEqual([['btree (customer)'], []]);
    await reopen('{ perTable: { "public.oth*": { indexes: mirror } } }');
    await captured();
    expect([await mirrored('orders'), await mirrored('other')]).toEqual([[], ['btree (n)']]);
  });

  test('created, dropped and renamed on the primary', async () => {
    await primary.run(`${ORDERS} CREATE INDEX a ON orders (customer); CREATE INDEX b ON orders (note)`);
    await open();
    await captured();
    const before = await files('orders');
    await primary.run('ALTER INDEX a RENAME TO c');
    await captured();
    expect(await files('orders')).toEqual(before);
    await primary.run('DROP INDEX b; CREATE INDEX b ON orders (at); CREATE INDEX twin ON orders (at)');
    await captured();
    expect(await mirrored('orders')).toEqual(['btree (at)', 'btree (customer)']);
  });

  test('kept through renamed, added and dropped columns and a renamed table, and made anew for other types', async () => {
    await primary.run(`${ORDERS} ALTER TABLE orders ALTER note TYPE varchar(20);
      CREATE INDEX ON orders (customer); CREATE INDEX ON orders (note); CREATE INDEX ON orders (lower(note)) WHERE customer > 1; CREATE INDEX ON orders (at)`);
    await open();
    await captured();
    const before = await files('orders');
    await primary.run(`ALTER TABLE orders RENAME customer TO buyer; ALTER TABLE orders ADD extra int DEFAULT 5`);
    await captured();
    expect(await mirrored('orders')).toHaveLength(4);
    expect(await files('orders')).toEqual(before);
    // A name that another column had: what is called so now is not what is indexed.
    await primary.run(`ALTER TABLE orders ADD customer int; CREATE INDEX ON orders (customer)`);
    await captured();
    expect((await mirrored('orders')).filter((each) => /buyer|customer/.test(each))).toEqual([
      'btree (buyer)',
      'btree (customer)',
      'btree (lower((note)::text)) WHERE (buyer > 1)',
    ]);
    await primary.run(`ALTER TABLE orders RENAME TO purchases; ALTER TABLE purchases DROP at; ALTER TABLE purchases ALTER note TYPE text`);
    await captured();
    expect(await mirrored('purchases')).toEqual([
      'btree (buyer)',
      'btree (customer)',
      'btree (lower(note)) WHERE (buyer > 1)',
      'btree (note)',
    ]);
    await primary.run(
      `DROP INDEX orders_lower_idx; ALTER TABLE purchases ALTER buyer TYPE text USING 'c' || buyer, ALTER customer TYPE bigint`,
    );
    await captured();
    await captured();
    expect(await mirrored('purchases')).toEqual(['btree (buyer)', 'btree (customer)', 'btree (note)']);
    expect(await unmirrored()).toEqual([]);
  });

  test('what the shadow cannot have is named with its cause, and neither shadowing nor captures wait for it', async () => {
    await primary.run(`${ORDERS} ALTER TABLE orders ADD total int GENERATED ALWAYS AS (customer * 2) STORED;
      CREATE FUNCTION wary(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
        $$ BEGIN IF current_database() = '${shadow.name}' AND $1 = 6 THEN RAISE 'not here'; END IF; RETURN $1; END $$;
      CREATE INDEX computed ON orders (total);
      CREATE FUNCTION picked(orders) RETURNS int IMMUTABLE LANGUAGE sql RETURN $1.customer;
      CREATE INDEX whole ON orders (picked(orders));
      CREATE INDEX picky ON orders (wary(customer));
      CREATE FUNCTION reading(text) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
        $$ BEGIN RETURN CASE WHEN current_database() = '${shadow.name}' THEN $1 ELSE '0' END; END $$;
      CREATE INDEX reading ON orders (reading(note));
      CREATE INDEX fine ON orders (customer);
      CREATE TABLE parts (id int PRIMARY KEY, n int) PARTITION BY RANGE (id);
      CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (100);
      CREATE INDEX of_all ON parts (n); CREATE INDEX of_one ON parts_low (n DESC)`);
    await open();
    await captured();
    expect([await mirrored('orders'), await mirrored('parts')]).toEqual([['btree (customer)'], ['btree (n)']]);
    expect(await unmirrored()).toEqual([
      { table: 'public.orders', index: 'computed', reason: 'column "total" does not exist' },
      { table: 'public.orders', index: 'picky', reason: expect.stringMatching(/^its expression fails on a row \(SQLSTATE P0001/) },
      { table: 'public.orders', index: 'reading', reason: 'its expression fails on a row: invalid input syntax for type integer: "…"' },
      { table: 'public.orders', index: 'whole', reason: expect.stringMatching(/takes the row as a whole/) },
      { table: 'public.parts', index: 'of_one', reason: 'it is of the partition public.parts_low alone' },
    ]);
    const { findings } = await doctor(config('{ indexes: mirror }'), signal);
    expect(findings.filter(({ code }) => code === 'INDEX_UNMIRRORED').map(({ subject }) => subject)).toEqual([
      'public.orders: computed',
      'public.orders: picky',
      'public.orders: reading',
      'public.orders: whole',
      'public.parts: of_one',
    ]);
    await reopen('{}');
    await captured();
    expect(await unmirrored()).toEqual([]);
  });

  test('an index that rows cannot be written with gives way to them', async () => {
    await primary.run(`${ORDERS}
      CREATE FUNCTION wary(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
        $$ BEGIN IF current_database() = '${shadow.name}' AND $1 = 99 THEN RAISE 'not here'; END IF; RETURN $1; END $$;
      CREATE INDEX picky ON orders (wary(customer)); CREATE INDEX fine ON orders (customer);
      CREATE INDEX large ON orders (note)`);
    await open();
    await captured();
    expect(await mirrored('orders')).toHaveLength(3);
    await primary.run('UPDATE orders SET customer = 99 WHERE id = 1');
    await captured();
    expect(await mirrored('orders')).toEqual(['btree (customer)', 'btree (note)']);
    expect(await unmirrored()).toMatchObject([{ index: 'picky', reason: expect.stringMatching(/could not be written.*P0001/) }]);
    // Too large for an index in the shadow alone, as text that compresses well may be where it is compressed otherwise.
    await primary.run(
      "DROP INDEX large; INSERT INTO orders VALUES (10000, 1, (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 400) n), '{}')",
    );
    await shadow.run('CREATE INDEX _foreshadow_index_test ON orders (note)');
    await captured();
    expect(await mirrored('orders')).toEqual(['btree (customer)']);
  });

  test('after a resync, a rollback and a drop that comes back, they are there', async () => {
    await primary.run(`${ORDERS} CREATE INDEX ON orders (customer)`);
    await open();
    const first = await captured();
    await primary.run("UPDATE orders SET note = 'later'; ALTER TABLE orders ALTER customer TYPE bigint");
    await captured();
    expect(await mirrored('orders')).toEqual(['btree (customer)']);
    await system.rollback(first, quiet, signal);
    expect(await system.validate(first, quiet, signal)).toMatchObject({ verdict: 'VALID' });
    await system.resume(quiet, signal);
    await captured();
    expect(await mirrored('orders')).toEqual(['btree (customer)']);
    await primary.run(`DROP TABLE orders; ${ORDERS} CREATE INDEX ON orders (at)`);
    await captured();
    await captured();
    expect(await mirrored('orders')).toEqual(['btree (at)']);
  });
});
