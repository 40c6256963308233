import { scanBlock } from '../journal/frame.ts';
import type { ChangeBlock, TransactionRef } from '../model/change.ts';
import { type Position, commitEndOf, maxPosition, position } from '../model/position.ts';
import type { Element, Progress } from '../model/progress.ts';
import type { TableName, TableSchema } from '../model/schema.ts';
import { ENTRY_BYTES, Entries, type Settled } from './entries.ts';
import { HELD_ROW_BYTES, HeldOrder, type HeldRows } from './held-rows.ts';
import { type Folded, type Keeper, Pending } from './pending.ts';

/** What a fold is told by while it is extended. */
export interface Extent {
  readonly upTo: Position;
  /** Changes folded in at once. */
  readonly changesMax: number;
  /** Whether there is room for more, among all folds that are kept. */
  readonly hasRoom: () => boolean;
  /** When a transaction reached the journal, by the steady clock. */
  readonly arrivedMs: (ref: TransactionRef) => number;
}

/** Who hears of the rows. */
export interface RowListener {
  readonly changed: (table: TableName, identity: number, atMs: number) => void;
  /** Told before its number is free. */
  readonly left: (row: number, written: boolean) => void;
}

/** Rows that go at once: the fold is told when they are in the shadow, and where the element stands then. */
export interface Going {
  readonly folded: Folded;
  readonly rows: readonly number[];
}

/** What superseded rows may occupy before the others are put together anew. */
const WASTE_BYTES = 1 << 16;
const WASTED_PLACES = 1024;

/**
 * The fold of a live element that is kept from turn to turn: what the journal holds of it beyond `low` and the shadow does not. It is
 * extended as changes come, and single rows leave it, in any order, as they are written: `low` then lies before the oldest change that
 * is left, and `high` where the fold ended. What an entry says of the time before it is what the shadow has, since all that was written is
 * out of it: so it knows which keys are free, and no row is written twice.
 *
 * Rows may go one by one because nothing that one of them says depends on another: where it does (a row that came from another key with
 * columns absent, a truncate) everything goes. Deletes go with whatever goes first: the store may hold equal the key that is deleted and
 * one that was put later (1.0 and 1.00), and must not meet them the other way round.
 */
export class HeldFold implements Keeper {
  readonly #schema: TableSchema;
  readonly #rows: HeldRows;
  readonly #listener: RowListener;
  readonly #order = new HeldOrder();
  #entries: Entries;
  /** The row of an entry, and one more; 0: it has none. */
  #rowOf = new Int32Array(64);
  readonly #deletes = new Set<number>();
  /** Where `low` must not lie: see `#bind`. In their order, and apart. */
  #bound: { readonly from: bigint; readonly to: bigint }[] = [];
  /** Where the element stands with all that left the fold. */
  #progress: Progress;
  #through: Position;
  #truncated = false;
  #changes = 0;
  /** Of the rows that are in it. */
  #imageBytes = 0;
  /** The transaction that is being folded in. */
  #end = 0n;
  #atMs = 0;
  #arrivedMs: Extent['arrivedMs'] = () => 0;

  constructor({ schema, progress }: Element, rows: HeldRows, listener: RowListener) {
    this.#schema = schema;
    this.#rows = rows;
    this.#listener = listener;
    this.#entries = new Entries(schema.key, true);
    this.#progress = progress;
    this.#through = progress.low;
  }

  get entries(): Entries {
    return this.#entries;
  }

  /** Everything up to here was folded in. */
  get through(): Position {
    return this.#through;
  }

  get count(): number {
    return this.#order.count;
  }

  get changes(): number {
    return this.#changes;
  }

  /** The row with the oldest change; -1: there is none. */
  get oldest(): number {
    return this.#order.first;
  }

  get bytes(): number {
    return this.#entries.ownBytes + ENTRY_BYTES * this.#entries.places + HELD_ROW_BYTES * this.count;
  }

