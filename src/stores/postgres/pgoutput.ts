import type { Tuple } from '../../model/tuple.ts';
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

/** Receives the messages of one stream. Tuples are views on a buffer that the next message overwrites. */
export interface PgoutputVisitor {
  /** `commitLsn` is where the commit record begins. */
  begin(commitLsn: bigint, committedAtMicros: bigint, xid: number): void;
  commit(commitLsn: bigint, endLsn: bigint): void;
  relation(relation: RelationMessage): void;
  insert(relation: number, row: Tuple): void;
  /** `old` has all columns; those outside the key are absent unless the identity is the full row. Null: the key did not change. */
  update(relation: number, old: { row: Tuple; full: boolean } | null, row: Tuple): void;
  delete(relation: number, old: { row: Tuple; full: boolean }): void;
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
const WRITTEN_BY = 'RYIUDTM';

const ABSENT = -2;
const NULL = -1;

export class PgoutputReader {
  readonly #visitor: PgoutputVisitor;
  /** Tuples are built here; the second one holds the old row of an update. */
  readonly #rows: Buffer[] = [Buffer.allocUnsafe(8192), Buffer.allocUnsafe(8192)];
  #at = 0;
  /** Between Stream Start and Stream Stop each message says who wrote it. */
  #inStream = false;

  constructor(visitor: PgoutputVisitor) {
    this.#visitor = visitor;
  }

  /** One message: the data of an XLogData. Throws on a kind it does not know: nothing may be skipped unknowingly. */
  read(data: Buffer): void {
    const kind = String.fromCharCode(data[0] as number);
    this.#at = 1;
    if (this.#inStream && WRITTEN_BY.includes(kind)) {
      this.#visitor.writtenBy(data.readUInt32BE(1));
      this.#at = 5;
    }
    switch (kind) {
      case 'B':
        this.#visitor.begin(data.readBigUInt64BE(1), data.readBigInt64BE(9) + EPOCH_MICROS, data.readUInt32BE(17));
        return;
      case 'C':
        this.#visitor.commit(data.readBigUInt64BE(2), data.readBigUInt64BE(10));
        return;
      case 'R':
        this.#visitor.relation(readRelation(data, this.#at));
        return;
      case 'I': {
        const relation = this.#relation(data);
        this.#at++; // N
        this.#visitor.insert(relation, this.#tuple(data, 0, false));
        return;
      }
      case 'U':
        this.#update(data);
        return;
      case 'D': {
        const relation = this.#relation(data);
        this.#visitor.delete(relation, this.#old(data));
        return;
      }
      case 'T':
        this.#truncate(data);
        return;
      case 'S':
        this.#inStream = true;
        this.#visitor.streamStart(data.readUInt32BE(1));
        return;
      case 'E':
        this.#inStream = false;
        this.#visitor.streamStop();
        return;
      case 'c': {
        const committedAtMicros = data.readBigInt64BE(22) + EPOCH_MICROS;
        this.#visitor.streamCommit(data.readUInt32BE(1), data.readBigUInt64BE(6), data.readBigUInt64BE(14), committedAtMicros);
        return;
      }
      case 'A':
        this.#visitor.streamAbort(data.readUInt32BE(1), data.readUInt32BE(5));
        return;
      case 'M': // a logical message: ours only move the log on, others are not for us
      case 'O': // origin: where the transaction was first committed
      case 'Y': // a type's name: columns are told apart by OID
        return;
      default:
        throw new Error(`pgoutput sent a message of unknown kind "${kind}"`);
    }
  }

  #update(data: Buffer): void {
    const relation = this.#relation(data);
    const marker = data[this.#at];
    let old: { row: Tuple; full: boolean } | null = null;
    if (marker === 0x4b || marker === 0x4f) old = this.#old(data);
    this.#at++; // N
    this.#visitor.update(relation, old, this.#tuple(data, 0, false));
  }

  #truncate(data: Buffer): void {
    const relations = Array.from({ length: data.readInt32BE(this.#at) }, (_, index) => data.readUInt32BE(this.#at + 5 + 4 * index));
    this.#visitor.truncate(relations);
  }

  #relation(data: Buffer): number {
    const relation = data.readUInt32BE(this.#at);
    this.#at += 4;
    return relation;
  }

  /** K: the key's columns, the others null. O: the whole row. */
  #old(data: Buffer): { row: Tuple; full: boolean } {
    const full = data[this.#at++] === 0x4f;
    return { row: this.#tuple(data, 1, !full), full };
  }

  /** Repacks a tuple into ours. In a key tuple a null stands for a column that was not sent: a key has no nulls. */
  #tuple(data: Buffer, slot: 0 | 1, keyOnly: boolean): Tuple {
    const columns = data.readInt16BE(this.#at);
    let row = this.#rows[slot] as Buffer;
    // Their kind byte goes, but a null takes four bytes instead of one.
    const bytesMax = 4 * columns + (data.length - this.#at);
    if (row.length < bytesMax) {
      row = Buffer.allocUnsafe(bytesMax * 2);
      this.#rows[slot] = row;
    }
    let from = this.#at + 2;
    let to = row.writeInt16BE(columns, 0);
    for (let column = 0; column < columns; column++) {
      const kind = data[from++];
      // b, or t where the type has no binary form: then the text is what is mirrored.
      if (kind === 0x62 || kind === 0x74) {
        const bytes = 4 + data.readInt32BE(from);
        data.copy(row, to, from, from + bytes);
        from += bytes;
        to += bytes;
      } else if (kind === 0x6e) to = row.writeInt32BE(keyOnly ? ABSENT : NULL, to);
      else if (kind === 0x75) to = row.writeInt32BE(ABSENT, to);
      else throw new Error(`pgoutput sent a value of unknown kind ${kind}`);
    }
    this.#at = from;
    return row.subarray(0, to) as Tuple;
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
