import { expect, test } from 'vitest';
import { openShaped } from './shapes.ts';

/** Shapes that are hard to follow, in transactions that the server sends before they have ended. */

const SETUP = `
  DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET logical_decoding_work_mem = %L', current_database(), '64kB'); END $$;
  CREATE TABLE bag (kind int, pad text); ALTER TABLE bag REPLICA IDENTITY FULL;
  INSERT INTO bag SELECT i % 5, 'pad' FROM generate_series(1, 200) i;
  CREATE TABLE toast (id int PRIMARY KEY, big text, n int); ALTER TABLE toast ALTER big SET STORAGE EXTERNAL;
  INSERT INTO toast SELECT i, repeat(md5(i::text), 100), 0 FROM generate_series(1, 300) i;
  CREATE TABLE parts (day int, id int, v text, PRIMARY KEY (day, id)) PARTITION BY LIST (day);
  CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1); CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2);
  INSERT INTO parts SELECT 1 + i % 2, i, 'v' FROM generate_series(1, 500) i;`;

const LARGE = `
  INSERT INTO bag SELECT i % 7, 'pad' FROM generate_series(1, 3000) i;
  UPDATE toast SET n = n + 1; UPDATE toast SET id = id + 1000 WHERE id % 3 = 0;
  SAVEPOINT one;
  DELETE FROM bag WHERE kind = 2; UPDATE bag SET pad = 'other' WHERE kind = 3; UPDATE toast SET n = -1, id = -id; UPDATE parts SET day = 3 - day;
  SAVEPOINT two;
  INSERT INTO bag SELECT 9, 'undone' FROM generate_series(1, 2000) i; TRUNCATE toast;
  ROLLBACK TO two;
  DELETE FROM bag WHERE ctid IN (SELECT ctid FROM bag WHERE kind = 1 LIMIT 100);
  ROLLBACK TO one;
  UPDATE parts SET day = 3 - day, id = id + 10000 WHERE id < 100; UPDATE bag SET kind = kind + 1;
  UPDATE toast SET n = n * 2 WHERE id > 1000; DELETE FROM toast WHERE id < 10;`;

test('large transactions, with parts rolled back, leave what the primary has', async () => {
  await using shaped = await openShaped(SETUP);
  expect(await shaped.capture()).toMatchObject({ verdict: 'VALID' });
  const [one, two] = [await shaped.primary.client(), await shaped.primary.client()];
  await one.query('BEGIN');
  await two.query('BEGIN');
  await one.query(LARGE);
  // Interleaved with the other's, and rolled back whole in the end.
  await two.query(
    `INSERT INTO bag SELECT 5, 'never' FROM generate_series(1, 3000) i; INSERT INTO parts SELECT 1, i, 'never' FROM generate_series(20001, 23000) i`,
  );
  await shaped.primary.run(`INSERT INTO bag VALUES (0, 'between'), (0, 'between')`);
  const between = await shaped.capture();
  expect(between).toMatchObject({ verdict: 'VALID', differences: [] });
  await one.query('COMMIT');
  await two.query('ROLLBACK');
  const after = await shaped.capture();
  expect(after).toMatchObject({ verdict: 'VALID', differences: [] });
  expect(await shaped.restored(after.number)).toEqual(after.held);
  // Prepared while large, and committed after a restart.
  await shaped.primary.run(`BEGIN; ${LARGE}; PREPARE TRANSACTION 'large-${shaped.primary.name}'`);
  expect(await shaped.capture()).toMatchObject({ verdict: 'VALID', differences: [] });
  await shaped.reopen();
  await shaped.primary.run(`COMMIT PREPARED 'large-${shaped.primary.name}'`);
  const last = await shaped.capture();
  expect(last).toMatchObject({ verdict: 'VALID', differences: [] });
  expect(await shaped.restored(last.number)).toEqual(last.held);
}, 120_000);
