import { message } from './messages.ts';

/**
 * COPY's binary format: an 11-byte signature, int32 flags, int32 length of an extension; then rows, which are tuples as
 * `model/tuple.ts` has them; then int16 -1 (https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format").
 */
const SIGNATURE = Buffer.from('PGCOPY\n\xff\r\n\0', 'latin1');
const COPY_HEADER = Buffer.concat([SIGNATURE, Buffer.alloc(8)]);
const COPY_TRAILER = Buffer.from([0xff, 0xff]);

/** What follows the header. Throws where there is none. */
export function withoutCopyHeader(bytes: Buffer): Buffer {
  if (bytes.length < 19 || !bytes.subarray(0, SIGNATURE.length).equals(SIGNATURE)) {
    throw new Error('the server did not answer in the binary COPY format');
  }
  return bytes.subarray(19 + bytes.readInt32BE(15));
}

/** Few writes of some size: below it, pieces are copied together. */
const FRAME_BYTES = 64 * 1024;

/** Columns of type bigint that every row gets at its end. */
export class RowEnd {
  readonly columns: number;
  readonly bytes: Buffer;

  constructor(...values: readonly (bigint | number)[]) {
    this.columns = values.length;
    this.bytes = Buffer.alloc(12 * values.length);
    for (const [index, value] of values.entries()) {
      this.bytes.writeInt32BE(8, 12 * index);
      this.bytes.writeBigInt64BE(BigInt(value), 12 * index + 4);
    }
  }
}

const NONE: readonly Buffer[] = [];

/** Packs pieces into CopyData messages. With `rows` it adds the binary format's header and trailer; `messages` are such already. */
export class CopyFrames {
  readonly #kind: 'raw' | 'rows' | 'messages';
  readonly #end: RowEnd | null;
  #frame: Buffer = Buffer.allocUnsafe(FRAME_BYTES);
  /** CopyData's type and length take the first five bytes. */
  #length = 5;

  constructor(kind: 'raw' | 'rows' | 'messages', end: RowEnd | null = null) {
    this.#kind = kind;
    this.#end = end;
    if (kind === 'rows') this.#length += COPY_HEADER.copy(this.#frame, 5);
  }

  /** Messages that are ready to be sent, often none. */
  add(piece: Buffer): readonly Buffer[] {
    if (this.#kind === 'messages') return [piece];
    return this.#end === null ? this.#addPiece(piece) : this.#addRow(piece, this.#end);
  }

  #addPiece(piece: Buffer): readonly Buffer[] {
    if (this.#length + piece.length <= FRAME_BYTES) {
      this.#length += piece.copy(this.#frame, this.#length);
      return NONE;
    }
    const ready = this.#take();
    if (piece.length > FRAME_BYTES / 2) {
      const head = Buffer.allocUnsafe(5);
      head[0] = 0x64;
      head.writeInt32BE(4 + piece.length, 1);
      return [...ready, head, piece];
    }
    this.#length += piece.copy(this.#frame, this.#length);
    return ready;
  }

  #addRow(row: Buffer, end: RowEnd): readonly Buffer[] {
    const bytes = row.length + end.bytes.length;
    const ready = this.#length + bytes > FRAME_BYTES ? this.#take() : NONE;
    if (this.#length + bytes > FRAME_BYTES) {
      const whole = Buffer.concat([row, end.bytes]);
      whole.writeInt16BE(row.readInt16BE(0) + end.columns, 0);
      return [...ready, ...this.#addPiece(whole)];
    }
    const frame = this.#frame;
    row.copy(frame, this.#length);
    frame.writeInt16BE(row.readInt16BE(0) + end.columns, this.#length);
    this.#length += row.length;
    this.#length += end.bytes.copy(frame, this.#length);
    return ready;
  }

  /** What is left, and CopyDone. */
  end(): readonly Buffer[] {
    const trailer = this.#kind === 'rows' ? this.#addPiece(COPY_TRAILER) : [];
    return [...trailer, ...this.#take(), message('c')];
  }

  #take(): Buffer[] {
    if (this.#length === 5) return [];
    const frame = this.#frame.subarray(0, this.#length);
    frame[0] = 0x64; // d: CopyData
    frame.writeInt32BE(this.#length - 1, 1);
    this.#frame = Buffer.allocUnsafe(FRAME_BYTES);
    this.#length = 5;
    return [frame];
  }
}
