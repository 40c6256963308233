import type { Position } from './position.ts';
import type { TableName, TableSchema } from './schema.ts';
import type { KeyTuple, Tuple } from './tuple.ts';

/**
 * One row inserted, updated or deleted, or a table truncated.
 *
 * - `insert` and `update` carry the new row. An update without absent columns also stands for "this row now exists": a tracker
 *   that reads rows by key (SQLite's key mode) cannot tell the two apart and always says update.
 * - `update.oldKey` is set only where the key changed.
 */
export type Change =
  | { readonly kind: 'insert'; readonly row: Tuple }
  | { readonly kind: 'update'; readonly row: Tuple; readonly oldKey: KeyTuple | null }
  | { readonly kind: 'delete'; readonly key: KeyTuple }
  | { readonly kind: 'truncate' };

/**
 * Which transaction a change came from, and what a snapshot can be asked whether it includes: on PostgreSQL the 64-bit
 * transaction id (commit order and visibility order differ there), on SQLite the sequence number of the poll.
 */
export type TransactionId = bigint & { readonly __brand: 'TransactionId' };

export interface TransactionRef {
  readonly id: TransactionId;
  /** The boundary after its commit. */
  readonly at: Position;
  /** Microseconds since 1970-01-01 UTC, by the primary's clock. For people: no order is ever taken from it. */
  readonly committedAtMicros: bigint;
}

/**
 * The changes of one table in a stretch of the primary's commit order, as bytes (`journal/frame.ts`). `first` and `last` are the
 * boundaries of the first and last transaction in it.
 */
export interface ChangeBlock {
  readonly table: TableName;
  readonly first: Position;
  readonly last: Position;
  readonly changes: number;
  readonly bytes: Buffer;
  /** The one transaction of all its changes, where the bytes were made before it had ended and do not name it. */
  readonly within: EndedTransaction | null;
}

/**
 * A part of a transaction that can be rolled back by itself (on PostgreSQL a subtransaction), numbered within its transaction.
 * 0 is what belongs to no such part.
 */
export type TransactionPart = number;

/** A transaction whose changes arrived while it was still open, once it has committed. */
export interface EndedTransaction {
  readonly transaction: TransactionRef;
  /** Parts that were rolled back: their changes do not count. */
  readonly dropped: ReadonlySet<TransactionPart>;
}

/** Changes of one table in a transaction that has not ended. */
export interface OpenBlock {
  readonly table: TableName;
  /** The boundary of the first transaction named in the bytes; null where they name none. */
  readonly first: Position | null;
  /** The part that all its changes belong to; null: several. */
  readonly part: TransactionPart | null;
  readonly changes: number;
  readonly bytes: Buffer;
}

/**
 * Changes of a transaction too large to be held until it ends. Nothing of them counts before a batch adopts them; pieces of several
 * transactions may come interleaved, those of one come in order.
 */
export interface TransactionPiece {
  readonly transaction: TransactionId;
  readonly blocks: readonly OpenBlock[];
}

/** Something happened to a table that rows do not express. In commit order with the rows, at `at`. */
export interface TableEvent {
  readonly kind:
    | 'schema-changed' // its shape is no longer the one that was described
    | 'dropped'
    | 'identity-moved' // rows kept, identities reassigned (SQLite: VACUUM of a table without a key)
    | 'created' // it came to the data set, and its rows are not tracked yet
    | 'gap'; // changes were lost (log dropped, file put back from a backup): only comparison can tell
  readonly table: TableName;
  readonly at: Position;
  readonly reason: string;
  /** With 'schema-changed', where the primary knows what its rows are from here on: those after `at` come in the shape of `to`. */
  readonly change?: ShapeChange | undefined;
}

/** From one shape of a table to the next, as the primary's log has them. */
export interface ShapeChange {
  /** The shape it had before. */
  readonly from: string;
  /** What it is now, without its DDL. It has another name where the table was renamed. */
  readonly to: TableSchema;
  /** Everything committed before the change lies at or below. */
  readonly after: Position;
  /**
   * Whether rows that nobody has written since are known: they are as they were, column by column (by their ids), with `initial` in the
   * columns that are new. Otherwise only a comparison tells what they hold.
   */
  readonly kept: boolean;
  /** For each column of `to`: if it is new, the text of the value that standing rows have in it; null is NULL. */
  readonly initial: readonly (string | null)[];
}

/**
 * What a primary hands to the journal: everything in (`after`, `through`]. What came in pieces of the transactions in `adopts` counts
 * from here on, before the changes that `blocks` holds of the same transaction.
 */
export interface TrackedBatch {
  readonly after: Position;
  readonly through: Position;
  readonly blocks: readonly ChangeBlock[];
  readonly adopts: readonly EndedTransaction[];
  readonly events: readonly TableEvent[];
}

/** How many bytes of changes there are. */
export function bytesOf(blocks: readonly Pick<OpenBlock, 'bytes'>[]): number {
  return blocks.reduce((sum, { bytes }) => sum + bytes.length, 0);
}
