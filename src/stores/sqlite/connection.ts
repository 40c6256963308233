import { accessSync, closeSync, constants, existsSync, openSync, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { pathToFileURL } from 'node:url';
import { type ErrorCode, ForeshadowError, messageOf } from '../../model/errors.ts';

/** Result codes of SQLite (https://www.sqlite.org/rescode.html), primary codes only. */
const PERM = 3;
const BUSY = 5;
const LOCKED = 6;
const READONLY = 8;
const CANTOPEN = 14;
const NOTADB = 26;
const CORRUPT = 11;

export interface SqliteOptions {
  /** Which of the data stores this is: errors name it and carry its codes. */
  readonly role: 'primary' | 'shadow';
  readonly readOnly?: boolean;
  /** A file that is missing is made. Without it, that is an error and no file appears. */
  readonly create?: boolean;
  /** How long a statement waits for another connection's lock before it fails as busy. */
  readonly busyTimeoutMs?: number;
}

/**
 * The file a `sqlite:PATH` URL names, absolute: `sqlite:shop.db`, `sqlite:./shop.db`, `sqlite:/var/lib/shop.db`,
 * `sqlite:///var/lib/shop.db`. Relative paths are taken from `base`. Throws CONFIG_INVALID.
 */
export function sqlitePath(url: string, base: string = process.cwd()): string {
  const path = url.startsWith('sqlite:') ? url.slice('sqlite:'.length).replace(/^\/\/(?=\/)/, '') : '';
  if (path === '' || path === ':memory:' || path.startsWith('//')) {
    throw new ForeshadowError('CONFIG_INVALID', `"${url}" does not name a SQLite file`, {
      remedy: 'Write sqlite: and the path of a file, for example sqlite:shop.db or sqlite:/var/lib/shop.db.',
    });
  }
  return resolve(base, path);
}

/**
 * Opens a SQLite file. Integers are read as bigint, so that 64 bits stay exact and integers and reals stay apart.
 * Throws …_UNREACHABLE (missing, not a database, damaged) or …_ACCESS (no permission).
 */
export function openSqlite(path: string, options: SqliteOptions): DatabaseSync {
  if (options.create !== true) requireFile(path, options);
  let db: DatabaseSync | null = null;
  try {
    // What we make holds the application's data: only its owner may read it, its log included (SQLite gives it the same mode).
    if (options.create === true && options.readOnly !== true) closeSync(openSync(path, 'a', 0o600));
    const url = pathToFileURL(path);
    // Never "create if missing" by default: between the check above and the opening the file may have gone.
    url.searchParams.set('mode', options.readOnly === true ? 'ro' : options.create === true ? 'rwc' : 'rw');
    db = new DatabaseSync(url, {
      timeout: options.busyTimeoutMs ?? 5000,
      readBigInts: true,
      enableForeignKeyConstraints: false,
      enableDoubleQuotedStringLiterals: true,
    });
    // SQLite opens lazily: only reading the header tells whether this is a database.
    db.prepare('SELECT count(*) FROM sqlite_schema').get();
    return db;
  } catch (error) {
    if (db?.isOpen === true) db.close();
    throw isBusy(error) ? error : openingError(path, options, error);
  }
}

export function quoteIdentifier(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}

export function quoteText(text: string): string {
  return `'${text.replaceAll("'", "''")}'`;
}

/**
 * Names the database in a file for good: by the id that tracking left in it, else by the file itself. Paths and links to one file
 * give the same. (Ask after tracking was installed: installing gives a database its id.)
 */
export function sqliteIdentity(path: string, role: SqliteOptions['role']): string {
  if (!existsSync(path)) return `sqlite:${resolve(path)}`;
  using db = openSqlite(path, { role, readOnly: true });
  const tracked = db.prepare("SELECT 1 FROM sqlite_schema WHERE name = '_foreshadow_state'").get();
  const stored = tracked === undefined ? undefined : db.prepare("SELECT value FROM _foreshadow_state WHERE name = 'id'").get();
  if (stored !== undefined) return `sqlite:${(stored as { value: string }).value}`;
  const { dev, ino } = statSync(path, { bigint: true });
  return `sqlite:${dev}:${ino}`;
}

/** Which file stands at the path: another one after a rename over it. Empty if there is none. */
export function fileAt(path: string): string {
  const stat = statSync(path, { bigint: true, throwIfNoEntry: false });
  return stat === undefined ? '' : `${stat.dev}:${stat.ino}`;
}

/** A failure while working with the primary, as one that may pass: a file being put back, a disk that is full or away for a while. */
export function passingFailure(path: string, error: unknown): unknown {
  const unreachable = error instanceof ForeshadowError && error.code === 'PRIMARY_UNREACHABLE';
  if (!unreachable && resultCode(error) === null) return error;
  if (unreachable && error.retry === 'later') return error;
  return new ForeshadowError('PRIMARY_UNREACHABLE', unreachable ? error.message : `reading ${path} failed: ${messageOf(error)}`, {
    remedy: unreachable ? error.remedy : 'Check the disk the file is on; PRAGMA integrity_check tells whether the file is sound.',
    retry: 'later',
    cause: error,
  });
}

/** Readers and writers do not block each other. */
export function isWal(db: DatabaseSync): boolean {
  return (db.prepare('PRAGMA journal_mode').get() as { journal_mode: string }).journal_mode === 'wal';
}

/** Runs `read` in a read transaction: all of it sees one moment. */
export function reading<T>(db: DatabaseSync, read: (db: DatabaseSync) => T): T {
  db.exec('BEGIN');
  try {
    return read(db);
  } finally {
    if (db.isTransaction) db.exec('ROLLBACK');
  }
}

/** SQLite's primary result code, or null for an error that is not SQLite's. */
export function resultCode(error: unknown): number | null {
  const code = (error as { errcode?: unknown } | null)?.errcode;
  return typeof code === 'number' ? code & 0xff : null;
}

/** Another connection holds a lock: the same statement may succeed a moment later. */
export function isBusy(error: unknown): boolean {
  const code = resultCode(error);
  return code === BUSY || code === LOCKED;
}

function requireFile(path: string, options: SqliteOptions): void {
  if (!existsSync(path)) {
    throw new ForeshadowError(codeFor(options, 'UNREACHABLE'), `the ${options.role}'s file ${path} does not exist`, {
      remedy: `Check the path in the configuration (${options.role}:). The file is never created here.`,
    });
  }
  if (!statSync(path).isFile()) {
    throw new ForeshadowError(codeFor(options, 'UNREACHABLE'), `${path} is not a file`, {
      remedy: `Name the database file itself in the configuration (${options.role}:).`,
    });
  }
  try {
    accessSync(path, options.readOnly === true ? constants.R_OK : constants.R_OK | constants.W_OK);
  } catch (error) {
    throw accessError(path, options, error);
  }
}

function openingError(path: string, options: SqliteOptions, cause: unknown): ForeshadowError {
  const code = resultCode(cause);
  if (code === NOTADB || code === CORRUPT) {
    return new ForeshadowError(codeFor(options, 'UNREACHABLE'), `${path} is not a readable SQLite database: ${messageOf(cause)}`, {
      remedy: 'Check that the path names a SQLite 3 database file that is neither encrypted nor damaged.',
      cause,
    });
  }
  if (code === PERM || code === READONLY) return accessError(path, options, cause);
  if (code === CANTOPEN && !existsSync(dirname(path))) {
    return new ForeshadowError(codeFor(options, 'UNREACHABLE'), `the directory of ${path} does not exist`, {
      remedy: 'Create the directory, or correct the path in the configuration.',
      cause,
    });
  }
  if (code === CANTOPEN) return accessError(path, options, cause);
  return new ForeshadowError(codeFor(options, 'UNREACHABLE'), `cannot open ${path}: ${messageOf(cause)}`, {
    remedy: 'Check the file and the disk it is on.',
    retry: 'later',
    cause,
  });
}

function accessError(path: string, options: SqliteOptions, cause: unknown): ForeshadowError {
  const wanted = options.readOnly === true ? 'read' : 'read and write';
  return new ForeshadowError(codeFor(options, 'ACCESS'), `no permission to ${wanted} the ${options.role}'s file ${path}`, {
    remedy: `Give the user this runs as the right to ${wanted} the file and its directory (SQLite keeps its log beside the file).`,
    cause,
  });
}

function codeFor(options: SqliteOptions, kind: 'UNREACHABLE' | 'ACCESS'): ErrorCode {
  return options.role === 'primary' ? `PRIMARY_${kind}` : `SHADOW_${kind}`;
}
