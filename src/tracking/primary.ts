import type { Bookmark } from '../journal/journal.ts';
import type { CaptureNumber } from '../model/capture.ts';
import type { RowList } from '../model/rows.ts';
import type { TrackedBatch, TransactionId, TransactionPart, TransactionPiece, TransactionRef } from '../model/change.ts';
import type { Finding } from '../model/errors.ts';
import type { Position } from '../model/position.ts';
import type { DataSetSchema, TableName, TableSchema } from '../model/schema.ts';
import type { KeyTuple, Tuple } from '../model/tuple.ts';
import type { LoadSample } from './load.ts';
import type { ValueCodec } from '../model/values.ts';
import type { Retained } from '../model/retained.ts';

/**
 * The data store that holds the data set and takes the application's writes. Opened for one data set: it knows the patterns of
 * tables (`public.*`) and speaks of nothing else. It is never written to, except for what `install` names.
 *
 * - Order: `changes` yields whole transactions in commit order, each row once per change, in the order the transaction made them.
 * - Duplicates: after a restart it repeats nothing at or below the bookmark it is given.
 * - Durability: it keeps what was not acknowledged, and may forget the rest at once.
 * - Concurrency: one `changes` at a time; snapshots and everything else may run beside it.
 */
export interface Primary extends AsyncDisposable {
  readonly kind: StoreKind;
  readonly values: ValueCodec;

  /**
   * Whether every change of a table's shape comes as an event that says so in its place (`TableEvent.change`), and every table that comes
   * or goes as one too. Otherwise `describe` has to be asked.
   */
  readonly tellsShapes: boolean;

  /** Names this database for good: two URLs of one database give the same. */
  identity(signal: AbortSignal): Promise<string>;

  /** Settings, privileges, tables without identity. Changes nothing; throws only where it cannot ask at all. */
  check(signal: AbortSignal): Promise<readonly Finding[]>;

  /** The data set as it is now. Tables that have no usable identity are left out (`check` names them). */
  describe(signal: AbortSignal): Promise<DataSetSchema>;

  /**
   * Slot and publication, or triggers and log. Idempotent; never makes an application's statement fail. Returns where `changes`
   * can begin; asked again it returns a bookmark no older than the last acknowledged one.
   */
  install(tables: readonly TableSchema[], signal: AbortSignal): Promise<Bookmark>;

  /** Whether `install` was done and not undone. */
  installed(signal: AbortSignal): Promise<boolean>;

  /** Takes away everything `install` made. Idempotent. */
  uninstall(signal: AbortSignal): Promise<void>;

  /**
   * The committed transactions after a bookmark, for ever, batched as they arrive; ends when `signal` aborts. A batch without
   * blocks moves the position on while nothing happens. A huge transaction comes in pieces, perhaps before it has ended: then a batch
   * adopts them, or it is rolled back. Pieces that neither became of come again with the next `changes`, from the first.
   * A bookmark it cannot continue from yields a batch with a 'gap' event per table, and then goes on from there.
   */
  changes(from: Bookmark, signal: AbortSignal): AsyncIterable<PrimaryItem>;

  /** Durable in the journal up to here: the primary may forget. Monotonic; older positions are ignored. */
  acknowledge(upTo: Position): Promise<void>;

  /**
   * A position that has everything committed before the call at or below it. Sees to it that `changes` gets there even
   * when nobody writes.
   */
  now(signal: AbortSignal): Promise<Position>;

  /** What it keeps for us until it is acknowledged; null: nothing is installed, or nothing it keeps could fill its disk. */
  retained(signal: AbortSignal): Promise<Retained | null>;

  /** Bytes that each table takes with its indexes, and perhaps tables that are not of the data set. May read the whole database. */
  sizes(signal: AbortSignal): Promise<ReadonlyMap<TableName, number>>;

  /** How busy it is; what it cannot tell, or this user may not see, is left out. */
  load(signal: AbortSignal): Promise<LoadSample>;

  /**
   * A snapshot that includes every transaction at or below `covering`. `changes` must be running while one is taken. The tables that are
   * going to be read are `of`: they cannot be truncated or rewritten until the snapshot is closed, where the store's snapshots would not
   * see them as they were. For one table that is waited for; of several, it fails where one is locked for long, or gone.
   */
  snapshot(covering: Position, signal: AbortSignal, of?: readonly TableName[]): Promise<PrimarySnapshot>;
}

/** In the order in which it is to be made durable. `evidence` goes with the batch into the journal. */
export type PrimaryItem =
  | { readonly kind: 'batch'; readonly batch: TrackedBatch; readonly evidence: string }
  | { readonly kind: 'piece'; readonly piece: TransactionPiece }
  /** What came in pieces of this transaction (`part` null), or of one part of it, was rolled back. */
  | { readonly kind: 'rolled-back'; readonly transaction: TransactionId; readonly part: TransactionPart | null };

/**
 * One exact moment of the primary. Keep it short: it holds back the primary's clean-up while it is open. `end` and `includes` stay
 * usable after it is closed.
 */
export interface PrimarySnapshot extends AsyncDisposable {
  /** The fence's end: every transaction the snapshot includes is at or below it. */
  readonly end: Position;
  includes(transaction: TransactionRef): boolean;
  /** The schema of one table inside the snapshot; null if it is gone. */
  describe(table: TableName, signal: AbortSignal): Promise<TableSchema | null>;
  /** Rows with keys above `after` (null: from the first), in the store's key order, as many as fit in the limit. */
  rows(table: TableSchema, after: KeyTuple | null, limit: RowLimit, signal: AbortSignal): Promise<RowChunk>;
  /** The rows of these keys that exist, in no particular order. */
  rowsByKey(table: TableSchema, keys: readonly KeyTuple[], signal: AbortSignal): Promise<Tuple[]>;
  /**
   * For copies of a whole table: its next rows in the order in which they lie, some `bytes` of them, marked with `capture`. `after`
   * is what the chunk before returned as `through` (null: from the first); it holds as long as no row moves but by changes
   * that `Primary.changes` tells of. 'moved': the table was rewritten since. Null: it has no such order, and is read by key. A store
   * without packs leaves this out.
   */
  pack?(
    table: TableSchema,
    after: Tuple | null,
    capture: CaptureNumber,
    bytes: number,
    signal: AbortSignal,
  ): Promise<PackedChunk | 'moved' | null>;
}

/** Rows together, as they left a primary. A shadow of the same kind takes them as they are; `tuples` is for everybody else. */
export interface RowPack {
  readonly count: number;
  readonly bytes: number;
  /** What they are marked with: ready to be written for this capture. */
  readonly capture: CaptureNumber;
  /** Without the mark. Asked for once. */
  rows(): RowList;
}

export interface PackedChunk {
  readonly pack: RowPack;
  /** Where the next chunk begins, or null when the table's end was reached. */
  readonly through: Tuple | null;
}

export type StoreKind = 'memory' | 'sqlite' | 'postgres';

export interface RowLimit {
  readonly rows: number;
  readonly bytes: number;
}

/** Of a table without a key (`copies.ts`) a primary has no index by rows: each page may cost it a reading of the whole table. */
export const KEYLESS_PAGE: RowLimit = { rows: 200_000, bytes: 32 << 20 };

export interface RowChunk {
  readonly rows: readonly Tuple[];
  /** The key of the last row read, or null when the table's end was reached: the chunk is then open upwards. */
  readonly through: KeyTuple | null;
}
