import { bytesOfRows, type Rows } from '../../model/rows.ts';
import type { RowBatch } from '../../shadowing/shadow.ts';
import type { Layout } from './layout.ts';
import type { Wire } from './wire.ts';

/**
 * What a row takes the server, measured: looked up and deleted, looked up and changed, copied in; and each so many bytes of it, by loads b and f of
 * `npm run bench:postgres`: 11 CPU microseconds a small row that is changed, and 57 ns a byte that is written where rows are large. So one is some 5 to 7 microseconds.
 */
const DELETE = 3;
const CHANGE = 2;
const INSERT = 1;
const BYTES = 128;

/**
 * Below so much work (20,000 small rows that are changed, or 6 MB of large ones) one transaction does it. Smaller folds are those of a shadow that
 * keeps up with what it is sent, and its other core is better left to those who send and read; decision 20 has what was measured.
 */
export const LANE_WORK_MIN = 50_000;

/**
 * If the two should wait for each other the server does not see it, for one of them waits here. Nothing of ours makes them; an index that somebody
 * made by hand could.
 */
const WAIT = "SET LOCAL lock_timeout = '1s'";

/** A transaction on another connection, for so much work. */
export interface Beside {
  readonly workMin: number;
  write(work: (wire: Wire) => Promise<void>): Promise<void>;
}

/** Batches for two transactions that run at the same time. */
export interface Lanes {
  readonly own: readonly RowBatch[];
  readonly beside: readonly RowBatch[];
}

/**
 * Shares batches of which no two name the same key, so that each transaction has as much to do; null where it is not worth it. What is deleted,
 * and what is inserted without looking, stays together: of those two may have one key to the server, though their bytes differ (1.0, 1.00), or
 * where the log lacks the delete between two inserts.
 */
export function lanesOf(batches: readonly RowBatch[], workMin: number): Lanes | null {
  const of = (weigh: (batch: RowBatch) => number): number => batches.reduce((total, batch) => total + weigh(batch), 0);
  const changed = of(({ patches, puts, fresh }) => (fresh ? 0 : weightOf(patches ?? [], CHANGE) + weightOf(puts, CHANGE)));
  const deleted = of((batch) => weightOf(batch.deletes, DELETE));
  if (changed + deleted < workMin || changed === 0) return null;
  const copied = of(({ puts, fresh }) => (fresh ? weightOf(puts, INSERT) : 0));
  const share = Math.min(1, (changed + deleted + copied) / 2 / changed);
  const own: RowBatch[] = [];
  const beside: RowBatch[] = [];
  for (const batch of batches) {
    if (batch.fresh) {
      own.push(batch);
      continue;
    }
    const { deletes, patches = [], puts } = batch;
    const [patched, put] = [Math.round(patches.length * share), Math.round(puts.length * share)];
    beside.push({ deletes: [], patches: patches.slice(0, patched), puts: puts.slice(0, put), fresh: false });
    own.push({ deletes, patches: patches.slice(patched, patches.length), puts: puts.slice(put, puts.length), fresh: false });
  }
  return { own, beside };
}

/**
 * Runs two transactions at the same time, the other of which is committed first, and only when `own` is through with its statements. Whatever
 * fails before undoes both. False: the other could not begin, and nothing was done.
 */
export async function bothOrNone(
  beside: Beside,
  { layout, wire, signal }: { readonly layout: Layout; readonly wire: Wire; readonly signal: AbortSignal },
  own: (within: AbortSignal) => Promise<void>,
  other: (wire: Wire, ready: Promise<void>, within: AbortSignal) => Promise<void>,
): Promise<boolean> {
  const begun = Promise.withResolvers<boolean>();
  const ready = Promise.withResolvers<void>();
  const failed = new AbortController();
  const within = AbortSignal.any([signal, failed.signal]);
  const committed = beside
    .write(async (theirs) => {
      // Before the first statement of the one: who waits for a strong lock of the table would else stand between them.
      await theirs.query(`${WAIT}; LOCK TABLE ${layout.live}, ${layout.history} IN ROW EXCLUSIVE MODE`, signal);
      begun.resolve(true);
      await other(theirs, ready.promise, within);
    })
    .catch((error: unknown) => {
      begun.resolve(false);
      failed.abort(error);
      throw error;
    });
  // Whoever fails first is heard of below.
  for (const each of [ready.promise, committed]) each.catch(() => undefined);
  if (!(await begun.promise)) {
    signal.throwIfAborted();
    return false;
  }
  try {
    await wire.query(WAIT);
    await own(within);
  } catch (error) {
    failed.abort(error);
    ready.reject(error);
    await committed.catch(() => undefined);
    throw error;
  }
  ready.resolve();
  await committed;
  return true;
}

function weightOf(rows: Rows, each: number): number {
  return each * rows.length + bytesOfRows(rows) / BYTES;
}
