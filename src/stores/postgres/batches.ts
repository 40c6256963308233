import { BlockWriter } from '../../journal/frame.ts';
import type { ChangeBlock, TableEvent, TrackedBatch, TransactionId, TransactionRef } from '../../model/change.ts';
import { maxPosition, type Position, position } from '../../model/position.ts';
import type { TableName } from '../../model/schema.ts';
import { type Tuple, fillAbsent, hasAbsent, keyTuple } from '../../model/tuple.ts';
import { PgoutputReader, type PgoutputVisitor, type RelationMessage } from './pgoutput.ts';

/** What a table's changes are made into: its name, and the key's columns in the key's order. */
export interface TrackedTable {
  readonly table: TableName;
  readonly key: readonly number[];
}

/** How positions and transaction ids of the journal follow from those of the server. */
export interface Numbering {
  /** Added to every LSN: a server put back to an earlier state goes on above what the journal has seen. */
  readonly base: bigint;
  /** A 64-bit transaction id near those to come: the stream has only the lower half of each. */
  transactionNear: bigint;
}

/**
 * A transaction's position lies inside its commit record: after every earlier record's end, before its own. (The record's end is
 * known only after the whole transaction has passed, which may be too large to wait for.)
 */
function transactionPosition(commitLsn: bigint, base: bigint): Position {
  return position(commitLsn + 1n + base);
}

export function boundary(lsn: bigint, base: bigint): Position {
  return position(lsn + base);
}

/** The 64-bit id whose lower half this is, nearest to a known one. */
export function widen(xid: number, near: bigint): bigint {
  const half = 1n << 31n;
  let id = (near & ~0xffff_ffffn) | BigInt(xid);
  if (id > near + half && id >= 1n << 32n) id -= 1n << 32n;
  else if (id < near - half) id += 1n << 32n;
  return id;
}

/** What became of a relation the stream announced. */
export interface Announced {
  /** Null: not a table of the data set. */
  readonly tracked: TrackedTable | null;
  /** Set where the shape is another than the table was installed with. */
  readonly changed: string | null;
}

export interface BatchParts {
  readonly numbering: Numbering;
  /** Transactions at or below are known already. */
  readonly after: Position;
  /** Told of each transaction before its changes are handed out. */
  readonly onTransaction: (ref: TransactionRef) => void;
  /** Told of each change of the data set in a transaction that is known already. */
  readonly onRepeated: (ref: TransactionRef) => void;
}

/** Pieces of a larger transaction are handed out at this size, and a batch of whole ones ends above it. */
const BATCH_BYTES = 1 << 20;
const PIECE_BYTES = 4 << 20;

/** Makes pgoutput's messages into batches of whole transactions, and of pieces of a huge one. */
export class Batches implements PgoutputVisitor {
  readonly #parts: BatchParts;
  readonly #reader: PgoutputReader;
  readonly #tables = new Map<number, TrackedTable | null>();
  readonly #writers = new Map<TableName, BlockWriter>();
  #events: TableEvent[] = [];
  /** Everything up to here was handed out. */
  #after: Position;
  /** Everything up to here was read. */
  #through: Position;
  /** The transaction being read. */
  #transaction: TransactionRef | null = null;
  /** It was known already. */
  #skipping = false;
  #announced: RelationMessage | null = null;
  /** The last transaction was handed out in part, and its last piece is still to come. */
  #pieced = false;

  constructor(parts: BatchParts) {
    this.#parts = parts;
    this.#after = parts.after;
    this.#through = parts.after;
    this.#reader = new PgoutputReader(this);
  }

  /** Reads one message. A relation that it announced must be answered with `settle` before the next is read. */
  read(data: Buffer): RelationMessage | null {
    this.#announced = null;
    this.#reader.read(data);
    return this.#announced;
  }

  settle(relation: RelationMessage, announced: Announced): void {
    this.#tables.set(relation.id, announced.tracked);
    if (announced.changed !== null && announced.tracked !== null) this.event('schema-changed', announced.tracked.table, announced.changed);
  }

