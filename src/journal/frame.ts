import type { ChangeBlock, EndedTransaction, OpenBlock, TransactionId, TransactionPart, TransactionRef } from '../model/change.ts';
import { type Position, boundaryAt, commitEndOf } from '../model/position.ts';
import type { TableName } from '../model/schema.ts';
import type { KeyTuple, Tuple } from '../model/tuple.ts';

/**
 * The bytes of a ChangeBlock: records, one after another, all integers big-endian.
 *
 *   T  commit end u64, transaction id u64, committed at i64 µs     begins the changes of one transaction
 *   P  u32 part                                                    what follows belongs to this part of the transaction, at first 0
 *   I  u32 length, row                                             insert
 *   U  u32 length, row                                             update, key unchanged
 *   K  u32 length, old key, u32 length, row                        update that changed the key
 *   D  u32 length, key                                             delete
 *   X                                                              truncate
 *
 * Where a transaction was still open when its changes were written, no T stands before them: the block names it (`within`).
 */
const TRANSACTION = 0x54;
const PART = 0x50;
const INSERT = 0x49;
const UPDATE = 0x55;
const REKEY = 0x4b;
const DELETE = 0x44;
const TRUNCATE = 0x58;

/** T, commit end, transaction id, commit time. */
const TRANSACTION_BYTES = 25;
const PART_BYTES = 5;

const NO_BYTES = Buffer.alloc(0);

/** Integers of 64 bits go through it several times as fast as through a Buffer's own methods. */
function viewOf(bytes: Buffer): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

/** A row in another form than ours, which can be put straight where it belongs. */
export interface Packing {
  /** Bytes it takes at most. */
  readonly bytesMax: number;
  /** Packs it as a tuple from `at` on; returns where that ends. */
  packInto(bytes: Buffer, at: number): number;
}

/** Collects the changes of one table into blocks. One transaction after another, in commit order. */
export class BlockWriter {
  readonly #table: TableName;
  /** Made when the first change comes: a writer that waits for one holds no memory. */
  #bytes = NO_BYTES;
  #view: DataView | null = null;
  #bytesHint: number;
  #length = 0;
  #changes = 0;
  #first: TransactionRef | null = null;
  #last: TransactionRef | null = null;
  #part: TransactionPart = 0;
  #severalParts = false;

  constructor(table: TableName, bytesHint = 4096) {
    this.#table = table;
    this.#bytesHint = bytesHint;
  }

  /** Bytes collected so far. */
  get length(): number {
    return this.#length;
  }

