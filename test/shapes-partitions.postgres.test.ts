import { setTimeout } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type ShapedSystem, openShaped } from './shapes.ts';

/** Partitioned tables: rows in leaves of other makes, and leaves that come and go without a word in the log. */

const { signal } = new AbortController();
const quiet = (): void => {};

const SETUP = `
  CREATE TABLE sales (day int, id int, v text, note text, PRIMARY KEY (day, id)) PARTITION BY RANGE (day);
  ALTER TABLE sales ALTER note SET STORAGE EXTERNAL;
  CREATE TABLE sales_1 PARTITION OF sales FOR VALUES FROM (0) TO (10);
  CREATE TABLE sales_2 (note text, gone int, id int NOT NULL, v text, day int NOT NULL);
  ALTER TABLE sales_2 DROP gone, ALTER note SET STORAGE EXTERNAL;
  ALTER TABLE sales ATTACH PARTITION sales_2 FOR VALUES FROM (10) TO (20);
  CREATE TABLE sales_deep PARTITION OF sales FOR VALUES FROM (20) TO (40) PARTITION BY LIST (id);
  CREATE TABLE sales_deep_odd PARTITION OF sales_deep FOR VALUES IN (1, 3, 5, 7, 9);
  CREATE TABLE sales_deep_rest PARTITION OF sales_deep DEFAULT;
  INSERT INTO sales SELECT d, i, 'v', repeat(md5(d || ' ' || i), 200) FROM generate_series(0, 39) d, generate_series(1, 10) i;
  CREATE TABLE full_above (id int PRIMARY KEY, v text, note text) PARTITION BY RANGE (id);
  CREATE TABLE full_above_1 PARTITION OF full_above FOR VALUES FROM (0) TO (100);
  CREATE TABLE full_above_2 PARTITION OF full_above FOR VALUES FROM (100) TO (200);
  ALTER TABLE full_above_1 ALTER note SET STORAGE EXTERNAL; ALTER TABLE full_above_2 ALTER note SET STORAGE EXTERNAL;
  ALTER TABLE full_above REPLICA IDENTITY FULL; ALTER TABLE full_above_2 REPLICA IDENTITY FULL;
  INSERT INTO full_above SELECT i, 'v', repeat(md5(i::text), 200) FROM generate_series(1, 199) i;
  CREATE TABLE full_below (id int PRIMARY KEY, v text, note text) PARTITION BY RANGE (id);
  CREATE TABLE full_below_1 PARTITION OF full_below FOR VALUES FROM (0) TO (100);
  ALTER TABLE full_below_1 ALTER note SET STORAGE EXTERNAL, REPLICA IDENTITY FULL;
  INSERT INTO full_below SELECT i, NULL, repeat(md5(i::text), 200) FROM generate_series(1, 20) i;
  CREATE TABLE bag (at int, v int) PARTITION BY RANGE (at); ALTER TABLE bag REPLICA IDENTITY FULL;
  CREATE TABLE bag_1 PARTITION OF bag FOR VALUES FROM (0) TO (10); ALTER TABLE bag_1 REPLICA IDENTITY FULL;
  INSERT INTO bag SELECT i % 10, i % 2 FROM generate_series(1, 50) i;`;

let shaped: ShapedSystem;

beforeAll(async () => {
  shaped = await openShaped(SETUP);
  await follow();
});

afterAll(() => shaped[Symbol.asyncDispose]());

/** Runs statements one by one; then a capture must come to VALID soon, and hold what the primary holds. */
async function follow(...statements: string[]): Promise<void> {
  for (const statement of statements) await shaped.primary.run(statement);
  let captured = await shaped.capture();
  for (let again = 0; captured.verdict === 'INCONCLUSIVE' && again < 5; again++) captured = await shaped.capture();
  expect(captured).toMatchObject({ verdict: 'VALID', differences: [] });
  expect(await shaped.restored(captured.number)).toEqual(captured.held);
}

