import type { Progress } from '../../model/progress.ts';
import type { TableName } from '../../model/schema.ts';
import { AheadInVain, type AheadWork, type ApplyReport, type RowBatch } from '../../shadowing/shadow.ts';
import { BatchStep, type Counts } from './batch-step.ts';
import { literal } from './connection.ts';
import { LiveKey } from './key.ts';
import { OWN_SCHEMA } from './layout.ts';
import { storedProgress, storeProgress } from './segments.ts';
import type { Wire } from './wire.ts';

/**
 * Whether anybody waits for what our transaction holds: keys that are not to be seen yet, and the weak locks on tables. It is asked often
 * enough that nobody waits for long, and far less than a lock's time limit.
 */
const IS_WAITED_FOR = `EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid)))`;

/** `Shadow.applyAhead`, inside a write transaction on a connection of its own. */
export async function applyAhead(wire: Wire, work: AheadWork, signal: AbortSignal): Promise<ApplyReport> {
  const { table } = work;
  const stored = (await storedProgress(wire, [table])).get(table);
  if (stored?.state.kind !== 'live') throw new AheadInVain('the table is not live');
  const { layout, state } = stored;
  const counts: Counts = { inserted: 0, updated: 0, deleted: 0 };
  const step = new BatchStep(wire, layout, new LiveKey(wire, layout, state), work, { returningOld: false, noted: false });
  const write = async (rows: RowBatch['puts']): Promise<void> => {
    if (rows.length > 0) counts.inserted += await step.insertAll(rows, signal);
    // Looked at afterwards: whoever freed a key by a write of his own has committed it, with its note.
    const [found] = await wire.query(`SELECT ${IS_WAITED_FOR}, EXISTS (SELECT FROM ${layout.notes})`);
    const [waited, noted] = found?.rows[0] ?? [];
    if (waited === 't') throw new AheadInVain('others wait for it');
    if (noted === 't') throw new AheadInVain('somebody else has written to the table');
  };
  // The next rows are made while these are written.
  let writing = Promise.resolve();
  try {
    for await (const rows of work.rows) {
      await writing;
      signal.throwIfAborted();
      writing = write(rows);
      writing.catch(() => undefined);
    }
  } finally {
    // Also where rows come no more: what is written after the transaction was rolled back would be written for good.
    await writing;
  }
  await step.finish();
  const { from, to } = work.reached();
  await requireAt(wire, table, layout.segment.id, from);
  await storeProgress(wire, new Map([[table, { state, progress: to, segment: layout.segment.id, wrote: true }]]));
  return { ...counts, conflicts: [] };
}

/** Locked, so that it stays so until we have committed. */
async function requireAt(wire: Wire, table: TableName, segment: number, { generation, low, high }: Progress): Promise<void> {
  const [found] = await wire.query(
    `SELECT segment = ${segment} AND generation = ${generation} AND low = ${literal(low)} AND high = ${literal(high)}
       AND (state::jsonb)->>'kind' = 'live'
     FROM ${OWN_SCHEMA}.progress WHERE table_name = ${literal(table)} FOR UPDATE`,
  );
  if (found?.rows[0]?.[0] !== 't') throw new AheadInVain('the table does not stand before it');
}
