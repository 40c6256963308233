import { type ChangeVisitor, walkBlock } from '../journal/frame.ts';
import type { ChangeBlock, TransactionRef } from '../model/change.ts';
import type { Position } from '../model/position.ts';
import type { TableSchema } from '../model/schema.ts';
import { type Identity, type KeyTuple, type Tuple, fillAbsent, hasAbsent, identityOf, keyTuple } from '../model/tuple.ts';

/**
 * The newest image of a row. A `put` may still have absent columns: they are those of the row that stood in the shadow under
 * `from` before the fold.
 */
export type PendingEntry = { readonly kind: 'put'; readonly row: Tuple; readonly from: Identity | null } | { readonly kind: 'delete' };

export interface FoldLimit {
  readonly changes: number;
  readonly bytes: number;
}

/**
 * Changes of one table folded by identity: ten updates of a row leave one image. I+U→I, U+U→U (columns united), U+D→D, D+I→put; a
 * key change is the old key's delete and the new key's put. A truncate empties the map and is remembered: whatever the shadow holds
 * goes before the puts.
 *
 * The limit ends a fold at a transaction's boundary, so it may be passed by one transaction.
 */
export class Pending implements ChangeVisitor {
  readonly entries = new Map<Identity, PendingEntry>();
  truncated = false;
  /** Changes folded in, and the bytes of the images kept. */
  changes = 0;
  bytes = 0;
  /** The boundary of the last transaction folded in. */
  through: Position;
  full = false;

  readonly #key: readonly number[];
  readonly #limit: FoldLimit;
  readonly #admits: (ref: TransactionRef) => boolean;

  constructor(schema: TableSchema, after: Position, limit: FoldLimit, admits: (ref: TransactionRef) => boolean = () => true) {
    this.#key = schema.key;
    this.#limit = limit;
    this.#admits = admits;
    this.through = after;
  }

  /** Nothing was folded in that says anything of a row. */
  get isEmpty(): boolean {
    return this.entries.size === 0 && !this.truncated;
  }

  transaction(ref: TransactionRef): boolean {
    // A huge transaction spans blocks and repeats its header: it is never cut in two.
    if (ref.at !== this.through && (this.changes >= this.#limit.changes || this.bytes >= this.#limit.bytes)) this.full = true;
    if (this.full || !this.#admits(ref)) return false;
    this.through = ref.at;
    return true;
  }

  insert(row: Tuple): void {
    this.#put(identityOf(keyTuple(row, this.#key)), row, null);
  }

  update(row: Tuple, oldKey: KeyTuple | null): void {
    const identity = identityOf(keyTuple(row, this.#key));
    const oldIdentity = oldKey === null ? identity : identityOf(oldKey);
    if (!hasAbsent(row)) {
      if (oldIdentity !== identity) this.#set(oldIdentity, { kind: 'delete' }, 0);
      this.#put(identity, row, null);
      return;
    }
    const older = this.entries.get(oldIdentity);
    const merged = older?.kind === 'put' ? fillAbsent(row, older.row) : row;
    const from = older?.kind === 'put' ? older.from : oldIdentity;
    if (oldIdentity !== identity) this.#set(oldIdentity, { kind: 'delete' }, 0);
    this.#put(identity, merged, hasAbsent(merged) ? from : null);
  }

  delete(key: KeyTuple): void {
    this.changes++;
    this.#set(identityOf(key), { kind: 'delete' }, 0);
  }

  truncate(): void {
    this.changes++;
    this.entries.clear();
    this.bytes = 0;
    this.truncated = true;
  }

  #put(identity: Identity, row: Tuple, from: Identity | null): void {
    this.changes++;
    this.#set(identity, { kind: 'put', row, from }, row.length);
  }

  #set(identity: Identity, entry: PendingEntry, bytes: number): void {
    const before = this.entries.get(identity);
    this.bytes += bytes - (before?.kind === 'put' ? before.row.length : 0) + (before === undefined ? 64 + identity.length : 0);
    this.entries.set(identity, entry);
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
