import type { CaptureNumber, RowDifference } from '../model/capture.ts';
import type { ShapeChange } from '../model/change.ts';
import { type Finding, ForeshadowError } from '../model/errors.ts';
import type { Element, ElementState, Progress } from '../model/progress.ts';
import type { Rows } from '../model/rows.ts';
import type { DataSetSchema, IndexSchema, TableName, TableSchema } from '../model/schema.ts';
import type { KeyTuple, Tuple } from '../model/tuple.ts';
import type { ValueCodec } from '../model/values.ts';
import type { RowChunk, RowLimit, RowPack, StoreKind } from '../tracking/primary.ts';

/**
 * The second data store: the copy of the data set, and every capture of it.
 *
 * A mirrored table carries `_foreshadow_since`, the number of the capture its row was written for; a history table holds
 * superseded versions as [since, until). A row's old version is saved only the first time it changes after a capture. The table as
 * of capture N is: live rows with since <= N, and saved versions with since <= N < until.
 *
 * - Atomicity: `apply` is one transaction: rows, saved versions, states and progress together, or nothing. Of a work that is `distinct` a failure
 *   may leave some rows, with a `high` that speaks of them.
 * - Once: an `apply` says where its elements stood. Where they stand elsewhere it is refused (SHADOW_MOVED), and `elements` tells where;
 *   whose progress would move back in its generation is refused too (FENCED).
 * - Durability: what resolved is on the disk, but for an `apply` whose works are all `unflushed`: a crash of the store may lose such ones, the
 *   last first, and never one that anything durable came after. Where that may have happened, whatever writes is refused (SHADOW_MOVED) until
 *   `elements` was read.
 * - Foreign writes: a write by anybody else is stamped FOREIGN and saves the true version until FOREIGN; so no capture ever
 *   contains one, and every read below returns the true rows.
 * - Concurrency: one writer, which holds the claim. An `apply` may run beside others of other tables; reads may run beside all,
 *   each in a snapshot of its own.
 */
export interface Shadow extends AsyncDisposable {
  readonly kind: StoreKind;
  readonly values: ValueCodec;

  identity(signal: AbortSignal): Promise<string>;
  /** Privileges, foreign tables in the way, how the guard is passed. Changes nothing. */
  check(tables: readonly TableSchema[], signal: AbortSignal): Promise<readonly Finding[]>;

  /**
   * Becomes the only writer. Throws ALREADY_RUNNING, naming the holder, while another lives; the claim of a process that died
   * counts for nothing. From here on writes by an older claim fail with FENCED.
   */
  claim(holder: string): Promise<void>;

  /**
   * Makes our own tables if they are missing (throws SHADOW_OCCUPIED where a table of the data set exists that is not ours), then an
   * element for each table that has none: `copying`, fresh, at `progress`.
   */
  prepare(schema: DataSetSchema, progress: Progress): Promise<void>;

  elements(): Promise<ReadonlyMap<TableName, Element>>;

  /** All or nothing, in order; but for works that are `distinct`. */
  apply(works: readonly ApplyWork[], signal: AbortSignal): Promise<ApplyReport>;

  /** Everything that was applied is on the disk when it resolves. Throws SHADOW_MOVED where some of it may be lost. */
  flush(): Promise<void>;

  /**
   * Writes rows of a transaction of the primary that has not ended, in one of its own that nobody sees: while it runs everything else
   * goes on beside it, `apply` to the same table too, and whoever waits for a lock of it is let through by giving it up. Rejects,
   * and leaves nothing, where that happened, `rows` threw, a key was taken, somebody else's writes to the table are noted, or the
   * table does not stand where `reached` says. Left out by stores that have one writer only.
   */
  applyAhead?(work: AheadWork, signal: AbortSignal): Promise<ApplyReport>;

