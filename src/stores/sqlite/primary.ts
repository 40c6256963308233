import type { DatabaseSync } from 'node:sqlite';
import type { Bookmark } from '../../journal/journal.ts';
import { ForeshadowError, isAbort } from '../../model/errors.ts';
import type { Finding } from '../../model/errors.ts';
import { type Position, commitEndOf, position } from '../../model/position.ts';
import type { DataSetSchema, TableName, TableSchema } from '../../model/schema.ts';
import type { Selection } from '../../model/selection.ts';
import type { Primary, PrimarySnapshot } from '../../tracking/primary.ts';
import { bookmark, notInstalled } from './bookmark.ts';
import { fileAt, openSqlite, reading, sqliteIdentity, sqlitePath } from './connection.ts';
import { describeDatabase } from './describe.ts';
import { checkPrimary } from './doctor.ts';
import { Follower } from './follow.ts';
import { hasTraces, inWriteTransaction, isInstalled, lastMark, purgeLog, readStanding, removeAll, settle } from './log.ts';
import { sqliteValues } from './values.ts';

/** How long installing and removing wait for other programs' transactions. */
const LOCK_WAIT_MS = 10_000;

/** Acknowledged rows are forgotten in steps of this size: rare, because each holds the write lock (about 40 ms). */
const PURGE_ROWS = 50_000;

/** After the writer was in the way, or between two steps: time for it to go on. */
const PURGE_PAUSE_MS = 500;

/** Opens the primary of a data set in a SQLite file. Throws PRIMARY_UNREACHABLE or PRIMARY_ACCESS; the file is never created. */
export async function openSqlitePrimary(url: string, selection: Selection): Promise<Primary> {
  const path = sqlitePath(url);
  openSqlite(path, { role: 'primary' }).close();
  return new SqlitePrimary(path, selection);
}

class SqlitePrimary implements Primary {
  readonly kind = 'sqlite';
  readonly values = sqliteValues;
  readonly #path: string;
  readonly #selection: Selection;
  readonly #closing = new AbortController();
  readonly #follower: Follower;
  #asking: { db: DatabaseSync; file: string } | null = null;
  #acknowledged = 0n;
  #purging: Promise<void> | null = null;
  #purgeFailure: unknown = null;
  #purgeAfter = 0;

  constructor(path: string, selection: Selection) {
    this.#path = path;
    this.#selection = selection;
    this.#follower = new Follower(path, LOCK_WAIT_MS);
  }

  async identity(signal: AbortSignal): Promise<string> {
    signal.throwIfAborted();
    return sqliteIdentity(this.#path, 'primary');
  }

  async check(signal: AbortSignal): Promise<readonly Finding[]> {
    signal.throwIfAborted();
    return checkPrimary(this.#ask(), this.#path, this.#selection);
  }

  async describe(signal: AbortSignal): Promise<DataSetSchema> {
    signal.throwIfAborted();
    return reading(this.#ask(), (db) => describeDatabase(db, this.#selection).schema);
  }

  async install(tables: readonly TableSchema[], signal: AbortSignal): Promise<Bookmark> {
    const wanted = tables.map((table) => table.table);
    const standing = reading(this.#ask(), (db) => ({ standing: readStanding(db), mark: isInstalled(db) ? lastMark(db) : null }));
    if (
      standing.standing !== null &&
      standing.mark !== null &&
      sameNames(
        standing.standing.tables.map((each) => each.table.schema.table),
        wanted,
      )
    ) {
      return bookmark(standing.mark);
    }
    using db = openSqlite(this.#path, { role: 'primary', busyTimeoutMs: 50 });
    const mark = await inWriteTransaction(db, LOCK_WAIT_MS, signal, () => {
      settle(db, { wanted, from: null });
      return lastMark(db);
    });
    return bookmark(mark);
  }

  async installed(signal: AbortSignal): Promise<boolean> {
    signal.throwIfAborted();
    return reading(this.#ask(), (db) => readStanding(db) !== null);
  }

  async uninstall(signal: AbortSignal): Promise<void> {
    if (!reading(this.#ask(), hasTraces)) return;
    await this.#follower.stop(notInstalled(this.#path));
    using db = openSqlite(this.#path, { role: 'primary', busyTimeoutMs: 50 });
    await inWriteTransaction(db, LOCK_WAIT_MS, signal, () => removeAll(db));
  }

  changes(from: Bookmark, signal: AbortSignal): ReturnType<Primary['changes']> {
    return this.#follower.changes(from, AbortSignal.any([signal, this.#closing.signal]));
  }

  async acknowledge(upTo: Position): Promise<void> {
    if (this.#purgeFailure !== null) {
      const failure = this.#purgeFailure;
      this.#purgeFailure = null;
      throw failure;
    }
    const seq = commitEndOf(upTo);
    if (seq <= this.#acknowledged) return;
    this.#acknowledged = seq;
    if (this.#purging !== null || performance.now() < this.#purgeAfter || this.#closing.signal.aborted) return;
    this.#purging = this.#purge(seq)
      .catch((error: unknown) => {
        this.#purgeFailure = error;
      })
      .finally(() => {
        this.#purging = null;
        this.#purgeAfter = performance.now() + PURGE_PAUSE_MS;
      });
  }

  async now(signal: AbortSignal): Promise<Position> {
    signal.throwIfAborted();
    const mark = reading(this.#ask(), (db) => (isInstalled(db) ? lastMark(db) : null));
    if (mark === null) throw notInstalled(this.#path);
    this.#follower.wake();
    return position(mark.seq);
  }

  async snapshot(covering: Position, signal: AbortSignal): Promise<PrimarySnapshot> {
    return this.#follower.snapshot(covering, AbortSignal.any([signal, this.#closing.signal]));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort();
    await this.#purging;
    await this.#follower[Symbol.asyncDispose]();
    this.#asking?.db.close();
    this.#asking = null;
  }

  async #purge(acknowledged: bigint): Promise<void> {
    const waiting = reading(this.#ask(), (db) => {
      if (!isInstalled(db)) return 0n;
      const row = db.prepare('SELECT min(seq) AS first FROM _foreshadow_log').get() as { first: bigint };
      return acknowledged - row.first;
    });
    if (waiting < BigInt(PURGE_ROWS)) return;
    using db = openSqlite(this.#path, { role: 'primary', busyTimeoutMs: 20 });
    try {
      await inWriteTransaction(db, 0, this.#closing.signal, () => purgeLog(db, acknowledged, PURGE_ROWS));
    } catch (error) {
      // The writer goes first: what was not purged now is purged after a later acknowledgement.
      if (!isAbort(error) && !(error instanceof ForeshadowError && error.retry === 'later')) throw error;
    }
  }

  /** A connection for questions, apart from the one that follows; opened anew where the file was replaced. */
  #ask(): DatabaseSync {
    const file = fileAt(this.#path);
    if (this.#asking !== null && this.#asking.file !== file) {
      this.#asking.db.close();
      this.#asking = null;
    }
    this.#asking ??= { db: openSqlite(this.#path, { role: 'primary', busyTimeoutMs: 1000 }), file };
    return this.#asking.db;
  }
}

function sameNames(tracked: readonly TableName[], wanted: readonly TableName[]): boolean {
  return tracked.length === wanted.length && wanted.every((name) => tracked.includes(name));
}
