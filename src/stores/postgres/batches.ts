import { BlockWriter } from '../../journal/frame.ts';
import type {
  ChangeBlock,
  EndedTransaction,
  TableEvent,
  TrackedBatch,
  TransactionId,
  TransactionPart,
  TransactionRef,
} from '../../model/change.ts';
import { commitEndOf, type Position, position } from '../../model/position.ts';
import type { TableName } from '../../model/schema.ts';
import { type Tuple, cellsOf, hasAbsent, keyTuple, packTuple } from '../../model/tuple.ts';
import type { PrimaryItem } from '../../tracking/primary.ts';
import { Commit, type Numbering, widen } from './numbering.ts';
import { PgoutputReader, type PgoutputVisitor, type RelationMessage, type SentTuple } from './pgoutput.ts';
import { newStreamed, type Streamed, type Written } from './streamed.ts';
import type { Announced, Noticed, Reading, TrackedTable } from './watch.ts';

export interface BatchParts {
  readonly numbering: Numbering;
  /** Transactions at or below are known already. */
  readonly after: Position;
  /** Told of each transaction before its changes are handed out. */
  readonly onTransaction: (ref: TransactionRef) => void;
  /** What is to be said before a transaction that commits here (an LSN). */
  readonly due: (commitLsn: bigint) => readonly Noticed[];
  /** Told of each change of the data set in a transaction that is known already. */
  readonly onRepeated: (ref: TransactionRef) => void;
}

/** What is handed out, in order: batches of whole transactions, and what becomes of larger ones meanwhile. */
export type StreamItem = Exclude<PrimaryItem, { kind: 'batch' }> | StreamBatch;

interface StreamBatch {
  readonly kind: 'batch';
  readonly batch: TrackedBatch;
  /** The last transaction that it has changes of. */
  readonly last: TransactionRef | null;
}

/** A batch of whole transactions ends above this size. */
const BATCH_BYTES = 1 << 20;
/**
 * Of a transaction that has not ended a piece is handed out at this size, and the largest where all of them hold more together. One that comes
 * whole may have others before it that filled their batch just not: it ends, or it has grown to this size itself.
 */
const PIECE_BYTES = 1 << 20;
const OPEN_BYTES_MAX = 4 << 20;

/** Makes pgoutput's messages into batches of whole transactions, and of pieces of larger ones. */
export class Batches implements PgoutputVisitor {
  readonly #parts: BatchParts;
  /** Transactions at or below were known before: the commit end of a boundary. */
  readonly #known: bigint;
  readonly #reader: PgoutputReader;
  readonly #tables = new Map<number, TrackedTable | null>();
  /** Of transactions that come whole. */
  readonly #whole: Written = { writers: new Map(), bytes: 0, inPieces: false };
  /** By the server's id, which is the lower half of ours. */
  readonly #streamed = new Map<number, Streamed>();
  /** The batch being gathered, beside what is still being written of whole transactions. */
  #blocks: ChangeBlock[] = [];
  #adopts: EndedTransaction[] = [];
  #events: TableEvent[] = [];
  #blockBytes = 0;
  /** In all that is being written. */
  #writtenBytes = 0;
  /** To be handed out before the batch. */
  #ready: StreamItem[] = [];
  /** Everything up to here was handed out. */
  #after: Position;
  /** Everything up to here was read: the commit end of a boundary. */
  #through: bigint;
  /** The transaction being read, and the last one with changes that the batch has. */
  #transaction: Commit | null = null;
  #last: TransactionRef | null = null;
  /** It was known already. */
  #skipping = false;
  /** The transaction in progress that what is read belongs to, and the part of it. */
  #stream: Streamed | null = null;
  #part: TransactionPart = 0;
  #announced: RelationMessage | null = null;
  /** Tables of which the transaction being read has changed rows, and how many events were placed before it. */
  readonly #touched = new Set<TableName>();
  #eventsBefore = 0;

  constructor(parts: BatchParts) {
    this.#parts = parts;
    this.#after = parts.after;
    this.#through = commitEndOf(parts.after);
    this.#known = this.#through;
    this.#reader = new PgoutputReader(this);
  }

