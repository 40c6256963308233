import { type ChangeVisitor, walkBlock } from '../journal/frame.ts';
import type { ChangeBlock, TransactionRef } from '../model/change.ts';
import { isKeyless } from '../model/copies.ts';
import type { Position } from '../model/position.ts';
import type { TableSchema } from '../model/schema.ts';
import { type Identity, type KeyTuple, type Tuple, fillAbsent, hasAbsent, identityOf, identityOfRow } from '../model/tuple.ts';

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
  | { readonly kind: 'count'; readonly row: Tuple | null; readonly more: bigint; readonly moreUnseen: bigint };

export interface FoldScope {
  /** Transactions that are folded; all, unless said otherwise. */
  readonly admits?: (ref: TransactionRef) => boolean;
  /** The rest of this transaction is folded, and nothing after it. */
  readonly only?: Position | null;
  /** Transactions that a chunk, which is applied with the fold, shows already. */
  readonly shows?: (ref: TransactionRef) => boolean;
}

/** What an entry occupies beside its row's bytes: objects and a place in the map (measured: 230 bytes of heap, 300 resident). */
const ENTRY_BYTES = 300;

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
export class Pending implements ChangeVisitor {
  readonly #entries = new Map<Identity, PendingEntry>();
  /**
   * Rows of a fold that has met nothing but inserts: two of one key would have a delete between them, and where the log lacks it the
   * store meets the key twice (`RowBatch`). Null: other changes were met, or transactions are left out, and all is in the map.
   */
  #inserts: Tuple[] | null;
  truncated = false;
  /** Changes folded in, and the bytes of the images kept. */
  changes = 0;
  bytes = 0;
  /** The boundary of the last transaction folded in. */
  through: Position;
  full = false;
  /** Of the blocks folded in: one row kept of a block keeps all of its bytes. */
  walkedBytes = 0;

  readonly #key: readonly number[];
  readonly #keyless: boolean;
  readonly #limit: FoldLimit;
  readonly #scope: FoldScope;
  /** The transaction being folded is one that the chunk shows. */
  #shown = false;

  constructor(schema: TableSchema, after: Position, limit: FoldLimit, scope: FoldScope = {}) {
    this.#key = schema.key;
    this.#keyless = isKeyless(schema);
    this.#limit = limit;
    this.#scope = scope;
    this.#inserts = this.#keyless || scope.admits !== undefined ? null : [];
    this.through = scope.only ?? after;
  }

  get entries(): ReadonlyMap<Identity, PendingEntry> {
    if (this.#inserts !== null) this.#mapInserts(this.#inserts);
    return this.#entries;
  }

  /** All of the fold, where it is nothing but rows whose keys were free before it; else null. */
  get inserts(): Tuple[] | null {
    return this.truncated ? null : this.#inserts;
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
    return true;
  }

  insert(row: Tuple): void {
    if (this.#inserts !== null) {
      this.#inserts.push(row);
      this.changes++;
      this.bytes += ENTRY_BYTES + row.length;
    } else if (this.#keyless) this.#count(identityOfRow(row, this.#key), row, 1n);
    else this.#put(identityOfRow(row, this.#key), row, null, false);
  }

  update(row: Tuple, oldKey: KeyTuple | null): void {
    if (this.#inserts !== null) this.#mapInserts(this.#inserts);
    const identity = identityOfRow(row, this.#key);
    const oldIdentity = oldKey === null ? identity : identityOf(oldKey);
    if (this.#keyless) {
      this.#count(oldIdentity, null, -1n);
      this.#count(identity, row, 1n);
      return;
    }
    if (!hasAbsent(row)) {
      if (oldIdentity !== identity) this.#delete(oldIdentity);
      this.#put(identity, row, null, oldIdentity === identity);
      return;
    }
    const older = this.#entries.get(oldIdentity);
    const merged = older?.kind === 'put' ? fillAbsent(row, older.row) : row;
    const from = older?.kind === 'put' ? older.from : oldIdentity;
    if (oldIdentity !== identity) this.#delete(oldIdentity);
    this.#put(identity, merged, hasAbsent(merged) ? from : null, oldIdentity === identity);
  }

  delete(key: KeyTuple): void {
    if (this.#inserts !== null) this.#mapInserts(this.#inserts);
    if (this.#keyless) {
      this.#count(identityOf(key), null, -1n);
      return;
    }
    this.changes++;
    this.#delete(identityOf(key));
  }

  truncate(): void {
    this.changes++;
    this.#inserts = null;
    this.#entries.clear();
    this.bytes = 0;
    this.truncated = true;
  }

  #mapInserts(rows: readonly Tuple[]): void {
    this.#inserts = null;
    for (const row of rows) this.#entries.set(identityOfRow(row, this.#key), { kind: 'put', row, from: null, stood: false });
  }

  /** `stood` counts where this is the first that is heard of the key. */
  #put(identity: Identity, row: Tuple, from: Identity | null, stood: boolean): void {
    this.changes++;
    const before = this.#entries.get(identity);
    this.#set(identity, before, { kind: 'put', row, from, stood: this.#stood(before, stood) }, row.length);
  }

  #delete(identity: Identity): void {
    const before = this.#entries.get(identity);
    this.#set(identity, before, { kind: 'delete', stood: this.#stood(before, true) }, 0);
  }

  #stood(before: PendingEntry | undefined, first: boolean): boolean {
    return before === undefined || before.kind === 'count' ? first && !this.truncated : before.stood;
  }

  #count(identity: Identity, row: Tuple | null, more: bigint): void {
    this.changes++;
    const before = this.#entries.get(identity);
    const counted = before?.kind === 'count' ? before : { row: null, more: 0n, moreUnseen: 0n };
    const kept = counted.row ?? row;
    const moreUnseen = counted.moreUnseen + (this.#shown ? 0n : more);
    this.#set(identity, before, { kind: 'count', row: kept, more: counted.more + more, moreUnseen }, kept?.length ?? 0);
  }

  #set(identity: Identity, before: PendingEntry | undefined, entry: PendingEntry, bytes: number): void {
    const beforeBytes = before === undefined || before.kind === 'delete' ? 0 : (before.row?.length ?? 0);
    this.bytes += bytes - beforeBytes + (before === undefined ? ENTRY_BYTES + identity.length : 0);
    this.#entries.set(identity, entry);
  }
}

/**
 * Folds blocks in (`after`, `upTo`] until they end or the limit is met. `pending.through` is then where the fold ends: `upTo` if all
 * of it went in.
 */
export async function fold(
  blocks: AsyncIterable<ChangeBlock>,
  range: { readonly after: Position; readonly upTo: Position },
  pending: Pending,
): Promise<Pending> {
  for await (const block of blocks) {
    walkBlock(block, range.after, range.upTo, pending);
    if (pending.full) return pending;
  }
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
    walkBlock(block, range.after, range.upTo, pending);
    if (!pending.full) continue;
    yield { pending, goesOn: false };
    return;
  }
  pending.through = only ?? range.upTo;
  yield { pending, goesOn: false };
}
