import { eachRow, type Rows, type TakeRow } from '../../model/rows.ts';
import { ABSENT, NULL } from '../../model/tuple.ts';
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

/**
 * What is copied: a stream's bytes as they come; rows, to which the binary format's header and trailer are added; rows whose absent
 * columns become NULL; CopyData messages.
 */
export type CopyKind = 'raw' | 'rows' | 'patches' | 'messages';

/** Packs what is copied into CopyData messages. */
export class CopyFrames {
  readonly #kind: CopyKind;
  readonly #end: RowEnd | null;
  #frame: Buffer = Buffer.allocUnsafe(FRAME_BYTES);
  /** CopyData's type and length take the first five bytes. */
  #length = 5;
  #ready: Buffer[] = [];

  constructor(kind: CopyKind, end: RowEnd | null = null) {
    this.#kind = kind;
    this.#end = end;
    if (this.#isBinary) this.#length += COPY_HEADER.copy(this.#frame, 5);
  }

  get #isBinary(): boolean {
    return this.#kind === 'rows' || this.#kind === 'patches';
  }

  /** Adds the bytes from `start` to `end`: of rows a whole one. False: there are messages to be sent. */
  add(bytes: Buffer, start: number, end: number): boolean {
    if (this.#kind === 'messages') this.#ready.push(bytes);
    else if (this.#kind === 'raw') this.#addPiece(bytes, start, end);
    else this.#addRow(bytes, start, end);
    return this.#ready.length === 0;
  }

  /** Messages that are ready to be sent. */
  take(): readonly Buffer[] {
    const ready = this.#ready;
    this.#ready = [];
    return ready;
  }

  /** What is left, and CopyDone. */
  end(): readonly Buffer[] {
    if (this.#isBinary) this.#addPiece(COPY_TRAILER, 0, COPY_TRAILER.length);
    this.#close();
    return [...this.take(), message('c')];
  }

  #addPiece(bytes: Buffer, start: number, end: number): void {
    const length = end - start;
    if (this.#length + length > FRAME_BYTES) this.#close();
    if (length > FRAME_BYTES / 2) {
      const head = Buffer.allocUnsafe(5);
      head[0] = 0x64;
      head.writeInt32BE(4 + length, 1);
      this.#close();
      this.#ready.push(head, bytes.subarray(start, end));
    } else this.#length += bytes.copy(this.#frame, this.#length, start, end);
  }

  #addRow(bytes: Buffer, start: number, end: number): void {
    const more = this.#end;
    const length = end - start + (more?.bytes.length ?? 0);
    if (this.#length + length > FRAME_BYTES) this.#close();
    if (this.#length + length > FRAME_BYTES) {
      const whole = Buffer.allocUnsafe(length);
      this.#putRow(whole, 0, bytes, start, end);
      this.#addPiece(whole, 0, length);
    } else this.#length = this.#putRow(this.#frame, this.#length, bytes, start, end);
  }

  /** Writes a row at `at`, returns where it ends. */
  #putRow(frame: Buffer, at: number, bytes: Buffer, start: number, end: number): number {
    let to = at + bytes.copy(frame, at, start, end);
    if (this.#kind === 'patches') fillNulls(frame, at, to);
    const more = this.#end;
    if (more !== null) {
      frame.writeInt16BE(frame.readInt16BE(at) + more.columns, at);
      for (let i = 0; i < more.bytes.length; i++) frame[to++] = more.bytes[i] as number;
    }
    return to;
  }

  #close(): void {
    if (this.#length === 5) return;
    const frame = this.#frame.subarray(0, this.#length);
    frame[0] = 0x64; // d: CopyData
    frame.writeInt32BE(this.#length - 1, 1);
    this.#ready.push(frame);
    this.#frame = Buffer.allocUnsafe(FRAME_BYTES);
    this.#length = 5;
  }
}

function fillNulls(row: Buffer, start: number, end: number): void {
  for (let cell = start + 2; cell < end; ) {
    const length = row.readInt32BE(cell);
    if (length === ABSENT) row.writeInt32BE(NULL, cell);
    cell += 4 + Math.max(length, 0);
  }
}

/** Puts rows into frames, and stops whenever some are full: without a promise, or an object, for each row. */
export function* framed(rows: Rows, frames: CopyFrames): Generator<void> {
  const add: TakeRow = (bytes, start, end) => frames.add(bytes, start, end);
  for (let at = 0; at < rows.length; ) {
    at = eachRow(rows, add, at);
    yield;
  }
}

export async function* framedPieces(pieces: Iterable<Buffer> | AsyncIterable<Buffer>, frames: CopyFrames): AsyncGenerator<void> {
  for await (const piece of pieces) {
    frames.add(piece, 0, piece.length);
    yield;
  }
}
