import { realpathSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import type { DatabaseSync } from 'node:sqlite';
import { ForeshadowError } from '../../model/errors.ts';
import { isBusy, openSqlite } from './connection.ts';

/**
 * The right to be a shadow's only writer, held as a lock of the operating system on a small file beside the shadow
 * (`shop.db-claim`): when the process dies, however it dies, the lock is gone. The file stays; it means nothing by itself.
 *
 * A transaction that wrote nothing holds the lock (RESERVED): it keeps other claims out and lets them read who holds it.
 */
export class Lease {
  readonly #db: DatabaseSync;

  private constructor(db: DatabaseSync) {
    this.#db = db;
  }

  /** Throws ALREADY_RUNNING, naming the holder. */
  static take(path: string, holder: string): Lease {
    const db = openSqlite(leasePath(path), { role: 'shadow', create: true, busyTimeoutMs: 0 });
    try {
      db.exec('BEGIN IMMEDIATE');
      db.exec('CREATE TABLE IF NOT EXISTS holder (name TEXT, since TEXT); DELETE FROM holder');
      db.prepare('INSERT INTO holder VALUES (?, ?)').run(holder, new Date().toISOString());
      db.exec('COMMIT');
      db.exec('BEGIN IMMEDIATE');
      return new Lease(db);
    } catch (error) {
      const name = isBusy(error) ? holderOf(db) : null;
      db.close();
      if (!isBusy(error)) throw error;
      throw new ForeshadowError('ALREADY_RUNNING', `the shadow ${path} is in use by ${name ?? 'another Foreshadow'}`, {
        remedy: 'Stop that one first, or let it do the work: commands act through a running "foreshadow start" by themselves.',
        cause: error,
      });
    }
  }

  release(): void {
    this.#db.close();
  }
}

/** Two paths of one file must contend for one lease. */
function leasePath(path: string): string {
  try {
    return `${realpathSync(path)}-claim`;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
  try {
    return join(realpathSync(dirname(path)), `${basename(path)}-claim`);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    // The directory is missing: opening the file says so in better words.
    return `${path}-claim`;
  }
}

function holderOf(db: DatabaseSync): string | null {
  try {
    const row = db.prepare('SELECT name, since FROM holder').get() as { name: string; since: string } | undefined;
    return row === undefined ? null : `${row.name}, since ${row.since}`;
  } catch (error) {
    // The holder is writing its name this very moment.
    if (isBusy(error)) return null;
    throw error;
  }
}
