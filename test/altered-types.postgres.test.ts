import { afterAll, beforeAll, expect, test } from 'vitest';
import { type ShapedSystem, openShaped, queried } from './shapes.ts';

/** Types of users that are altered while tables are made of them: the log says nothing of it, and standing rows read otherwise at once. */

const { signal } = new AbortController();
const quiet = (): void => {};
const PATIENCE_MS = 180_000;

const SETUP = `
  CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
  CREATE TYPE pair AS (a int, gone int, m mood);
  CREATE TYPE nest AS (p pair, l pair[]);
  CREATE DOMAIN code AS varchar(20) CHECK (VALUE <> 'never');
  CREATE TYPE coded AS (c code);
  CREATE TABLE item (id int PRIMARY KEY, m mood, ms mood[], v int);
  INSERT INTO item SELECT i, 'sad', '{sad,ok}', i FROM generate_series(1, 20) i;
  CREATE TABLE by_mood (m mood PRIMARY KEY, n int); INSERT INTO by_mood VALUES ('sad', 1), ('happy', 2);
  CREATE TABLE made (id int PRIMARY KEY, p pair, ps pair[], n nest);
  INSERT INTO made SELECT i, (i, 0, 'ok')::pair, ARRAY[(i, 0, 'sad')::pair, NULL], ((i, 0, 'sad')::pair, ARRAY[(0, 0, NULL)::pair])::nest FROM generate_series(1, 20) i;
  CREATE TABLE by_pair (p pair PRIMARY KEY, v int); INSERT INTO by_pair SELECT (i, 0, 'ok')::pair, i FROM generate_series(1, 5) i;
  CREATE TABLE heap (m mood, p pair); ALTER TABLE heap REPLICA IDENTITY FULL;
  INSERT INTO heap SELECT 'sad', (i % 2, 0, 'sad')::pair FROM generate_series(1, 20) i;
  CREATE TABLE domains (id int PRIMARY KEY, c code, cs code[], r coded); INSERT INTO domains VALUES (1, 'a', '{b}', ROW('c'));
  CREATE TABLE plain (id int PRIMARY KEY); INSERT INTO plain VALUES (1);`;

let shaped: ShapedSystem;

beforeAll(async () => {
  shaped = await openShaped(SETUP);
});

afterAll(() => shaped[Symbol.asyncDispose]());

interface Kept {
  readonly number: number;
  readonly rows: Readonly<Record<string, unknown>>;
}

const TABLES = ['item', 'by_mood', 'made', 'by_pair', 'heap', 'domains'];
const kept: Kept[] = [];

async function rowsAt(number: number): Promise<Record<string, unknown>> {
  const rows: Record<string, unknown> = {};
  for (const table of TABLES)
    rows[table] = await queried(shaped, number, `SELECT (t.*)::text COLLATE "C" FROM public.${table} t ORDER BY 1`);
  return rows;
}

/** Tables that are taken up anew are left out of a capture; nothing is ever INVALID. */
async function follows(): Promise<void> {
  let taken = await shaped.capture();
  for (let again = 0; taken.verdict === 'INCONCLUSIVE' && again < 5; again++) {
    expect(taken.differences).toEqual([]);
    taken = await shaped.capture();
  }
  expect(taken).toMatchObject({ verdict: 'VALID', differences: [] });
  kept.push({ number: taken.number, rows: await rowsAt(taken.number) });
}

/** The newest is restored to what the primary holds; every one before reads as it did, and adds up to its seal. */
async function stand(): Promise<void> {
  const { number, held } = await shaped.capture();
  expect(await shaped.restored(number)).toEqual(held);
  expect(await shaped.system.validate(null, quiet, signal)).toMatchObject({ verdict: 'VALID', differences: [] });
  for (const each of kept) {
    expect(await rowsAt(each.number)).toEqual(each.rows);
    expect(await shaped.system.validate(each.number, quiet, signal)).toMatchObject({ verdict: 'VALID' });
  }
}

const WRITES = `UPDATE item SET v = v + 1 WHERE id % 3 = 0; UPDATE made SET id = id + 100 WHERE id = (SELECT min(id) FROM made);
  INSERT INTO heap SELECT * FROM heap LIMIT 3; DELETE FROM heap WHERE ctid IN (SELECT ctid FROM heap LIMIT 1); UPDATE by_pair SET v = v + 1; UPDATE plain SET id = id`;

/** Statements while tracking runs, with rows written at once. */
async function altered(running: string): Promise<void> {
  await shaped.primary.run(`${running}; ${WRITES}`);
  await follows();
}

/** Statements while nothing runs. */
async function alteredDown(down: string): Promise<void> {
  await shaped.reopen();
  await shaped.primary.run(`${WRITES}; ${down}`);
  await follows();
}

test(
  'labels of an enum are renamed, and change places',
  async () => {
    await follows();
    await altered(`ALTER TYPE mood RENAME VALUE 'sad' TO 'glum'`);
    await alteredDown(
      `ALTER TYPE mood RENAME VALUE 'glum' TO 'x'; ALTER TYPE mood RENAME VALUE 'ok' TO 'glum'; ALTER TYPE mood RENAME VALUE 'x' TO 'ok'; INSERT INTO by_mood VALUES ('glum', 3)`,
    );
    await altered(`ALTER TYPE mood ADD VALUE 'new' BEFORE 'happy'`);
    await alteredDown(`INSERT INTO item VALUES (50, 'new', '{new}', 1); ALTER TYPE mood RENAME VALUE 'new' TO 'newer'`);
    await stand();
  },
  PATIENCE_MS,
);

test(
  'attributes of a composite come, go and are renamed',
  async () => {
    await altered(`ALTER TYPE pair ADD ATTRIBUTE note text; INSERT INTO made VALUES (60, (1, 1, 'ok', 'n'), NULL, NULL)`);
    await alteredDown(`ALTER TYPE pair DROP ATTRIBUTE gone`);
    await altered(`ALTER TYPE nest ADD ATTRIBUTE k int`);
    await alteredDown(
      `ALTER TYPE pair RENAME ATTRIBUTE note TO remark; ALTER TYPE pair DROP ATTRIBUTE remark, ADD ATTRIBUTE r2 text; INSERT INTO by_pair VALUES ((9, 'glum', 'z'), 9)`,
    );
    await alteredDown(`ALTER TYPE pair RENAME ATTRIBUTE r2 TO r3; UPDATE made SET p.r3 = 'r'`);
    expect(await queried(shaped, (kept.at(-1) as Kept).number, 'SELECT DISTINCT (p).r3 FROM public.made WHERE p IS NOT NULL')).toEqual([
      ['r'],
    ]);
    await stand();
  },
  PATIENCE_MS,
);

test(
  'what a domain lets pass becomes more',
  async () => {
    await altered(`ALTER DOMAIN code DROP CONSTRAINT code_check; INSERT INTO domains VALUES (2, 'never', '{never}', ROW('never'))`);
    await alteredDown(
      `ALTER DOMAIN code ADD CONSTRAINT short CHECK (length(VALUE) < 3) NOT VALID; ALTER DOMAIN code SET DEFAULT 'x'; INSERT INTO domains VALUES (3, 'b', '{c}', NULL)`,
    );
    await stand();
  },
  PATIENCE_MS,
);
