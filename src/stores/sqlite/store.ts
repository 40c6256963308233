import { existsSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { DatabaseSync } from 'node:sqlite';
import { pathToFileURL } from 'node:url';
import { ForeshadowError } from '../../model/errors.ts';
import { OWN_PREFIX } from '../../model/schema.ts';
import { Turns } from '../../model/turns.ts';
import { Lease } from './claim.ts';
import { isBusy, openSqlite } from './connection.ts';
import { WRITER_TABLE } from './guard.ts';

/** How long a write waits for a program that holds the shadow's write lock. */
const LOCK_WAIT_MS = 30_000;
/**
 * The log is written back into the file when it has grown by this much: between applies, and not while a capture drains, which
 * would pay for it (40 of 200 ms measured, with 1 % of 0.1 GB changed). Then it may grow to the larger size.
 */
const CHECKPOINT_BYTES = 32n << 20n;
const CHECKPOINT_BYTES_DRAINING = 256n << 20n;

/**
 * Changes that lie apart write a page each. Measured with 1 % of 0.1 GB changed at random, rows of 180 bytes: 12 MB in the log for 22 MB
 * with pages of 4096 bytes, 5 % less CPU, and 15 % less time until a capture is sealed; with pages of 1024 bytes no better. An initial
 * copy, of rows of 180 or of 3000 bytes, costs the same.
 */
const PAGE_BYTES = 2048;

const CONTROL = [
  `CREATE TABLE ${WRITER_TABLE} (one INTEGER PRIMARY KEY CHECK (one = 1), token INTEGER NOT NULL, writing INTEGER NOT NULL)`,
  `CREATE TABLE ${OWN_PREFIX}_element (tbl TEXT PRIMARY KEY, segment INTEGER NOT NULL, state TEXT NOT NULL, generation INTEGER NOT NULL,
     low TEXT NOT NULL, high TEXT NOT NULL, capture INTEGER NOT NULL) WITHOUT ROWID`,
  `CREATE TABLE ${OWN_PREFIX}_segment (id INTEGER PRIMARY KEY AUTOINCREMENT, tbl TEXT NOT NULL, schema TEXT NOT NULL, live TEXT NOT NULL,
     history TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER)`,
  `CREATE TABLE ${OWN_PREFIX}_capture (number INTEGER PRIMARY KEY, state TEXT NOT NULL, record TEXT NOT NULL, schema INTEGER)`,
  `CREATE TABLE ${OWN_PREFIX}_schema (id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, schema TEXT NOT NULL)`,
  `CREATE TABLE ${OWN_PREFIX}_seal (number INTEGER NOT NULL, tbl TEXT NOT NULL, rows INTEGER NOT NULL, sums BLOB NOT NULL,
     PRIMARY KEY (number, tbl)) WITHOUT ROWID`,
  `CREATE TABLE ${OWN_PREFIX}_document (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID`,
];

/**
 * The shadow's file: one writing connection whose transactions take turns, and reading ones beside it, each in a snapshot of its
 * own (WAL). synchronous = FULL for applies as well as cuts: the journal forgets what the shadow says it has, so that must be
 * on disk. A cut alone, flushed, takes 0.8 ms (p50; p99 5 ms, on a busy two-core machine), so the flush is not what an apply costs.
 */
export class SqliteStore implements Disposable {
  readonly path: string;
  readonly #turns = new Turns();
  #writer: DatabaseSync | null = null;
  #reader: DatabaseSync | null = null;
  #lease: Lease | null = null;
  #token: bigint | null = null;
  #draining = false;
  #pageBytes = 0n;

  constructor(path: string) {
    this.path = path;
  }

  claim(holder: string): void {
    if (this.#lease !== null) return;
    this.#lease = Lease.take(this.path, holder);
    this.#token = null;
  }

  /**
   * One transaction of ours, after every one asked for before. Takes the claim's token up, makes our own tables if they are
   * missing, and passes the guard. Throws FENCED without a claim, or with one that is no longer the newest.
   */
  async write<T>(work: (db: DatabaseSync) => T | Promise<T>): Promise<T> {
    return await this.#turns.take(async () => {
      if (this.#lease === null) throw fenced(this.path, 'nothing may be written to it without a claim');
      const db = this.#openWriter();
      await begin(db, this.path);
      try {
        const token = this.#enter(db);
        const result = await work(db);
        db.exec(`UPDATE ${WRITER_TABLE} SET writing = 0`);
        db.exec('COMMIT');
        this.#token = token;
        return result;
      } catch (error) {
        if (db.isTransaction) db.exec('ROLLBACK');
        throw error;
      }
    });
  }

  /** A capture is due and not cut yet: checkpoints wait. */
  drains(draining: boolean): void {
    this.#draining = draining;
  }

  /** What is in the log goes into the file if there is much of it. Called between applies. */
  async checkpoint(): Promise<void> {
    await this.#turns.take(async () => {
      if (this.#writer === null) return;
      const row = this.#writer.prepare('PRAGMA wal_checkpoint(NOOP)').get() as { log: bigint; checkpointed: bigint } | undefined;
      const bytesMax = this.#draining ? CHECKPOINT_BYTES_DRAINING : CHECKPOINT_BYTES;
      const waitingBytes = row === undefined ? 0n : (row.log - row.checkpointed) * this.#pageBytes;
      if (waitingBytes > bytesMax) this.#writer.exec('PRAGMA wal_checkpoint(PASSIVE)');
      await Promise.resolve();
    });
  }

  /** Reads in one snapshot; `otherwise` where the shadow was never prepared. */
  read<T>(work: (db: DatabaseSync) => T, otherwise: () => T): T {
    const db = this.#openReader();
    if (db === null) return otherwise();
    db.exec('BEGIN');
    try {
      return work(db);
    } finally {
      db.exec('COMMIT');
    }
  }

  /** A connection of the caller's own, in a snapshot that lasts until it is closed; null where the shadow was never prepared. */
  snapshot(): DatabaseSync | null {
    const db = openPrepared(this.path);
    db?.exec('BEGIN');
    return db;
  }

  /** As `snapshot`, but the file is attached under a name of the caller's choice to an empty database: `main` holds nothing. */
  attached(alias: string): DatabaseSync | null {
    if (!this.prepared()) return null;
    const db = new DatabaseSync(':memory:', {
      readBigInts: true,
      enableForeignKeyConstraints: false,
      enableDoubleQuotedStringLiterals: true,
    });
    try {
      const url = pathToFileURL(this.path);
      url.searchParams.set('mode', 'ro');
      db.prepare(`ATTACH ? AS ${alias}`).run(url.href);
      db.exec(`PRAGMA ${alias}.cache_size = -16384; BEGIN`);
      return db;
    } catch (error) {
      db.close();
      throw error;
    }
  }

  [Symbol.dispose](): void {
    this.#reader?.close();
    this.#writer?.close();
    this.#lease?.release();
    this.#reader = null;
    this.#writer = null;
    this.#lease = null;
  }

  /** Whether our own tables are in the file. */
  prepared(): boolean {
    return this.#openReader() !== null;
  }

  #openReader(): DatabaseSync | null {
    this.#reader ??= openPrepared(this.path);
    return this.#reader;
  }

  #openWriter(): DatabaseSync {
    if (this.#writer !== null) return this.#writer;
    const db = openSqlite(this.path, { role: 'shadow', create: true, busyTimeoutMs: 0 });
    // The size of pages counts only while the file is empty.
    db.exec(`PRAGMA page_size = ${PAGE_BYTES}; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;`);
    db.exec('PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = -65536;');
    // Renaming a retired table must not fail because some view of somebody else's does not compile.
    db.exec('PRAGMA legacy_alter_table = ON; PRAGMA recursive_triggers = OFF;');
    this.#pageBytes = (db.prepare('PRAGMA page_size').get() as { page_size: bigint }).page_size;
    this.#writer = db;
    return db;
  }

  #enter(db: DatabaseSync): bigint {
    let token = this.#token;
    if (!hasControl(db)) {
      for (const statement of CONTROL) db.exec(statement);
      db.exec(`INSERT INTO ${WRITER_TABLE} VALUES (1, 1, 0)`);
      token = 1n;
    } else if (token === null) {
      db.exec(`UPDATE ${WRITER_TABLE} SET token = token + 1`);
      token = (db.prepare(`SELECT token FROM ${WRITER_TABLE}`).get() as { token: bigint }).token;
    }
    const { changes } = db.prepare(`UPDATE ${WRITER_TABLE} SET writing = 1 WHERE token = ?`).run(token);
    if (Number(changes) !== 1) throw fenced(this.path, 'another Foreshadow has taken it over');
    return token;
  }
}