  /** Whether nothing may go without the rest. */
  get isWhole(): boolean {
    return this.#truncated || !this.#entries.isPlain;
  }

  /** Whether it goes on from where an element stands. A truncate that was not written leaves nothing to go on from. */
  fits({ schema, progress }: Element): boolean {
    const { generation, low, high } = this.#progress;
    const stands = progress.generation === generation && progress.low === low && progress.high === high;
    return stands && schema === this.#schema && !this.#truncated;
  }

  /** False: there is a transaction larger than what may be folded at once, and the fold is of no use any more. So it is where this throws. */
  async extend(blocks: AsyncIterable<ChangeBlock>, { upTo, changesMax, hasRoom, arrivedMs }: Extent): Promise<boolean> {
    const after = this.#through;
    this.#arrivedMs = arrivedMs;
    const pending = new Pending(this.#schema, after, { changes: changesMax, bytes: Number.POSITIVE_INFINITY }, { keeper: this });
    let ended = true;
    for await (const block of blocks) {
      const isFull = pending.changes > 0 && (pending.isOverLimit || !hasRoom());
      if (isFull && block.first === pending.through) return false;
      if (!isFull) scanBlock(block, after, upTo, pending);
      ended = !isFull && !pending.full;
      if (!ended) break;
    }
    this.#through = ended ? upTo : pending.through;
    this.#truncated = pending.truncated;
    this.#compact();
    return true;
  }

  /** There is nothing to be read up to here. */
  reached(at: Position): void {
    this.#through = maxPosition(this.#through, at);
  }

  /** These rows, or some of all in the order of their first changes; and those that cannot stay without them. */
  going(some: readonly number[] | { readonly rowsMax: number }): Going {
    const limit = 'rowsMax' in some ? (this.isWhole ? this.count : some.rowsMax) : 0;
    const set = new Set('rowsMax' in some ? this.#first(limit) : this.isWhole ? this.#first(this.count) : some);
    for (const row of this.#deletes) set.add(row);
    let left = this.#order.first;
    while (set.has(left)) left = this.#rows.after(left);
    const rows = Array.from(set);
    return { folded: new GoingRows(this, this.#rows, rows, { truncated: this.#truncated, through: this.#lowBefore(left) }), rows };
  }

  /** These rows are in the shadow. */
  went({ rows }: Going, progress: Progress): void {
    for (const row of rows) this.#leave(row, true);
    this.#progress = progress;
    this.#truncated = false;
    this.#bound = this.#bound.filter(({ to }) => to > commitEndOf(progress.low));
    this.#compact();
  }

  /** All rows leave it: it is of no use any more. */
  release(): void {
    for (const row of this.#first(this.count)) this.#leave(row, false);
  }

  begins(ref: TransactionRef): void {
    this.#end = commitEndOf(ref.at);
    this.#atMs = this.#arrivedMs(ref);
  }

  changed(entry: number, older: number): void {
    const rows = this.#rows;
    let row = this.#at(entry);
    if (row === -1) {
      const first = { table: this.#schema.table, identity: this.#entries.numberOf(entry), end: this.#end, atMs: this.#atMs };
      row = rows.enter(this.#order, first, entry);
      this.#setRow(entry, row);
    } else this.#imageBytes -= rows.bytes(row);
    if (older !== entry) this.#bind(rows.end(this.#at(older)));
    const bytes = this.#entries.bytesOf(entry);
    rows.changed(row, this.#atMs, bytes);
    this.#imageBytes += bytes;
    this.#changes++;
    if (!this.#entries.isPut(entry)) this.#deletes.add(row);
    else if (this.#deletes.size > 0) this.#deletes.delete(row);
    this.#listener.changed(this.#schema.table, rows.identity(row), this.#atMs);
  }

  emptied(): void {
    for (const row of this.#first(this.count)) {
      this.#listener.left(row, false);
      this.#rows.leave(this.#order, row);
    }
    this.#rowOf.fill(0);
    this.#bound = [];
    this.#deletes.clear();
    this.#changes = 0;
    this.#imageBytes = 0;
  }

  #leave(row: number, written: boolean): void {
    this.#listener.left(row, written);
    const entry = this.#rows.entry(row);
    this.#imageBytes -= this.#rows.bytes(row);
    this.#changes -= this.#rows.changes(row);
    this.#entries.forget(entry);
    this.#rowOf[entry] = 0;
    this.#deletes.delete(row);
    this.#rows.leave(this.#order, row);
  }

  #first(count: number): number[] {
    const rows: number[] = [];
    for (let row = this.#order.first; row !== -1 && rows.length < count; row = this.#rows.after(row)) rows.push(row);
    return rows;
  }

  /** Where `low` lies while this row is the oldest. */
  #lowBefore(row: number): Position {
    if (row === -1) return this.#through;
    let end = this.#rows.end(row) - 1n;
    for (const { from, to } of this.#bound.toReversed()) if (end >= from && end < to) end = from - 1n;
    return maxPosition(this.#progress.low, position(end));
  }

  /**
   * The transaction makes an image that lacks columns whole with one that changed at `from`. A fold that began between the two could not
   * make it again, and the row it came from may have gone ahead.
   */
  #bind(from: bigint): void {
    const to = this.#end;
    const first = this.#bound.findIndex((each) => each.to >= from);
    const begins = this.#bound[first]?.from ?? from;
    if (first !== -1) this.#bound.length = first;
    this.#bound.push({ from: begins < from ? begins : from, to });
  }

  #at(entry: number): number {
    return (this.#rowOf[entry] ?? 0) - 1;
  }

  #setRow(entry: number, row: number): void {
    if (entry >= this.#rowOf.length) {
      const grown = new Int32Array(Math.max(entry + 1, this.#rowOf.length * 2));
      grown.set(this.#rowOf);
      this.#rowOf = grown;
    }
    this.#rowOf[entry] = row + 1;
  }

  /** Puts what is left together anew, once what was superseded or has left occupies more than it. */
  #compact(): void {
    const { ownBytes, places } = this.#entries;
    const inUse = this.#imageBytes + this.count * ENTRY_BYTES;
    if (ownBytes <= 2 * inUse + WASTE_BYTES && places <= 2 * this.count + WASTED_PLACES) return;
    const kept = new Entries(this.#schema.key, true);
    const from = this.#entries;
    this.#entries = kept;
    this.#rowOf = new Int32Array(Math.max(64, this.count));
    for (let row = this.#order.first; row !== -1; row = this.#rows.after(row)) {
      const entry = kept.adopt(from, this.#rows.entry(row));
      this.#rows.setEntry(row, entry);
      this.#setRow(entry, row);
    }
  }
}

/** Some rows of a fold that is kept, as they are to be written. */
class GoingRows implements Folded {
  readonly entries: Entries;
  readonly inserts = null;
  readonly full = false;
  readonly truncated: boolean;
  readonly changes: number;
  readonly bytes: number;
  readonly through: Position;
  readonly high: Position;
  readonly #some: readonly number[];

  constructor(
    fold: HeldFold,
    held: HeldRows,
    rows: readonly number[],
    { truncated, through }: { readonly truncated: boolean; readonly through: Position },
  ) {
    this.entries = fold.entries;
    this.truncated = truncated;
    this.changes = rows.reduce((sum, row) => sum + held.changes(row), 0);
    this.bytes = rows.reduce((sum, row) => sum + held.bytes(row), 0);
    this.through = through;
    this.high = fold.through;
    this.#some = rows.map((row) => held.entry(row));
  }

  get isEmpty(): boolean {
    return this.#some.length === 0 && !this.truncated;
  }

  settled(): Settled | null {
    return this.entries.settled(this.#some);
  }
}
