import { afterAll, beforeAll, expect, test } from 'vitest';
import { type ShapedSystem, openShaped } from './shapes.ts';

/** Changes that are hard to follow row by row: values not sent, keys that move, parts of transactions that never were. */

const LONG = `(SELECT string_agg(md5(n::text), '') FROM generate_series(%s, %s + 400) n)`;
const long = (seed: number): string => LONG.replaceAll('%s', String(seed));

const SETUP = `
  CREATE TABLE toast (id int PRIMARY KEY, a text, b text, n int);
  ALTER TABLE toast ALTER a SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL;
  INSERT INTO toast SELECT i, ${long(1)}, ${long(7)}, i FROM generate_series(1, 12) i;
  CREATE TABLE toast_full (id int PRIMARY KEY, a text, b text, n int);
  ALTER TABLE toast_full ALTER a SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL, REPLICA IDENTITY FULL;
  INSERT INTO toast_full SELECT i, ${long(1)}, NULL, i FROM generate_series(1, 5) i;
  CREATE TABLE keys (id int PRIMARY KEY, v text);
  INSERT INTO keys SELECT i, 'row ' || i FROM generate_series(1, 50) i;
  CREATE TABLE composite (v text, b int, a text, PRIMARY KEY (a, b));
  INSERT INTO composite SELECT 'v' || i, i % 5, 'a' || i FROM generate_series(1, 40) i;
  CREATE TABLE by_index (id int, code text NOT NULL, v text, UNIQUE (code));
  ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_code_key;
  INSERT INTO by_index SELECT i, 'code ' || i, 'v' FROM generate_series(1, 20) i;
  CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, code int NOT NULL UNIQUE, v text);
  ALTER TABLE deferred REPLICA IDENTITY USING INDEX deferred_code_key;
  INSERT INTO deferred SELECT i, i, 'v' || i FROM generate_series(1, 20) i;
  CREATE TABLE swapped (id int PRIMARY KEY, place int UNIQUE DEFERRABLE);
  INSERT INTO swapped SELECT i, i FROM generate_series(1, 20) i;
  CREATE TABLE stepped (id int PRIMARY KEY, v int);
  CREATE TABLE parent (id int PRIMARY KEY, v text);
  CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED);
  INSERT INTO parent SELECT i, 'p' FROM generate_series(1, 10) i;
  INSERT INTO child SELECT i, 1 + i % 10 FROM generate_series(1, 30) i;
  CREATE TABLE counted (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);
  CREATE TABLE counted_child (id serial PRIMARY KEY, counted bigint REFERENCES counted);
  INSERT INTO counted (v) SELECT 'c' FROM generate_series(1, 10);
  INSERT INTO counted_child (counted) SELECT i FROM generate_series(1, 10) i;
  CREATE TABLE emptied (id int PRIMARY KEY, v text);
  INSERT INTO emptied SELECT i, 'e' FROM generate_series(1, 10) i;
  CREATE TABLE prepared (id int PRIMARY KEY, v text);`;

let shaped: ShapedSystem;
let first: number;

beforeAll(async () => {
  shaped = await openShaped(SETUP);
  const { number, verdict, held } = await shaped.capture();
  expect(verdict).toBe('VALID');
  expect(await shaped.restored(number)).toEqual(held);
  first = number;
});

afterAll(() => shaped[Symbol.asyncDispose]());

/** Runs each text on its own; then captures, compares, restores. */
async function follow(...statements: string[]): Promise<number> {
  for (const statement of statements) await shaped.primary.run(statement);
  const { number, verdict, differences, held } = await shaped.capture();
  expect({ verdict, differences }).toEqual({ verdict: 'VALID', differences: [] });
  expect(await shaped.restored(number)).toEqual(held);
  expect(await shaped.system.validate(null, () => undefined, new AbortController().signal)).toMatchObject({ verdict: 'VALID' });
  return number;
}

test('values that were not sent, because they did not change, stay what they were', async () => {
  await follow(
    'UPDATE toast SET n = -n WHERE id <= 2',
    'UPDATE toast SET id = 103 WHERE id = 3',
    'UPDATE toast SET id = 104, n = 4 WHERE id = 4',
    `UPDATE toast SET a = 'short' WHERE id = 5; UPDATE toast SET b = NULL WHERE id = 5; UPDATE toast SET n = 55 WHERE id = 5`,
    `BEGIN; UPDATE toast SET id = 206 WHERE id = 6; UPDATE toast SET n = 66 WHERE id = 206; UPDATE toast SET id = 306 WHERE id = 206;
     UPDATE toast SET a = ${long(9)} WHERE id = 306; UPDATE toast SET n = 67 WHERE id = 306; COMMIT`,
    `BEGIN; UPDATE toast SET id = -7 WHERE id = 7; UPDATE toast SET id = 7, n = 8 WHERE id = 8; UPDATE toast SET id = 8 WHERE id = -7; COMMIT`,
    `BEGIN; UPDATE toast SET n = 90 WHERE id = 9; DELETE FROM toast WHERE id = 9; INSERT INTO toast VALUES (9, ${long(3)}, 'b', 91);
     UPDATE toast SET n = 92 WHERE id = 9; COMMIT`,
    `BEGIN; DELETE FROM toast WHERE id = 10; UPDATE toast SET id = 10 WHERE id = 11; UPDATE toast SET n = 1 WHERE id = 10; COMMIT`,
    'UPDATE toast_full SET n = -n; UPDATE toast_full SET id = 10 - id WHERE id > 3; UPDATE toast_full SET b = a WHERE id = 1',
  );
});

