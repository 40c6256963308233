import { statSync } from 'node:fs';
import type { DatabaseSync, StatementSync } from 'node:sqlite';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Bookmark } from '../../journal/journal.ts';
import { isAbort } from '../../model/errors.ts';
import { type Position, position } from '../../model/position.ts';
import type { TableName } from '../../model/schema.ts';
import type { PrimaryItem } from '../../tracking/primary.ts';
import { bookmark, markOf, notInstalled } from './bookmark.ts';
import { fileAt, isBusy, isWal, openSqlite, passingFailure, reading } from './connection.ts';
import { type LogMark, type Standing, holdsMark, isInstalled, lastMark, readStanding, schemaVersion, settle } from './log.ts';
import { LOCK_WAIT_MS, inWriteTransaction, untilUnlocked } from './lock.ts';
import { readPoll } from './poll.ts';
import { SqliteSnapshot } from './snapshot.ts';
import { BatchStream, bytesOf } from './stream.ts';

/** How often the file is asked whether anybody wrote. Following costs 1 to 2 % of a core, 0.7 % when idle. */
const PAUSE_MS = 10;
const IDLE_PAUSE_MS = 25;
const IDLE_AFTER_MS = 10_000;

/** A poll is read up to this many bytes before any of it is handed on, so that its read transaction is short. */
const POLL_BYTES_AHEAD = 32 << 20;

/** Every so many askings the path is looked at too: another file may have been put there. */
const PATH_EVERY = 20;

/** File times may be this coarse; file systems have steps of 1 to 10 ms. */
const TIME_STEP_MS = 50;

/** What may wait for the reader of `changes`. */
const STREAM_BYTES = 8 << 20;

/**
 * Follows the log: polls it, and serialises that with the snapshots, each of which is a poll too. `last` is the end of the newest
 * poll; every poll begins there, on whatever connection it runs.
 */
export class Follower implements AsyncDisposable {
  readonly #path: string;
  #db: DatabaseSync | null = null;
  #file = '';
  #standing: Standing | null = null;
  #last = 0n;
  /** A row that the log must hold, or it is another log than the one that was read. */
  #proof: LogMark = { seq: 0n, mark: 0n };
  /** The tables tracked last, to install again where a file without triggers was put in place. */
  #names: readonly TableName[] | null = null;
  #stream: BatchStream | null = null;
  #started = Promise.withResolvers<void>();
  #turn: Promise<unknown> = Promise.resolve();
  #wake: () => void = () => {};
  #woken = false;
  #wal = false;
  #askings = 0;
  #commits = 0n;
  /** Asks whether another connection committed since. */
  #version: StatementSync | null = null;

  constructor(path: string) {
    this.#path = path;
  }