  /**
   * Gives the table the next shape in place: it keeps its rows, with the change's `initial` values in the columns that are new, and earlier
   * captures go on reading theirs. Costs the same for any number of rows. The element is then at `progress` and `state`, under the
   * new name if the table has another. False, and nothing is done, where this store cannot (another key, another type): then `retire`.
   */
  reshape(table: TableName, change: ShapeChange, state: ElementState, progress: Progress): Promise<boolean>;

  /**
   * Retires the table's present rows as a read-only segment that captures up to `progress.capture - 1` go on reading, and puts an
   * empty table of the new schema in its place, at `progress` and `state`. Costs the same for any number of rows.
   * A null schema retires without a successor (the table was dropped).
   */
  retire(table: TableName, schema: TableSchema | null, state: ElementState, progress: Progress): Promise<void>;

  /**
   * Brings the secondary indexes of live tables to these, and takes away what else was mirrored of theirs; tables that are not named keep
   * what they have, and one of another shape than the order's, or that is still copied for the first time, waits for the next call.
   * Idempotent, and stops nobody: applies go on meanwhile, a change of shape interrupts it. What cannot be made is named and left out.
   * A store that mirrors none leaves this method out.
   */
  mirrorIndexes?(orders: readonly IndexOrder[], signal: AbortSignal): Promise<IndexReport>;

  /**
   * Rows of a table as of a capture, with keys above `after`, in the store's key order. The number of a capture in progress
   * (`progress.capture`) reads the live state, without foreign writes.
   * Throws CAPTURE_ABSENT_TABLE where the table did not exist then.
   */
  rows(table: TableName, at: CaptureNumber, after: KeyTuple | null, limit: RowLimit, signal: AbortSignal): Promise<RowChunk>;
  rowsByKey(table: TableName, at: CaptureNumber, keys: readonly KeyTuple[], signal: AbortSignal): Promise<Tuple[]>;
  /**
   * Every row of a table as of a capture, in no order: for stores where following the key through a large table costs far more. One snapshot,
   * which gives up with `GaveWay` where it is in the way of whoever changes the table: what was read so far is of no use then.
   */
  everyRow?(table: TableName, at: CaptureNumber, signal: AbortSignal): AsyncIterable<readonly Tuple[]>;
  /** The schema the table had at a capture. */
  schemaAt(table: TableName, at: CaptureNumber): Promise<TableSchema | null>;

  /**
   * Rows that differ in their bytes between two captures, `from` < `to`, in slices of bounded size. Found from the versions, not by
   * reading the table. Where the table was reshaped in between, `before` is in the one shape and `after` in the other, and rows
   * differ by the columns that both have; where it was retired for another shape, every row of one side is a deletion, of the other an
   * insertion.
   */
  diff(table: TableName, from: CaptureNumber, to: CaptureNumber, signal: AbortSignal): AsyncIterable<readonly RowDifference[]>;

  /**
   * Of these tables, those that may read otherwise at `to` than at `from`: where `diff` finds something, or the shape is another. It may name
   * others too, but asking costs far less than a `diff` of each.
   */
  changedTables(tables: readonly TableName[], from: CaptureNumber, to: CaptureNumber): Promise<ReadonlySet<TableName>>;

  /** Of these tables, those in which `foreignRows` may find something. */
  foreignTables(tables: readonly TableName[]): Promise<ReadonlySet<TableName>>;
  /** Rows somebody else wrote: what stands there now, and the true row (null: there is none). */
  foreignRows(table: TableName, limit: number, signal: AbortSignal): Promise<readonly ForeignRow[]>;
  /**
   * Looks at every row for foreign ones that the guard was not there to note, so that `foreignRows` knows of them. For stores that find
   * foreign rows without it this does nothing.
   */
  searchForeign(table: TableName): Promise<void>;
  /** Puts the true rows back. Returns how many were undone. */
  undoForeign(table: TableName, keys: readonly KeyTuple[]): Promise<number>;

