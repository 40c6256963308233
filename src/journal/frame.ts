import type { ChangeBlock, TransactionId, TransactionRef } from '../model/change.ts';
import { type Position, commitEndOf, position } from '../model/position.ts';
import type { TableName } from '../model/schema.ts';
import type { KeyTuple, Tuple } from '../model/tuple.ts';

/**
 * The bytes of a ChangeBlock: records, one after another, all integers big-endian.
 *
 *   T  commit end u64, transaction id u64, committed at i64 µs     begins the changes of one transaction
 *   I  u32 length, row                                             insert
 *   U  u32 length, row                                             update, key unchanged
 *   K  u32 length, old key, u32 length, row                        update that changed the key
 *   D  u32 length, key                                             delete
 *   X                                                              truncate
 */
const TRANSACTION = 0x54;
const INSERT = 0x49;
const UPDATE = 0x55;
const REKEY = 0x4b;
const DELETE = 0x44;
const TRUNCATE = 0x58;

/** Collects the changes of one table into blocks. One transaction after another, in commit order. */
export class BlockWriter {
  readonly #table: TableName;
  #bytes: Buffer;
  #length = 0;
  #changes = 0;
  #first: Position | null = null;
  #last: Position | null = null;

  constructor(table: TableName, bytesHint = 4096) {
    this.#table = table;
    this.#bytes = Buffer.allocUnsafe(bytesHint);
  }

  /** Bytes collected so far. */
  get length(): number {
    return this.#length;
  }

  /** The changes that follow belong to this transaction. Calling it again for the same one is harmless. */
  transaction(ref: TransactionRef): void {
    if (this.#last === ref.at) return;
    this.#room(25);
    const bytes = this.#bytes;
    bytes[this.#length] = TRANSACTION;
    bytes.writeBigUInt64BE(commitEndOf(ref.at), this.#length + 1);
    bytes.writeBigUInt64BE(ref.id, this.#length + 9);
    bytes.writeBigInt64BE(ref.committedAtMicros, this.#length + 17);
    this.#length += 25;
    this.#first ??= ref.at;
    this.#last = ref.at;
  }

  insert(row: Tuple): void {
    this.#record(INSERT, row);
  }

  update(row: Tuple, oldKey: KeyTuple | null): void {
    if (oldKey === null) this.#record(UPDATE, row);
    else {
      this.#record(REKEY, oldKey);
      this.#part(row);
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

  /** The block so far, or null if nothing was written; the writer starts afresh. */
  take(): ChangeBlock | null {
    if (this.#first === null || this.#last === null || this.#changes === 0) return null;
    const block: ChangeBlock = {
      table: this.#table,
      first: this.#first,
      last: this.#last,
      changes: this.#changes,
      bytes: this.#bytes.subarray(0, this.#length),
    };
    this.#bytes = Buffer.allocUnsafe(Math.min(Math.max(this.#length, 4096), 1 << 20));
    this.#length = 0;
    this.#changes = 0;
    this.#first = null;
    this.#last = null;
    return block;
  }

  #record(kind: number, tuple: Tuple): void {
    this.#room(1);
    this.#bytes[this.#length++] = kind;
    this.#part(tuple);
    this.#changes++;
  }

  #part(tuple: Tuple): void {
    this.#room(4 + tuple.length);
    this.#length = this.#bytes.writeUInt32BE(tuple.length, this.#length);
    this.#length += tuple.copy(this.#bytes, this.#length);
  }

  #room(more: number): void {
    const needed = this.#length + more;
    if (needed <= this.#bytes.length) return;
    const grown = Buffer.allocUnsafe(Math.max(needed, this.#bytes.length * 2));
    this.#bytes.copy(grown, 0, 0, this.#length);
    this.#bytes = grown;
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

/**
 * Walks the changes of a block in (`after`, `upTo`]. Returns the number of changes visited.
 * Throws on bytes that are not a block: they come from our own journal, so that is damage, not input.
 */
export function walkBlock(block: ChangeBlock, after: Position, upTo: Position, visitor: ChangeVisitor): number {
  const { bytes } = block;
  let at = 0;
  let visited = 0;
  let take = false;
  const part = (): Tuple => {
    const length = bytes.readUInt32BE(at);
    at += 4;
    if (at + length > bytes.length) throw new Error(`damaged block of ${block.table}: a tuple passes its end`);
    const tuple = bytes.subarray(at, at + length) as Tuple;
    at += length;
    return tuple;
  };
  while (at < bytes.length) {
    const kind = bytes[at++];
    if (kind === TRANSACTION) {
      const where = position(bytes.readBigUInt64BE(at));
      if (where > upTo) return visited;
      take =
        where > after &&
        visitor.transaction({
          id: bytes.readBigUInt64BE(at + 8) as TransactionId,
          at: where,
          committedAtMicros: bytes.readBigInt64BE(at + 16),
        });
      at += 24;
      continue;
    }
    if (take) visited++;
    switch (kind) {
      case INSERT: {
        const row = part();
        if (take) visitor.insert(row);
        break;
      }
      case UPDATE: {
        const row = part();
        if (take) visitor.update(row, null);
        break;
      }
      case REKEY: {
        const oldKey = part() as KeyTuple;
        const row = part();
        if (take) visitor.update(row, oldKey);
        break;
      }
      case DELETE: {
        const key = part() as KeyTuple;
        if (take) visitor.delete(key);
        break;
      }
      case TRUNCATE:
        if (take) visitor.truncate();
        break;
      default:
        throw new Error(`damaged block of ${block.table}: record kind ${kind} at byte ${at - 1}`);
    }
  }
  return visited;
}
