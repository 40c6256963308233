import { expect, test } from 'vitest';
import { Cluster } from '../../../test/postgres-cluster.ts';
import { captureNumber, NO_CAPTURE } from '../../model/capture.ts';
import { position } from '../../model/position.ts';
import type { Generation, Progress } from '../../model/progress.ts';
import type { TableName, TableSchema } from '../../model/schema.ts';
import { packTuple } from '../../model/tuple.ts';
import type { Shadow } from '../../shadowing/shadow.ts';
import { openPostgresShadow } from './shadow.ts';

const { signal } = new AbortController();
const TABLE = 'public.stock' as TableName;
const SCHEMA: TableSchema = {
  table: TABLE,
  columns: [{ name: 'id', type: 'integer', nullable: false, generated: false, hidden: false }],
  key: [0],
  keyOrderShared: true,
  shape: 'stock',
  create: [],
  finish: [],
};
/** Nothing but a commit that waits for it brings the log to the disk. */
const LAZY = { wal_writer_delay: '10000', bgwriter_lru_maxpages: '0', autovacuum: 'off' };
const LIVE = { kind: 'live' } as const;

function progress(at: number): Progress {
  const low = position(BigInt(at));
  return { generation: 1 as Generation, low, high: low, capture: captureNumber(1) };
}

/** Brings the table from one place to the next, with a row of that number. */
async function apply(shadow: Shadow, from: number, unflushed: boolean): Promise<void> {
  const id = Buffer.alloc(4);
  id.writeInt32BE(from);
  const rows = [{ deletes: [], puts: [packTuple([id])], fresh: false }];
  const step = { from: progress(from), progress: progress(from + 1), state: LIVE, savedThrough: NO_CAPTURE };
  await shadow.apply([{ table: TABLE, rows, ...step, unflushed }], signal);
}

const moved = expect.objectContaining({ code: 'SHADOW_MOVED', retry: 'later' });

test('after a crash nothing is written before it was read where the shadow stands', { timeout: 120_000 }, async () => {
  await using server = await Cluster.create();
  await server.start(LAZY);
  const { shadow, catalog } = await openPostgresShadow(server.url);
  const stored = async () => (await shadow.elements()).get(TABLE)?.progress;
  const ids = async () => (await server.sql('SELECT id FROM stock ORDER BY id')).map(({ id }) => id);
  const crash = async (): Promise<void> => {
    await server.stop('immediate');
    await server.start(LAZY);
  };
  try {
    await shadow.claim('the test');
    await shadow.prepare({ tables: [SCHEMA], before: [], after: [] }, progress(1));
    await apply(shadow, 1, true);
    await apply(shadow, 2, true);
    // Whatever waits for the disk takes along what did not.
    await catalog.write('parked', null);
    await apply(shadow, 3, true);
    await apply(shadow, 4, true);
    expect(await ids()).toEqual([1, 2, 3, 4]);
    await crash();
    await expect(shadow.flush()).rejects.toEqual(moved);
    await expect(apply(shadow, 5, false)).rejects.toEqual(moved);
    await expect(shadow.retire(TABLE, null, LIVE, progress(5))).rejects.toEqual(moved);
    expect(await ids()).toEqual([1, 2]);
    expect(await stored()).toEqual(progress(3));
    await expect(apply(shadow, 5, false)).rejects.toEqual(moved);
    await apply(shadow, 3, true);
    await shadow.flush();
    await crash();
    await apply(shadow, 4, true);
    expect(await ids()).toEqual([1, 2, 3, 4]);
  } finally {
    await shadow[Symbol.asyncDispose]();
  }
});
