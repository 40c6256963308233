const BYTES = 1 << 16;
/** Of an arena that grows: there may be thousands of them, with little in each. */
const GROWING_BYTES_FIRST = 1 << 10;
const GROWING_BYTES_MAX = 1 << 18;

/** Copies of bytes that are to stay, one after another in buffers that nothing else lies in. Nothing of it is given back but all of it. */
export class Arena {
  readonly #grows: boolean;
  /** The one that is being filled. */
  buffer: Buffer = Buffer.alloc(0);
  /** Its number with whoever counts it among others; -1: it was given none yet. */
  number = -1;
  /** How far it is filled: from here on anybody may write, and keep what he wrote by moving this. */
  length = 0;
  /** Of all its buffers. */
  bytes = 0;

  constructor(grows: boolean) {
    this.#grows = grows;
  }

  /** Makes room for so much in one buffer. */
  room(size: number): void {
    if (this.length + size <= this.buffer.length) return;
    const usual = this.#grows ? Math.min(Math.max(GROWING_BYTES_FIRST, this.buffer.length * 2), GROWING_BYTES_MAX) : BYTES;
    this.buffer = Buffer.allocUnsafeSlow(Math.max(usual, size));
    this.bytes += this.buffer.length;
    this.length = 0;
    this.number = -1;
  }

  /** Returns where the copy begins in the buffer. */
  keep(bytes: Buffer, start: number, end: number): number {
    this.room(end - start);
    const from = this.length;
    this.length += bytes.copy(this.buffer, from, start, end);
    return from;
  }
}