function fenced(path: string, why: string): ForeshadowError {
  return new ForeshadowError('FENCED', `the shadow ${path} cannot be written: ${why}`, {
    remedy: 'Run one Foreshadow on this shadow. Stop this one, and start it again if it is the one you want.',
  });
}

/**
 * The lock may be held by another program for a while. Waiting for it inside SQLite would hold up this whole process,
 * so the waiting is done here.
 */
async function begin(db: DatabaseSync, path: string): Promise<void> {
  const deadline = performance.now() + LOCK_WAIT_MS;
  for (let pauseMs = 1; ; pauseMs = Math.min(pauseMs * 2, 50)) {
    try {
      db.exec('BEGIN IMMEDIATE');
      return;
    } catch (error) {
      if (!isBusy(error)) throw error;
      if (performance.now() > deadline) {
        throw new ForeshadowError(
          'SHADOW_UNREACHABLE',
          `the shadow ${path} has been locked by another program for ${LOCK_WAIT_MS / 1000} s`,
          {
            remedy: 'Find the program that holds a write transaction open on it, and end that transaction.',
            retry: 'later',
            cause: error,
          },
        );
      }
    }
    await delay(pauseMs);
  }
}

function openPrepared(path: string): DatabaseSync | null {
  if (!existsSync(path)) return null;
  const db = openSqlite(path, { role: 'shadow', readOnly: true });
  db.exec('PRAGMA cache_size = -16384');
  if (hasControl(db)) return db;
  db.close();
  return null;
}

function hasControl(db: DatabaseSync): boolean {
  return db.prepare(`SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = ?`).get(WRITER_TABLE) !== undefined;
}
