import type { DatabaseSync } from 'node:sqlite';
import type { TransactionRef } from '../../model/change.ts';
import { ForeshadowError } from '../../model/errors.ts';
import type { Position } from '../../model/position.ts';
import type { TableName, TableSchema } from '../../model/schema.ts';
import type { KeyTuple, Tuple } from '../../model/tuple.ts';
import type { PrimarySnapshot, RowChunk, RowLimit } from '../../tracking/primary.ts';
import { type SqliteTable, describeTable } from './describe.ts';
import { readRowsAfter, readRowsByKey } from './rows.ts';

/** The read transaction of a poll, kept open. It owns its connection. */
export class SqliteSnapshot implements PrimarySnapshot {
  readonly end: Position;
  readonly #db: DatabaseSync;
  readonly #tables = new Map<TableName, SqliteTable | null>();

  constructor(db: DatabaseSync, end: Position) {
    this.#db = db;
    this.end = end;
  }

  includes(transaction: TransactionRef): boolean {
    return transaction.at <= this.end;
  }

  async describe(table: TableName, signal: AbortSignal): Promise<TableSchema | null> {
    signal.throwIfAborted();
    return this.#table(table)?.schema ?? null;
  }

  async rows(table: TableSchema, after: KeyTuple | null, limit: RowLimit, signal: AbortSignal): Promise<RowChunk> {
    signal.throwIfAborted();
    return readRowsAfter(this.#db, this.#sameShape(table), after, limit);
  }

  async rowsByKey(table: TableSchema, keys: readonly KeyTuple[], signal: AbortSignal): Promise<Tuple[]> {
    signal.throwIfAborted();
    return readRowsByKey(this.#db, this.#sameShape(table), keys);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#db.isOpen) return;
    if (this.#db.isTransaction) this.#db.exec('ROLLBACK');
    this.#db.close();
  }

  #table(name: TableName): SqliteTable | null {
    const known = this.#tables.get(name);
    if (known !== undefined) return known;
    const table = describeTable(this.#db, name);
    this.#tables.set(name, table);
    return table;
  }

  #sameShape(wanted: TableSchema): SqliteTable {
    const table = this.#table(wanted.table);
    if (table !== null && table.schema.shape === wanted.shape) return table;
    const what = table === null ? 'no longer exists' : 'has another shape now';
    throw new ForeshadowError('TABLE_MISSING', `the table ${wanted.table} ${what} on the primary`, {
      remedy: 'Nothing to do: it is taken up as soon as the change is tracked.',
      retry: 'later',
    });
  }
}
