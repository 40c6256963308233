import { once } from 'node:events';
import type { Writable } from 'node:stream';

/** Where a command writes. A reader that went away (`| head`) ends the command quietly. */
export class Output {
  readonly #stream: Writable;
  readonly #closed = new AbortController();
  /** Whether a person watches. */
  readonly terminal: boolean;
  readonly columns: number;

  constructor(stream: Writable & { readonly isTTY?: boolean; readonly columns?: number }) {
    this.#stream = stream;
    this.terminal = stream.isTTY === true;
    this.columns = stream.columns ?? 100;
    stream.on('error', (error: NodeJS.ErrnoException) => {
      this.#closed.abort(error.code === 'EPIPE' || error.code === 'ERR_STREAM_DESTROYED' ? new ReaderGone() : error);
    });
  }

  /** Aborted with `ReaderGone` when nobody reads any more. */
  get closed(): AbortSignal {
    return this.#closed.signal;
  }

  /** Waits while the reader is behind. */
  async write(text: string): Promise<void> {
    this.#closed.signal.throwIfAborted();
    if (this.#stream.write(text)) return;
    try {
      await once(this.#stream, 'drain', { signal: this.#closed.signal });
    } catch (error) {
      this.#closed.signal.throwIfAborted();
      throw error;
    }
  }

  async line(text: string): Promise<void> {
    await this.write(`${text}\n`);
  }

  async json(value: unknown): Promise<void> {
    await this.write(`${JSON.stringify(value)}\n`);
  }

  /** Without waiting: for progress and log lines, which are few. */
  note(text: string): void {
    if (!this.#closed.signal.aborted) this.#stream.write(text);
  }

  /** Resolves when everything written has been handed on. */
  async flush(): Promise<void> {
    if (this.#closed.signal.aborted) return;
    await new Promise<void>((resolve) => {
      this.#stream.write('', () => resolve());
    });
  }
}

/** The reader of our output closed it. */
export class ReaderGone extends Error {
  override readonly name = 'ReaderGone';
}
