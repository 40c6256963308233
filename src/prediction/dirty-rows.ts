/** Rows that changed and were not moved since, with the time of the first such change. Adding, removing and walking cost the same for any number. */
export class DirtyRows {
  readonly #since: Float64Array;
  readonly #place: Int32Array;
  #rows: Int32Array = new Int32Array(64);
  #count = 0;

  /** @param rows how many rows there are; they are numbered from 0. */
  constructor(rows: number) {
    this.#since = new Float64Array(rows);
    this.#place = new Int32Array(rows).fill(-1);
  }

  get count(): number {
    return this.#count;
  }

  at(index: number): number {
    return this.#rows[index] as number;
  }

  has(row: number): boolean {
    return (this.#place[row] as number) >= 0;
  }

  /** When the oldest change of the row that was not moved came. */
  sinceMs(row: number): number {
    return this.#since[row] as number;
  }

  changed(row: number, atMs: number): void {
    if (this.has(row)) return;
    if (this.#count === this.#rows.length) {
      const grown = new Int32Array(this.#count * 2);
      grown.set(this.#rows);
      this.#rows = grown;
    }
    this.#since[row] = atMs;
    this.#place[row] = this.#count;
    this.#rows[this.#count++] = row;
  }

  moved(row: number): void {
    const place = this.#place[row] as number;
    if (place < 0) return;
    const last = this.#rows[--this.#count] as number;
    this.#rows[place] = last;
    this.#place[last] = place;
    this.#place[row] = -1;
  }

  clear(): void {
    for (let index = 0; index < this.#count; index++) this.#place[this.at(index)] = -1;
    this.#count = 0;
  }

  /** In no order that means anything. */
  list(): number[] {
    return Array.from(this.#rows.subarray(0, this.#count));
  }
}