  /** The changes that follow belong to this transaction. Calling it again with the same object is harmless. */
  transaction(ref: TransactionRef, commitEnd?: bigint): void {
    if (this.#last === ref) return;
    this.#room(TRANSACTION_BYTES);
    this.#view ??= viewOf(this.#bytes);
    this.#view.setUint8(this.#length, TRANSACTION);
    this.#view.setBigUint64(this.#length + 1, commitEnd ?? commitEndOf(ref.at));
    this.#view.setBigUint64(this.#length + 9, ref.id);
    this.#view.setBigInt64(this.#length + 17, ref.committedAtMicros);
    this.#length += TRANSACTION_BYTES;
    this.#first ??= ref;
    this.#last = ref;
  }

  /** The changes that follow belong to this part of a transaction that has not ended. Calling it again for the same one is harmless. */
  part(part: TransactionPart): void {
    if (this.#part === part) return;
    this.#severalParts ||= this.#changes > 0;
    this.#room(PART_BYTES);
    this.#bytes[this.#length] = PART;
    this.#length = this.#bytes.writeUInt32BE(part, this.#length + 1);
    this.#part = part;
  }

  insert(row: Tuple): void {
    this.#record(INSERT, row);
  }

  /** As `insert`, with a row that is put together in place. */
  insertFrom(row: Packing): void {
    this.#recordFrom(INSERT, row);
  }

  /** As `update` where the key is the same, with a row that is put together in place. */
  updateFrom(row: Packing): void {
    this.#recordFrom(UPDATE, row);
  }

  update(row: Tuple, oldKey: KeyTuple | null): void {
    if (oldKey === null) this.#record(UPDATE, row);
    else {
      this.#record(REKEY, oldKey);
      this.#tuple(row);
    }
  }

  delete(key: KeyTuple): void {
    this.#record(DELETE, key);
  }

  truncate(): void {
    this.#room(1);
    this.#bytes[this.#length++] = TRUNCATE;
    this.#changes++;
  }

  /** The block so far, or null if it holds no change; the writer starts afresh. For changes of transactions that were named. */
  take(): ChangeBlock | null {
    const last = this.#last;
    const open = this.takeOpen();
    if (open === null || open.first === null || last === null) return null;
    const { table, first, changes, bytes } = open;
    return { table, first, last: last.at, changes, bytes, within: null };
  }

  /** As `take`, for changes of one transaction that was not named because it was open, and has ended now. */
  takeWithin(within: EndedTransaction): ChangeBlock | null {
    const open = this.takeOpen();
    if (open === null) return null;
    const { table, changes, bytes } = open;
    return { table, first: within.transaction.at, last: within.transaction.at, changes, bytes, within };
  }

  /** As `take`, while the transaction is still open. */
  takeOpen(): OpenBlock | null {
    const part = this.#severalParts ? null : this.#part;
    const bytes = this.#bytes.subarray(0, this.#length);
    const first = this.#first?.at ?? null;
    const block = this.#changes === 0 ? null : { table: this.#table, first, part, changes: this.#changes, bytes };
    if (block !== null) {
      this.#bytesHint = Math.min(Math.max(this.#length, 4096), 1 << 20);
      this.#bytes = NO_BYTES;
      this.#view = null;
    }
    this.#length = 0;
    this.#changes = 0;
    this.#first = null;
    this.#last = null;
    this.#part = 0;
    this.#severalParts = false;
    return block;
  }

  #record(kind: number, tuple: Tuple): void {
    this.#room(1);
    this.#bytes[this.#length++] = kind;
    this.#tuple(tuple);
    this.#changes++;
  }

  #recordFrom(kind: number, row: Packing): void {
    this.#room(5 + row.bytesMax);
    const bytes = this.#bytes;
    const at = this.#length;
    bytes[at] = kind;
    this.#length = row.packInto(bytes, at + 5);
    bytes.writeUInt32BE(this.#length - at - 5, at + 1);
    this.#changes++;
  }

  #tuple(tuple: Tuple): void {
    this.#room(4 + tuple.length);
    this.#length = this.#bytes.writeUInt32BE(tuple.length, this.#length);
    this.#length += tuple.copy(this.#bytes, this.#length);
  }

