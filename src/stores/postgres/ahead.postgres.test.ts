import { expect, test } from 'vitest';
import { createDatabase } from '../../../test/postgres.ts';
import { captureNumber, NO_CAPTURE } from '../../model/capture.ts';
import { position } from '../../model/position.ts';
import type { Generation, Progress } from '../../model/progress.ts';
import type { TableName, TableSchema } from '../../model/schema.ts';
import { packTuple, type Tuple } from '../../model/tuple.ts';
import { openPostgresShadow } from './shadow.ts';

const never = new AbortController().signal;
const T = 'public.t' as TableName;
const SCHEMA: TableSchema = {
  table: T,
  columns: [{ name: 'id', type: 'integer', nullable: false, generated: false, hidden: false, id: 1 }],
  key: [0],
  keyOrderShared: true,
  shape: 'v1',
  create: [],
  finish: [],
};

function row(id: number): Tuple {
  const cell = Buffer.alloc(4);
  cell.writeInt32BE(id);
  return packTuple([cell]);
}

function progress(clock: bigint, capture: number): Progress {
  const low = position(clock);
  return { generation: 1 as Generation, low, high: low, capture: captureNumber(capture) };
}

test('what fails while rows are being written leaves nothing of them anywhere', async () => {
  await using database = await createDatabase();
  const { shadow } = await openPostgresShadow(database.url);
  await using _ = shadow;
  await shadow.claim('the test');
  await shadow.prepare({ tables: [SCHEMA], before: [], after: [] }, progress(1n, 1));
  const live = { kind: 'live' } as const;
  await shadow.apply(
    [{ table: T, rows: [], from: progress(1n, 1), progress: progress(2n, 1), state: live, savedThrough: NO_CAPTURE }],
    never,
  );
  await shadow.apply(
    [{ table: T, rows: [], from: progress(2n, 1), progress: progress(3n, 2), state: live, savedThrough: captureNumber(1) }],
    never,
  );
  async function* rows(): AsyncGenerator<Tuple[]> {
    yield [row(1), row(2)];
    throw new Error('the source failed');
  }
  const reached = (): never => {
    throw new Error('not asked');
  };
  const work = { table: T, rows: rows(), capture: captureNumber(2), savedThrough: captureNumber(1), reached };
  await expect(shadow.applyAhead?.(work, never)).rejects.toThrow('the source failed');
  const tables = await database.run(
    `SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables WHERE tablename LIKE 'inserted\\_%'`,
  );
  const written = ['public.t', ...tables.map(({ name }) => String(name))].map((name) => `SELECT count(*) FROM ${name}`);
  expect(written).toHaveLength(2);
  for (const sql of written) expect(await database.run(sql)).toEqual([{ count: '0' }]);
});
