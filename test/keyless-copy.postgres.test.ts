import { expect, test, vi } from 'vitest';
import { type ShapedSystem, openShaped, queried } from './shapes.ts';

/** Tables without a key, copied and resynced in many small pages while they are written to. */

vi.mock('../src/tracking/primary.ts', async (original) => ({
  ...(await original<Record<string, unknown>>()),
  KEYLESS_PAGE: { rows: 250, bytes: 1 << 20 },
}));

const { signal } = new AbortController();
const quiet = (): void => {};

const SETUP = `
  CREATE TABLE bag (kind int, n int); ALTER TABLE bag REPLICA IDENTITY FULL;
  INSERT INTO bag SELECT i % 40, i % 13 FROM generate_series(1, 1500) i;
  INSERT INTO bag SELECT 99, 99 FROM generate_series(1, 300);
  CREATE TABLE tally (kind int PRIMARY KEY, rows bigint);
  INSERT INTO tally SELECT kind, count(*) FROM bag GROUP BY kind;
  INSERT INTO tally SELECT k, 0 FROM generate_series(40, 98) k`;

/** Changes of random rows until told to stop; each transaction keeps the tally of what it changed. */
async function churn(shaped: ShapedSystem, stop: AbortSignal): Promise<number> {
  const client = await shaped.primary.client();
  const random = (below: number): number => Math.floor(Math.random() * below);
  let done = 0;
  for (; !stop.aborted; done++) {
    const [kind, other, many] = [random(100), random(100), 1 + random(4)];
    const [low, high] = kind < other ? [kind, other] : [other, kind];
    await client.query('BEGIN');
    await client.query(`SELECT FROM tally WHERE kind IN (${low}, ${high}) ORDER BY kind FOR UPDATE`);
    await client.query(`INSERT INTO bag SELECT ${kind}, ${random(13)} FROM generate_series(1, ${many})`);
    await client.query(`UPDATE tally SET rows = rows + ${many} WHERE kind = ${kind}`);
    await client.query(`WITH gone AS (DELETE FROM bag WHERE ctid IN (SELECT ctid FROM bag WHERE kind = ${other} LIMIT ${many}) RETURNING 1)
      UPDATE tally SET rows = rows - (SELECT count(*) FROM gone) WHERE kind = ${other}`);
    await client.query(`UPDATE bag SET n = (n + 1) % 13 WHERE ctid IN (SELECT ctid FROM bag WHERE kind = ${kind} LIMIT 3)`);
    await client.query(done % 7 === 0 ? 'ROLLBACK' : 'COMMIT');
  }
  return done;
}

const UNTALLIED = `SELECT kind FROM tally t WHERE rows <> (SELECT count(*) FROM bag b WHERE b.kind = t.kind)`;

test('is exact under writers: copied, captured, resynced after a gap', async () => {
  await using shaped = await openShaped(SETUP);
  const stop = new AbortController();
  const writers = [1, 2].map(() => churn(shaped, stop.signal));
  try {
    for (let round = 0; round < 2; round++) {
      const { number, verdict, differences } = await shaped.capture();
      expect({ verdict, differences }).toEqual({ verdict: 'VALID', differences: [] });
      expect(await queried(shaped, number, UNTALLIED)).toEqual([]);
    }
    await shaped.primary.run('TRUNCATE tally, bag; INSERT INTO tally SELECT k, 0 FROM generate_series(0, 99) k');
    const emptied = await shaped.capture();
    expect(emptied).toMatchObject({ verdict: 'VALID', differences: [] });
    expect(await queried(shaped, emptied.number, UNTALLIED)).toEqual([]);
    // The slot is lost while nobody looks: what was changed meanwhile only a comparison can tell.
    await shaped.reopen();
    await shaped.primary.run(`SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()`);
    await new Promise((resolve) => {
      setTimeout(resolve, 300);
    });
    let resynced = await shaped.capture();
    while (resynced.verdict === 'INCONCLUSIVE') resynced = await shaped.capture();
    expect(resynced).toMatchObject({ verdict: 'VALID', differences: [] });
    expect(await queried(shaped, resynced.number, UNTALLIED)).toEqual([]);
    expect(await shaped.system.validate(null, quiet, signal)).toMatchObject({ verdict: 'VALID', differences: [] });
  } finally {
    stop.abort();
    expect((await Promise.all(writers)).every((done) => done > 0)).toBe(true);
  }
  const last = await shaped.capture();
  expect(await shaped.restored(last.number)).toEqual(last.held);
}, 120_000);