test('rows change in leaves of other makes, and move from one to another', async () => {
  await follow(
    `UPDATE sales SET v = 'changed' WHERE id = 1; UPDATE sales SET id = id + 100 WHERE id = 2; DELETE FROM sales WHERE id = 3`,
    `UPDATE sales SET day = day + 10, id = id + 500 WHERE id = 4 AND day < 10; UPDATE sales SET day = 39 - day, id = id + 1000 WHERE id = 5`,
    `BEGIN; UPDATE sales SET day = 25, id = 77 WHERE day = 1 AND id = 6; UPDATE sales SET v = 'twice' WHERE id = 77; COMMIT`,
    `UPDATE full_above SET v = NULL; DELETE FROM full_above WHERE id = 50; UPDATE full_above SET id = 50 WHERE id = 199`,
    `DELETE FROM full_above WHERE id IN (7, 107); UPDATE full_above SET id = 7 WHERE id = 8; UPDATE full_above SET id = 107 WHERE id = 108`,
    `UPDATE full_below SET v = 'v' WHERE id < 5; UPDATE full_below SET id = id + 50 WHERE id > 15; DELETE FROM full_below WHERE id = 6`,
    'TRUNCATE sales_2',
    `UPDATE bag SET v = 5 WHERE at = 3; DELETE FROM bag WHERE at = 4`,
  );
});

test('a key is inserted twice where what lies between is not in the log', async () => {
  const rows = (v: string): string => `INSERT INTO sales SELECT 12, i, '${v}', NULL FROM generate_series(5001, 5020) i`;
  await follow(`${rows('first')}; TRUNCATE sales_2; ${rows('second')}`);
});

test('partitions that are attached, detached and dropped are compared, not passed over', async () => {
  await follow(
    `CREATE TABLE sales_3 (LIKE sales); INSERT INTO sales_3 SELECT 45, i, 'attached', 'note' FROM generate_series(1, 20) i;
     ALTER TABLE sales ATTACH PARTITION sales_3 FOR VALUES FROM (40) TO (50)`,
    `UPDATE sales SET v = 'after' WHERE day = 45 AND id < 5`,
  );
  await follow('ALTER TABLE sales DETACH PARTITION sales_1', 'DROP TABLE sales_1');
  await follow(
    'DROP TABLE sales_deep',
    `CREATE TABLE sales_4 PARTITION OF sales FOR VALUES FROM (50) TO (60)`,
    `INSERT INTO sales VALUES (55, 1, 'v', NULL)`,
  );
  await follow(
    `ALTER TABLE sales DETACH PARTITION sales_3; DELETE FROM sales_3 WHERE id > 10; UPDATE sales_3 SET v = 'unseen' WHERE id < 3;
     ALTER TABLE sales ATTACH PARTITION sales_3 FOR VALUES FROM (40) TO (50)`,
  );
  await follow(
    `CREATE TABLE bag_2 (v int, at int); ALTER TABLE bag_2 REPLICA IDENTITY FULL; INSERT INTO bag_2 SELECT 1, 15 FROM generate_series(1, 7);
     ALTER TABLE bag ATTACH PARTITION bag_2 FOR VALUES FROM (10) TO (20)`,
    'INSERT INTO bag VALUES (15, 1)',
  );
});

test('what befell partitions while nothing ran is found at the next start', async () => {
  await shaped.reopen();
  await shaped.primary.run(`
    CREATE TABLE sales_5 (LIKE sales); INSERT INTO sales_5 SELECT 65, i, 'attached', 'note' FROM generate_series(1, 5) i;
    ALTER TABLE sales ATTACH PARTITION sales_5 FOR VALUES FROM (60) TO (70);
    ALTER TABLE sales DETACH PARTITION sales_4`);
  await setTimeout(50);
  await follow();
  expect(await shaped.system.validate(null, quiet, signal)).toMatchObject({ verdict: 'VALID', differences: [] });
});
