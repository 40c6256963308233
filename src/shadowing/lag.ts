import { walkBlock } from '../journal/frame.ts';
import type { Journal } from '../journal/journal.ts';
import type { ChangeBlock, TrackedBatch } from '../model/change.ts';
import type { Position } from '../model/position.ts';
import type { Element } from '../model/progress.ts';
import type { TableName } from '../model/schema.ts';

interface Waiting {
  /** The newest boundary at which the table changed. Never forgotten: progress may be put back by a rollback. */
  newest: Position;
  /** When the oldest change that is not in the shadow reached the journal, by the monotonic clock; null: everything is in. */
  sinceMs: number | null;
  rows: number;
  /** The newest boundary at which something happened to the table that rows do not express. */
  event: Position | null;
}

/** From how many waiting changes on the engine folds without pausing. */
const LARGE_ROWS = 5_000;

/** What the journal holds and the shadow does not, by table: how much, and for how long. */
export class Backlog {
  readonly #tables = new Map<TableName, Waiting>();

  static async read(journal: Journal, elements: ReadonlyMap<TableName, Element>, head: Position, signal: AbortSignal): Promise<Backlog> {
    const backlog = new Backlog();
    for (const { schema, progress, state } of elements.values()) {
      const newest = await journal.lastChange(schema.table);
      const events = state.kind === 'halted' ? [] : await journal.events(schema.table, progress.low, head);
      const event = events.at(-1)?.at ?? null;
      if (newest === null && event === null) continue;
      const behind = newest !== null && newest > progress.low && state.kind !== 'halted';
      const rows = behind ? await countChanges(journal.read(schema.table, progress.low, head, signal), progress.low, head) : 0;
      const sinceMs = behind || event !== null ? performance.now() : null;
      backlog.#tables.set(schema.table, { newest: newest ?? progress.low, sinceMs, rows, event });
    }
    return backlog;
  }

  add(batch: TrackedBatch): void {
    for (const { table, last, changes } of batch.blocks) {
      const waiting = this.#of(table, last);
      waiting.newest = last;
      waiting.rows += changes;
    }
    for (const { table, at } of batch.events) this.#of(table, at).event = at;
  }

  /** A fold went in: everything up to `through`. */
  applied(table: TableName, through: Position, changes: number): void {
    const waiting = this.#tables.get(table);
    if (waiting === undefined) return;
    const done = waiting.newest <= through;
    waiting.rows = done ? 0 : Math.max(0, waiting.rows - changes);
    waiting.sinceMs = done && (waiting.event === null || waiting.event <= through) ? null : performance.now();
  }

  /** Progress was put back: what is in the journal beyond it waits again. */
  rewound(table: TableName): void {
    const waiting = this.#tables.get(table);
    if (waiting !== undefined) waiting.sinceMs = performance.now();
  }

  /** Whether the table may have changes in (`low`, `upTo`]. */
  has(table: TableName, low: Position, upTo: Position): boolean {
    const waiting = this.#tables.get(table);
    return waiting !== undefined && low < upTo && (waiting.newest > low || (waiting.event !== null && waiting.event > low));
  }

  hasEvent(table: TableName, low: Position): boolean {
    const event = this.#tables.get(table)?.event ?? null;
    return event !== null && event > low;
  }

  isDirty(table: TableName): boolean {
    return this.waitingSinceMs(table) !== null;
  }

  waitingSinceMs(table: TableName): number | null {
    return this.#tables.get(table)?.sinceMs ?? null;
  }

  /** Milliseconds since the oldest change of the table that is not in the shadow reached the journal. */
  lagMs(table: TableName): number {
    const since = this.waitingSinceMs(table);
    return since === null ? 0 : performance.now() - since;
  }

  pendingRows(table: TableName): number {
    return this.#tables.get(table)?.rows ?? 0;
  }

  get isLarge(): boolean {
    let rows = 0;
    for (const waiting of this.#tables.values()) rows += waiting.rows;
    return rows >= LARGE_ROWS;
  }

  #of(table: TableName, at: Position): Waiting {
    let waiting = this.#tables.get(table);
    if (waiting === undefined) {
      waiting = { newest: at, sinceMs: null, rows: 0, event: null };
      this.#tables.set(table, waiting);
    }
    waiting.sinceMs ??= performance.now();
    return waiting;
  }
}

async function countChanges(blocks: AsyncIterable<ChangeBlock>, after: Position, upTo: Position): Promise<number> {
  const counting = { transaction: () => true, insert: () => {}, update: () => {}, delete: () => {}, truncate: () => {} };
  let changes = 0;
  for await (const block of blocks) changes += walkBlock(block, after, upTo, counting);
  return changes;
}
