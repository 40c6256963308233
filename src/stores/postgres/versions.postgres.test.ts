import { afterEach, beforeEach, expect, test } from 'vitest';
import { createDatabase, type TestDatabase } from '../../../test/postgres.ts';
import { sumsByReading } from '../../capture/seal.ts';
import { captureNumber, NO_CAPTURE } from '../../model/capture.ts';
import { position } from '../../model/position.ts';
import type { Generation, Progress } from '../../model/progress.ts';
import type { TableName, TableSchema } from '../../model/schema.ts';
import { type KeyTuple, packTuple, type Tuple } from '../../model/tuple.ts';
import type { Shadow } from '../../shadowing/shadow.ts';
import { openPostgresShadow } from './shadow.ts';

const { signal } = new AbortController();
const TABLE = 'public.stock' as TableName;
const SCHEMA: TableSchema = {
  table: TABLE,
  columns: [
    { name: 'id', type: 'integer', nullable: false, generated: false, hidden: false },
    { name: 'note', type: 'text', nullable: true, generated: false, hidden: false },
  ],
  key: [0],
  keyOrderShared: true,
  shape: 'stock',
  create: [],
  finish: [],
};
const ROWS = 20_000;
const PAGE = 1000;
const one = captureNumber(1);

const at: Progress = { generation: 1 as Generation, low: position(1n), high: position(1n), capture: one };

function row(id: number): Tuple {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(id);
  return packTuple([bytes, Buffer.from('a note that takes some room'.repeat(5))]);
}

let database: TestDatabase;
let shadow: Shadow;

beforeEach(async () => {
  database = await createDatabase();
  ({ shadow } = await openPostgresShadow(database.url));
  await shadow.claim('the test');
  await shadow.prepare({ tables: [SCHEMA], before: [], after: [] }, { ...at, low: position(0n), high: position(0n) });
  const puts = Array.from({ length: ROWS }, (_, index) => row(index + 1));
  const rows = [{ deletes: [], puts, fresh: true }];
  await shadow.apply(
    [
      {
        table: TABLE,
        rows,
        from: { ...at, low: position(0n), high: position(0n) },
        progress: at,
        state: { kind: 'live' },
        savedThrough: NO_CAPTURE,
      },
    ],
    signal,
  );
});

afterEach(async () => {
  await shadow[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
});

/** Of the live table, by all sessions that have ended: rows that scans of the table read, and rows fetched through its key. */
async function readRows(): Promise<{ scanned: number; fetched: number }> {
  await shadow[Symbol.asyncDispose]();
  const ours = `SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'foreshadow%'`;
  while ((await database.run(ours)).length > 0);
  const [found] = await database.run(
    `SELECT seq_tup_read::int AS scanned, idx_tup_fetch::int AS fetched FROM pg_stat_user_tables WHERE relname = 'stock'`,
  );
  return found as { scanned: number; fetched: number };
}

test('a page in the order of the key costs what it holds, however large the table', async () => {
  let after: KeyTuple | null = null;
  for (let page = 0; page < 3; page++) {
    const { rows, through } = await shadow.rows(TABLE, one, after, { rows: PAGE, bytes: 1 << 20 }, signal);
    expect(rows).toHaveLength(PAGE);
    after = through;
  }
  const { scanned, fetched } = await readRows();
  // The key was made by one scan.
  expect(scanned).toBeLessThanOrEqual(ROWS);
  expect(fetched).toBeLessThanOrEqual(4 * PAGE);
});

test('sums are made of rows as they lie, each read once', async () => {
  expect((await sumsByReading(shadow, TABLE, one, signal)).rows).toBe(BigInt(ROWS));
  const { scanned, fetched } = await readRows();
  expect(scanned).toBeLessThanOrEqual(2 * ROWS);
  expect(fetched).toBe(0);
});

test('a reading of every row ends for whoever changes the table', async () => {
  const slices = shadow.everyRow?.(TABLE, one, signal)[Symbol.asyncIterator]();
  expect((await slices?.next())?.done).toBe(false);
  const changed = database.run('ALTER TABLE public.stock ADD COLUMN another integer');
  const rest = async (): Promise<void> => {
    for (;;) {
      await new Promise((resolve) => {
        setTimeout(resolve, 300);
      });
      if ((await slices?.next())?.done !== false) return;
    }
  };
  await expect(rest()).rejects.toMatchObject({ name: 'GaveWay' });
  await changed;
});
