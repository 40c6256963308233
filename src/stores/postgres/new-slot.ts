import { ForeshadowError } from '../../model/errors.ts';
import { codeOf, literal } from './connection.ts';
import { ask } from './describe.ts';
import { parseLsn } from './stream.ts';
import { Visibility } from './visibility.ts';
import { Wire } from './wire.ts';

export interface NewSlot {
  /** Where it begins: it will send what commits in the log from here on. */
  readonly lsn: bigint;
  /** What had committed in the log before. It may be hidden from snapshots for a while: for long, where a standby must confirm it. */
  readonly before: Visibility;
}

/**
 * Makes the slot. It becomes consistent only when all transactions older than itself have ended: so the wait has a bound, and the
 * error names who is in the way. Made by the replication protocol, which alone tells what lies before it
 * (https://www.postgresql.org/docs/current/protocol-replication.html, CREATE_REPLICATION_SLOT).
 */
export async function createSlot(wire: Wire, url: string, name: string, lockTimeoutMs: number, signal: AbortSignal): Promise<NewSlot> {
  await using maker = await Wire.open(url, { side: 'primary', purpose: 'installing', replication: true }, signal);
  try {
    await maker.query(`SET lock_timeout = ${lockTimeoutMs}`, signal);
    const [shown] = await maker.query('SHOW server_version_num', signal);
    const version = Number(shown?.rows[0]?.[0]);
    // A standby that synchronizes slots then has it too, and tracking goes on after a failover.
    const options =
      version >= 170_000 ? `(SNAPSHOT 'export', FAILOVER true)` : version >= 150_000 ? `(SNAPSHOT 'export')` : 'EXPORT_SNAPSHOT';
    const [made] = await maker.query(`CREATE_REPLICATION_SLOT "${name}" LOGICAL pgoutput ${options}`, signal);
    const [, lsn, snapshot] = (made?.rows[0] ?? []) as string[];
    return { lsn: parseLsn(lsn as string), before: await shownBy(wire, name, snapshot as string, signal) };
  } catch (error) {
    signal.throwIfAborted();
    if (codeOf(error) === '55P03') throw await blockedSlot(wire, error);
    if (codeOf(error) === '55000' || codeOf(error) === '53400') {
      throw new ForeshadowError('PRIMARY_SETTING', `The replication slot ${name} cannot be made: ${(error as Error).message}`, {
        remedy: 'Set wal_level = logical and enough max_replication_slots in postgresql.conf, and restart the server.',
        cause: error,
      });
    }
    throw error;
  }
}

/** What an exported snapshot shows; it lasts until its maker hears something else. A slot whose past is not known is not kept. */
async function shownBy(wire: Wire, name: string, snapshot: string, signal: AbortSignal): Promise<Visibility> {
  try {
    const [, , seen] = await wire.query(
      `BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT ${literal(snapshot)};
       SELECT pg_current_snapshot()::text; COMMIT`,
      signal,
    );
    return new Visibility(seen?.rows[0]?.[0] as string);
  } catch (error) {
    if (!wire.broken) await wire.query(`ROLLBACK; SELECT pg_drop_replication_slot(${literal(name)})`);
    throw error;
  }
}

async function blockedSlot(wire: Wire, cause: unknown): Promise<ForeshadowError> {
  const blockers = await ask<{ who: string }>(
    wire,
    `SELECT format('pid %s', l.pid) || coalesce(' (' || nullif(a.application_name, '') || ')', '') AS who
     FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
     WHERE l.locktype = 'transactionid' AND l.granted AND l.mode = 'ExclusiveLock' AND l.pid IS NOT NULL
     UNION ALL SELECT format('prepared transaction %L', gid) FROM pg_prepared_xacts`,
  );
  const who = blockers.length === 0 ? 'transactions that have just ended' : blockers.map((each) => each.who).join(', ');
  return new ForeshadowError('PRIMARY_SETTING', `The replication slot cannot be made while older transactions are open: ${who}`, {
    remedy: 'End these transactions, or wait until they have ended, and try again.',
    retry: 'later',
    cause,
  });
}
