import { randomUUID } from 'node:crypto';
import { transactionsOf } from '../../journal/frame.ts';
import type { Bookmark, Journal } from '../../journal/journal.ts';
import { placeOf, prunedAway } from '../../journal/order.ts';
import type { ChangeBlock, TableEvent, TrackedBatch, TransactionId } from '../../model/change.ts';
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
  #pieces: TrackedBatch[] = [];
  readonly #floors = new Map<TableName, Position>();

  head(): Bookmark | null {
    return this.#head;
  }

  async begin(from: Bookmark): Promise<void> {
    this.#head = from;
    this.#began = from.at;
    this.#blocks = [];
    this.#events = [];
    this.#pieces = [];
    this.#floors.clear();
  }

  async append(batch: TrackedBatch, evidence: string): Promise<void> {
    const place = placeOf(batch, this.#head);
    if (place === 'repeat' || (place === 'renewal' && !batch.complete)) return;
    if (this.#pieces.some((piece) => piece.through !== batch.through)) this.#pieces = [];
    // Copied: what was appended is ours, whatever the caller does with its buffers.
    this.#pieces.push({ ...batch, blocks: batch.blocks.map((block) => ({ ...block, bytes: Buffer.from(block.bytes) })) });
    if (!batch.complete) return;
    for (const piece of this.#pieces) {
      this.#blocks.push(...piece.blocks);
      this.#events.push(...piece.events);
    }
    this.#pieces = [];
    this.#head = { at: batch.through, evidence };
  }

  async abandon(): Promise<void> {
    this.#pieces = [];
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

  async prune(table: TableName, through: Position): Promise<void> {
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

  async [Symbol.asyncDispose](): Promise<void> {
    this.#pieces = [];
  }
}
