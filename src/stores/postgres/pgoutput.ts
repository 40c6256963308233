import { ABSENT, NULL, type Tuple } from '../../model/tuple.ts';
import { textAt } from './messages.ts';

/**
 * The messages of the logical decoding plugin `pgoutput`
 * (https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html): whole transactions in commit order, and between
 * them stretches of large ones that are still in progress.
 */
export interface RelationMessage {
  /** OID of the table. */
  readonly id: number;
  readonly schema: string;
  readonly name: string;
  /** d default, n nothing, f full, i index. */
  readonly identity: string;
  readonly columns: readonly RelationColumn[];
}

export interface RelationColumn {
  readonly name: string;
  /** OID of its type. */
  readonly type: number;
  readonly modifier: number;
  /** Part of the replica identity. */
  readonly key: boolean;
}

/** Receives the messages of one stream. Tuples are there until the call returns. */
export interface PgoutputVisitor {
  /** `commitLsn` is where the commit record begins. */
  begin(commitLsn: bigint, committedAtMicros: bigint, xid: number): void;
  commit(endLsn: bigint): void;
  relation(relation: RelationMessage): void;
  insert(relation: number, row: SentTuple): void;
  /** `old` has all columns; those outside the key are absent unless the identity is the full row. Null: the key did not change. */
  update(relation: number, old: SentTuple | null, row: SentTuple): void;
  delete(relation: number, old: SentTuple): void;
  truncate(relations: readonly number[]): void;

  /** What follows, to the end of the stretch, belongs to a transaction in progress. */
  streamStart(xid: number): void;
  streamStop(): void;
  /** The next message of the stretch was written by this subtransaction, or by the transaction itself. */
  writtenBy(xid: number): void;
  streamCommit(xid: number, commitLsn: bigint, endLsn: bigint, committedAtMicros: bigint): void;
  /** The subtransaction was rolled back; all of it where that is the transaction itself. */
  streamAbort(xid: number, subxid: number): void;
}

/** Microseconds between 1970-01-01 and PostgreSQL's own epoch, 2000-01-01. */
export const EPOCH_MICROS = 946_684_800_000_000n;

/** Kinds of messages that say who wrote them, in a stretch of a transaction in progress. */
const WRITTEN_BY: ReadonlySet<number> = new Set(Buffer.from('RYIUDTM'));

/** Up to here a value is copied byte by byte: quicker than asking for it. */
const SHORT_BYTES = 40;

/** A tuple as the server sends it: a byte for the kind of each column, then length and value. */
export class SentTuple {
  #data: Buffer = Buffer.alloc(0);
  #at = 0;
  #end = 0;
  /** A null stands for a column that was not sent: a key has no nulls. */
  #keyOnly = false;
  #packed: Buffer = Buffer.alloc(0);

  /** Puts it at a place of the message that ends at `end`. */
  place(data: Buffer, at: number, end: number, keyOnly: boolean): void {
    this.#data = data;
    this.#at = at;
    this.#end = end;
    this.#keyOnly = keyOnly;
  }

