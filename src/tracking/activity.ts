import { type PlaceVisitor, transactionsOf, walkPlaces } from '../journal/frame.ts';
import type {
  ChangeBlock,
  EndedTransaction,
  OpenBlock,
  TrackedBatch,
  TransactionId,
  TransactionPart,
  TransactionPiece,
} from '../model/change.ts';
import { Distinct, finishHash, hashBytes } from '../model/distinct.ts';
import type { Position } from '../model/position.ts';
import type { TableName } from '../model/schema.ts';
import { type SlotActivity, slotStart } from './history.ts';

export interface ActivityParts {
  /** The length of the slots that are counted. */
  readonly minuteMs: number;
  /** Columns of a table's rows that identify them; null: not known, and then only changes are counted. */
  readonly keyOf: (table: TableName) => readonly number[] | null;
}

/** Of one table in one slot. */
class Tally {
  changes = 0;
  bytes = 0;
  rows: Distinct;

  constructor(rows: Distinct = new Distinct()) {
    this.rows = rows;
  }
}

/** What was counted of a table in a transaction that has not ended. */
interface OpenTally {
  /** By slot, where the bytes tell when. */
  readonly dated: Map<number, Tally>;
  readonly parts: Map<TransactionPart, Tally>;
}

/** Parts of one transaction, beyond which the rows of further ones are told apart no longer: if one is rolled back, they still count. */
const PARTS_MAX = 1024;

/** More tallies than this want to be taken: together they take up to 20 MB. */
const TALLIES_MAX = 4096;

/** A slot whose time nobody knows. */
const UNDATED = Number.NaN;

/**
 * Counts what passes the tracker, by table and minute of the primary's commits: changes, bytes as they lie in the journal, different rows.
 * What is rolled back does not count, nor what is repeated: pieces of transactions count when a batch adopts them. Nothing is made for a
 * change: its key is hashed where it lies.
 */
export class Activity {
  readonly #parts: ActivityParts;
  readonly #keys = new Map<TableName, readonly number[]>();
  readonly #tallies = new Map<TableName, Map<number, Tally>>();
  readonly #open = new Map<TransactionId, Map<TableName, OpenTally>>();
  readonly #walk = new Walk();
  #count = 0;
  #through: Position | null = null;
  #lastCommitMs: number | null = null;
  /** Changes that come now are of a time nobody knows. */
  undated = false;

  constructor(parts: ActivityParts) {
    this.#parts = parts;
  }

  /** Whether enough has gathered to be taken without waiting longer. */
  get isFull(): boolean {
    return this.#count >= TALLIES_MAX;
  }

  /** Everything up to here was counted; null: nothing has come yet. */
  get through(): Position | null {
    return this.#through;
  }

  /** When the newest change that was counted was committed, by the primary's clock. */
  get lastCommitMs(): number | null {
    return this.#lastCommitMs;
  }

  /** Pieces that no batch has adopted come again. */
  abandon(): void {
    this.#open.clear();
  }

  piece({ transaction, blocks }: TransactionPiece): void {
    let tables = this.#open.get(transaction);
    if (tables === undefined) {
      tables = new Map();
      this.#open.set(transaction, tables);
    }
    for (const block of blocks) {
      let open = tables.get(block.table);
      if (open === undefined) {
        open = { dated: new Map(), parts: new Map() };
        tables.set(block.table, open);
      }
      this.#walkOpen(block, open);
    }
  }

