import { randomUUID } from 'node:crypto';
import { transactionsOf } from '../../journal/frame.ts';
import type { Bookmark, Journal, SpooledBlock } from '../../journal/journal.ts';
import { placeOf, prunedAway } from '../../journal/order.ts';
import type {
  ChangeBlock,
  OpenBlock,
  TableEvent,
  TrackedBatch,
  TransactionId,
  TransactionPart,
  TransactionPiece,
} from '../../model/change.ts';
import { ORIGIN, type Position, maxPosition } from '../../model/position.ts';
import type { TableName } from '../../model/schema.ts';

/** A journal that lives as long as the process: what the others are tested against, and what tests of the engine use. */
export function openMemoryJournal(): Journal {
  return new MemoryJournal();
}

class MemoryJournal implements Journal {
  readonly id = randomUUID();
  #head: Bookmark | null = null;
  #began: Position = ORIGIN;
  #blocks: ChangeBlock[] = [];
  #events: TableEvent[] = [];
  #spools = new Map<TransactionId, OpenBlock[]>();
  /** In the order in which they came, by their bytes. */
  readonly #places = new WeakMap<Buffer, number>();
  #kept = 0;
  readonly #floors = new Map<TableName, Position>();

  head(): Bookmark | null {
    return this.#head;
  }

  async begin(from: Bookmark): Promise<void> {
    this.#head = from;
    this.#began = from.at;
    this.#blocks = [];
    this.#events = [];
    this.#spools.clear();
    this.#floors.clear();
  }

  async append(batch: TrackedBatch, evidence: string): Promise<ReadonlyMap<TableName, number>> {
    const adopted = new Map<TableName, number>();
    const isRepeat = placeOf(batch, this.#head) === 'repeat';
    for (const within of batch.adopts) {
      const { id, at } = within.transaction;
      for (const { table, first, changes, bytes } of isRepeat ? [] : (this.#spools.get(id) ?? [])) {
        this.#blocks.push({ table, first: first ?? at, last: at, changes, bytes, within: first === null ? within : null });
        adopted.set(table, (adopted.get(table) ?? 0) + changes);
      }
      this.#spools.delete(id);
    }
    if (isRepeat) return adopted;
    // Copied: what was appended is ours, whatever the caller does with its buffers.
    this.#blocks.push(...batch.blocks.map((block) => ({ ...block, bytes: this.#copied(block.bytes) })));
    // What is adopted stands before what the batch brings of the same transaction, and in its place among others.
    this.#blocks = this.#blocks.toSorted((a, b) => (a.last < b.last ? -1 : a.last > b.last ? 1 : 0));
    this.#events.push(...batch.events);
    this.#head = { at: batch.through, evidence };
    return adopted;
  }

  async spool({ transaction, blocks }: TransactionPiece): Promise<void> {
    const held = this.#spools.get(transaction) ?? [];
    this.#spools.set(transaction, [...held, ...blocks.map((block) => ({ ...block, bytes: this.#copied(block.bytes) }))]);
  }

  async *spooled(
    table: TableName,
    transaction: TransactionId,
    at: Position | null,
    beyond: number,
    signal: AbortSignal,
  ): AsyncGenerator<SpooledBlock> {
    const adopted = this.#blocks.filter(({ last, within }) => last === at && within?.transaction.id === transaction);
    const spooled = (this.#spools.get(transaction) ?? []).filter(({ first }) => first === null);
    for (const { changes, bytes, ...block } of at === null ? spooled : adopted) {
      signal.throwIfAborted();
      const place = this.#places.get(bytes) ?? 0;
      if (place > beyond && block.table === table) yield { place, block: { table, first: null, part: null, changes, bytes } };
    }
  }

  async discard(transaction: TransactionId, part: TransactionPart | null): Promise<void> {
    const held = this.#spools.get(transaction);
    if (part === null) this.#spools.delete(transaction);
    else if (held !== undefined)
      this.#spools.set(
        transaction,
        held.filter((block) => block.part !== part),
      );
  }

  async abandon(): Promise<void> {
    this.#spools.clear();
  }

  async *read(table: TableName, after: Position, upTo: Position, signal: AbortSignal): AsyncGenerator<ChangeBlock> {
    signal.throwIfAborted();
    const begins = maxPosition(this.#began, this.#floors.get(table) ?? ORIGIN);
    if (after < begins) throw prunedAway(table, after, begins);
    const found = this.#blocks.filter((block) => block.table === table && block.last > after && block.first <= upTo);
    for (const block of found) {
      signal.throwIfAborted();
      yield block;
    }
  }

  async events(table: TableName, after: Position, upTo: Position): Promise<readonly TableEvent[]> {
    return this.#events.filter((event) => event.table === table && event.at > after && event.at <= upTo);
  }

  async lastChange(table: TableName): Promise<Position | null> {
    return this.#blocks.findLast((block) => block.table === table)?.last ?? null;
  }

  async contains(ids: readonly TransactionId[], upTo: Position): Promise<ReadonlySet<TransactionId>> {
    const held = this.#blocks.flatMap(transactionsOf).filter((transaction) => transaction.at <= upTo);
    return new Set(held.map((transaction) => transaction.id).filter((id) => ids.includes(id)));
  }

  async prune(throughOf: ReadonlyMap<TableName, Position>): Promise<void> {
    for (const [table, through] of throughOf) this.#prune(table, through);
  }

  #prune(table: TableName, through: Position): void {
    const blocks = this.#blocks.filter((block) => block.table === table && block.last <= through);
    const events = this.#events.filter((event) => event.table === table && event.at <= through);
    const ends = [...blocks.map((block) => block.last), ...events.map((event) => event.at)];
    this.#floors.set(table, ends.reduce(maxPosition, this.#floors.get(table) ?? ORIGIN));
    this.#blocks = this.#blocks.filter((block) => !blocks.includes(block));
    this.#events = this.#events.filter((event) => !events.includes(event));
  }

  async size(): Promise<number> {
    return this.#blocks.reduce((bytes, block) => bytes + block.bytes.length, 0);
  }

  #copied(bytes: Buffer): Buffer {
    const copy = Buffer.from(bytes);
    this.#places.set(copy, ++this.#kept);
    return copy;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#spools.clear();
  }
}
