import type { TableName } from '../model/schema.ts';

/** What is told of the rows that are held back. Rows are whole numbers from 0 on; the number of one that has moved is given to another. */
export type HeldView = Pick<HeldRows, 'count' | 'at' | 'list' | 'has' | 'sinceMs' | 'lastMs' | 'identity' | 'table' | 'bytes'>;

/** A row's first change since it was last in the shadow. */
export interface FirstChange {
  readonly table: TableName;
  /** Stands for the row's identity in what is learned of it: two rows may share one. Below 2^31. */
  readonly identity: number;
  /** Where its commit ended. */
  readonly end: bigint;
  readonly atMs: number;
}

const NONE = -1;
const ROWS_FIRST = 64;

/** What a row occupies in the columns. */
export const HELD_ROW_BYTES = 68;

/** The rows of one element in the order of their first changes. */
export class HeldOrder {
  first = NONE;
  last = NONE;
  count = 0;
}

/**
 * The rows of all elements that changed and are held back, in columns: nothing is made for a row. Entering, leaving and walking cost the
 * same for any number.
 */
export class HeldRows {
  #since = new Float64Array(ROWS_FIRST);
  #newest = new Float64Array(ROWS_FIRST);
  #end = new BigUint64Array(ROWS_FIRST);
  #identity = new Int32Array(ROWS_FIRST);
  #table = new Int32Array(ROWS_FIRST);
  #bytes = new Int32Array(ROWS_FIRST);
  #changes = new Int32Array(ROWS_FIRST);
  /** Its entry in the fold of its element. */
  #entry = new Int32Array(ROWS_FIRST);
  /** Among the rows of its element. */
  #before = new Int32Array(ROWS_FIRST);
  #after = new Int32Array(ROWS_FIRST);
  /** Where it stands in the list; NONE: the number is free. */
  #place = new Int32Array(ROWS_FIRST).fill(NONE);
  /** All rows that are held, in no order that means anything. */
  #rows = new Int32Array(ROWS_FIRST);
  #count = 0;
  #free: number[] = [];
  #numbers = 0;
  readonly #tables: TableName[] = [];
  readonly #tableNumbers = new Map<TableName, number>();

  get count(): number {
    return this.#count;
  }

  at(index: number): number {
    return this.#rows[index] as number;
  }

  /** In no order that means anything. */
  list(): number[] {
    return Array.from(this.#rows.subarray(0, this.#count));
  }

  has(row: number): boolean {
    return (this.#place[row] ?? NONE) !== NONE;
  }

  /** When the oldest of its changes that are not in the shadow reached the journal, by the steady clock: `steadyMs`. */
  sinceMs(row: number): number {
    return this.#since[row] as number;
  }

  /** When its newest change did. */
  lastMs(row: number): number {
    return this.#newest[row] as number;
  }

  identity(row: number): number {
    return this.#identity[row] as number;
  }

  table(row: number): TableName {
    return this.#tables[this.#table[row] as number] as TableName;
  }

  /** Of the image to be written, or of the key to be deleted. */
  bytes(row: number): number {
    return this.#bytes[row] as number;
  }

  /** Where the commit of its oldest change that is not in the shadow ended. */
  end(row: number): bigint {
    return this.#end[row] as bigint;
  }

  changes(row: number): number {
    return this.#changes[row] as number;
  }

  entry(row: number): number {
    return this.#entry[row] as number;
  }

  /** The next in the order of first changes; -1: there is none. */
  after(row: number): number {
    return this.#after[row] as number;
  }

  /** The row comes last in the order of its element. Returns its number. */
  enter(order: HeldOrder, first: FirstChange, entry: number): number {
    const row = this.#free.pop() ?? this.#numbers++;
    if (row === this.#since.length) this.#grow();
    this.#since[row] = first.atMs;
    this.#end[row] = first.end;
    this.#identity[row] = first.identity;
    this.#table[row] = this.#numberOf(first.table);
    this.#changes[row] = 0;
    this.#entry[row] = entry;
    this.#before[row] = order.last;
    this.#after[row] = NONE;
    if (order.last === NONE) order.first = row;
    else this.#after[order.last] = row;
    order.last = row;
    order.count++;
    this.#place[row] = this.#count;
    this.#rows[this.#count++] = row;
    return row;
  }

  changed(row: number, atMs: number, bytes: number): void {
    this.#newest[row] = atMs;
    this.#bytes[row] = bytes;
    this.#changes[row] = this.changes(row) + 1;
  }

  /** The fold of its element has it elsewhere. */
  setEntry(row: number, entry: number): void {
    this.#entry[row] = entry;
  }

  leave(order: HeldOrder, row: number): void {
    const before = this.#before[row] as number;
    const after = this.#after[row] as number;
    if (before === NONE) order.first = after;
    else this.#after[before] = after;
    if (after === NONE) order.last = before;
    else this.#before[after] = before;
    order.count--;
    const place = this.#place[row] as number;
    const last = this.#rows[--this.#count] as number;
    this.#rows[place] = last;
    this.#place[last] = place;
    this.#place[row] = NONE;
    this.#free.push(row);
  }

  #numberOf(table: TableName): number {
    let number = this.#tableNumbers.get(table);
    if (number === undefined) {
      number = this.#tables.push(table) - 1;
      this.#tableNumbers.set(table, number);
    }
    return number;
  }

  #grow(): void {
    this.#since = grown(this.#since, Float64Array);
    this.#newest = grown(this.#newest, Float64Array);
    this.#end = grown(this.#end, BigUint64Array);
    this.#identity = grown(this.#identity, Int32Array);
    this.#table = grown(this.#table, Int32Array);
    this.#bytes = grown(this.#bytes, Int32Array);
    this.#changes = grown(this.#changes, Int32Array);
    this.#entry = grown(this.#entry, Int32Array);
    this.#before = grown(this.#before, Int32Array);
    this.#after = grown(this.#after, Int32Array);
    this.#place = grown(this.#place, Int32Array);
    this.#rows = grown(this.#rows, Int32Array);
  }
}

/** Milliseconds by a clock that never steps, from about the same beginning as `Date.now`. */
export function steadyMs(): number {
  return performance.timeOrigin + performance.now();
}

function grown<Column extends Float64Array | BigUint64Array | Int32Array>(column: Column, kind: new (length: number) => Column): Column {
  const larger = new kind(column.length * 2);
  larger.set(column as never);
  return larger;
}