  /** `part` null: all of the transaction. */
  rolledBack(transaction: TransactionId, part: TransactionPart | null): void {
    if (part === null) this.#open.delete(transaction);
    else for (const { parts } of this.#open.get(transaction)?.values() ?? []) parts.delete(part);
  }

  batch(batch: Pick<TrackedBatch, 'through' | 'blocks' | 'adopts' | 'events'>): void {
    for (const { change } of batch.events) if (change !== undefined) this.#keys.set(change.to.table, change.to.key);
    for (const ended of batch.adopts) this.#adopt(ended);
    for (const block of batch.blocks) this.#walkBlock(block);
    this.#through = batch.through;
  }

  /** Counts what an earlier process appended and did not count: the transactions of a block in (`after`, `upTo`]. */
  recount(block: ChangeBlock, after: Position, upTo: Position): void {
    const { within, table } = block;
    const admits = ({ at }: { readonly at: Position }): boolean => at > after && at <= upTo;
    if (within !== null && admits(within.transaction)) return this.#walkBlock(block);
    if (within !== null) return;
    // Blocks at either end may hold others.
    const admitted = transactionsOf(block).map(admits);
    if (admitted.every((each) => each)) return this.#walkBlock(block);
    let next = 0;
    const dated = (ms: number): Tally | null => (admitted[next++] === true ? this.#dated(table, ms) : null);
    this.#walk.over(block, this.#keyOf(table), { dated, part: null, tally: null });
  }

  /** What was counted since it was last asked. */
  take(): SlotActivity[] {
    const taken: SlotActivity[] = [];
    for (const [table, slots] of this.#tallies) {
      for (const [slot, { changes, bytes, rows }] of slots)
        taken.push({ table, atMs: Number.isNaN(slot) ? null : slot, changes, bytes, rows });
    }
    this.#tallies.clear();
    this.#count = 0;
    return taken;
  }

  #walkBlock(block: ChangeBlock): void {
    const { within, table } = block;
    const tallyOf = (ms: number): Tally => this.#dated(table, ms);
    if (within === null) return this.#walk.over(block, this.#keyOf(table), { dated: tallyOf, part: null, tally: null });
    const counting = tallyOf(this.#committed(within));
    const part = (each: TransactionPart): Tally | null => (within.dropped.has(each) ? null : counting);
    this.#walk.over(block, this.#keyOf(table), { dated: tallyOf, part, tally: part(0) });
  }

  #walkOpen(block: OpenBlock, { dated, parts }: OpenTally): void {
    const part = (each: TransactionPart): Tally => {
      let tally = parts.get(each);
      if (tally === undefined) {
        tally = parts.size < PARTS_MAX ? new Tally() : new Tally(parts.values().next().value?.rows);
        parts.set(each, tally);
      }
      return tally;
    };
    const tallyOf = (ms: number): Tally => {
      const slot = this.#slotOf(ms);
      let tally = dated.get(slot);
      if (tally === undefined) {
        tally = new Tally();
        dated.set(slot, tally);
      }
      return tally;
    };
    this.#walk.over(block, this.#keyOf(block.table), { dated: tallyOf, part, tally: block.first === null ? part(0) : null });
  }

  #adopt(ended: EndedTransaction): void {
    const committedMs = this.#committed(ended);
    this.#lastCommitMs = committedMs;
    for (const [table, { dated, parts }] of this.#open.get(ended.transaction.id) ?? []) {
      for (const [slot, tally] of dated) add(this.#tally(table, slot), tally);
      for (const [part, tally] of parts) if (tally.changes > 0 && !ended.dropped.has(part)) add(this.#tally(table, committedMs), tally);
    }
    this.#open.delete(ended.transaction.id);
  }

  #committed({ transaction }: EndedTransaction): number {
    return Number(transaction.committedAtMicros / 1000n);
  }

  #dated(table: TableName, ms: number): Tally {
    this.#lastCommitMs = ms;
    return this.#tally(table, ms);
  }

  #slotOf(ms: number): number {
    return this.undated ? UNDATED : slotStart(ms, this.#parts.minuteMs);
  }

