/** Rows that changed since the last capture, with when each last did. Bounded: where there are too many, every second is let go, again and again. */
export class LastChanges {
  readonly #kept: number;
  readonly #places = new Map<number, number>();
  #rows: number[] = [];
  #elements: number[] = [];
  #lastMs: number[] = [];
  /** Of so many rows one is kept; a power of two. */
  #every = 1;

  constructor(kept: number) {
    this.#kept = kept;
  }

  get count(): number {
    return this.#rows.length;
  }

  at(index: number): number {
    return this.#rows[index] as number;
  }

  changed(row: number, element: number, atMs: number): void {
    if ((spread(row) & (this.#every - 1)) !== 0) return;
    const place = this.#places.get(row);
    if (place !== undefined) {
      this.#lastMs[place] = atMs;
      return;
    }
    this.#add(row, element, atMs);
    while (this.#rows.length > this.#kept) {
      this.#every *= 2;
      this.#keep((index) => (spread(this.at(index)) & (this.#every - 1)) === 0);
    }
  }

  /** How many rows saw their last change in each slot before `dueMs`; slot 0 is the last. */
  profile(dueMs: number, slotMs: number, slots: number): Float64Array {
    const profile = new Float64Array(slots);
    for (const lastMs of this.#lastMs) {
      const slot = Math.floor((dueMs - lastMs) / slotMs);
      if (slot >= 0 && slot < slots) profile[slot] = (profile[slot] as number) + this.#every;
    }
    return profile;
  }

  byElement(): Map<number, number> {
    const found = new Map<number, number>();
    for (const element of this.#elements) found.set(element, (found.get(element) ?? 0) + this.#every);
    return found;
  }

  /** Forgets rows that did not change after this moment. */
  forget(atMs: number): void {
    this.#keep((index) => (this.#lastMs[index] as number) > atMs);
    if (this.#rows.length === 0) this.#every = 1;
  }

  #add(row: number, element: number, atMs: number): void {
    this.#places.set(row, this.#rows.length);
    this.#rows.push(row);
    this.#elements.push(element);
    this.#lastMs.push(atMs);
  }

  #keep(which: (index: number) => boolean): void {
    const [rows, elements, lastMs] = [this.#rows, this.#elements, this.#lastMs];
    const kept = rows.flatMap((_, index) => (which(index) ? [index] : []));
    this.#places.clear();
    [this.#rows, this.#elements, this.#lastMs] = [[], [], []];
    for (const index of kept) this.#add(rows[index] as number, elements[index] as number, lastMs[index] as number);
  }
}

/** Numbers that stand for identities need not be spread evenly in their last bits. */
function spread(row: number): number {
  const mixed = Math.imul(row ^ (row >>> 15), 0x2c1b3c6d);
  return (mixed ^ (mixed >>> 13)) >>> 0;
}
