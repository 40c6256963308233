import { ForeshadowError } from '../../model/errors.ts';
import type { TableName } from '../../model/schema.ts';
import type { KeyTuple } from '../../model/tuple.ts';
import {
  type ApplyReport,
  type ApplyWork,
  type RowBatch,
  type RowSource,
  type StandingRows,
  requireGround,
  rowsOf,
} from '../../shadowing/shadow.ts';
import { BatchStep, type Counts } from './batch-step.ts';
import { notedAmong } from './foreign.ts';
import { hasKey, LiveKey } from './key.ts';
import { type Beside, bothOrNone, type Lanes, lanesOf } from './lanes.ts';
import { type Standing, storeProgress, storedProgress } from './segments.ts';
import { standingRows } from './versions.ts';
import type { Wire } from './wire.ts';

/** What an apply goes about with. */
export interface ApplyMeans {
  readonly majorVersion: number;
  /** Null where no other connection is free. */
  readonly beside: Beside | null;
}

/** What batches came to. */
interface Done extends Counts {
  /** The keys of foreign writes that were undone. */
  readonly conflicts: KeyTuple[];
}

/** Whether the server can return a row as it was before an UPDATE (18): one pass instead of two. */
const RETURNING_OLD_VERSION = 18;

/**
 * `Shadow.apply`, inside a write transaction. Rows go with the statements that move them, or many are staged by COPY and moved together.
 * Foreign writes that a batch runs into are undone first; what slips in between waits for our row locks or is met by `settle`. What can be
 * asked or written of all works at once is. Many rows of one work are written by two transactions: the other one is committed first, and says
 * that only some of them are in; then this one says that all are.
 */
export async function applyWorks(
  wire: Wire,
  works: readonly ApplyWork[],
  { majorVersion, beside }: ApplyMeans,
  signal: AbortSignal,
): Promise<ApplyReport> {
  const counts: Counts = { inserted: 0, updated: 0, deleted: 0 };
  const conflicts: ApplyReport['conflicts'][number][] = [];
  const stored = await storedProgress(
    wire,
    works.map((work) => work.table),
  );
  const written = works.filter(({ rows }) => !(Array.isArray(rows) && rows.length === 0));
  const noted = await notedAmong(
    wire,
    written.map(({ table }) => stored.get(table)?.layout).filter((layout) => layout !== undefined),
  );
  const steps: BatchStep[] = [];
  const reached = new Map<TableName, Standing>();
  for (const work of works) {
    const { table, state, progress } = work;
    const from = stored.get(table);
    if (from === undefined) {
      throw new ForeshadowError('TABLE_MISSING', `The shadow has no table ${table}`, { remedy: 'Prepare the shadow for it first.' });
    }
    requireGround(work, from.progress);
    const { layout } = from;
    stored.set(table, { layout, state, progress });
    const key = new LiveKey(wire, layout, from.state);
    const target = { ...work, capture: progress.capture };
    const how = { returningOld: majorVersion >= RETURNING_OLD_VERSION, noted: noted.has(layout) };
    const step = new BatchStep(wire, layout, key, target, how);
    const add = (done: Done): void => {
      for (const kind of ['inserted', 'updated', 'deleted'] as const) counts[kind] += done[kind];
      for (const conflict of done.conflicts) conflicts.push({ table, key: conflict });
    };
    const source = rowsOf(work, standingByKey(key, standingRows(wire, layout, progress.capture, signal)));
    const standing = { state, progress, segment: layout.segment.id, wrote: true };
    const mayShare = work.distinct === true && key.stands && !how.noted && layout.segment.types.oids.length === 0;
    const { batches, lanes } = mayShare ? await shared(source, beside) : { batches: source, lanes: null };
    const own = async (within: AbortSignal): Promise<void> => add(await run(step, lanes?.own ?? [], within));
    const other = async (theirs: Wire, ready: Promise<void>, within: AbortSignal): Promise<void> => {
      const lane = new BatchStep(theirs, layout, new LiveKey(theirs, layout, from.state), target, how);
      add(await run(lane, lanes?.beside ?? [], within));
      if ((await notedAmong(theirs, [layout])).size > 0) add({ ...NOTHING, conflicts: [...(await lane.settle())] });
      await ready;
      await storeProgress(theirs, new Map([[table, { ...standing, progress: { ...progress, low: from.progress.low } }]]));
    };
    const both = beside !== null && lanes !== null && (await bothOrNone(beside, { layout, wire, signal }, own, other));
    if (!both) add(await run(step, batches, signal));
    if (hasKey(state)) await key.need();
    if (step.isUnsettled) steps.push(step);
    reached.set(table, { ...standing, wrote: step.wrote || both || reached.get(table)?.wrote === true });
  }
  const notedSince = await notedAmong(
    wire,
    steps.map(({ layout }) => layout),
  );
  for (const step of steps) {
    if (notedSince.has(step.layout)) for (const key of await step.settle()) conflicts.push({ table: step.layout.segment.table, key });
  }
  await storeProgress(wire, reached);
  return { ...counts, conflicts };
}

/** All batches, and who writes which of them if they are shared. */
async function shared(source: RowSource, beside: Beside | null): Promise<{ readonly batches: RowBatch[]; readonly lanes: Lanes | null }> {
  const batches = await Array.fromAsync<RowBatch>(source);
  return { batches, lanes: beside === null ? null : lanesOf(batches, beside.workMin) };
}

const NOTHING: Counts = { inserted: 0, updated: 0, deleted: 0 };

async function run(step: BatchStep, batches: RowSource, signal: AbortSignal): Promise<Done> {
  const done: Done = { ...NOTHING, conflicts: [] };
  for await (const batch of batches) {
    signal.throwIfAborted();
    done.conflicts.push(...(await step.run(batch, done, signal)));
  }
  await step.finish();
  return done;
}

function standingByKey(key: LiveKey, standing: StandingRows): StandingRows {
  return {
    rows: async (after, limit) => {
      await key.need();
      return standing.rows(after, limit);
    },
    rowsByKey: async (keys) => {
      await key.need();
      return standing.rowsByKey(keys);
    },
  };
}
