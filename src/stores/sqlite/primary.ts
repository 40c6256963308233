import type { DatabaseSync } from 'node:sqlite';
import type { Bookmark } from '../../journal/journal.ts';
import { ForeshadowError, isAbort } from '../../model/errors.ts';
import type { Finding } from '../../model/errors.ts';
import { type Position, commitEndOf, position } from '../../model/position.ts';
import type { DataSetSchema, TableName, TableSchema } from '../../model/schema.ts';
import type { Selection } from '../../model/selection.ts';
import type { LoadSample } from '../../tracking/load.ts';
import type { Primary, PrimarySnapshot } from '../../tracking/primary.ts';
import { bookmark, notInstalled } from './bookmark.ts';
import { fileAt, isBusy, openSqlite, reading, sqliteIdentity, sqlitePath } from './connection.ts';
import { describeDatabase } from './describe.ts';
import { checkPrimary } from './doctor.ts';
import { Follower } from './follow.ts';
import { SqliteLoad } from './load.ts';
import { hasTraces, isInstalled, lastMark, purgeLog, readStanding, removeAll, settle } from './log.ts';
import { LOCK_WAIT_MS, inWriteTransaction, untilUnlocked } from './lock.ts';
import { readSizes } from './sizes.ts';
import { sqliteValues } from './values.ts';

/** Acknowledged rows are forgotten in steps of this size: rare, because each holds the write lock (50 to 60 ms measured). */
const PURGE_ROWS = 50_000;

/** After the writer was in the way, or between two steps: time for it to go on. */
const PURGE_PAUSE_MS = 500;

/** Opens the primary of a data set in a SQLite file. Throws PRIMARY_UNREACHABLE or PRIMARY_ACCESS; the file is never created. */
export async function openSqlitePrimary(url: string, selection: Selection): Promise<Primary> {
  const path = sqlitePath(url);
  openSqlite(path, { role: 'primary' }).close();
  return new SqlitePrimary(path, selection);
}

/**
 * Tracks by triggers that log keys (`triggers.ts`) and by polls that read the rows under them (`poll.ts`). It writes to the file
 * only to install, to renew triggers after a schema change, to forget rows of the log, and to uninstall; each time for milliseconds.
 * A program sees of this what it would see of any second writer: one that sets no busy timeout may find the file locked, and one
 * that reads before it writes in a deferred transaction may have to begin it again (SQLITE_BUSY_SNAPSHOT).
 *
 * Measured on 2 shared cores, WAL, rows of 100 bytes: inserting 500 000 rows in one statement 486 to 665 thousand rows/s without and
 * 363 to 435 with triggers; draining them 190 to 240 thousand rows/s (3.5 to 3.9 µs of CPU each); from commit to batch 5 ms at the
 * median, 11 to 13 ms at p99.
 */
class SqlitePrimary implements Primary {
  readonly kind = 'sqlite';
  readonly tellsShapes = false;
  readonly values = sqliteValues;
  readonly #path: string;
  readonly #selection: Selection;
  readonly #closing = new AbortController();
  readonly #follower: Follower;
  readonly #load: SqliteLoad;
  #busy = 0n;
  #asking: { db: DatabaseSync; file: string } | null = null;
  #acknowledged = 0n;
  #purging: Promise<void> | null = null;
  #purgeFailure: unknown = null;
  #purgeAfter = 0;

  constructor(path: string, selection: Selection) {
    this.#path = path;
    this.#selection = selection;
    this.#follower = new Follower(path);
    this.#load = new SqliteLoad(path);
  }

  async identity(signal: AbortSignal): Promise<string> {
    return await untilUnlocked(LOCK_WAIT_MS, signal, () => sqliteIdentity(this.#path, 'primary'));
  }

  async check(signal: AbortSignal): Promise<readonly Finding[]> {
    return await this.#ask(signal, (db) => checkPrimary(db, this.#path, this.#selection));
  }

  async describe(signal: AbortSignal): Promise<DataSetSchema> {
    return await this.#ask(signal, (db) => describeDatabase(db, this.#selection).schema);
  }

  async install(tables: readonly TableSchema[], signal: AbortSignal): Promise<Bookmark> {
    const wanted = tables.map((table) => table.table);
    const standing = await this.#ask(signal, (db) => ({ standing: readStanding(db), mark: isInstalled(db) ? lastMark(db) : null }));
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
    const mark = await inWriteTransaction(this.#path, LOCK_WAIT_MS, signal, (db) => {
      settle(db, { wanted, from: null });
      return lastMark(db);
    });
    return bookmark(mark);
  }

  async installed(signal: AbortSignal): Promise<boolean> {
    // What moved since is settled by the next `changes`; that it was installed stands.
    return await this.#ask(signal, isInstalled);
  }

  async uninstall(signal: AbortSignal): Promise<void> {
    if (!(await this.#ask(signal, hasTraces))) return;
    await this.#follower.stop(notInstalled(this.#path));
    await inWriteTransaction(this.#path, LOCK_WAIT_MS, signal, removeAll);
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
    const mark = await this.#ask(signal, (db) => (isInstalled(db) ? lastMark(db) : null));
    if (mark === null) throw notInstalled(this.#path);
    this.#follower.wake();
    return position(mark.seq);
  }

  /** The trigger log is a table like others: what it may come to is told by `check`. */
  retained(): Promise<null> {
    return Promise.resolve(null);
  }

  async sizes(signal: AbortSignal): Promise<ReadonlyMap<TableName, number>> {
    return await this.#ask(signal, readSizes);
  }

  load(): Promise<LoadSample> {
    return this.#load.sample({ commits: this.#follower.commits, busy: this.#busy });
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
    const waiting = await this.#ask(this.#closing.signal, (db) => {
      if (!isInstalled(db)) return 0n;
      const row = db.prepare('SELECT min(seq) AS first FROM _foreshadow_log').get() as { first: bigint };
      return acknowledged - row.first;
    });
    if (waiting < BigInt(PURGE_ROWS)) return;
    try {
      await inWriteTransaction(this.#path, 0, this.#closing.signal, (db) => purgeLog(db, acknowledged, PURGE_ROWS));
    } catch (error) {
      // The writer goes first: what was not purged now is purged after a later acknowledgement.
      if (!isAbort(error) && !(error instanceof ForeshadowError && error.retry === 'later')) throw error;
    }
  }

  /** Reads one moment of the file, on a connection apart from the one that follows; opened anew where the file was replaced. */
  async #ask<T>(signal: AbortSignal, read: (db: DatabaseSync) => T): Promise<T> {
    return await untilUnlocked(LOCK_WAIT_MS, signal, () => {
      const file = fileAt(this.#path);
      if (this.#asking !== null && this.#asking.file !== file) {
        this.#asking.db.close();
        this.#asking = null;
      }
      this.#asking ??= { db: openSqlite(this.#path, { role: 'primary', busyTimeoutMs: 5 }), file };
      return this.#counted(() => reading((this.#asking as { db: DatabaseSync }).db, read));
    });
  }

  /** Counts the times that another program's lock was in the way. */
  #counted<T>(read: () => T): T {
    try {
      return read();
    } catch (error) {
      if (isBusy(error)) this.#busy++;
      throw error;
    }
  }
}

function sameNames(tracked: readonly TableName[], wanted: readonly TableName[]): boolean {
  return tracked.length === wanted.length && wanted.every((name) => tracked.includes(name));
}