  /** The version of a key that a capture reads. */
  versionAt(table: TableName, key: KeyTuple, at: CaptureNumber): Promise<RowVersion | null>;
  /**
   * Replaces a version that was never right, in place: same since and until, nothing saved. `row: null` removes it.
   * Where the key has no version at `since`, a live one (until null) or a saved one is put there.
   */
  replaceVersion(table: TableName, key: KeyTuple, version: ReplacedVersion, row: Tuple | null): Promise<void>;

  /** The rows of a capture as SQL text of this engine, ready to be run. */
  script(table: TableName, at: CaptureNumber, signal: AbortSignal): AsyncIterable<string>;

  /**
   * Runs one read-only statement with every table of the data set standing as of the capture. Rows come in slices, as values for
   * people. Throws QUERY_FAILED with the engine's message.
   */
  query(at: CaptureNumber, sql: string, signal: AbortSignal): AsyncIterable<QuerySlice>;
}

/** The secondary indexes that a table is to have. */
export interface IndexOrder {
  readonly table: TableName;
  /** Of the schema that they were described with. */
  readonly shape: string;
  readonly indexes: readonly IndexSchema[];
}

export interface IndexReport {
  /** Made by this call, by the primary's names. */
  readonly made: readonly { readonly table: TableName; readonly index: string }[];
  readonly unmirrored: readonly UnmirroredIndex[];
  /** What was in the way of one of them may pass: somebody read for too long, or the disk is full. */
  readonly again: boolean;
}

export interface UnmirroredIndex {
  readonly table: TableName;
  readonly index: string;
  readonly reason: string;
}

/** One element's part of an `apply`. */
export interface ApplyWork {
  readonly table: TableName;
  /**
   * Applied in this order, each with its deletes before its patches before its puts. Read while the transaction is open: keep it quick.
   * As a function it is given the table as it stands in that transaction.
   */
  readonly rows: RowSource | ((standing: StandingRows) => RowSource);
  /** Where the element stands before it. */
  readonly from: Pick<Progress, 'generation' | 'low' | 'high'>;
  /** Stored with the rows, which are written for `progress.capture`. */
  readonly progress: Progress;
  readonly state: ElementState;
  /** It need not be on the disk when `apply` resolves. */
  readonly unflushed?: boolean;
  /**
   * No two of its batches name the same key, and none depends on what stands: they may be written in any order, and written again. Where `apply`
   * rejects, some may be in, and the element at (`from.low`, `progress.high`]: where that is elsewhere than before, what is applied next is
   * refused, and `elements` tells.
   */
  readonly distinct?: boolean;
  /**
   * Versions of rows whose since is at or below this are saved before they are overwritten: the newest capture, cut or being
   * drained, that the element no longer writes for.
   */
  readonly savedThrough: CaptureNumber;
}

/** Rows of a live element that go with a progress it has not come to yet. */
export interface AheadWork {
  readonly table: TableName;
  /**
   * All new, as they come; ends when all are here and the element stands before them. Without rows for a moment it yields none, so that
   * the store may look whether somebody waits.
   */
  readonly rows: AsyncIterable<RowBatch['puts']>;
  /** What they are written for, and what is saved: as in `ApplyWork`. */
  readonly capture: CaptureNumber;
  readonly savedThrough: CaptureNumber;
  /** Asked when `rows` has ended: where the element stands without them, and with them. */
  readonly reached: () => { readonly from: Progress; readonly to: Progress };
}

export type RowSource = Iterable<RowBatch> | AsyncIterable<RowBatch>;

/** The true rows of one table inside the transaction of an `apply`, with all batches that were taken so far. */
export interface StandingRows {
  rows(after: KeyTuple | null, limit: RowLimit): Promise<RowChunk>;
  rowsByKey(keys: readonly KeyTuple[]): Promise<readonly Tuple[]>;
}