  #room(more: number): void {
    const needed = this.#length + more;
    if (needed <= this.#bytes.length) return;
    const grown = Buffer.allocUnsafe(Math.max(needed, this.#bytes.length * 2, this.#bytesHint));
    this.#bytes.copy(grown, 0, 0, this.#length);
    this.#bytes = grown;
    this.#view = null;
  }
}

/** Receives the changes of a block. Tuples are views on the block's bytes. */
export interface ChangeVisitor {
  /** False skips the changes of this transaction. */
  transaction(ref: TransactionRef): boolean;
  insert(row: Tuple): void;
  update(row: Tuple, oldKey: KeyTuple | null): void;
  delete(key: KeyTuple): void;
  truncate(): void;
}

/** Receives the changes of a block where they lie in its bytes: nothing is made for a row. */
export interface ChangeScanner {
  /** False skips the changes of this transaction. */
  transaction(ref: TransactionRef): boolean;
  insert(bytes: Buffer, start: number, end: number): void;
  /** The key did not change. */
  update(bytes: Buffer, start: number, end: number): void;
  /** From the old key, whose tuple lies from `keyStart` to `keyEnd`, to the row. */
  rekey(bytes: Buffer, keyStart: number, keyEnd: number, start: number, end: number): void;
  /** A key's tuple. */
  delete(bytes: Buffer, start: number, end: number): void;
  truncate(): void;
}

/**
 * Walks the changes of a block in (`after`, `upTo`]. Returns the number of changes visited.
 * Throws on bytes that are not a block: they come from our own journal, so that is damage, not input.
 */
export function walkBlock(block: ChangeBlock, after: Position, upTo: Position, visitor: ChangeVisitor): number {
  const tuple = (bytes: Buffer, start: number, end: number): Tuple => bytes.subarray(start, end) as Tuple;
  return scanBlock(block, after, upTo, {
    transaction: (ref) => visitor.transaction(ref),
    insert: (bytes, start, end) => visitor.insert(tuple(bytes, start, end)),
    update: (bytes, start, end) => visitor.update(tuple(bytes, start, end), null),
    rekey: (bytes, keyStart, keyEnd, start, end) => visitor.update(tuple(bytes, start, end), tuple(bytes, keyStart, keyEnd) as KeyTuple),
    delete: (bytes, start, end) => visitor.delete(tuple(bytes, start, end) as KeyTuple),
    truncate: () => visitor.truncate(),
  });
}

/** As `walkBlock`, for who takes the changes where they lie. */
export function scanBlock(block: ChangeBlock, after: Position, upTo: Position, scanner: ChangeScanner): number {
  const { bytes } = block;
  const view = viewOf(bytes);
  let at = 0;
  let visited = 0;
  /** Of the transaction, and of the part of it. */
  let admitted = false;
  let take = false;
  if (block.within !== null) {
    const { transaction } = block.within;
    if (transaction.at > upTo) return visited;
    take = admitted = transaction.at > after && scanner.transaction(transaction);
  }
  while (at < bytes.length) {
    const kind = bytes[at] as number;
    if (kind === TRANSACTION) {
      const ref = transactionAt(block, view, at);
      if (ref.at > upTo) return visited;
      take = admitted = ref.at > after && scanner.transaction(ref);
      at += TRANSACTION_BYTES;
      continue;
    }
    if (kind === PART) {
      take = admitted && block.within?.dropped.has(partAt(block, at)) !== true;
      at += PART_BYTES;
      continue;
    }
    const end = recordEnd(block, at);
    if (take) {
      visited++;
      if (kind === INSERT) scanner.insert(bytes, at + 5, end);
      else if (kind === UPDATE) scanner.update(bytes, at + 5, end);
      else if (kind === DELETE) scanner.delete(bytes, at + 5, end);
      else if (kind === TRUNCATE) scanner.truncate();
      else {
        const keyEnd = partEnd(block, at + 1);
        scanner.rekey(bytes, at + 5, keyEnd, keyEnd + 4, end);
      }
    }
    at = end;
  }
  return visited;
}

/** The transactions of a block in its order, without looking at their changes. Throws as `walkBlock` does. */
export function transactionsOf(block: ChangeBlock): TransactionRef[] {
  const found: TransactionRef[] = block.within === null ? [] : [block.within.transaction];
  const { bytes } = block;
  const view = viewOf(bytes);
  let at = 0;
  while (at < bytes.length) {
    if (bytes[at] === TRANSACTION) {
      found.push(transactionAt(block, view, at));
      at += TRANSACTION_BYTES;
    } else at = recordEnd(block, at);
  }
  return found;
}

/** The least and the greatest id of the transactions of a block; null: it names none. Throws as `walkBlock` does. */
export function transactionIds(block: ChangeBlock): { readonly lowest: TransactionId; readonly highest: TransactionId } | null {
  const { bytes, within } = block;
  if (within !== null) return { lowest: within.transaction.id, highest: within.transaction.id };
  let lowest: TransactionId | null = null;
  let highest: TransactionId | null = null;
  const view = viewOf(bytes);
  let at = 0;
  while (at < bytes.length) {
    if (bytes[at] !== TRANSACTION) {
      at = recordEnd(block, at);
      continue;
    }
    if (at + TRANSACTION_BYTES > bytes.length) throw damaged(block, at, 'a transaction passes its end');
    const id = view.getBigUint64(at + 9) as TransactionId;
    if (lowest === null || id < lowest) lowest = id;
    if (highest === null || id > highest) highest = id;
    at += TRANSACTION_BYTES;
  }
  return lowest === null || highest === null ? null : { lowest, highest };
}

type Framed = Pick<ChangeBlock, 'table' | 'bytes'>;

/** Receives where changes lie in the bytes of a block: nothing is made for each of them. `start` and `end` are those of a tuple. */
export interface PlaceVisitor {
  transaction(committedAtMs: number): void;
  part(part: TransactionPart): void;
  /** Of a row inserted or updated. */
  put(start: number, end: number): void;
  /** The key that the next row to be put had before. */
  left(start: number, end: number): void;
  delete(start: number, end: number): void;
  truncate(): void;
}

/** Walks all changes of a block, also where its transaction has not ended, for those who count them. Throws as `walkBlock` does. */
export function walkPlaces(block: Framed, visitor: PlaceVisitor): void {
  const { bytes } = block;
  const view = viewOf(bytes);
  const end = bytes.length;
  const tupleEnd = (at: number): number => {
    const next = at + 4 > end ? Number.POSITIVE_INFINITY : at + 4 + view.getUint32(at);
    if (next > end) throw damaged(block, at, 'a tuple passes its end');
    return next;
  };
  for (let at = 0; at < end; ) {
    const kind = view.getUint8(at);
    if (kind === TRANSACTION) {
      if (at + TRANSACTION_BYTES > end) throw damaged(block, at, 'a transaction passes its end');
      // A label: a millisecond is exact enough, and the number is far below 2^53.
      visitor.transaction((view.getInt32(at + 17) * 2 ** 32 + view.getUint32(at + 21)) / 1000);
      at += TRANSACTION_BYTES;
    } else if (kind === PART) {
      visitor.part(partAt(block, at));
      at += PART_BYTES;
    } else if (kind === TRUNCATE) {
      visitor.truncate();
      at++;
    } else {
      const start = at + 5;
      at = tupleEnd(at + 1);
      if (kind === INSERT || kind === UPDATE) visitor.put(start, at);
      else if (kind === DELETE) visitor.delete(start, at);
      else if (kind === REKEY) {
        visitor.left(start, at);
        const from = at + 4;
        at = tupleEnd(at);
        visitor.put(from, at);
      } else throw damaged(block, start - 5, `record kind ${kind}`);
    }
  }
}

function partAt(block: Framed, at: number): TransactionPart {
  if (at + PART_BYTES > block.bytes.length) throw damaged(block, at, 'a part passes its end');
  return block.bytes.readUInt32BE(at + 1);
}

function transactionAt(block: ChangeBlock, view: DataView, at: number): TransactionRef {
  const { bytes } = block;
  if (at + TRANSACTION_BYTES > bytes.length) throw damaged(block, at, 'a transaction passes its end');
  return {
    id: view.getBigUint64(at + 9) as TransactionId,
    at: boundaryAt(bytes, at + 1),
    committedAtMicros: view.getBigInt64(at + 17),
  };
}

/** Where the record of a change at `at` ends. */
function recordEnd(block: ChangeBlock, at: number): number {
  switch (block.bytes[at]) {
    case INSERT:
    case UPDATE:
    case DELETE:
      return partEnd(block, at + 1);
    case REKEY:
      return partEnd(block, partEnd(block, at + 1));
    case TRUNCATE:
      return at + 1;
    case PART:
      partAt(block, at);
      return at + PART_BYTES;
    default:
      throw damaged(block, at, `record kind ${block.bytes[at]}`);
  }
}

/** Where the tuple whose length stands at `at` ends. */
function partEnd(block: Framed, at: number): number {
  const { bytes } = block;
  const start = at + 4;
  const end = start > bytes.length ? Number.POSITIVE_INFINITY : start + bytes.readUInt32BE(at);
  if (end > bytes.length) throw damaged(block, at, 'a tuple passes its end');
  return end;
}

function damaged(block: Framed, at: number, what: string): Error {
  return new Error(`damaged block of ${block.table}: ${what} at byte ${at}`);
}
