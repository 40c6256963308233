import { walkBlock } from '../journal/frame.ts';
import type { Journal } from '../journal/journal.ts';
import type { ChangeBlock, TransactionRef } from '../model/change.ts';
import { ForeshadowError } from '../model/errors.ts';
import { ORIGIN, type Position, maxPosition } from '../model/position.ts';
import type { Element } from '../model/progress.ts';
import type { TableName } from '../model/schema.ts';
import { steadyMs } from './held-rows.ts';
import type { Tracked } from '../tracking/tracker.ts';

interface Waiting {
  /** The newest boundary at which the table changed. Never forgotten: progress may be put back by a rollback. */
  newest: Position;
  /** When the oldest change that is not in the shadow reached the journal, by the monotonic clock; null: everything is in. */
  sinceMs: number | null;
  rows: number;
  /** Of them, those that are held back. */
  held: number;
  /** The newest boundary at which something happened to the table that rows do not express. */
  event: Position | null;
}

/**
 * From how many waiting changes on the engine folds without pausing. Where changes come no faster than they are folded that is how large a fold
 * gets, and larger ones coalesce more. Measured while the primary's server sent 100,000 a second (half of the loads c and e of
 * `npm run bench:postgres`, before reading gathered as decision 21 says; CPU seconds of the shadow's server, medians of 2 to 4): 3.1 and 4.4 with
 * 5,000; 2.6 and 3.9 with 20,000; 2.8 and 3.8 with 50,000, where load c took longer in all, 5.9 s instead of 5.2.
 */
const LARGE_ROWS = 20_000;

const ARRIVALS_MAX = 8192;

/** When which part of the journal was written, as far as this process saw it. */
class Arrivals {
  #heard: { readonly through: Position; readonly atMs: number }[] = [];
  #began: Position | null = null;

  add({ after, through }: Tracked): void {
    this.#began ??= after;
    this.#heard.push({ through, atMs: steadyMs() });
    // Those before are told less exactly, and never as younger than they are.
    if (this.#heard.length > ARRIVALS_MAX) {
      this.#heard = this.#heard.flatMap((each, index, all) => {
        const next = all[index + 1];
        if (index % 2 === 1) return [];
        return next === undefined ? [each] : [{ through: next.through, atMs: each.atMs }];
      });
    }
  }

  /** When a transaction reached the journal, by the steady clock; of one from before this process, when it was committed by the clocks of both machines. */
  readonly arrivedMs = ({ at, committedAtMicros }: TransactionRef): number => {
    const heard = this.#heard;
    let [from, to] = [0, heard.length];
    while (from < to) {
      const middle = (from + to) >> 1;
      if ((heard[middle] as { through: Position }).through < at) from = middle + 1;
      else to = middle;
    }
    const found = heard[from];
    if (found !== undefined && this.#began !== null && at > this.#began) return found.atMs;
    return steadyMs() - Math.max(0, Date.now() - Number(committedAtMicros / 1000n));
  };
}

/** What the journal holds and the shadow does not, by table: how much, and for how long. */
export class Backlog {
  /** When what came reached the journal. */
  readonly arrivals = new Arrivals();
  readonly #tables = new Map<TableName, Waiting>();

  static async read(journal: Journal, elements: ReadonlyMap<TableName, Element>, head: Position, signal: AbortSignal): Promise<Backlog> {
    const backlog = new Backlog();
    for (const { schema, progress, state } of elements.values()) {
      const newest = await journal.lastChange(schema.table);
      // Those that were met already too: a rollback may put progress back before them.
      const event = (await journal.events(schema.table, ORIGIN, head)).at(-1)?.at ?? null;
      if (newest === null && event === null) continue;
      const behind = newest !== null && newest > progress.low && state.kind !== 'halted';
      const blocks = journal.read(schema.table, progress.low, head, signal);
      const { rows, ageMs } = behind ? await countChanges(blocks, progress.low, head) : { rows: 0, ageMs: 0 };
      const sinceMs = behind || (event !== null && event > progress.low) ? performance.now() - ageMs : null;
      backlog.#tables.set(schema.table, { newest: newest ?? progress.low, sinceMs, rows, held: 0, event });
    }
    return backlog;
  }

  add(tracked: Tracked): void {
    const { through, changes, events } = tracked;
    this.arrivals.add(tracked);
    for (const [table, count] of changes) {
      const waiting = this.#of(table, through);
      waiting.newest = through;
      waiting.rows += count;
    }
    for (const { table, at } of events) this.#of(table, at).event = at;
  }

  /** A fold went in: everything up to `through`. */
  applied(table: TableName, through: Position, changes: number): void {
    const waiting = this.#tables.get(table);
    if (waiting === undefined) return;
    const done = waiting.newest <= through;
    waiting.rows = done ? 0 : Math.max(0, waiting.rows - changes);
    // What is left has waited at most as long as what went in: the age is not understated.
    if (done && (waiting.event === null || waiting.event <= through)) waiting.sinceMs = null;
  }

  /** So many of the changes that wait are held back, the oldest of them since then. */
  held(table: TableName, changes: number, sinceMs: number | null): void {
    const waiting = this.#tables.get(table);
    if (waiting === undefined) return;
    waiting.held = changes;
    if (sinceMs !== null) waiting.sinceMs = sinceMs;
  }

  /** Progress was put back: what is in the journal beyond it waits again. */
  rewound(table: TableName, head: Position): void {
    const waiting = this.#of(table, head);
    // Whether there was anything is for the journal to say: it may no longer reach back.
    waiting.newest = maxPosition(waiting.newest, head);
  }

  /** Whether the table may have changes in (`low`, `upTo`]. */
  has(table: TableName, low: Position, upTo: Position): boolean {
    const waiting = this.#tables.get(table);
    return waiting !== undefined && low < upTo && (waiting.newest > low || (waiting.event !== null && waiting.event > low));
  }

  /** Whether an element that is not halted, and has everything up to `reached`, may lack anything up to `at`. */
  isBehind({ schema, state }: Element, reached: Position, at: Position): boolean {
    return state.kind === 'copying' || (state.kind === 'live' && this.has(schema.table, reached, at));
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
    for (const waiting of this.#tables.values()) rows += Math.max(0, waiting.rows - waiting.held);
    return rows >= LARGE_ROWS;
  }

  #of(table: TableName, at: Position): Waiting {
    let waiting = this.#tables.get(table);
    if (waiting === undefined) {
      waiting = { newest: at, sinceMs: null, rows: 0, held: 0, event: null };
      this.#tables.set(table, waiting);
    }
    waiting.sinceMs ??= performance.now();
    return waiting;
  }
}

/** How many changes there are, and how long ago the oldest was committed, by the clocks of both machines: only for showing. */
async function countChanges(
  blocks: AsyncIterable<ChangeBlock>,
  after: Position,
  upTo: Position,
): Promise<{ readonly rows: number; readonly ageMs: number }> {
  let oldestMicros: bigint | null = null;
  const transaction = ({ committedAtMicros }: TransactionRef): boolean => {
    oldestMicros ??= committedAtMicros;
    return true;
  };
  const counting = { transaction, insert: () => {}, update: () => {}, delete: () => {}, truncate: () => {} };
  let rows = 0;
  try {
    for await (const block of blocks) rows += walkBlock(block, after, upTo, counting);
  } catch (error) {
    // The engine meets the same gap, and begins to compare.
    if (!(error instanceof ForeshadowError && error.code === 'JOURNAL_GAP')) throw error;
  }
  const ageMs = oldestMicros === null ? 0 : Math.max(0, Date.now() - Number(oldestMicros / 1000n));
  return { rows, ageMs };
}
