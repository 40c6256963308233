import type { DatabaseSync } from 'node:sqlite';
import { setTimeout as sleep } from 'node:timers/promises';
import { ForeshadowError } from '../../model/errors.ts';
import { isBusy, openSqlite } from './connection.ts';

/** How long a question or an installation waits for other programs' transactions. */
export const LOCK_WAIT_MS = 10_000;

/** The lock is asked for without pause for this long, then others in this process have a turn. */
const BURST_MS = 15;

/**
 * Tries `attempt` until no other connection's lock is in its way, for at most `waitMs`; then PRIMARY_UNREACHABLE, to be retried.
 *
 * A writer that commits without pause leaves the lock free for microseconds only. SQLite's own waiting, which sleeps longer and
 * longer, never meets them, and it holds up this whole process: so connections here have a short busy timeout or none, and this
 * asks again and again in bursts.
 */
export async function untilUnlocked<T>(waitMs: number, signal: AbortSignal, attempt: () => T): Promise<T> {
  const deadline = performance.now() + waitMs;
  for (;;) {
    signal.throwIfAborted();
    const burstEnd = performance.now() + BURST_MS;
    let busy: unknown = null;
    do {
      try {
        return attempt();
      } catch (error) {
        if (!isBusy(error)) throw error;
        busy = error;
      }
    } while (performance.now() < burstEnd);
    if (performance.now() >= deadline) throw keptLocked(waitMs, busy);
    await sleep(1, undefined, { signal });
  }
}

/** Runs `work` in a write transaction on a connection of its own. */
export async function inWriteTransaction<T>(path: string, waitMs: number, signal: AbortSignal, work: (db: DatabaseSync) => T): Promise<T> {
  let db: DatabaseSync | null = null;
  try {
    return await untilUnlocked(waitMs, signal, () => {
      // Without WAL even opening meets the writer's lock.
      db ??= openSqlite(path, { role: 'primary', busyTimeoutMs: 0 });
      try {
        db.exec('BEGIN IMMEDIATE');
        const result = work(db);
        db.exec('COMMIT');
        return result;
      } finally {
        if (db.isTransaction) db.exec('ROLLBACK');
      }
    });
  } finally {
    (db as DatabaseSync | null)?.close();
  }
}

function keptLocked(waitMs: number, cause: unknown): ForeshadowError {
  return new ForeshadowError('PRIMARY_UNREACHABLE', `another program has kept the database locked for ${Math.round(waitMs / 1000)} s`, {
    remedy: 'Look for a program that holds a transaction open on the database, and try again.',
    retry: 'later',
    cause,
  });
}
