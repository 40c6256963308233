import type { Retained } from '../../model/retained.ts';
import { literal } from './connection.ts';
import { ask } from './describe.ts';
import type { Wire } from './wire.ts';

/** A transaction that has been open for longer is named: shorter ones are everyday life. */
const LONG_SECONDS = 60;
const NAMED_MAX = 5;

interface Row {
  readonly active: boolean;
  readonly walStatus: string | null;
  readonly bytes: string | null;
  readonly behind: string | null;
  readonly limit: string;
  readonly left: string | null;
  readonly age: number | null;
  readonly held: readonly string[];
}

/** `Primary.retained`: null where there is no slot. Transactions open for longer than `longSeconds` are named. */
export async function readRetained(wire: Wire, name: string, signal: AbortSignal, longSeconds = LONG_SECONDS): Promise<Retained | null> {
  const [row] = await ask<Row>(
    wire,
    `SELECT active, wal_status AS "walStatus", (pg_current_wal_insert_lsn() - restart_lsn)::text AS bytes,
      (pg_current_wal_insert_lsn() - confirmed_flush_lsn)::text AS behind, safe_wal_size::text AS left, age(catalog_xmin) AS age,
      (SELECT (setting::int8 * 1048576)::text FROM pg_settings WHERE name = 'max_slot_wal_keep_size') AS limit,
      (SELECT coalesce(json_agg(who ORDER BY since), '[]') FROM (${holders(longSeconds)} ORDER BY since LIMIT ${NAMED_MAX}) h) AS held
     FROM pg_replication_slots WHERE slot_name = ${literal(name)}`,
    signal,
  );
  if (row === undefined) return null;
  const unlimited = row.limit.startsWith('-');
  return {
    slot: name,
    active: row.active,
    walStatus: row.walStatus ?? 'lost',
    bytes: numberOf(row.bytes),
    unacknowledgedBytes: numberOf(row.behind),
    limitBytes: unlimited ? null : Number(row.limit),
    leftBytes: unlimited || row.left === null ? null : Math.max(0, Number(row.left)),
    catalogAge: row.age,
    heldBy: row.active ? row.held : ['nobody reads from it: no `foreshadow start` is tracking', ...row.held],
  };
}

/**
 * Who keeps a slot from moving on. A transaction's changes are read from where it began, so the log from there on is kept for as long as it is
 * open. Users without pg_read_all_stats are told of their own transactions only.
 */
function holders(longSeconds: number): string {
  return `SELECT xact_start AS since, format('a transaction open for %s (server process %s, %s, user %s, database %s)',
    date_trunc('second', now() - xact_start), pid, coalesce(nullif(application_name, ''), 'unnamed program'), usename, datname) AS who
  FROM pg_stat_activity
  WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() AND xact_start < now() - interval '${longSeconds} seconds'
  UNION ALL
  SELECT prepared, format('the prepared transaction %L, open for %s (user %s, database %s): COMMIT PREPARED or ROLLBACK PREPARED ends it',
    gid, date_trunc('second', now() - prepared), owner, database)
  FROM pg_prepared_xacts WHERE prepared < now() - interval '${longSeconds} seconds'
  UNION ALL
  SELECT now(), format('synchronized_standby_slots: the standby of slot %s is not connected, and changes are held until it has them', wanted)
  FROM regexp_split_to_table(coalesce(current_setting('synchronized_standby_slots', true), ''), '\\s*,\\s*') wanted
  WHERE wanted <> '' AND NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = wanted AND active)`;
}

/** Amounts of log stay far below 2^53. */
function numberOf(text: string | null): number | null {
  return text === null ? null : Math.max(0, Number(text));
}
