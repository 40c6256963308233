import { randomBytes } from 'node:crypto';
import { closeSync, existsSync, fsyncSync, openSync, renameSync, rmSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import type { DatabaseSync } from 'node:sqlite';
import type { RestoreTarget } from '../../capture/restore-target.ts';
import { ForeshadowError, messageOf } from '../../model/errors.ts';
import type { DdlStatement, TableName, TableSchema } from '../../model/schema.ts';
import { type Tuple, projectTuple } from '../../model/tuple.ts';
import { mayBeBroken, unpackValues } from './cell.ts';
import { openSqlite, quoteIdentifier, sqlitePath } from './connection.ts';
import { writtenColumns } from './script.ts';
import { rowParameters } from './versions.ts';

/** A SQLite file that a capture is written into. Nothing is made before `begin`. */
export async function openSqliteRestoreTarget(url: string): Promise<RestoreTarget> {
  return await Promise.resolve(new SqliteRestoreTarget(sqlitePath(url)));
}

/**
 * A whole capture goes into a file beside the target, which takes the target's name when all of it is on disk; until then the
 * target does not exist. Single tables go into the target itself, in one transaction.
 */
class SqliteRestoreTarget implements RestoreTarget {
  readonly kind = 'sqlite';
  readonly #path: string;
  #db: DatabaseSync | null = null;
  /** The file being written: the target itself, or the one that will replace it. */
  #file: string;
  #removes = false;
  #tables: readonly TableName[] = [];

  constructor(path: string) {
    this.#path = path;
    this.#file = path;
  }

  async begin(tables: readonly TableSchema[], into: 'empty' | 'beside', signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    this.#tables = tables.map((table) => table.table);
    const standing = existsSync(this.#path) ? namesIn(this.#path) : new Set<string>();
    const wanted = tables.map((table) => table.table).filter((name) => standing.has(name.toLowerCase()));
    if (into === 'empty' && standing.size > 0) throw occupied(this.#path, 'holds a database already');
    if (wanted.length > 0) throw occupied(this.#path, `holds ${wanted.join(', ')} already`);
    if (into === 'empty') {
      this.#file = `${this.#path}.restoring-${randomBytes(4).toString('hex')}`;
      this.#removes = true;
    } else this.#removes = !existsSync(this.#path);
    const db = openSqlite(this.#file, { role: 'shadow', create: true, busyTimeoutMs: 5000 });
    this.#db = db;
    // A file that nobody knows yet needs neither journal nor flushes: it is flushed whole before it gets its name.
    if (into === 'empty') db.exec('PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF');
    db.exec('PRAGMA cache_size = -65536; PRAGMA foreign_keys = OFF; BEGIN IMMEDIATE');
    await Promise.resolve();
  }

  async run(statements: readonly DdlStatement[], signal: AbortSignal): Promise<readonly { object: string; reason: string }[]> {
    const db = this.#open();
    const failed: { object: string; reason: string }[] = [];
    for (const { object, sql, mayFail } of statements) {
      signal.throwIfAborted();
      try {
        db.exec(sql);
      } catch (error) {
        if (!mayFail) {
          throw new ForeshadowError('QUERY_FAILED', `cannot make ${object} in ${this.#path}: ${messageOf(error)}`, {
            remedy: 'Nothing was restored. If the object leans on an extension or a function, restore single tables with --table.',
            cause: error,
          });
        }
        failed.push({ object, reason: messageOf(error) });
      }
    }
    return await Promise.resolve(failed);
  }

  async load(table: TableSchema, rows: AsyncIterable<readonly Tuple[]>, signal: AbortSignal): Promise<number> {
    const db = this.#open();
    const written = writtenColumns(table);
    const name = quoteIdentifier(table.table);
    const names = written.map((index) => quoteIdentifier(table.columns[index]?.name ?? '')).join(', ');
    const into = (places: readonly string[]): string =>
      places.length === 0 ? `INSERT INTO ${name} DEFAULT VALUES` : `INSERT INTO ${name} (${names}) VALUES (${places.join(', ')})`;
    const insert = db.prepare(into(written.map(() => '?')));
    const all = written.length === table.columns.length;
    let loaded = 0;
    for await (const slice of rows) {
      signal.throwIfAborted();
      for (const whole of slice) {
        const row = all ? whole : projectTuple(whole, written);
        const values = unpackValues(row);
        if (values.some(mayBeBroken)) {
          const exact = rowParameters(row);
          db.prepare(into(exact.sql)).run(...exact.values);
        } else insert.run(...values);
      }
      loaded += slice.length;
    }
    return loaded;
  }

  async finish(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const db = this.#open();
    checkReferences(db, this.#path, this.#tables);
    db.exec('COMMIT');
    db.close();
    this.#db = null;
    if (this.#file !== this.#path) {
      flush(this.#file);
      // The target may have come into being meanwhile: what stands there is never replaced.
      if (existsSync(this.#path) && statSync(this.#path).size > 0) throw occupied(this.#path, 'was made while the restore ran');
      renameSync(this.#file, this.#path);
      flush(dirname(this.#path));
    }
    this.#removes = false;
    await Promise.resolve();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#db?.close();
    this.#db = null;
    if (this.#removes) for (const end of ['', '-journal', '-wal', '-shm']) rmSync(`${this.#file}${end}`, { force: true });
    await Promise.resolve();
  }

  #open(): DatabaseSync {
    if (this.#db === null) throw new Error('the restore has not begun, or is finished');
    return this.#db;
  }
}

/** Everything in the file, in lower case: SQLite's names ignore case. */
function namesIn(path: string): Set<string> {
  if (statSync(path).size === 0) return new Set();
  using db = openSqlite(path, { role: 'shadow', readOnly: true });
  const rows = db.prepare('SELECT name FROM sqlite_schema').all() as { name: string }[];
  return new Set(rows.map((row) => row.name.toLowerCase()));
}

function occupied(path: string, why: string): ForeshadowError {
  return new ForeshadowError('TARGET_OCCUPIED', `${path} ${why}`, {
    remedy: 'Name a file that does not exist yet; nothing is ever overwritten.',
  });
}

/**
 * References between the restored tables, and from them to what stood there before. A table that was not restored (excluded, or
 * one of a few asked for) is no fault of the rows that refer to it.
 */
function checkReferences(db: DatabaseSync, path: string, tables: readonly TableName[]): void {
  const standing = new Set(
    (db.prepare(`SELECT name FROM sqlite_schema WHERE type = 'table'`).all() as { name: string }[]).map((row) => row.name.toLowerCase()),
  );
  const broken = new Map<string, number>();
  for (const table of tables) {
    const rows = db.prepare('SELECT parent, count(*) AS n FROM pragma_foreign_key_check(?) GROUP BY parent').all(table);
    for (const { parent, n } of rows as { parent: string; n: bigint }[])
      if (standing.has(parent.toLowerCase())) broken.set(`${table} (${parent})`, Number(n));
  }
  if (broken.size === 0) return;
  const count = [...broken.values()].reduce((sum, n) => sum + n, 0);
  throw new ForeshadowError(
    'QUERY_FAILED',
    `${count} rows refer to rows that are not there: ${[...broken.keys()].join(', ')}. ${path} was left as it was`,
    { remedy: 'Restore those tables one by one with --table, or correct the references on the primary and take another capture.' },
  );
}

function flush(path: string): void {
  const file = openSync(path, 'r');
  try {
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}