  async *changes(from: Bookmark, signal: AbortSignal): AsyncGenerator<PrimaryItem> {
    if (this.#stream !== null) throw new Error('the changes of this primary are being read already');
    const stream = new BatchStream(STREAM_BYTES);
    const stopping = new AbortController();
    const stop = () => {
      stopping.abort();
      stream.end(null);
      this.wake();
    };
    if (signal.aborted) return;
    signal.addEventListener('abort', stop, { once: true });
    this.#stream = stream;
    this.#proof = markOf(from);
    this.#last = this.#proof.seq;
    this.#standing = null;
    this.#started.resolve();
    const following = this.#follow(stream, stopping.signal);
    try {
      for (let item = await stream.next(); item !== null; item = await stream.next()) yield item;
    } finally {
      signal.removeEventListener('abort', stop);
      stop();
      await following;
      this.#stream = null;
      this.#started = Promise.withResolvers<void>();
    }
  }

  async snapshot(covering: Position, signal: AbortSignal): Promise<SqliteSnapshot> {
    for (;;) {
      await unlessAborted(this.#started.promise, signal);
      const snapshot = await this.#inTurn(() => this.#trySnapshot(signal));
      if (snapshot !== null && snapshot.end >= covering) return snapshot;
      await snapshot?.[Symbol.asyncDispose]();
      await sleep(PAUSE_MS, undefined, { signal });
    }
  }

  /** Ends `changes` with this error; when it resolves nothing of the follower touches the file any more. */
  async stop(error: unknown): Promise<void> {
    this.#stream?.end(error);
    this.wake();
    await this.#turn;
  }

  /** Looks at the file that found something committed, in tracked tables or not. */
  get commits(): bigint {
    return this.#commits;
  }

  /** Polls soon, without waiting for the end of a pause. */
  wake(): void {
    this.#woken = true;
    this.#wake();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop(null);
    this.#db?.close();
    this.#db = null;
  }

  async #follow(stream: BatchStream, signal: AbortSignal): Promise<void> {
    try {
      while (!signal.aborted && !stream.ended) {
        this.#woken = false;
        const before = this.#dataVersion();
        await this.#inTurn(() => this.#poll(stream, signal));
        await this.#untilWritten(before, signal);
      }
    } catch (error) {
      stream.end(isAbort(error) ? null : passingFailure(this.#path, error));
    }
  }

  async #poll(stream: BatchStream, signal: AbortSignal): Promise<void> {
    while (!signal.aborted && !stream.ended) {
      const db = await this.#ready(signal);
      try {
        if (await this.#begin(db, signal)) return await this.#deliver(db, stream, true);
      } finally {
        if (db.isOpen && db.isTransaction) db.exec('ROLLBACK');
      }
    }
  }

  /** Null where it has to be tried again. */
  async #trySnapshot(signal: AbortSignal): Promise<SqliteSnapshot | null> {
    signal.throwIfAborted();
    const stream = this.#stream;
    if (stream === null || stream.ended) return null;
    await this.#ready(signal);
    const db = await untilUnlocked(LOCK_WAIT_MS, signal, () => openSqlite(this.#path, { role: 'primary', busyTimeoutMs: 5 }));
    let snapshot: SqliteSnapshot | null = null;
    try {
      if (await this.#begin(db, signal)) {
        await this.#deliver(db, stream, false);
        snapshot = new SqliteSnapshot(db, position(this.#last));
      }
      return snapshot;
    } finally {
      if (snapshot === null) db.close();
    }
  }

  /**
   * Begins a read transaction. False where it cannot be read as things stand: triggers and schema must be as they were, and the
   * log the one that was read before.
   */
  async #begin(db: DatabaseSync, signal: AbortSignal): Promise<boolean> {
    const stands = await untilUnlocked(LOCK_WAIT_MS, signal, () => {
      if (db.isTransaction) db.exec('ROLLBACK');
      db.exec('BEGIN');
      this.#wal = isWal(db);
      return this.#standing !== null && schemaVersion(db) === this.#standing.schemaVersion && isInstalled(db) && holdsMark(db, this.#proof);
    });
    if (!stands) this.#standing = null;
    return stands;
  }

  /** Sees to it that there is a standing: reads it, or brings log and triggers in order where something moved. */
  async #ready(signal: AbortSignal): Promise<DatabaseSync> {
    const db = await untilUnlocked(LOCK_WAIT_MS, signal, () => this.#connection());
    if (this.#standing !== null) return db;
    const { standing, installed } = await untilUnlocked(LOCK_WAIT_MS, signal, () =>
      reading(db, () => ({
        standing: isInstalled(db) && holdsMark(db, this.#proof) ? readStanding(db) : null,
        installed: isInstalled(db),
      })),
    );
    if (!installed && this.#names === null) throw notInstalled(this.#path);
    if (standing === null) {
      const options = { wanted: installed ? null : this.#names, from: this.#proof };
      this.#standing = await inWriteTransaction(this.#path, LOCK_WAIT_MS, signal, (writer) => {
        const settled = settle(writer, options);
        // If the log is another one, what was just written into it lies above all that was read, and proves it from now on.
        this.#proof = lastMark(writer);
        return settled;
      });
    } else this.#standing = standing;
    this.#names = this.#standing.tables.map((each) => each.table.schema.table);
    return db;
  }

  async #deliver(db: DatabaseSync, stream: BatchStream, release: boolean): Promise<void> {
    const end = lastMark(db);
    if (end.seq === this.#last) return;
    const { evidence } = bookmark(end);
    const ahead: PrimaryItem[] = [];
    let bytes = 0;
    for (const item of readPoll(db, (this.#standing as Standing).tables, { after: this.#last, through: end.seq }, evidence)) {
      ahead.push(item);
      bytes += bytesOf(item);
      if (bytes < POLL_BYTES_AHEAD) continue;
      for (const each of ahead.splice(0)) await stream.push(each);
    }
    if (release) db.exec('ROLLBACK');
    for (const each of ahead) await stream.push(each);
    this.#last = end.seq;
    this.#proof = end;
  }

  /** At least one pause, so that a writer who never rests is polled in batches and not row by row. */
  async #untilWritten(before: string, signal: AbortSignal): Promise<void> {
    const since = performance.now();
    while (!signal.aborted && this.#stream?.ended === false && !this.#woken) {
      await this.#pause(performance.now() - since > IDLE_AFTER_MS ? IDLE_PAUSE_MS : PAUSE_MS);
      if (this.#dataVersion() === before) continue;
      this.#commits++;
      return;
    }
  }

  /**
   * Differs from before whenever another connection may have committed, or another file was put at the path. Without WAL asking
   * SQLite takes a lock that a commit of the application could run into: there the file's own times tell.
   */
  #dataVersion(): string {
    const looksAtPath = this.#askings++ % PATH_EVERY === 0;
    if (this.#wal && this.#version !== null && (!looksAtPath || fileAt(this.#path) === this.#file)) {
      try {
        return `${(this.#version.get() as { data_version: bigint }).data_version}`;
      } catch (error) {
        if (!isBusy(error)) throw error;
        return `busy ${performance.now()}`;
      }
    }
    const stat = statSync(this.#path, { bigint: true, throwIfNoEntry: false });
    // Times are kept in steps of some milliseconds: a file written a moment ago may be written again within the same one.
    if (stat === undefined || Date.now() - Number(stat.mtimeMs) < TIME_STEP_MS) return `recent ${performance.now()}`;
    return `${stat.dev}:${stat.ino} ${stat.mtimeNs} ${stat.size}`;
  }

  /** The connection that polls; opened anew where the file was replaced. */
  #connection(): DatabaseSync {
    const file = fileAt(this.#path);
    // While nothing stands at the path the old file is still open: somebody is about to put another in its place.
    if (this.#db !== null && (file === this.#file || file === '')) return this.#db;
    this.#db?.close();
    this.#db = null;
    this.#version = null;
    this.#standing = null;
    this.#db = openSqlite(this.#path, { role: 'primary', busyTimeoutMs: 5 });
    this.#file = file;
    this.#version = this.#db.prepare('PRAGMA data_version');
    return this.#db;
  }

  async #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.#turn.then(work);
    // Whoever asked gets the error; the next in line only needs to know that this turn is over.
    this.#turn = mine.then(
      () => undefined,
      () => undefined,
    );
    return mine;
  }

  async #pause(ms: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted();
  const aborted = Promise.withResolvers<never>();
  const abort = () => aborted.reject(signal.reason);
  signal.addEventListener('abort', abort, { once: true });
  try {
    return await Promise.race([promise, aborted.promise]);
  } finally {
    signal.removeEventListener('abort', abort);
  }
}
