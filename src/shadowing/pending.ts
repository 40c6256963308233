import { type ChangeScanner, scanBlock } from '../journal/frame.ts';
import type { ChangeBlock, TransactionRef } from '../model/change.ts';
import { isKeyless } from '../model/copies.ts';
import type { Position } from '../model/position.ts';
import type { TableSchema } from '../model/schema.ts';
import { RowList } from '../model/rows.ts';
import { type Identity, type Tuple, fillAbsent, hasAbsent } from '../model/tuple.ts';
import { ENTRY_BYTES, Entries, type Origin, type Settled } from './entries.ts';

/**
 * The newest image of a row. A `put` may still have absent columns: they are those of the row that stood in the shadow under
 * `from` before the fold. `stood`: the primary had a row under this key before the fold, so a live shadow has one too.
 *
 * Of a row of a table without a key the fold tells only how many copies there are more or fewer (`copies.ts`): in all, and by
 * transactions that the chunk applied with it does not show. `row` is null where only deletes were heard of.
 */
export type PendingEntry =
  | { readonly kind: 'put'; readonly row: Tuple; readonly from: Identity | null; readonly stood: boolean }
  | { readonly kind: 'delete'; readonly stood: boolean }
  | ({ readonly kind: 'count'; readonly row: Tuple | null } & Copies);

export interface Copies {
  readonly more: bigint;
  readonly moreUnseen: bigint;
}

export interface FoldScope {
  /** Transactions that are folded; all, unless said otherwise. */
  readonly admits?: (ref: TransactionRef) => boolean;
  /** The rest of this transaction is folded, and nothing after it. */
  readonly only?: Position | null;
  /** Transactions that a chunk, which is applied with the fold, shows already. */
  readonly shows?: (ref: TransactionRef) => boolean;
  /** Who keeps the entries: they go on from what was folded into them before. */
  readonly keeper?: Keeper;
}

/** Has entries that outlive a fold, and hears what comes to them. */
export interface Keeper {
  readonly entries: Entries;
  /** What follows is of this transaction. */
  begins(ref: TransactionRef): void;
  /** An entry says something new. `older`: the entry whose image it was completed from; itself, where there is none. */
  changed(entry: number, older: number): void;
  /** A truncate: the entries are no more. */
  emptied(): void;
}

/** What is written of an element at once: a fold, or some of one that is kept. */
export interface Folded {
  readonly entries: Entries;
  readonly inserts: RowList | null;
  /** Null where the entries need a look at what stands. */
  settled(): Settled | null;
  readonly truncated: boolean;
  readonly changes: number;
  readonly bytes: number;
  readonly isEmpty: boolean;
  /** Everything up to here is in then. */
  readonly through: Position;
  /** More is to be read. */
  readonly full: boolean;
  /** How far the rows stand that go ahead of `through`. Null: none does, and what stood before the fold is what the shadow has. */
  readonly high: Position | null;
}

export interface FoldLimit {
  readonly changes: number;
  readonly bytes: number;
}

/**
 * Changes of one table folded by identity: ten updates of a row leave one image. I+U→I, U+U→U (columns united), U+D→D, D+I→put; a
 * key change is the old key's delete and the new key's put. A truncate empties the map and is remembered: whatever the shadow holds
 * goes before the puts.
 *
 * The limit ends a fold at a transaction's boundary, or between two blocks of one transaction that is larger than it.
 */
export class Pending implements ChangeScanner, Folded {
  readonly #entries: Entries;
  /**
   * Rows of a fold that has met nothing but inserts: two of one key would have a delete between them, and where the log lacks it the
   * store meets the key twice (`RowBatch`). Null: other changes were met, or transactions are left out, and all is among the entries.
   */
  #inserts: RowList | null;
  truncated = false;
  /** Changes folded in. */
  changes = 0;
  #imageBytes = 0;
  /** The boundary of the last transaction folded in. */
  through: Position;
  full = false;
  /** Of the blocks folded in: one row kept of a block keeps all of its bytes. */
  walkedBytes = 0;
  readonly high = null;

  readonly #keyless: boolean;
  readonly #limit: FoldLimit;
  readonly #scope: FoldScope;
  readonly #keeper: Keeper | null;
  /** The transaction being folded is one that the chunk shows. */
  #shown = false;

