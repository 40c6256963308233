/**
 * Between a socket that pushes and a consumer that pulls: a buffer with a bound in bytes. Over the bound it has the source paused,
 * below half of it resumed; one chunk of the source may come on top.
 */
export class Flow<Item> {
  readonly #bytesMax: number;
  readonly #source: { pause(): void; resume(): void };
  #items: Item[] = [];
  #bytes = 0;
  #paused = false;
  #state: 'open' | 'ended' | 'discarded' = 'open';
  #error: unknown = null;
  #waiting: (() => void) | null = null;

  constructor(bytesMax: number, source: { pause(): void; resume(): void }) {
    this.#bytesMax = bytesMax;
    this.#source = source;
  }

  push(item: Item, bytes: number): void {
    if (this.#state !== 'open') return;
    this.#items.push(item);
    this.#bytes += bytes;
    if (!this.#paused && this.#bytes > this.#bytesMax) {
      this.#paused = true;
      this.#source.pause();
    }
    this.#wake();
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
    if (this.#paused) {
      this.#paused = false;
      this.#source.resume();
    }
    return this.#state === 'discarded' ? [] : items;
  }

  #wake(): void {
    this.#waiting?.();
    this.#waiting = null;
  }
}
