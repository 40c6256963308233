import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { ForeshadowError, messageOf } from '../../model/errors.ts';

/** 'FSHI' in the header's application id says that the file is ours; the header's user version is the format. */
const APPLICATION = 0x4653_4849;
const FORMAT = 3;

/** What came with each later format. */
const TURNS = 'CREATE TABLE turns (at REAL PRIMARY KEY, document TEXT NOT NULL) STRICT, WITHOUT ROWID;';
const LEARNED = 'CREATE TABLE learned (one INTEGER PRIMARY KEY CHECK (one = 1), document TEXT NOT NULL) STRICT;';
const SINCE: Readonly<Record<number, string>> = { 1: TURNS + LEARNED, 2: LEARNED };

/**
 * A slot is named by its length and by when it begins, both in milliseconds: a data set whose day gets another length begins anew in the same
 * file. Sketches stand apart from the numbers, which are read in long ranges.
 */
const SCHEMA = `
  CREATE TABLE counted (one INTEGER PRIMARY KEY CHECK (one = 1), journal TEXT NOT NULL, at TEXT NOT NULL, observed_to REAL) STRICT;
  CREATE TABLE tables (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, since REAL, undated INTEGER NOT NULL) STRICT;
  CREATE TABLE resources (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
  CREATE TABLE slots (
    step INTEGER NOT NULL, start INTEGER NOT NULL, observed_ms REAL NOT NULL, seeded INTEGER NOT NULL, PRIMARY KEY (step, start)
  ) STRICT, WITHOUT ROWID;
  CREATE TABLE activity (
    step INTEGER NOT NULL, start INTEGER NOT NULL, tbl INTEGER NOT NULL,
    changes INTEGER NOT NULL, rows INTEGER NOT NULL, bytes INTEGER NOT NULL, PRIMARY KEY (step, start, tbl)
  ) STRICT, WITHOUT ROWID;
  CREATE TABLE sketches (
    step INTEGER NOT NULL, start INTEGER NOT NULL, tbl INTEGER NOT NULL, bytes BLOB NOT NULL, PRIMARY KEY (step, start, tbl)
  ) STRICT;
  CREATE TABLE load (
    step INTEGER NOT NULL, start INTEGER NOT NULL, resource INTEGER NOT NULL,
    sum REAL NOT NULL, ms REAL NOT NULL, peak REAL NOT NULL, seeded INTEGER NOT NULL, PRIMARY KEY (step, start, resource)
  ) STRICT, WITHOUT ROWID;
  ${TURNS}
  ${LEARNED}
  PRAGMA application_id = ${APPLICATION};
  PRAGMA user_version = ${FORMAT};
`;

/** Throws HISTORY_ACCESS, VERSION_UNSUPPORTED; the file is then as it was. */
export function openHistoryFile(path: string): DatabaseSync {
  let db: DatabaseSync | null = null;
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    // What is learned says when a business is busy: nobody else's to read (SQLite gives its log the same mode).
    // Only where there is none: closing a file that SQLite has open in this process would take its locks away.
    if (!existsSync(path)) writeFileSync(path, '', { mode: 0o600, flag: 'a' });
    db = new DatabaseSync(path, { timeout: 5000 });
    prepareFile(db, path);
    // What a crash of the machine takes away is counted again from the journal: the place it was counted to goes with it.
    db.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA journal_size_limit = 4194304');
    return db;
  } catch (error) {
    if (db?.isOpen === true) db.close();
    throw historyFailure(path, 'opened', error);
  }
}

function prepareFile(db: DatabaseSync, path: string): void {
  db.exec('BEGIN IMMEDIATE');
  const { application_id: application } = db.prepare('PRAGMA application_id').get() as { application_id: number };
  const { user_version: format } = db.prepare('PRAGMA user_version').get() as { user_version: number };
  const { count } = db.prepare('SELECT count(*) AS count FROM sqlite_schema').get() as { count: number };
  if (count === 0) db.exec(SCHEMA);
  else if (application !== APPLICATION) {
    throw new ForeshadowError('HISTORY_ACCESS', `${path} is not a history of Foreshadow's`, {
      remedy: 'Move the file away: a new one is made.',
    });
  } else if (SINCE[format] !== undefined) db.exec(`${SINCE[format]} PRAGMA user_version = ${FORMAT}`);
  else if (format !== FORMAT) {
    throw new ForeshadowError('VERSION_UNSUPPORTED', `the history ${path} has format ${format}, and this version knows ${FORMAT}`, {
      remedy: 'Use the version that made it, or move the file away: learning begins anew.',
    });
  }
  db.exec('COMMIT');
}

/** Says in our words what went wrong with the file. Our own errors pass as they are. */
export function historyFailure(path: string, doing: string, error: unknown): Error {
  if (error instanceof ForeshadowError || error instanceof RangeError) return error;
  return new ForeshadowError('HISTORY_ACCESS', `the history ${path} cannot be ${doing}: ${messageOf(error)}`, {
    remedy: 'Check its disk and permissions; if it is damaged, move it away: learning begins anew, and nothing else is lost.',
    retry: 'later',
    cause: error,
  });
}
