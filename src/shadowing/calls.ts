import type { TableName } from '../model/schema.ts';
import type { HeldView } from './held-rows.ts';

/** What came of rows that were called for: those that were written since, and their bytes. */
export interface Moved {
  readonly rows: number;
  readonly bytes: number;
}

interface Call {
  waiting: number;
  rows: number;
  bytes: number;
  readonly resolve: (moved: Moved) => void;
  readonly reject: (reason: unknown) => void;
}

/** Rows that are called for, in the order of the calls, and who waits for them. */
export class Calls {
  readonly #held: HeldView;
  readonly #calls = new Map<number, Call[]>();
  /** What has left since it was called for stands there still, and is passed over. */
  #queue: number[] = [];
  /** Whose turn it is. */
  readonly #called = new Map<TableName, Set<number>>();

  constructor(held: HeldView) {
    this.#held = held;
  }

  add(rows: readonly number[], signal: AbortSignal): Promise<Moved> {
    const waiting = Array.from(new Set(rows)).filter((row) => this.#held.has(row));
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason as Error);
      if (waiting.length === 0) return resolve({ rows: 0, bytes: 0 });
      const abort = (): void => {
        for (const row of waiting) this.#without(row, call);
        call.reject(signal.reason);
      };
      signal.addEventListener('abort', abort, { once: true });
      const through = <Told>(tell: (told: Told) => void): ((told: Told) => void) => {
        return (told) => {
          signal.removeEventListener('abort', abort);
          tell(told);
        };
      };
      const call: Call = { waiting: waiting.length, rows: 0, bytes: 0, resolve: through(resolve), reject: through(reject) };
      for (const row of waiting) {
        this.#calls.set(row, [...(this.#calls.get(row) ?? []), call]);
        this.#queue.push(row);
      }
    });
  }

  get isEmpty(): boolean {
    return this.#calls.size === 0;
  }

  /** It is the turn of so many more, whatever became of those before: one table that cannot move must not keep others. */
  next(rowsMax: number, bytesMax: number): void {
    let rows = 0;
    let bytes = 0;
    let taken = 0;
    while (taken < this.#queue.length && rows < rowsMax && bytes < bytesMax) {
      const row = this.#queue[taken++] as number;
      if (!this.#calls.has(row)) continue;
      const table = this.#held.table(row);
      const called = this.#called.get(table) ?? new Set();
      this.#called.set(table, called.add(row));
      rows++;
      bytes += this.#held.bytes(row);
    }
    if (taken > 0) this.#queue = this.#queue.slice(taken);
  }

  of(table: TableName): Iterable<number> {
    return this.#called.get(table) ?? [];
  }

  /** To be told before the row's number is free. */
  left(row: number, written: boolean): void {
    const calls = this.#calls.get(row);
    if (calls === undefined) return;
    this.#forget(row);
    for (const call of calls) {
      if (written) {
        call.rows++;
        call.bytes += this.#held.bytes(row);
      }
      if (--call.waiting === 0) call.resolve({ rows: call.rows, bytes: call.bytes });
    }
  }

  /** The table cannot move at the moment: nobody waits for rows of it any more. They may be called for again. */
  excuse(table: TableName): void {
    for (const row of Array.from(this.of(table))) this.left(row, false);
  }

  /** Nothing moves any more. */
  end(reason: unknown): void {
    const calls = new Set(Array.from(this.#calls.values()).flat());
    this.#calls.clear();
    this.#called.clear();
    this.#queue = [];
    for (const call of calls) call.reject(reason);
  }

  #without(row: number, call: Call): void {
    const others = this.#calls.get(row)?.filter((each) => each !== call) ?? [];
    if (others.length > 0) this.#calls.set(row, others);
    else this.#forget(row);
  }

  #forget(row: number): void {
    this.#calls.delete(row);
    if (this.#held.has(row)) this.#called.get(this.#held.table(row))?.delete(row);
  }
}