  constructor(schema: TableSchema, after: Position, limit: FoldLimit, scope: FoldScope = {}) {
    this.#keeper = scope.keeper ?? null;
    this.#entries = scope.keeper?.entries ?? new Entries(schema.key);
    this.#keyless = isKeyless(schema);
    this.#limit = limit;
    this.#scope = scope;
    this.#inserts = this.#keyless || scope.admits !== undefined || this.#keeper !== null ? null : new RowList();
    this.through = scope.only ?? after;
  }

  get entries(): Entries {
    if (this.#inserts !== null) this.#enterInserts(this.#inserts);
    return this.#entries;
  }

  /** All of the fold, where it is nothing but rows whose keys were free before it; else null. */
  get inserts(): RowList | null {
    return this.truncated ? null : this.#inserts;
  }

  settled(): Settled | null {
    return this.entries.settled();
  }

  /** What it holds, beside the blocks that the images lie in. */
  get bytes(): number {
    return this.#imageBytes + ENTRY_BYTES * (this.#inserts?.length ?? this.#entries.size);
  }

  get isOverLimit(): boolean {
    return this.changes >= this.#limit.changes || Math.max(this.bytes, this.walkedBytes / 4) >= this.#limit.bytes;
  }

  /** Nothing was folded in that says anything of a row. */
  get isEmpty(): boolean {
    return this.#entries.size === 0 && (this.#inserts === null || this.#inserts.length === 0) && !this.truncated;
  }

  transaction(ref: TransactionRef): boolean {
    // A huge transaction spans blocks and repeats its header.
    const { admits, only, shows } = this.#scope;
    const alone = only !== undefined && only !== null;
    if (ref.at !== this.through && (alone || this.isOverLimit)) this.full = true;
    if (this.full || admits?.(ref) === false) return false;
    this.through = ref.at;
    this.#shown = shows?.(ref) === true;
    this.#keeper?.begins(ref);
    return true;
  }

  insert(bytes: Buffer, start: number, end: number): void {
    if (this.#inserts !== null) {
      this.#inserts.add(bytes, start, end);
      this.changes++;
      this.#imageBytes += end - start;
    } else if (this.#keyless) this.#count(this.#entries.ofRow(bytes, start), bytes.subarray(start, end) as Tuple, 1n);
    else this.#put(this.#entries.ofRow(bytes, start), bytes, start, end, 'none', false);
  }

  update(bytes: Buffer, start: number, end: number): void {
    if (this.#inserts !== null) this.#enterInserts(this.#inserts);
    const entry = this.#entries.ofRow(bytes, start);
    if (this.#keyless) {
      this.#count(entry, null, -1n);
      this.#count(entry, bytes.subarray(start, end) as Tuple, 1n);
    } else if (hasAbsent(bytes, start)) this.#complete(entry, entry, bytes.subarray(start, end) as Tuple);
    else this.#put(entry, bytes, start, end, 'none', true);
  }

  rekey(bytes: Buffer, keyStart: number, keyEnd: number, start: number, end: number): void {
    if (this.#entries.hasKey(bytes, start, bytes, keyStart, keyEnd)) {
      this.update(bytes, start, end);
      return;
    }
    if (this.#inserts !== null) this.#enterInserts(this.#inserts);
    const old = this.#entries.ofKey(bytes, keyStart, keyEnd);
    if (this.#keyless) {
      this.#count(old, null, -1n);
      this.#count(this.#entries.ofRow(bytes, start), bytes.subarray(start, end) as Tuple, 1n);
      return;
    }
    const absent = hasAbsent(bytes, start);
    const row = absent ? (bytes.subarray(start, end) as Tuple) : null;
    const entry = this.#entries.ofRow(bytes, start);
    if (row === null) {
      this.#delete(old, bytes, keyStart, keyEnd);
      this.#put(entry, bytes, start, end, 'none', false);
    } else {
      this.#complete(entry, old, row);
      this.#delete(old, bytes, keyStart, keyEnd);
    }
  }

  delete(bytes: Buffer, start: number, end: number): void {
    if (this.#inserts !== null) this.#enterInserts(this.#inserts);
    const entry = this.#entries.ofKey(bytes, start, end);
    if (this.#keyless) {
      this.#count(entry, null, -1n);
      return;
    }
    this.changes++;
    this.#delete(entry, bytes, start, end);
  }

  truncate(): void {
    this.changes++;
    this.#inserts = null;
    this.#entries.clear();
    this.#keeper?.emptied();
    this.#imageBytes = 0;
    this.truncated = true;
  }

  #enterInserts(rows: RowList): void {
    this.#inserts = null;
    const entries = this.#entries;
    const enter = (bytes: Buffer, start: number, end: number): void =>
      entries.put(entries.ofRow(bytes, start), bytes, start, end, 'none', false);
    rows.each(enter, 0, rows.length);
  }

  /** Puts an incomplete image, with what the fold knows of the row it was before, which was `older`. */
  #complete(entry: number, older: number, row: Tuple): void {
    const before = this.#entries.isPut(older) ? this.#entries.rowOf(older) : null;
    const merged = before === null ? row : fillAbsent(row, before);
    const origin = hasAbsent(merged) ? this.#originOf(entry, older, before !== null) : 'none';
    this.#put(entry, merged, 0, merged.length, origin, entry === older, before === null ? entry : older);
  }

  #originOf(entry: number, older: number, put: boolean): Origin {
    const known = put ? this.#entries.originOf(older) : 'own';
    if (entry === older || known === 'none') return known;
    const origin = known === 'own' ? this.#entries.identityOf(older) : known;
    // It may have come back to the key it left.
    return origin === this.#entries.identityOf(entry) ? 'own' : origin;
  }

  /** `stood` counts where this is the first that is heard of the key. */
  #put(entry: number, bytes: Buffer, start: number, end: number, origin: Origin, stood: boolean, older = entry): void {
    this.changes++;
    this.#imageBytes += end - start - this.#entries.rowBytes(entry);
    this.#entries.put(entry, bytes, start, end, origin, this.#entries.stood(entry) ?? (stood && !this.truncated));
    this.#keeper?.changed(entry, older);
  }

  #delete(entry: number, bytes: Buffer, keyStart: number, keyEnd: number): void {
    this.#imageBytes -= this.#entries.rowBytes(entry);
    this.#entries.delete(entry, bytes, keyStart, keyEnd, this.#entries.stood(entry) ?? !this.truncated);
    this.#keeper?.changed(entry, entry);
  }