  /** Something befell a table in the transaction being read, or just now. */
  event(kind: TableEvent['kind'], table: TableName, reason: string): void {
    if (!this.#skipping) this.#events.push({ kind, table, at: this.#transaction?.at ?? this.#through, reason });
  }

  /** Everything committed up to here has been read: known from a keepalive. */
  reached(lsn: bigint): void {
    if (this.#transaction === null) this.#through = maxPosition(this.#through, boundary(lsn, this.#parts.numbering.base));
  }

  get inTransaction(): boolean {
    return this.#transaction !== null;
  }

  get through(): Position {
    return this.#through;
  }

  /** Whether there is something other than a position to hand out. */
  get filled(): boolean {
    return this.#bytes() > 0 || this.#events.length > 0;
  }

  /** Whether a batch must be taken before more is read. */
  get due(): boolean {
    if (this.#transaction !== null) return this.#bytes() >= PIECE_BYTES;
    return this.#pieced || this.#bytes() >= BATCH_BYTES;
  }

  /** What was read since the last time; a piece where a transaction is not through. */
  take(): TrackedBatch {
    const blocks: ChangeBlock[] = [];
    for (const writer of this.#writers.values()) {
      const block = writer.take();
      if (block !== null) blocks.push(block);
    }
    const events = this.#events;
    this.#events = [];
    const complete = this.#transaction === null;
    const after = this.#after;
    const through = this.#transaction?.at ?? this.#through;
    this.#pieced = !complete;
    if (complete) this.#after = through;
    return { after, through, complete, blocks, events };
  }

  begin(commitLsn: bigint, committedAtMicros: bigint, xid: number): void {
    const { numbering, after, onTransaction } = this.#parts;
    const id = widen(xid, numbering.transactionNear) as TransactionId;
    if (id > numbering.transactionNear) numbering.transactionNear = id;
    const ref: TransactionRef = { id, at: transactionPosition(commitLsn, numbering.base), committedAtMicros };
    this.#transaction = ref;
    this.#skipping = ref.at <= after;
    onTransaction(ref);
  }

  commit(_commitLsn: bigint, endLsn: bigint): void {
    const ref = this.#transaction;
    this.#transaction = null;
    this.#skipping = false;
    if (ref === null) throw new Error('pgoutput ended a transaction that it had not begun');
    // A transaction handed out in pieces must end where its pieces said.
    this.#through = this.#pieced ? ref.at : maxPosition(this.#through, boundary(endLsn, this.#parts.numbering.base));
  }

  relation(relation: RelationMessage): void {
    this.#announced = relation;
  }

  insert(relation: number, row: Tuple): void {
    const target = this.#target(relation);
    if (target !== null) this.#writer(target).insert(row);
  }

  update(relation: number, old: { row: Tuple; full: boolean } | null, row: Tuple): void {
    const target = this.#target(relation);
    if (target === null) return;
    const writer = this.#writer(target);
    if (old === null) {
      writer.update(row, null);
      return;
    }
    // With the full identity the old row always comes, and holds what the new one leaves out.
    const whole = hasAbsent(row) ? fillAbsent(row, old.row) : row;
    const oldKey = keyTuple(old.row, target.key);
    writer.update(whole, oldKey.equals(keyTuple(whole, target.key)) ? null : oldKey);
  }

  delete(relation: number, old: { row: Tuple; full: boolean }): void {
    const target = this.#target(relation);
    if (target !== null) this.#writer(target).delete(keyTuple(old.row, target.key));
  }

  truncate(relations: readonly number[]): void {
    for (const relation of relations) {
      const target = this.#target(relation);
      if (target !== null) this.#writer(target).truncate();
    }
  }

  #target(relation: number): TrackedTable | null {
    const target = this.#tables.get(relation);
    if (target === undefined) throw new Error(`pgoutput sent a change of relation ${relation} without describing it`);
    if (!this.#skipping) return target;
    if (target !== null && this.#transaction !== null) this.#parts.onRepeated(this.#transaction);
    return null;
  }

  #writer(target: TrackedTable): BlockWriter {
    let writer = this.#writers.get(target.table);
    if (writer === undefined) {
      writer = new BlockWriter(target.table);
      this.#writers.set(target.table, writer);
    }
    writer.transaction(this.#transaction as TransactionRef);
    return writer;
  }

  #bytes(): number {
    let bytes = 0;
    for (const writer of this.#writers.values()) bytes += writer.length;
    return bytes;
  }
}
