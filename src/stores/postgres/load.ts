import { Host } from '../../tracking/host.ts';
import { type LoadReading, type LoadSample, OwnUse } from '../../tracking/load.ts';
import { ask } from './describe.ts';
import type { Wire } from './wire.ts';

/** All connections of Foreshadow's bear such names, those of its other data sets too (`connection.ts`). */
const OURS = `application_name LIKE 'foreshadow %'`;

/** Copied and looked-up rows are read by sessions like the application's. From this version on the server tells what each has read. */
const TELLS_SESSIONS = 180_000;
const TELLS_IO = 160_000;

interface Row {
  readonly at: number;
  readonly version: number;
  readonly epoch: string;
  readonly hidden: boolean;
  readonly active: number;
  readonly transactions: string;
  readonly wal: string;
  readonly blocksRead: string;
  readonly blocksHit: string;
  readonly ours: readonly number[];
  readonly self: { readonly pid: number; readonly startedAtMs: number };
  readonly directory: string | null;
}

interface IoRow {
  readonly epoch: string;
  readonly read: string;
  readonly written: string;
  readonly hits: string;
  readonly ours: readonly { readonly session: string; readonly read: string; readonly written: string; readonly hits: string }[];
}

/** Asks a server how busy it is: in one question of a millisecond, and one more where it counts I/O by session. */
export class PostgresLoad {
  readonly #host = new Host();
  readonly #ownRead = new OwnUse();
  readonly #ownWritten = new OwnUse();
  readonly #ownHits = new OwnUse();
  /** Whether the server runs on this machine; null: not known yet. */
  #isLocal: { readonly epoch: string; readonly value: boolean } | null = null;

  async sample(wire: Wire, signal: AbortSignal): Promise<LoadSample> {
    const [row] = await ask<Row>(wire, SERVER, signal);
    if (row === undefined) throw new Error('the primary answered a question about its load with nothing');
    const { at: atMs, version, epoch, active, hidden } = row;
    const readings: LoadReading[] = [
      counter('transactions', row.transactions, epoch),
      counter('wal.bytes', row.wal, 'log'),
      // Another user's sessions show no state without pg_read_all_stats: none would look active.
      ...(hidden ? [] : [{ kind: 'gauge', resource: 'sessions.active', value: active, includesOurs: false } as const]),
    ];
    if (version >= TELLS_IO) readings.push(...(await this.#io(wire, version, signal)));
    else {
      readings.push(counter('blocks.read', row.blocksRead, epoch, true), counter('blocks.hit', row.blocksHit, epoch, true));
    }
    if (this.#isLocal?.epoch !== epoch) this.#isLocal = { epoch, value: await this.#host.runs(row.self) };
    if (this.#isLocal.value) readings.push(...(await this.#host.readings(row.directory, row.ours)));
    return { atMs, readings };
  }

  async #io(wire: Wire, version: number, signal: AbortSignal): Promise<LoadReading[]> {
    const told = version >= TELLS_SESSIONS;
    const [row] = await ask<IoRow>(wire, ioQuery(told), signal);
    if (row === undefined) return [];
    const of = (what: 'read' | 'written' | 'hits'): Map<string, bigint> =>
      new Map(row.ours.map((each) => [each.session, BigInt(each[what])]));
    const less = (resource: string, total: string, own: bigint): LoadReading => {
      return counter(resource, (BigInt(total) - own).toString(), row.epoch, !told);
    };
    return [
      less('io.read', row.read, this.#ownRead.of(of('read'))),
      less('io.written', row.written, this.#ownWritten.of(of('written'))),
      less('blocks.hit', row.hits, this.#ownHits.of(of('hits'))),
    ];
  }
}

function counter(resource: string, total: string, epoch: string, includesOurs = false): LoadReading {
  return { kind: 'counter', resource, total: BigInt(total), epoch, unit: 1, includesOurs };
}

const SERVER = `SELECT round(extract(epoch FROM clock_timestamp()) * 1000)::float8 AS at, current_setting('server_version_num')::int4 AS version,
  concat(pg_postmaster_start_time(), ' ', (SELECT max(stats_reset) FROM pg_stat_database)) AS epoch,
  (SELECT count(*)::int4 FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND state IN ('active', 'fastpath function call') AND NOT ${OURS}) AS active,
  (SELECT coalesce(bool_or(query = '<insufficient privilege>'), false) FROM pg_stat_activity) AS hidden,
  (SELECT coalesce(sum(xact_commit + xact_rollback), 0)::text FROM pg_stat_database) AS transactions,
  (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END - '0/0')::text AS wal,
  (SELECT coalesce(sum(blks_read), 0)::text FROM pg_stat_database) AS "blocksRead",
  (SELECT coalesce(sum(blks_hit), 0)::text FROM pg_stat_database) AS "blocksHit",
  (SELECT coalesce(json_agg(pid), '[]') FROM pg_stat_activity WHERE ${OURS}) AS ours,
  (SELECT json_build_object('pid', pid, 'startedAtMs', round(extract(epoch FROM backend_start) * 1000)) FROM pg_stat_activity
    WHERE pid = pg_backend_pid()) AS self,
  (SELECT setting FROM pg_settings WHERE name = 'data_directory') AS directory`;

/** Those that send the log read it and nothing else: part of our following, or of some other's, and not of the application's work. */
function ioQuery(told: boolean): string {
  const read = told ? 'read_bytes' : 'reads * op_bytes';
  const written = told ? 'write_bytes' : 'writes * op_bytes';
  const sums = `coalesce(sum(${read}), 0)::int8::text AS read, coalesce(sum(${written}), 0)::int8::text AS written,
    coalesce(sum(hits), 0)::int8::text AS hits`;
  const own = `SELECT concat(a.pid, ' ', a.backend_start) AS session, ${sums}
    FROM pg_stat_activity a, LATERAL pg_stat_get_backend_io(a.pid) b WHERE ${OURS} AND a.backend_type <> 'walsender' AND b.object <> 'wal'
    GROUP BY 1`;
  return `SELECT concat(pg_postmaster_start_time(), ' ', max(stats_reset)) AS epoch, ${sums},
    ${told ? `(SELECT coalesce(json_agg(o), '[]') FROM (${own}) o)` : `'[]'::json`} AS ours
    FROM pg_stat_io WHERE backend_type <> 'walsender'${told ? ` AND object <> 'wal'` : ''}`;
}