  /** Where it ends in the message. */
  get next(): number {
    const data = this.#data;
    let from = this.#at + 2;
    for (let left = data.readInt16BE(this.#at); left > 0; left--) {
      const kind = data[from++];
      if (kind === BINARY || kind === TEXT) from += 4 + data.readInt32BE(from);
    }
    return from;
  }

  /** Bytes it takes when packed, at most: their kind byte goes, but a null takes four bytes instead of one. */
  get bytesMax(): number {
    return 3 * this.#data.readInt16BE(this.#at) + this.#end - this.#at;
  }

  /** Packs it as one of our tuples into `row`, from `start` on; returns where that ends. */
  packInto(row: Buffer, start: number): number {
    const data = this.#data;
    const columns = data.readInt16BE(this.#at);
    let from = this.#at + 2;
    let to = row.writeInt16BE(columns, start);
    for (let column = 0; column < columns; column++) {
      const kind = data[from++];
      // Text where the type has no binary form: then the text is what is mirrored.
      if (kind === BINARY || kind === TEXT) {
        const bytes = 4 + data.readInt32BE(from);
        if (bytes > SHORT_BYTES) data.copy(row, to, from, from + bytes);
        else for (let at = 0; at < bytes; at++) row[to + at] = data[from + at] as number;
        from += bytes;
        to += bytes;
      } else if (kind === 0x6e) to = row.writeInt32BE(this.#keyOnly ? ABSENT : NULL, to);
      else if (kind === 0x75) to = row.writeInt32BE(ABSENT, to);
      else throw new Error(`pgoutput sent a value of unknown kind ${kind}`);
    }
    return to;
  }

  /** Packed, in a buffer that the next tuple placed here overwrites. */
  packed(): Tuple {
    const bytesMax = this.bytesMax;
    if (this.#packed.length < bytesMax) this.#packed = Buffer.allocUnsafe(bytesMax * 2);
    return this.#packed.subarray(0, this.packInto(this.#packed, 0)) as Tuple;
  }
}

/** Kinds of values: in the type's binary form, or as text. */
const BINARY = 0x62;
const TEXT = 0x74;

export class PgoutputReader {
  readonly #visitor: PgoutputVisitor;
  readonly #row = new SentTuple();
  readonly #old = new SentTuple();
  #data: Buffer = Buffer.alloc(0);
  #at = 0;
  #end = 0;
  /** Between Stream Start and Stream Stop each message says who wrote it. */
  #inStream = false;

  constructor(visitor: PgoutputVisitor) {
    this.#visitor = visitor;
  }

  /**
   * One message: the data of an XLogData, which lies in `data` from `start` to `end`. Throws on a kind it does not know: nothing may be
   * skipped unknowingly.
   */
  read(data: Buffer, start: number, end: number): void {
    const kind = data[start] as number;
    this.#data = data;
    this.#at = start + 1;
    this.#end = end;
    if (this.#inStream && WRITTEN_BY.has(kind)) this.#visitor.writtenBy(this.#u32());
    switch (kind) {
      case 0x49: // I
        this.#insert();
        return;
      case 0x55: // U
        this.#update();
        return;
      case 0x44: // D
        this.#delete();
        return;
      case 0x42: // B
        this.#visitor.begin(data.readBigUInt64BE(start + 1), data.readBigInt64BE(start + 9) + EPOCH_MICROS, data.readUInt32BE(start + 17));
        return;
      case 0x43: // C
        this.#visitor.commit(data.readBigUInt64BE(start + 10));
        return;
      case 0x52: // R
        this.#visitor.relation(readRelation(data, this.#at));
        return;
      case 0x54: // T
        this.#truncate();
        return;
      case 0x4d: // M, a logical message: ours only move the log on, others are not for us
      case 0x4f: // O, the origin: where the transaction was first committed
      case 0x59: // Y, a type's name: columns are told apart by OID
        return;
      default:
        this.#streamed(kind, start);
    }
  }

  /** What becomes of transactions in progress. */
  #streamed(kind: number, start: number): void {
    const data = this.#data;
    switch (kind) {
      case 0x53: // S
        this.#inStream = true;
        this.#visitor.streamStart(this.#u32());
        return;
      case 0x45: // E
        this.#inStream = false;
        this.#visitor.streamStop();
        return;
      case 0x63: // c
        this.#visitor.streamCommit(
          this.#u32(),
          data.readBigUInt64BE(start + 6),
          data.readBigUInt64BE(start + 14),
          data.readBigInt64BE(start + 22) + EPOCH_MICROS,
        );
        return;
      case 0x41: // A
        this.#visitor.streamAbort(this.#u32(), this.#u32());
        return;
      default:
        throw new Error(`pgoutput sent a message of unknown kind "${String.fromCharCode(kind)}"`);
    }
  }

  #insert(): void {
    const relation = this.#u32();
    // Behind N.
    this.#row.place(this.#data, this.#at + 1, this.#end, false);
    this.#visitor.insert(relation, this.#row);
  }

  #update(): void {
    const relation = this.#u32();
    const marker = this.#data[this.#at];
    const old = marker === 0x4b || marker === 0x4f ? this.#oldTuple() : null;
    if (old !== null) this.#at = old.next;
    this.#row.place(this.#data, this.#at + 1, this.#end, false);
    this.#visitor.update(relation, old, this.#row);
  }

  #delete(): void {
    const relation = this.#u32();
    this.#visitor.delete(relation, this.#oldTuple());
  }

  #truncate(): void {
    const data = this.#data;
    const at = this.#at;
    this.#visitor.truncate(Array.from({ length: data.readInt32BE(at) }, (_, index) => data.readUInt32BE(at + 5 + 4 * index)));
  }

  /** K: the key's columns, the others null. O: the whole row. */
  #oldTuple(): SentTuple {
    this.#old.place(this.#data, this.#at + 1, this.#end, this.#data[this.#at] === 0x4b);
    return this.#old;
  }

  #u32(): number {
    const value = this.#data.readUInt32BE(this.#at);
    this.#at += 4;
    return value;
  }
}

function readRelation(data: Buffer, start: number): RelationMessage {
  const id = data.readUInt32BE(start);
  const schema = textAt(data, start + 4);
  const name = textAt(data, schema.next);
  const identity = String.fromCharCode(data[name.next] as number);
  const columns: RelationColumn[] = [];
  let at = name.next + 3;
  for (let left = data.readInt16BE(name.next + 1); left > 0; left--) {
    const key = (data[at] as number) & 1;
    const column = textAt(data, at + 1);
    columns.push({ name: column.text, type: data.readUInt32BE(column.next), modifier: data.readInt32BE(column.next + 4), key: key === 1 });
    at = column.next + 8;
  }
  // The server leaves the name of pg_catalog empty.
  return { id, schema: schema.text === '' ? 'pg_catalog' : schema.text, name: name.text, identity, columns };
}
