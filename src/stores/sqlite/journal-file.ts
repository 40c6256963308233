import { randomUUID } from 'node:crypto';
import { chmodSync, closeSync, fsyncSync, mkdirSync, openSync, readSync, renameSync, rmSync, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { ForeshadowError, messageOf } from '../../model/errors.ts';
import { resultCode } from './connection.ts';
import { BUSY_TIMEOUT_MS, JournalMode } from './journal-mode.ts';

/** 'FSJL' in the header's application id says that the file is ours; the header's user version is the format. */
const APPLICATION = 0x4653_4a4c;
const FORMAT = 2;

const HEADER_BYTES = 100;
const MAGIC = 'SQLite format 3\0';

/** https://www.sqlite.org/rescode.html */
const BUSY = 5;
const FULL = 13;
const CORRUPT = 11;
const NOTADB = 26;

/**
 * Measured, with appends of 1 MiB in frames of 256 KiB, 512 MiB in all, one core of two (Node 24.21, NVMe, median of 3): pages of
 * 16 KiB take 285 MB/s at 2.3 to 2.8 CPU seconds per GiB (0.4 of it the check sums), pages of 4 and 64 KiB 200 to 245 MB/s at 3.4 to
 * 4.3; an append of one small change takes 0.35 ms, with pages of 64 KiB 0.6 ms, because it writes whole pages.
 */
const PAGE_BYTES = 16_384;

/**
 * A checkpoint runs inside the append that crosses this, and the process waits for it: 65 to 75 ms at most at 16 MB, 130 to 220 ms at
 * 32 MB, 500 ms at 128 MB, for the same throughput within noise. Below 16 MB it costs up to a third of the throughput.
 */
const CHECKPOINT_PAGES = 1000;

/** A log that a transaction made larger than this is cut back. */
const LOG_BYTES_MAX = 64 << 20;

/**
 * `state` is one row. Frames and events share one sequence of ids; those below `first_id` are leftovers of a journal that was
 * begun again and are never read. `tables.floor` is how far a table was pruned.
 *
 * A frame without `last` is spooled: it holds changes of the transaction `spool`, which has not ended. Adopting it sets `last`, and
 * touches no bytes, which is why those stand in a table of their own. `spool` stays where the bytes do not name the transaction: it is
 * the one in `adopted` at `last`. `part` is what all changes of a spooled frame belong to, null where that is several.
 */
const SCHEMA = `
  CREATE TABLE state (id TEXT NOT NULL, began TEXT, head TEXT, evidence TEXT, first_id INTEGER NOT NULL) STRICT;
  CREATE TABLE tables (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, floor TEXT NOT NULL) STRICT;
  CREATE TABLE frames (
    id INTEGER PRIMARY KEY, tbl INTEGER NOT NULL, first TEXT, last TEXT, changes INTEGER NOT NULL,
    lowest_transaction TEXT NOT NULL, highest_transaction TEXT NOT NULL, spool TEXT, part INTEGER, crc INTEGER NOT NULL
  ) STRICT;
  CREATE INDEX frames_of_table ON frames (tbl, last);
  CREATE INDEX frames_of_transaction ON frames (highest_transaction, lowest_transaction);
  CREATE INDEX frames_of_spool ON frames (spool, last) WHERE spool IS NOT NULL;
  CREATE TABLE frame_bytes (id INTEGER PRIMARY KEY, bytes BLOB NOT NULL) STRICT;
  CREATE TRIGGER frame_gone AFTER DELETE ON frames BEGIN DELETE FROM frame_bytes WHERE id = old.id; END;
  CREATE TABLE adopted (at TEXT PRIMARY KEY, spool TEXT NOT NULL, committed_micros TEXT NOT NULL, dropped TEXT NOT NULL) STRICT;
  CREATE TABLE events (
    id INTEGER PRIMARY KEY, tbl INTEGER NOT NULL, at TEXT NOT NULL, kind TEXT NOT NULL, reason TEXT NOT NULL, change TEXT
  ) STRICT;
  CREATE INDEX events_of_table ON events (tbl, at);
  PRAGMA application_id = ${APPLICATION};
  PRAGMA user_version = ${FORMAT};
`;

export interface JournalFile extends Disposable {
  readonly path: string;
  readonly db: DatabaseSync;
  readonly mode: JournalMode;
}

/**
 * Opens the file for its one writer and makes it if it is missing, readable by its owner only. Throws ALREADY_RUNNING where another
 * process has it, JOURNAL_ACCESS for a file that is damaged, not ours or out of reach, VERSION_UNSUPPORTED for a newer format; the
 * file is then as it was.
 */
export function openJournalFile(given: string): JournalFile {
  const path = resolve(given);
  let lock: DatabaseSync | null = null;
  let db: DatabaseSync | null = null;
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    requireOurs(path);
    lock = takeLock(path);
    if (sizeOf(path) === 0) make(path);
    chmodSync(path, 0o600);
    db = new DatabaseSync(path, { timeout: BUSY_TIMEOUT_MS });
    const mode = new JournalMode(db);
    db.exec(`PRAGMA wal_autocheckpoint = ${CHECKPOINT_PAGES}; PRAGMA journal_size_limit = ${LOG_BYTES_MAX}`);
    const held = { db, lock };
    return {
      path,
      db,
      mode,
      [Symbol.dispose]: () => {
        if (held.db.isOpen) {
          mode.end();
          held.db.close();
        }
        if (held.lock.isOpen) held.lock.close();
      },
    };
  } catch (error) {
    if (db?.isOpen === true) db.close();
    if (lock?.isOpen === true) lock.close();
    throw journalFailure(path, 'open', error);
  }
}

