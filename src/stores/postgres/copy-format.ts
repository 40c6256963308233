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

/** Packs pieces into CopyData messages. With `rows` it adds the binary format's header and trailer; `messages` are such already. */
export class CopyFrames {
  readonly #kind: 'raw' | 'rows' | 'messages';
  #frame: Buffer = Buffer.allocUnsafe(FRAME_BYTES);
  /** CopyData's type and length take the first five bytes. */
  #length = 5;

  constructor(kind: 'raw' | 'rows' | 'messages') {
    this.#kind = kind;
    if (kind === 'rows') this.#length += COPY_HEADER.copy(this.#frame, 5);
  }

  /** Messages that are ready to be sent, often none. */
  add(piece: Buffer): readonly Buffer[] {
    if (this.#kind === 'messages') return [piece];
    if (this.#length + piece.length <= FRAME_BYTES) {
      this.#length += piece.copy(this.#frame, this.#length);
      return [];
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

  /** What is left, and CopyDone. */
  end(): readonly Buffer[] {
    const trailer = this.#kind === 'rows' ? this.add(COPY_TRAILER) : [];
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
