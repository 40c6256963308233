import type { Tuple } from './tuple.ts';

/** Rows, or keys, in order. An array is such a list. */
export interface Rows<Row extends Tuple = Tuple> extends Iterable<Row> {
  readonly length: number;
  slice(from: number, to: number): Rows<Row>;
}

/** Takes a row where it lies: the tuple's bytes are those of `bytes` from `start` to `end`. False: enough for now. */
export type TakeRow = (bytes: Buffer, start: number, end: number) => boolean | void;

const WORDS_PER_ROW = 3;
const ROWS_FIRST = 64;

/**
 * Rows that lie in larger buffers, by their places. An object for each row of a large fold would cost more than all that is done with
 * the row: a Buffer on a part of another takes 100 ns and 100 bytes that must be collected again (measured, Node 24).
 */
export class RowList<Row extends Tuple = Tuple> implements Rows<Row> {
  readonly #buffers: Buffer[] = [];
  /** Of each row: which buffer, start, end. */
  #places: Int32Array = new Int32Array(WORDS_PER_ROW * ROWS_FIRST);
  #length = 0;
  #bytes = 0;
  #last: Buffer | null = null;

  get length(): number {
    return this.#length;
  }

  /** Of all rows together. */
  get bytes(): number {
    return this.#bytes;
  }

  add(bytes: Buffer, start: number, end: number): void {
    if (bytes !== this.#last) {
      this.#last = bytes;
      this.#buffers.push(bytes);
    }
    const at = this.#length * WORDS_PER_ROW;
    if (at === this.#places.length) {
      const grown = new Int32Array(at * 2);
      grown.set(this.#places);
      this.#places = grown;
    }
    this.#places[at] = this.#buffers.length - 1;
    this.#places[at + 1] = start;
    this.#places[at + 2] = end;
    this.#length++;
    this.#bytes += end - start;
  }

  /** Shows the rows from `from` on, until one is enough. Returns where it stopped. */
  each(take: TakeRow, from = 0, to: number = this.#length): number {
    let row = from;
    while (row < to) {
      const at = row++ * WORDS_PER_ROW;
      const bytes = this.#buffers[this.#places[at] as number] as Buffer;
      if (take(bytes, this.#places[at + 1] as number, this.#places[at + 2] as number) === false) break;
    }
    return row;
  }

  slice(from: number, to: number): RowList<Row> {
    if (from === 0 && to >= this.#length) return this;
    const some = new RowList<Row>();
    this.each((bytes, start, end) => some.add(bytes, start, end), from, Math.min(to, this.#length));
    return some;
  }

  *[Symbol.iterator](): Iterator<Row> {
    for (let row = 0; row < this.#length; row++) {
      const at = row * WORDS_PER_ROW;
      const bytes = this.#buffers[this.#places[at] as number] as Buffer;
      yield bytes.subarray(this.#places[at + 1], this.#places[at + 2]) as Row;
    }
  }
}

/** Bytes of all rows together. */
export function bytesOfRows(rows: Rows): number {
  if (rows instanceof RowList) return rows.bytes;
  let bytes = 0;
  eachRow(rows, (_, start, end) => void (bytes += end - start));
  return bytes;
}

/** Shows the rows from `from` on where they lie, until one is enough. Returns where it stopped. */
export function eachRow(rows: Rows, take: TakeRow, from = 0): number {
  if (rows instanceof RowList) return rows.each(take, from);
  if (!Array.isArray(rows)) throw new TypeError('rows come as an array or a RowList');
  let at = from;
  while (at < rows.length) {
    const row = rows[at++] as Tuple;
    if (take(row, 0, row.length) === false) break;
  }
  return at;
}
