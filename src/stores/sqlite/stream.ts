import type { PrimaryItem } from '../../tracking/primary.ts';

/**
 * Hands items from those who poll (the follower, and snapshots) to the one who reads `changes`. Bounded: `push` waits while what
 * is queued holds more than `bytesMax`.
 */
export class BatchStream {
  readonly #bytesMax: number;
  readonly #queue: PrimaryItem[] = [];
  #bytes = 0;
  #ended: { error: unknown } | null = null;
  #changed = Promise.withResolvers<void>();

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  get ended(): boolean {
    return this.#ended !== null;
  }

  /** Throws if the reader has gone. */
  async push(item: PrimaryItem): Promise<void> {
    while (this.#bytes > this.#bytesMax && this.#ended === null) await this.#changed.promise;
    if (this.#ended !== null) throw new DOMException('the stream of changes has ended', 'AbortError');
    this.#queue.push(item);
    this.#bytes += bytesOf(item);
    this.#signal();
  }

  /** The next item; null once the stream was ended without an error, else that error is thrown. */
  async next(): Promise<PrimaryItem | null> {
    for (;;) {
      if (this.#ended !== null) {
        if (this.#ended.error !== null) throw this.#ended.error;
        return null;
      }
      const item = this.#queue.shift();
      if (item !== undefined) {
        this.#bytes -= bytesOf(item);
        this.#signal();
        return item;
      }
      await this.#changed.promise;
    }
  }

  /** Ends both sides at once; what is still queued is dropped. */
  end(error: unknown): void {
    this.#ended ??= { error };
    this.#signal();
  }

  #signal(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers<void>();
  }
}

export function bytesOf(item: PrimaryItem): number {
  const blocks = item.kind === 'batch' ? item.batch.blocks : item.kind === 'piece' ? item.piece.blocks : [];
  return blocks.reduce((sum, block) => sum + block.bytes.length, 256);
}