  /**
   * Reads one message. A relation that it announced must be answered with `settle` before the next is read.
   */
  read(data: Buffer, start: number, end: number): RelationMessage | null {
    this.#announced = null;
    this.#reader.read(data, start, end);
    return this.#announced;
  }

  settle(relation: RelationMessage, { tracked, changed, undo }: Announced): void {
    (this.#stream?.tables ?? this.#tables).set(relation.id, tracked);
    if (changed === null) return;
    this.#stream?.undo.push({ part: this.#part, undo });
    const among = (this.#stream?.touched ?? this.#touched).has(changed.table);
    if (this.#stream !== null) this.#stream.events.push({ ...changed, part: this.#part, among });
    else if (this.#transaction !== null && !this.#skipping) this.#event(changed, this.#transaction, among);
  }

  /**
   * Something befell a table. Its place is before the transaction that showed it, unless that has changed rows of the table already: a
   * change of shape then lies among them, and only a comparison makes sense of those.
   */
  #event({ kind, table, reason, change }: Noticed, { at: end }: TransactionRef, among: boolean): void {
    const at = among ? end : position(commitEndOf(end), this.#eventsBefore++);
    const after = position(commitEndOf(end) - 1n);
    const placed = change === undefined ? {} : { change: { ...change, after, kept: change.kept && !among } };
    this.#events.push({ kind, table, at, reason, ...placed });
  }

  /** A transaction's changes come next. */
  #enter(ref: TransactionRef, commitLsn: bigint): void {
    this.#parts.onTransaction(ref);
    this.#eventsBefore = 0;
    for (const noticed of this.#parts.due(commitLsn)) this.#event(noticed, ref, false);
  }

  /** Everything committed up to here has been read: known from a keepalive. */
  reached(lsn: bigint): void {
    if (this.#transaction === null) this.#passed(lsn);
  }

  /** The transaction being read, and whether it has committed. */
  get reading(): Reading {
    return { id: (this.#stream ?? this.#transaction)?.id ?? (0n as TransactionId), ended: this.#stream === null };
  }

  get inTransaction(): boolean {
    return this.#transaction !== null;
  }

  get through(): Position {
    return position(this.#through);
  }

  /** Whether there is something other than a position to hand out. */
  get filled(): boolean {
    return this.#whole.bytes > 0 || this.#blocks.length > 0 || this.#events.length > 0 || this.#adopts.length > 0;
  }

  /** Whether something must be taken before more is read. */
  get due(): boolean {
    if (this.#ready.length > 0) return true;
    return this.#transaction === null && (this.#adopts.length > 0 || this.#whole.bytes + this.#blockBytes >= BATCH_BYTES);
  }

  /** What is to be handed out next. Outside a transaction that is, after everything else, the batch of what was read. */
  take(): StreamItem {
    const ready = this.#ready.shift();
    if (ready !== undefined) return ready;
    this.#seal();
    const [after, through, last] = [this.#after, this.through, this.#last];
    const batch = { after, through, blocks: this.#blocks, adopts: this.#adopts, events: this.#events };
    this.#after = through;
    this.#blocks = [];
    this.#blockBytes = 0;
    this.#adopts = [];
    this.#events = [];
    this.#last = null;
    return { kind: 'batch', batch, last };
  }

  /** The transactions in progress of which pieces were handed out. */
  get inPieces(): readonly TransactionId[] {
    return Array.from(this.#streamed.values()).flatMap(({ inPieces, id }) => (inPieces ? [id] : []));
  }

  begin(commitLsn: bigint, committedAtMicros: bigint, xid: number): void {
    const ref = this.#commitOf(this.#idOf(xid), commitLsn, committedAtMicros);
    this.#transaction = ref;
    this.#skipping = ref.end <= this.#known;
    this.#touched.clear();
    if (this.#skipping) this.#parts.onTransaction(ref);
    else this.#enter(ref, commitLsn);
  }

  commit(endLsn: bigint): void {
    const transaction = this.#transaction;
    if (transaction === null) throw new Error('pgoutput ended a transaction that it had not begun');
    this.#transaction = null;
    this.#skipping = false;
    if (this.#touched.size > 0) this.#last = transaction;
    if (this.#whole.inPieces) this.#adopts.push({ transaction, dropped: new Set() });
    this.#whole.inPieces = false;
    this.#passed(endLsn);
  }

  streamStart(xid: number): void {
    let stream = this.#streamed.get(xid);
    if (stream === undefined) {
      stream = newStreamed(xid, this.#idOf(xid));
      this.#streamed.set(xid, stream);
    }
    this.#stream = stream;
    this.#part = 0;
  }

  streamStop(): void {
    this.#stream = null;
    this.#part = 0;
  }

  writtenBy(xid: number): void {
    this.#part = xid === this.#stream?.xid ? 0 : xid;
  }

  streamCommit(xid: number, commitLsn: bigint, endLsn: bigint, committedAtMicros: bigint): void {
    const stream = this.#streamed.get(xid);
    if (stream === undefined) throw new Error('pgoutput ended a transaction in progress that it had not begun');
    this.#streamed.delete(xid);
    const transaction = this.#commitOf(stream.id, commitLsn, committedAtMicros);
    const counts = stream.changed.size > 0;
    // The server does not say again what it said of them, also where the changes were known already.
    for (const [relation, target] of stream.tables) this.#tables.set(relation, target);
    if (transaction.end <= this.#known) {
      if (counts) this.#parts.onRepeated(transaction);
      return this.#release(stream);
    }
    this.#enter(transaction, commitLsn);
    if (counts) this.#last = transaction;
    if (counts) this.#adopt(stream, { transaction, dropped: stream.dropped });
    else this.#release(stream);
    for (const { part, among, ...noticed } of stream.events) if (!stream.dropped.has(part)) this.#event(noticed, transaction, among);
    this.#passed(endLsn);
  }

  streamAbort(xid: number, subxid: number): void {
    const stream = this.#streamed.get(xid);
    // Nothing of it was sent.
    if (stream === undefined) return;
    if (subxid === xid) {
      this.#streamed.delete(xid);
      return this.#forget(stream);
    }
    stream.dropped.add(subxid);
    stream.changed.delete(subxid);
    for (const { part, undo } of stream.undo.toReversed()) if (part === subxid) undo();
    // Its locks are gone with it: whoever alters the table next must not be undone with the rest.
    stream.undo = stream.undo.filter(({ part }) => part !== subxid);
    if (stream.inPieces) this.#ready.push({ kind: 'rolled-back', transaction: stream.id, part: subxid });
  }

  relation(relation: RelationMessage): void {
    this.#announced = relation;
  }

  insert(relation: number, row: SentTuple): void {
    const target = this.#target(relation);
    if (target === null) return;
    const writer = this.#writer(target);
    const before = writer.length;
    if (target.complete !== null) writer.insert(target.complete(row.packed()));
    else writer.insertFrom(row);
    this.#wrote(writer.length - before);
  }

  update(relation: number, old: SentTuple | null, row: SentTuple): void {
    const target = this.#target(relation);
    if (target === null) return;
    const writer = this.#writer(target);
    const before = writer.length;
    if (old === null) writer.updateFrom(row);
    else {
      const [from, to] = [old.packed(), row.packed()];
      // With the full identity the old row always comes, and holds what the new one leaves out.
      const whole = hasAbsent(to) ? inherit(to, from) : to;
      const next = target.complete?.(whole) ?? whole;
      const oldKey = keyTuple(target.complete?.(from) ?? from, target.key);
      const moved = !oldKey.equals(keyTuple(next, target.key));
      // Without a key an update that leaves every byte as it was is none.
      if (moved || target.complete === null) writer.update(next, moved ? oldKey : null);
    }
    this.#wrote(writer.length - before);
  }

  delete(relation: number, old: SentTuple): void {
    const target = this.#target(relation);
    if (target === null) return;
    const writer = this.#writer(target);
    const before = writer.length;
    const row = old.packed();
    writer.delete(keyTuple(target.complete?.(row) ?? row, target.key));
    this.#wrote(writer.length - before);
  }

  truncate(relations: readonly number[]): void {
    for (const relation of relations) {
      const target = this.#target(relation);
      if (target === null) continue;
      this.#writer(target).truncate();
      this.#wrote(1);
    }
  }

  #idOf(xid: number): TransactionId {
    const { numbering } = this.#parts;
    const id = widen(xid, numbering.transactionNear) as TransactionId;
    if (id > numbering.transactionNear) numbering.transactionNear = id;
    return id;
  }

  #commitOf(id: TransactionId, commitLsn: bigint, committedAtMicros: bigint): Commit {
    return new Commit(id, commitLsn, this.#parts.numbering.base, committedAtMicros);
  }

  #passed(endLsn: bigint): void {
    const end = endLsn + this.#parts.numbering.base;
    if (end > this.#through) this.#through = end;
  }

  #described(relation: number): TrackedTable | null {
    const own = this.#stream?.tables.get(relation);
    const target = own === undefined ? this.#tables.get(relation) : own;
    if (target === undefined) throw new Error(`pgoutput sent a change of relation ${relation} without describing it`);
    return target;
  }

  #target(relation: number): TrackedTable | null {
    const target = this.#described(relation);
    if (!this.#skipping) return target;
    if (target !== null && this.#transaction !== null) this.#parts.onRepeated(this.#transaction);
    return null;
  }

  #writer({ table }: TrackedTable): BlockWriter {
    const { writers } = this.#stream ?? this.#whole;
    let writer = writers.get(table);
    if (writer === undefined) {
      writer = new BlockWriter(table);
      writers.set(table, writer);
    }
    (this.#stream?.touched ?? this.#touched).add(table);
    if (this.#stream === null) writer.transaction(this.#transaction as Commit, (this.#transaction as Commit).end);
    else {
      writer.part(this.#part);
      this.#stream.changed.add(this.#part);
    }
    return writer;
  }

  #wrote(bytes: number): void {
    const written = this.#stream ?? this.#whole;
    written.bytes += bytes;
    this.#writtenBytes += bytes;
    const bytesMax = written === this.#whole ? BATCH_BYTES + PIECE_BYTES : PIECE_BYTES;
    if (written.bytes >= bytesMax || this.#writtenBytes >= OPEN_BYTES_MAX) this.#handOutLargest();
  }

  /** Whole transactions that have ended wait for the batch, which is due long before. */
  #handOutLargest(): void {
    let largest: Written | null = this.#transaction === null ? null : this.#whole;
    let transaction = this.#transaction?.id;
    for (const stream of this.#streamed.values()) {
      if (stream.bytes <= (largest?.bytes ?? 0)) continue;
      largest = stream;
      transaction = stream.id;
    }
    if (largest === null || transaction === undefined) return;
    const blocks = Array.from(largest.writers.values(), (writer) => writer.takeOpen()).filter((block) => block !== null);
    this.#ready.push({ kind: 'piece', piece: { transaction, blocks } });
    largest.inPieces = true;
    this.#emptied(largest);
  }

  #emptied(written: Written): void {
    this.#writtenBytes -= written.bytes;
    written.bytes = 0;
  }

  #adopt(stream: Streamed, within: EndedTransaction): void {
    // In commit order: what came whole before it, then what was not handed out of it yet.
    this.#seal();
    for (const writer of stream.writers.values()) this.#add(writer.takeWithin(within));
    this.#emptied(stream);
    if (stream.inPieces) this.#adopts.push(within);
  }

  #forget(stream: Streamed): void {
    for (const { undo } of stream.undo.toReversed()) undo();
    this.#release(stream);
  }

  /** None of its changes counts. */
  #release(stream: Streamed): void {
    this.#emptied(stream);
    if (stream.inPieces) this.#ready.push({ kind: 'rolled-back', transaction: stream.id, part: null });
  }

  /** What was written of whole transactions becomes blocks of the batch. */
  #seal(): void {
    for (const writer of this.#whole.writers.values()) this.#add(writer.take());
    this.#emptied(this.#whole);
  }

  #add(block: ChangeBlock | null): void {
    if (block === null) return;
    this.#blocks.push(block);
    this.#blockBytes += block.bytes.length;
  }
}

/**
 * Takes absent columns from the old row. A value that did not change and so was not sent is never NULL: where the old row has NULL it
 * was not sent either. (A partition sends by its own replica identity what is announced under the one of the table above it.)
 */
function inherit(row: Tuple, old: Tuple): Tuple {
  const before = cellsOf(old);
  return packTuple(cellsOf(row).map((cell, index) => (cell === undefined ? (before[index] ?? undefined) : cell)));
}