  #tally(table: TableName, ms: number): Tally {
    let slots = this.#tallies.get(table);
    if (slots === undefined) {
      slots = new Map();
      this.#tallies.set(table, slots);
    }
    const slot = this.#slotOf(ms);
    let tally = slots.get(slot);
    if (tally === undefined) {
      tally = new Tally();
      slots.set(slot, tally);
      this.#count++;
    }
    return tally;
  }

  #keyOf(table: TableName): readonly number[] | null {
    return this.#keys.get(table) ?? this.#parts.keyOf(table);
  }
}

function add(sum: Tally, { changes, bytes, rows }: Tally): void {
  sum.changes += changes;
  sum.bytes += bytes;
  sum.rows.merge(rows);
}

/** Where the changes of a block go. */
interface Destination {
  /** Of a transaction that the bytes name. */
  readonly dated: (committedMs: number) => Tally | null;
  /** Of a part of one that they do not name; a null destination itself: they name all. Null: it was rolled back. */
  readonly part: ((part: TransactionPart) => Tally | null) | null;
  /** Of what comes before the bytes say more. */
  readonly tally: Tally | null;
}

/** One walk after another over blocks. */
class Walk implements PlaceVisitor {
  #bytes: DataView = new DataView(new ArrayBuffer(0));
  #key: readonly number[] | null = null;
  #to: Destination | null = null;
  #tally: Tally | null = null;

  over(block: Pick<ChangeBlock, 'table' | 'bytes'>, key: readonly number[] | null, to: Destination): void {
    const { bytes } = block;
    this.#bytes = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.#key = key;
    this.#to = to;
    this.#tally = to.tally;
    walkPlaces(block, this);
  }

  transaction(committedAtMs: number): void {
    this.#tally = this.#to?.dated(committedAtMs) ?? null;
  }

  part(part: TransactionPart): void {
    const of = this.#to?.part ?? null;
    if (of !== null) this.#tally = of(part);
  }

  put(start: number, end: number): void {
    const tally = this.#tally;
    if (tally === null) return;
    tally.changes++;
    tally.bytes += end - start;
    if (this.#key !== null) tally.rows.add(rowHash(this.#bytes, start, end, this.#key));
  }

  left(start: number, end: number): void {
    if (this.#tally === null) return;
    this.#tally.bytes += end - start;
    if (this.#key !== null) this.#tally.rows.add(keyHash(this.#bytes, start, end));
  }

  delete(start: number, end: number): void {
    if (this.#tally === null) return;
    this.#tally.changes++;
    this.left(start, end);
  }

  truncate(): void {
    if (this.#tally !== null) this.#tally.changes++;
  }
}

/** The hash of a tuple that is a key. */
function keyHash(bytes: DataView, start: number, end: number): number {
  let hash = 0;
  for (let at = start + 2; at < end; ) {
    const next = cellEnd(bytes, at, end);
    hash = hashBytes(bytes, at + 4, next, hash);
    at = next;
  }
  return finishHash(hash);
}

/** The hash of a row's key, the same as that of the key by itself. Where the row is shorter than thought, of what there is. */
function rowHash(bytes: DataView, start: number, end: number, key: readonly number[]): number {
  // What most tables have, in half the time.
  if (key.length === 1 && key[0] === 0) return finishHash(hashBytes(bytes, start + 6, cellEnd(bytes, start + 2, end), 0));
  let hash = 0;
  let at = start + 2;
  let column = 0;
  for (let place = 0; place < key.length; place++) {
    const index = key[place] as number;
    if (index < column) {
      at = start + 2;
      column = 0;
    }
    for (; column < index && at < end; column++) at = cellEnd(bytes, at, end);
    if (at >= end) break;
    const next = cellEnd(bytes, at, end);
    hash = hashBytes(bytes, at + 4, next, hash);
    at = next;
    column++;
  }
  return finishHash(hash);
}

/** Where the cell that begins at `at` ends: behind its length where it has no value. */
function cellEnd(bytes: DataView, at: number, end: number): number {
  const length = bytes.getInt32(at);
  return Math.min(end, at + 4 + (length > 0 ? length : 0));
}