/** Says in our words what went wrong with the file. Our own errors pass as they are. */
export function journalFailure(path: string, doing: 'open' | 'read' | 'write', error: unknown): Error {
  if (error instanceof ForeshadowError || error instanceof RangeError) return error;
  const code = resultCode(error);
  const cause = error;
  if (code === CORRUPT || code === NOTADB) {
    return new ForeshadowError('JOURNAL_ACCESS', `the journal ${path} is damaged: ${messageOf(error)}`, {
      remedy: 'Move the file away and start again: tracking begins anew, and the tables are resynced by comparison.',
      cause,
    });
  }
  if (code === FULL || (error as { code?: unknown }).code === 'ENOSPC') {
    return new ForeshadowError('JOURNAL_ACCESS', `no space left for the journal ${path}`, {
      remedy: 'Free space on its disk, or set journal.path to another one. The primary keeps the changes meanwhile.',
      retry: 'later',
      cause,
    });
  }
  if (code === BUSY) {
    return new ForeshadowError('JOURNAL_ACCESS', `somebody else has the journal ${path} open`, {
      remedy: 'Close the program that has it open. It can be looked into while Foreshadow is stopped.',
      retry: 'later',
      cause,
    });
  }
  return new ForeshadowError('JOURNAL_ACCESS', `cannot ${doing} the journal ${path}: ${messageOf(error)}`, {
    remedy: 'Check that journal.path is right and that its directory exists, can be written, and is on a healthy disk.',
    retry: doing === 'open' ? 'never' : 'later',
    cause,
  });
}

/** Looks at the header alone: SQLite would write beside, or into, a database that is not ours by merely opening it. */
function requireOurs(path: string): void {
  if (sizeOf(path) === 0) return;
  const header = Buffer.alloc(HEADER_BYTES);
  const fd = openSync(path, 'r');
  let length: number;
  try {
    length = readSync(fd, header, 0, HEADER_BYTES, 0);
  } finally {
    closeSync(fd);
  }
  const isOurs = length === HEADER_BYTES && header.toString('latin1', 0, 16) === MAGIC && header.readUInt32BE(68) === APPLICATION;
  if (!isOurs) {
    throw new ForeshadowError('JOURNAL_ACCESS', `${path} is not a journal of Foreshadow, or its beginning is damaged`, {
      remedy: 'Set journal.path to a file of its own; if this was the journal, move it away and start again.',
    });
  }
  const format = header.readUInt32BE(60);
  if (format < FORMAT) {
    throw new ForeshadowError('VERSION_UNSUPPORTED', `the journal ${path} has format ${format}, which was never released`, {
      remedy: 'Move it away and start again: tracking begins anew, and the tables are resynced by comparison.',
    });
  }
  if (format > FORMAT) {
    throw new ForeshadowError('VERSION_UNSUPPORTED', `the journal ${path} has format ${format}, this version reads up to ${FORMAT}`, {
      remedy: 'Use the newer version of Foreshadow that wrote it.',
    });
  }
}

/**
 * One writer, kept by a lock of the operating system on a file beside the journal, so that it dies with its process. Locking the
 * journal itself would keep out its own readers.
 */
function takeLock(path: string): DatabaseSync {
  const beside = `${path}-lock`;
  closeSync(openSync(beside, 'a', 0o600));
  const lock = new DatabaseSync(beside, { timeout: 0 });
  try {
    lock.exec('PRAGMA journal_mode = MEMORY; BEGIN EXCLUSIVE');
    return lock;
  } catch (error) {
    lock.close();
    if (resultCode(error) !== BUSY) throw error;
    throw new ForeshadowError('ALREADY_RUNNING', `another process writes to the journal ${path}`, {
      remedy: 'Stop the other one, or give this data set a journal.path of its own.',
      cause: error,
    });
  }
}

/** Made apart and moved into place, so that a crash leaves a whole journal or none. */
function make(path: string): void {
  const apart = `${path}-new`;
  for (const suffix of ['', '-journal']) rmSync(apart + suffix, { force: true });
  closeSync(openSync(apart, 'wx', 0o600));
  const db = new DatabaseSync(apart);
  try {
    db.exec(`PRAGMA page_size = ${PAGE_BYTES}; PRAGMA synchronous = FULL; BEGIN; ${SCHEMA}`);
    db.prepare('INSERT INTO state (id, first_id) VALUES (?, 1)').run(randomUUID());
    db.exec('COMMIT');
  } finally {
    db.close();
  }
  // Leftovers of a journal that was moved away by hand would be taken for this one's.
  for (const suffix of ['-wal', '-shm', '-journal']) rmSync(path + suffix, { force: true });
  renameSync(apart, path);
  const directory = openSync(dirname(path), 'r');
  try {
    fsyncSync(directory);
  } finally {
    closeSync(directory);
  }
}

function sizeOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0;
}
