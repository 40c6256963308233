import type { Socket } from 'node:net';

/** This much within `WINDOW_MS` is much: reading on at once would get it in morsels. */
const MUCH_BYTES = 64 << 10;
const WINDOW_MS = 10;
/** A turn of the event loop that read less than this has left nothing behind. */
const DRAINED_BYTES = 32 << 10;

/** How long a stream of changes is left to gather. Over a local socket, whose buffers are small, that would let the server wait too. */
export function gulpMsOf(socket: Socket): number {
  return socket.remoteAddress === undefined ? 0 : 30;
}

/**
 * Between a socket that pushes and a consumer that pulls: a buffer with a bound in bytes. Over the bound it has the source paused,
 * below half of it resumed; one chunk of the source may come on top.
 *
 * With `gulpMs` it reads in gulps while much comes: the source rests for so long whenever it has been read empty. A sender that sends
 * each change by itself (a walsender) then finds its way blocked and sends many at once, which costs both sides a fraction of the CPU
 * (measured on loopback: 1 KB a read without, 0.9 CPU seconds per million changes for reading alone; with it 0.35).
 */
export class Flow<Item> {
  readonly #bytesMax: number;
  readonly #source: { pause(): void; resume(): void };
  readonly #gulpMs: number;
  #items: Item[] = [];
  #bytes = 0;
  #full = false;
  #resting: NodeJS.Timeout | null = null;
  #state: 'open' | 'ended' | 'discarded' = 'open';
  #error: unknown = null;
  #waiting: (() => void) | null = null;
  /** Read in this turn of the event loop, and since the window began. */
  #turnBytes = 0;
  #windowBytes = 0;
  #windowMs = 0;

  constructor(bytesMax: number, source: { pause(): void; resume(): void }, gulpMs = 0) {
    this.#bytesMax = bytesMax;
    this.#source = source;
    this.#gulpMs = gulpMs;
  }

  push(item: Item, bytes: number): void {
    if (this.#state !== 'open') return;
    this.#items.push(item);
    this.#bytes += bytes;
    if (!this.#full && this.#bytes > this.#bytesMax) {
      this.#full = true;
      this.#source.pause();
    }
    if (this.#gulpMs === 0) this.#wake();
    else {
      if (this.#turnBytes === 0) setImmediate(() => this.#turned());
      this.#turnBytes += bytes;
    }
  }

  /** No more will come. With an error, `take` throws it after what was buffered. */
  end(error: unknown): void {
    if (this.#state !== 'open') return;
    this.#state = 'ended';
    this.#error = error;
    this.#wake();
  }

  /** What is buffered and still comes is dropped; `take` throws `error` at once. */
  discard(error: unknown): void {
    this.#state = 'discarded';
    this.#error = error;
    this.#release();
    this.#wake();
  }

  /** Everything buffered, waiting for the first item; null at the end. */
  async take(): Promise<readonly Item[] | null> {
    while (this.#items.length === 0) {
      if (this.#state !== 'open') {
        if (this.#error !== null) throw this.#error;
        return null;
      }
      await new Promise<void>((resolve) => {
        this.#waiting = resolve;
      });
    }
    return this.#release();
  }

  #release(): Item[] {
    const items = this.#items;
    this.#items = [];
    this.#bytes = 0;
    if (this.#full) {
      this.#full = false;
      if (this.#resting === null) this.#source.resume();
    }
    return this.#state === 'discarded' ? [] : items;
  }

  /** Everything that was there to be read in this turn of the event loop is in. */
  #turned(): void {
    const now = performance.now();
    if (now - this.#windowMs > WINDOW_MS) {
      this.#windowMs = now;
      this.#windowBytes = 0;
    }
    this.#windowBytes += this.#turnBytes;
    const drained = this.#turnBytes < DRAINED_BYTES;
    this.#turnBytes = 0;
    if (drained && this.#windowBytes >= MUCH_BYTES && this.#resting === null && this.#state === 'open') {
      this.#source.pause();
      this.#resting = setTimeout(() => this.#rested(), this.#gulpMs);
    }
    this.#wake();
  }

  #rested(): void {
    this.#resting = null;
    this.#windowMs = performance.now();
    this.#windowBytes = 0;
    if (!this.#full) this.#source.resume();
  }

  #wake(): void {
    this.#waiting?.();
    this.#waiting = null;
  }
}
