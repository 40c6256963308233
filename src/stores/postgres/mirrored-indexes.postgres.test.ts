import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { createDatabase, type TestDatabase } from '../../../test/postgres.ts';
import { captureNumber, NO_CAPTURE } from '../../model/capture.ts';
import { position } from '../../model/position.ts';
import { COPY_FROM_NOTHING, type ElementState, type Generation, type Progress } from '../../model/progress.ts';
import type { TableName, TableSchema } from '../../model/schema.ts';
import { packTuple } from '../../model/tuple.ts';
import type { IndexOrder, Shadow } from '../../shadowing/shadow.ts';
import { groundOf } from '../../shadowing/shadow-session.contract.ts';
import { openPostgresShadow } from './shadow.ts';

const { signal } = new AbortController();
const TABLE = 'public.stock' as TableName;
const column = (id: number, name: string): TableSchema['columns'][number] => ({
  id,
  name,
  type: 'integer',
  nullable: id > 1,
  generated: false,
  hidden: false,
});
const SCHEMA: TableSchema = {
  table: TABLE,
  columns: [column(1, 'id'), column(2, 'amount')],
  key: [0],
  keyOrderShared: true,
  shape: 'stock',
  create: [],
  finish: [],
};
const INDEXES = `SELECT relname, indisvalid AS valid FROM pg_index JOIN pg_class c ON c.oid = indexrelid
  WHERE indrelid = 'public.stock'::regclass AND NOT indisprimary`;
const order = (...definitions: string[]): IndexOrder => ({
  table: TABLE,
  shape: 'stock',
  indexes: definitions.map((definition, index) => ({ name: `index ${index}`, definition, flaw: null })),
});

let database: TestDatabase;
let shadow: Shadow;
let clock = 1n;

function progress(): Progress {
  const low = position(++clock);
  return { generation: 1 as Generation, low, high: low, capture: captureNumber(1) };
}

async function put(state: ElementState, ids: readonly number[]): Promise<void> {
  const puts = ids.map((id) => packTuple([int4(id), int4(id)]));
  const from = await groundOf(shadow, TABLE);
  await shadow.apply(
    [{ table: TABLE, rows: [{ deletes: [], puts, fresh: false }], from, progress: progress(), state, savedThrough: NO_CAPTURE }],
    signal,
  );
}

function int4(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(value);
  return bytes;
}

function mirror(orders: readonly IndexOrder[], within: AbortSignal = signal): ReturnType<NonNullable<Shadow['mirrorIndexes']>> {
  if (shadow.mirrorIndexes === undefined) throw new Error('it mirrors none');
  return shadow.mirrorIndexes(orders, within);
}

/** Somebody who reads the table and does not end: an index in the making waits for them. Resolves when it does. */
async function reader(): Promise<{ waitedFor: () => Promise<void>; end: () => Promise<unknown> }> {
  const client = await database.client();
  await client.query('BEGIN; LOCK TABLE stock IN ROW EXCLUSIVE MODE');
  const waiting = `SELECT count(*)::int AS n FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONC%' AND wait_event_type = 'Lock' AND datname = current_database()`;
  return {
    waitedFor: () => vi.waitFor(async () => expect(await database.run(waiting)).toEqual([{ n: 1 }]), 10_000),
    end: () => client.query('ROLLBACK'),
  };
}

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

test('a table that is copied for the first time, or has another shape, keeps what it has', async () => {
  const nothing = { made: [], unmirrored: [], again: false };
  const from = await groundOf(shadow, TABLE);
  await shadow.apply([{ table: TABLE, rows: [], from, progress: progress(), state: COPY_FROM_NOTHING, savedThrough: NO_CAPTURE }], signal);
  expect(await mirror([order('btree (amount)')])).toEqual(nothing);
  await put({ kind: 'live' }, [1, 2]);
  expect(await mirror([{ ...order('btree (amount)'), shape: 'another' }])).toEqual(nothing);
  expect(await database.run(INDEXES)).toEqual([]);
  expect(await mirror([order('btree (amount)')])).toEqual({ made: [{ table: TABLE, index: 'index 0' }], unmirrored: [], again: false });
  expect(await mirror([{ ...order('btree (amount DESC)'), shape: 'another' }])).toEqual(nothing);
  expect(await mirror([])).toEqual(nothing);
  expect(await database.run(INDEXES)).toMatchObject([{ valid: true }]);
});

test('rows are written while an index waits to be made; given up, it leaves nothing that the next call does not clear', async () => {
  await put({ kind: 'live' }, [1, 2]);
  const { waitedFor, end } = await reader();
  const stop = new AbortController();
  const making = mirror([order('btree (amount)')], stop.signal);
  await waitedFor();
  await put({ kind: 'live' }, [3]);
  stop.abort();
  await expect(making).rejects.toThrow('abort');
  await end();
  expect(await database.run(INDEXES)).toMatchObject([{ valid: false }]);
  expect(await mirror([order('btree (amount)')])).toMatchObject({ made: [{ index: 'index 0' }] });
  expect(await database.run(INDEXES)).toMatchObject([{ valid: true }]);
});

test('a change of shape does not wait for an index in the making', async () => {
  await put({ kind: 'live' }, [1, 2]);
  const { waitedFor, end } = await reader();
  const making = mirror([order('btree (amount)')]);
  await waitedFor();
  const to = { ...SCHEMA, shape: 'next', columns: [column(1, 'id'), column(2, 'quantity')] };
  const change = { from: 'stock', to, after: position(clock), kept: true, initial: [null, null] };
  const reshaped = shadow.reshape(TABLE, change, { kind: 'live' }, progress());
  expect(await making).toEqual({ made: [], unmirrored: [], again: false });
  await end();
  expect(await reshaped).toBe(true);
  expect(await mirror([{ ...order('btree (quantity)'), shape: 'next' }])).toMatchObject({ made: [{ index: 'index 0' }] });
  expect(await database.run(INDEXES)).toMatchObject([{ valid: true }]);
});