test('keys that swap and move within a transaction', async () => {
  await follow(
    'BEGIN; UPDATE keys SET id = -1 WHERE id = 1; UPDATE keys SET id = 1 WHERE id = 2; UPDATE keys SET id = 2 WHERE id = -1; COMMIT',
    `BEGIN; UPDATE keys SET id = 1003 WHERE id = 3; UPDATE keys SET id = 3 WHERE id = 4; UPDATE keys SET id = 4 WHERE id = 5;
     DELETE FROM keys WHERE id = 1003; INSERT INTO keys VALUES (5, 'new'); COMMIT`,
    'UPDATE keys SET id = id + 1000 WHERE id > 20',
    'BEGIN; UPDATE keys SET id = id + 1000 WHERE id > 1020; UPDATE keys SET id = id - 2000 WHERE id > 2020; COMMIT',
    `UPDATE composite SET b = b + 10 WHERE a < 'a2'; UPDATE composite SET a = 'z' || a WHERE b = 3; UPDATE composite SET v = NULL WHERE b = 1`,
    `UPDATE by_index SET id = NULL WHERE id < 5; UPDATE by_index SET code = code || '!' WHERE id > 15; DELETE FROM by_index WHERE id = 10`,
    'UPDATE deferred SET id = 21 - id; UPDATE deferred SET code = code + 100 WHERE id < 5; DELETE FROM deferred WHERE id = 7',
    'UPDATE swapped SET place = 21 - place; BEGIN; SET CONSTRAINTS ALL DEFERRED; UPDATE swapped SET place = 3 WHERE id = 1; UPDATE swapped SET place = 20 WHERE id = 18; COMMIT',
  );
});

test('cascades, deferred checks, and truncates of several tables with their sequences', async () => {
  const number = await follow(
    'BEGIN; INSERT INTO child VALUES (100, 500); INSERT INTO parent VALUES (500, NULL); COMMIT',
    'DELETE FROM parent WHERE id = 3; UPDATE parent SET id = id + 50 WHERE id IN (4, 5)',
    'TRUNCATE counted RESTART IDENTITY CASCADE',
    `INSERT INTO counted (v) VALUES ('after'); INSERT INTO counted_child (counted) VALUES (1)`,
    `BEGIN; INSERT INTO emptied VALUES (11, 'before'); TRUNCATE emptied, parent, child; INSERT INTO emptied VALUES (1, 'again'), (12, 'x');
     UPDATE emptied SET v = 'changed' WHERE id = 1; INSERT INTO parent VALUES (1, 'only'); COMMIT`,
    `BEGIN; TRUNCATE keys; ROLLBACK`,
  );
  expect(number).toBeGreaterThan(first);
  await follow('TRUNCATE counted, counted_child, emptied CASCADE', 'TRUNCATE counted CASCADE');
});

test('subtransactions that were rolled back leave nothing', async () => {
  await follow(
    `BEGIN; INSERT INTO stepped VALUES (1, 1); SAVEPOINT a; INSERT INTO stepped VALUES (2, 2); SAVEPOINT b; UPDATE stepped SET v = 9;
     ROLLBACK TO b; INSERT INTO stepped VALUES (3, 3); ROLLBACK TO a; INSERT INTO stepped VALUES (4, 4); RELEASE a;
     SAVEPOINT c; DELETE FROM stepped WHERE id = 1; RELEASE c; COMMIT`,
    `DO $$ BEGIN
       FOR i IN 10..40 LOOP
         BEGIN
           INSERT INTO stepped VALUES (i, 100 / (i % 3));
         EXCEPTION WHEN division_by_zero THEN
           INSERT INTO stepped VALUES (i, -1);
           BEGIN
             UPDATE stepped SET v = v + 1 WHERE id >= 10;
             RAISE EXCEPTION 'undo';
           EXCEPTION WHEN raise_exception THEN NULL;
           END;
         END;
       END LOOP;
     END $$`,
    'BEGIN; INSERT INTO stepped VALUES (99, 99); ROLLBACK',
  );
});

test('two-phase commits count when they are committed, also across a restart and a capture', async () => {
  await shaped.primary.run(`BEGIN; INSERT INTO prepared VALUES (1, 'one'); PREPARE TRANSACTION 'one-${shaped.primary.name}'`);
  await shaped.primary.run(`BEGIN; INSERT INTO prepared VALUES (2, 'two'); PREPARE TRANSACTION 'two-${shaped.primary.name}'`);
  await shaped.primary.run(`BEGIN; INSERT INTO prepared VALUES (3, 'three'); PREPARE TRANSACTION 'three-${shaped.primary.name}'`);
  await follow(`INSERT INTO prepared VALUES (10, 'between')`);
  await shaped.reopen();
  await follow(`COMMIT PREPARED 'one-${shaped.primary.name}'`, `ROLLBACK PREPARED 'two-${shaped.primary.name}'`);
  await follow(`COMMIT PREPARED 'three-${shaped.primary.name}'`, `UPDATE prepared SET v = 'changed' WHERE id = 3`);
});