  #count(entry: number, row: Tuple | null, more: bigint): void {
    this.changes++;
    const counted = this.#entries.copiesOf(entry) ?? { more: 0n, moreUnseen: 0n };
    const kept = this.#entries.rowOf(entry) ?? row;
    this.#imageBytes += (kept?.length ?? 0) - this.#entries.rowBytes(entry);
    this.#entries.count(entry, kept, { more: counted.more + more, moreUnseen: counted.moreUnseen + (this.#shown ? 0n : more) });
  }
}

/**
 * Folds blocks in (`after`, `upTo`] until they end, and `pending.through` is `upTo`, or the limit is met: `pending.full`, be it within a
 * transaction, so that nobody holds all of one that is larger.
 */
export async function fold(
  blocks: AsyncIterable<ChangeBlock>,
  range: { readonly after: Position; readonly upTo: Position },
  pending: Pending,
): Promise<Pending> {
  for await (const block of blocks) {
    pending.full ||= pending.isOverLimit;
    if (pending.full) return pending;
    pending.walkedBytes += block.bytes.length;
    scanBlock(block, range.after, range.upTo, pending);
  }
  if (pending.full) return pending;
  pending.through = range.upTo;
  return pending;
}

/** One piece of a fold. `goesOn`: the transaction at `pending.through` is not through with it. */
export interface FoldPiece {
  readonly pending: Pending;
  readonly goesOn: boolean;
}

/**
 * Like `fold`, for a transaction of any size: one that passes the limit comes in pieces, to be applied one after another and together.
 * They end with that transaction.
 */
export async function* foldPieces(
  blocks: AsyncIterable<ChangeBlock>,
  range: { readonly after: Position; readonly upTo: Position },
  begin: (only: Position | null) => Pending,
): AsyncGenerator<FoldPiece, void, void> {
  let only: Position | null = null;
  let pending = begin(only);
  for await (const block of blocks) {
    if (pending.isOverLimit && block.first === pending.through) {
      only = pending.through;
      yield { pending, goesOn: true };
      pending = begin(only);
    }
    pending.walkedBytes += block.bytes.length;
    scanBlock(block, range.after, range.upTo, pending);
    if (!pending.full) continue;
    yield { pending, goesOn: false };
    return;
  }
  pending.through = only ?? range.upTo;
  yield { pending, goesOn: false };
}
