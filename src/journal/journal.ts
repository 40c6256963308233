import type {
  ChangeBlock,
  OpenBlock,
  TableEvent,
  TrackedBatch,
  TransactionId,
  TransactionPart,
  TransactionPiece,
} from '../model/change.ts';
import type { Position } from '../model/position.ts';
import type { TableName } from '../model/schema.ts';

/**
 * Where tracking stands, and the primary's own evidence that it is still the same history: a bookmark that the primary does
 * not recognise (another server, a slot made anew, a file put back from a backup) is a gap, and is reported as one.
 */
export interface Bookmark {
  readonly at: Position;
  /** Opaque outside the primary's store. */
  readonly evidence: string;
}

/** A block of a transaction that comes in pieces, and where it stands among the others of its table. */
export interface SpooledBlock {
  readonly place: number;
  readonly block: OpenBlock;
}

/**
 * The durable log of changes between primary and shadow.
 *
 * - Order: batches are appended in the primary's commit order; reads of a table return it in that order.
 * - Durability: what `append` resolved for survives a crash of process and machine. Only then may the primary be acknowledged.
 * - Duplicates: a batch at or below the head is dropped. A batch that does not begin at the head is an error (JOURNAL_GAP).
 *   An empty batch exactly at the head renews the evidence.
 * - Concurrency: one writer. Reads may run beside it and see whole batches only. What is spooled does not outlive the process.
 */
export interface Journal extends AsyncDisposable {
  /** Made with the journal. The shadow remembers it: another id means that the journal was replaced, which is a gap. */
  readonly id: string;

  /** Everything up to here is in. Null until `begin`. */
  head(): Bookmark | null;

  /** Starts an empty journal at a bookmark, or restarts one after a gap: what it held is dropped. */
  begin(from: Bookmark): Promise<void>;

  /**
   * Adopts what was spooled of the transactions it names; that costs the same for any number of bytes. Returns how many changes of each
   * table it adopted, those of parts that were rolled back included where they share a block with others.
   */
  append(batch: TrackedBatch, evidence: string): Promise<ReadonlyMap<TableName, number>>;

  /** Keeps a piece of a transaction that has not ended, apart from everything that is read. `append` makes it durable. */
  spool(piece: TransactionPiece): Promise<void>;

  /**
   * What there is by now of one table in a transaction that comes in pieces, beyond a place (0: all of it), in order. `at` is null, or the
   * boundary of its commit once a batch has adopted it: the rest then came with that batch. Blocks that name their transactions are left out.
   */
  spooled(
    table: TableName,
    transaction: TransactionId,
    at: Position | null,
    beyond: number,
    signal: AbortSignal,
  ): AsyncIterable<SpooledBlock>;

  /** Drops what was spooled of a transaction (`part` null), or what can be dropped by itself of one part of it. */
  discard(transaction: TransactionId, part: TransactionPart | null): Promise<void>;

  /**
   * Drops everything spooled. To be called before the primary is asked for changes again: it then repeats transactions that had not
   * ended from their first piece, and pieces carry no number to tell a repeat by.
   */
  abandon(): Promise<void>;

  /**
   * The changes of one table in (`after`, `upTo`], in commit order, without touching those of other tables. Blocks at either end
   * may hold transactions outside the range: readers skip them (`frame.ts` does). Throws JOURNAL_GAP where changes after `after`
   * were pruned, be it while they are read, and where the journal began later than `after`.
   */
  read(table: TableName, after: Position, upTo: Position, signal: AbortSignal): AsyncIterable<ChangeBlock>;

  /** The events of one table in (`after`, `upTo`], oldest first. */
  events(table: TableName, after: Position, upTo: Position): Promise<readonly TableEvent[]>;

  /** The newest boundary at or below the head at which the table changed; null if the journal holds nothing of it. */
  lastChange(table: TableName): Promise<Position | null>;

  /** Which of these transactions it holds at or below `upTo`. */
  contains(ids: readonly TransactionId[], upTo: Position): Promise<ReadonlySet<TransactionId>>;

  /** Drops each table's blocks that lie wholly at or below its position, and its events there. Flushed a few times in all, not for each. */
  prune(through: ReadonlyMap<TableName, Position>): Promise<void>;

  /** Bytes that what it holds occupies. Space that pruning freed for reuse does not count. */
  size(): Promise<number>;
}
