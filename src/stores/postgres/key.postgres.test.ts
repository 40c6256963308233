import { afterEach, beforeEach, expect, test } from 'vitest';
import { createDatabase, type TestDatabase } from '../../../test/postgres.ts';
import { captureNumber, NO_CAPTURE } from '../../model/capture.ts';
import { position } from '../../model/position.ts';
import { COPY_FROM_NOTHING, type ElementState, type Generation, type Progress } from '../../model/progress.ts';
import type { TableName, TableSchema } from '../../model/schema.ts';
import { type KeyTuple, packTuple, type Tuple } from '../../model/tuple.ts';
import type { RowBatch, Shadow } from '../../shadowing/shadow.ts';
import { groundOf } from '../../shadowing/shadow-session.contract.ts';
import { openPostgresShadow } from './shadow.ts';

const { signal } = new AbortController();
const TABLE = 'public.stock' as TableName;
const SCHEMA: TableSchema = {
  table: TABLE,
  columns: [
    { name: 'id', type: 'integer', nullable: false, generated: false, hidden: false },
    { name: 'amount', type: 'integer', nullable: true, generated: false, hidden: false },
  ],
  key: [0],
  keyOrderShared: true,
  shape: 'stock',
  create: [],
  finish: [],
};
const KEYS = `SELECT count(*)::int AS keys FROM pg_index WHERE indrelid = 'public.stock'::regclass AND indisprimary`;
const COPYING = COPY_FROM_NOTHING as ElementState & { kind: 'copying' };

function int4(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(value);
  return bytes;
}
const row = (id: number, amount: number): Tuple => packTuple([int4(id), int4(amount)]);
const key = (id: number): KeyTuple => packTuple([int4(id)]) as KeyTuple;

let database: TestDatabase;
let shadow: Shadow;
let clock = 1n;

function progress(): Progress {
  const low = position(++clock);
  return { generation: 1 as Generation, low, high: low, capture: captureNumber(1) };
}

async function apply(state: ElementState, batches: readonly RowBatch[]): Promise<Awaited<ReturnType<Shadow['apply']>>> {
  const from = await groundOf(shadow, TABLE);
  return shadow.apply([{ table: TABLE, rows: batches, from, progress: progress(), state, savedThrough: NO_CAPTURE }], signal);
}

const inserted = (...puts: Tuple[]): RowBatch => ({ deletes: [], puts, fresh: true });

beforeEach(async () => {
  database = await createDatabase();
  ({ shadow } = await openPostgresShadow(database.url));
  await shadow.claim('the test');
  await shadow.prepare({ tables: [SCHEMA], before: [], after: [] }, progress());
});

afterEach(async () => {
  await shadow[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
});

test('the key is made when the copy is done', async () => {
  await apply(COPYING, [inserted(row(1, 1), row(2, 2))]);
  expect(await database.run(KEYS)).toEqual([{ keys: 0 }]);
  await apply({ kind: 'live' }, [inserted(row(3, 3))]);
  expect(await database.run(KEYS)).toEqual([{ keys: 1 }]);
});

test('the key is made before the first change that finds rows by it, and rows are found', async () => {
  await apply(COPYING, [inserted(row(1, 1), row(2, 2), row(3, 3))]);
  const change: RowBatch = { deletes: [key(1)], puts: [row(2, 20), row(4, 4)], fresh: false };
  expect(await apply({ ...COPYING, fresh: false }, [change])).toMatchObject({ deleted: 1, updated: 1, inserted: 1 });
  expect(await database.run(KEYS)).toEqual([{ keys: 1 }]);
  expect(await database.run('SELECT id, amount FROM public.stock ORDER BY id')).toEqual([
    { id: 2, amount: 20 },
    { id: 3, amount: 3 },
    { id: 4, amount: 4 },
  ]);
});

test("somebody else's rows under keys that are copied do not stand in the key's way, and do not stay", async () => {
  await database.run(`INSERT INTO public.stock VALUES (1, 100), (1, 101), (9, 900);
    SET session_replication_role = replica; INSERT INTO public.stock VALUES (2, 200)`);
  await apply(COPYING, [inserted(row(1, 1), row(2, 2), row(3, 3))]);
  await database.run('UPDATE public.stock SET amount = 300 WHERE id = 3; INSERT INTO public.stock VALUES (3, 301)').catch(() => undefined);
  await apply({ kind: 'live' }, [inserted(row(4, 4))]);
  await shadow.searchForeign(TABLE);
  const foreign = await shadow.foreignRows(TABLE, 10, signal);
  await shadow.undoForeign(
    TABLE,
    foreign.map((each) => each.key),
  );
  expect(await database.run('SELECT id, amount FROM public.stock ORDER BY id')).toEqual([1, 2, 3, 4].map((id) => ({ id, amount: id })));
  expect(await database.run(KEYS)).toEqual([{ keys: 1 }]);
});