/**
 * Keys are distinct within a batch, and each is in one of the lists only. Puts are whole rows: nothing absent. Fresh puts may name a key
 * twice, and the later row counts: a log may lack the delete between two inserts (PostgreSQL: a partition truncated by itself).
 */
export interface RowBatch {
  readonly deletes: Rows<KeyTuple>;
  /**
   * Rows whose absent columns keep the value that stands, so that what did not change need not be read or written. `apply` throws
   * `RowsMissing` where no row stands under the key.
   */
  readonly patches?: Rows;
  readonly puts: Rows;
  /** More puts, from a primary of the shadow's own kind. Only where `fresh`. */
  readonly pack?: RowPack | null;
  /** None of the puts' keys should be in the table: they may be inserted without looking, and looked at only where that fails. */
  readonly fresh: boolean;
}

/** Throws where an element does not stand where an `apply` was made for, or would be put back. */
export function requireGround({ table, from, progress }: Pick<ApplyWork, 'table' | 'from' | 'progress'>, stored: ApplyWork['from']): void {
  const { generation, low, high } = stored;
  if (generation !== from.generation || low !== from.low || high !== from.high) {
    throw moved(
      `${table} stands at ${low} (${high}) of generation ${generation} in the shadow, not at ${from.low} (${from.high}) of generation ${from.generation}`,
    );
  }
  const behind = progress.low < low || progress.high < high;
  if (progress.generation > generation || (progress.generation === generation && !behind)) return;
  throw new ForeshadowError(
    'FENCED',
    `the progress of ${table} would move back from ${low} to ${progress.low} within generation ${generation}`,
    {
      remedy: 'Start Foreshadow again: it goes on from what the shadow holds.',
    },
  );
}

/** The shadow may stand elsewhere than was thought. */
export function moved(message: string): ForeshadowError {
  return new ForeshadowError('SHADOW_MOVED', message, { remedy: 'Nothing is to be done: it is asked where it stands.', retry: 'later' });
}

/** The rows of a work, for the store that applies it. */
export function rowsOf(work: ApplyWork, standing: StandingRows): RowSource {
  return typeof work.rows === 'function' ? work.rows(standing) : work.rows;
}

/** A long reading ended early, as somebody waited for it. What it read is of no use; pages (`rows`) are in nobody's way. */
export class GaveWay extends Error {
  override readonly name = 'GaveWay';
}

/** What was written ahead cannot become part of the table. Whatever was applied is rolled back. */
export class AheadInVain extends Error {
  override readonly name = 'AheadInVain';
}

/** An incomplete image has nothing to complete it: its row must be read from the primary. Whatever was applied is rolled back. */
export class RowsMissing extends Error {
  override readonly name = 'RowsMissing';
  readonly keys: readonly KeyTuple[];

  constructor(table: TableName, keys: readonly KeyTuple[]) {
    super(`${keys.length} changed rows of ${table} are missing from the shadow`);
    this.keys = keys;
  }
}

export interface ApplyReport {
  readonly inserted: number;
  readonly updated: number;
  readonly deleted: number;
  /** Foreign writes that the rows ran into, undone in favour of the primary. */
  readonly conflicts: readonly Conflict[];
}

export interface Conflict {
  readonly table: TableName;
  readonly key: KeyTuple;
}

export interface ForeignRow {
  readonly key: KeyTuple;
  readonly found: Tuple | null;
  readonly truth: Tuple | null;
}

export interface ReplacedVersion {
  readonly since: CaptureNumber;
  readonly until: CaptureNumber | null;
  /** The capture in whose shape the row is given; without it, that of `since`. */
  readonly at?: CaptureNumber;
}

export interface RowVersion {
  readonly since: CaptureNumber;
  /** Null: the live version. */
  readonly until: CaptureNumber | null;
  readonly row: Tuple;
}

export interface QuerySlice {
  readonly columns: readonly string[];
  readonly rows: readonly (readonly unknown[])[];
}
