import { isKeyless } from '../model/copies.ts';
import { type Position, maxPosition } from '../model/position.ts';
import type { Element } from '../model/progress.ts';
import type { TableName } from '../model/schema.ts';
import { Calls, type Moved } from './calls.ts';
import { FOLD_CHANGES, type OpenFold } from './folds.ts';
import { type Going, HeldFold } from './held-fold.ts';
import { HeldRows, type HeldView, steadyMs } from './held-rows.ts';
import type { Backlog } from './lag.ts';
import type { EngineParts } from './parts.ts';

export interface HoldingParts {
  /** For all elements together. What does not fit moves. */
  readonly bytesMax: number;
  /** Nobody called for so long: everything moves as it comes until somebody does again. */
  readonly patienceMs: number;
  /**
   * Hears of each change of a row that is held back, in commit order, as it is folded in. Must not block. `identity` stands for the row's
   * identity in what is learned of it: two rows may share one. A whole number below 2^31. `atMs`: as `HeldView.sinceMs`.
   */
  readonly changed: (table: TableName, identity: number, atMs: number) => void;
}

/** How gently to work. */
export interface Ease {
  /** Changes in one transaction, as a share of the usual. */
  readonly batchShare: number;
  /** Initial copies and resyncs wait while there is something to be shadowed. */
  readonly copiesYield: boolean;
}

/** Where nobody asks for anything else. */
const FREELY: Ease = { batchShare: 1, copiesYield: false };
/** Rows called for that go together: of several elements as many as share a transaction. */
const CALLED_ROWS = 5_000;
const CALLED_BYTES = 16 << 20;
/** How long before the end of its tolerance a row moves: this share of it, but not much more than it takes. */
const LEAD_SHARE = 0.1;
const LEAD_MS_MAX = 10_000;
/** Rows that should have gone are looked at again: their element cannot move at the moment. */
const AGAIN_MS = 250;

/** Decides which of the rows that are held back move: those called for, those that may wait no longer, and those there is no room for. */
export class Holding {
  readonly #parts: EngineParts;
  readonly #backlog: Backlog;
  readonly #hurry: () => void;
  readonly #rows = new HeldRows();
  readonly #folds = new Map<TableName, HeldFold>();
  readonly #calls = new Calls(this.#rows);
  /** Of each fold when it was last looked at, and of all. */
  readonly #bytesOf = new Map<TableName, number>();
  #bytes = 0;
  /** Tables of which everything is to go, to make room. */
  readonly #crowded = new Set<TableName>();
  #on = false;
  #heardMs = 0;
  #ease = FREELY;

  /** @param hurry wakes the engine up. */
  constructor(parts: EngineParts, backlog: Backlog, hurry: () => void) {
    this.#parts = parts;
    this.#backlog = backlog;
    this.#hurry = hurry;
  }

  get rows(): HeldView {
    return this.#rows;
  }

  /** Whether live elements hold changed rows back until they are called for. Otherwise everything that is held moves, and all that comes. */
  hold(on: boolean): void {
    this.#on = on;
    this.#heardMs = steadyMs();
    this.#hurry();
  }

  /**
   * Moves these rows, in this order, as soon as the turns allow. Resolves when they are in the shadow, with those that were written; rows that
   * are held no more are done too, and those of a table that cannot move at the moment.
   */
  move(rows: readonly number[], signal: AbortSignal): Promise<Moved> {
    this.#heardMs = steadyMs();
    const moved = this.#calls.add(rows, signal);
    this.#hurry();
    return moved;
  }

  /** For as long as rows are held back. */
  ease(ease: Ease): void {
    this.#ease = ease;
    this.#hurry();
  }

  get copiesYield(): boolean {
    return this.#easeNow.copiesYield;
  }

  /** Changes in one transaction. */
  get changesMax(): number {
    return Math.max(1, Math.ceil(FOLD_CHANGES * this.#easeNow.batchShare));
  }

  /** Rows are held back: it was said so, and whoever decides on them is there. */
  get isOn(): boolean {
    const { holding } = this.#parts;
    return holding !== undefined && this.#on && steadyMs() - this.#heardMs < holding.patienceMs;
  }

  /** Whether there is reason to go on without a pause. */
  get isPressed(): boolean {
    return !this.#calls.isEmpty || this.#crowded.size > 0;
  }

  /** In how many milliseconds something is to move that need not now; or in `atMostMs`, if that is sooner. */
  nextDueMs(atMostMs: number | undefined): number | undefined {
    if (this.#rows.count === 0) return atMostMs;
    const nowMs = steadyMs();
    let nextMs = this.isOn ? this.#heardMs + (this.#parts.holding?.patienceMs ?? 0) : nowMs;
    for (const fold of this.#folds.values()) if (fold.oldest !== -1) nextMs = Math.min(nextMs, this.#dueMs(fold.oldest));
    return Math.min(nextMs > nowMs ? nextMs - nowMs : AGAIN_MS, atMostMs ?? Number.POSITIVE_INFINITY);
  }

  /** Up to where an element has everything in the shadow, or held back. */
  reached(element: Element): Position {
    const fold = this.#folds.get(element.schema.table);
    return this.isOn && fold?.fits(element) === true ? maxPosition(fold.through, element.progress.low) : element.progress.low;
  }

  /** It is the turn of more rows that are called for. */
  callNext(): void {
    const { batchShare } = this.#easeNow;
    this.#calls.next(Math.max(1, Math.ceil(CALLED_ROWS * batchShare)), CALLED_BYTES);
  }

  /** Whether rows of the element are held back. */
  holds({ schema, state, progress }: Element): boolean {
    if (!this.isOn || state.kind !== 'live' || isKeyless(schema)) return false;
    return progress.low === progress.high || this.#folds.has(schema.table);
  }

  /** Those of the element's rows that are to move now, up to `target`. Null: none is. 'afresh': that is not for this fold to say. */
  async due(element: Element, target: Position, signal: AbortSignal): Promise<OpenFold | 'afresh' | null> {
    const { table } = element.schema;
    const fold = await this.#extended(element, target, signal);
    if (fold === null) return 'afresh';
    if (fold.count === 0 || fold.isWhole || this.#crowded.has(table)) return this.#all(table, fold);
    const rows = new Set(this.#calls.of(table));
    const nowMs = steadyMs();
    let row = fold.oldest;
    for (let left = this.changesMax; row !== -1 && left > 0 && this.#dueMs(row) <= nowMs; left--) {
      rows.add(row);
      row = this.#rows.after(row);
    }
    if (rows.size > 0) return this.#open(table, fold, fold.going(Array.from(rows)));
    // Nothing may come any more that would have the rest looked at.
    if (fold.through < target) this.#hurry();
    return null;
  }

  /** Everything of the element that is held, up to `target`. 'afresh': nothing is. */
  async all(element: Element, target: Position, signal: AbortSignal): Promise<OpenFold | 'afresh'> {
    const { table } = element.schema;
    const fold = this.#folds.has(table) ? await this.#extended(element, target, signal) : null;
    return fold === null ? 'afresh' : this.#all(table, fold);
  }

  /** The table cannot move at the moment: whoever called for rows of it need not wait for that. */
  excuse(table: TableName): void {
    this.#calls.excuse(table);
  }

  /** The table goes another way. */
  drop(table: TableName): void {
    const fold = this.#folds.get(table);
    if (fold === undefined) return;
    fold.release();
    this.#look(table, fold);
  }

  /** Nothing moves any more. */
  end(reason: unknown): void {
    this.#calls.end(reason);
  }

  /** The fold that is kept of the element, with what came up to `target`. Null: there is none that leads there. */
  async #extended(element: Element, target: Position, signal: AbortSignal): Promise<HeldFold | null> {
    const { schema, progress } = element;
    const { table } = schema;
    const kept = this.#folds.get(table);
    if (kept !== undefined && !(kept.fits(element) && kept.through <= target)) this.drop(table);
    if (!this.#folds.has(table) && progress.low < progress.high) return null;
    const fold = this.#folds.get(table) ?? new HeldFold(element, this.#rows, this.#hears);
    this.#folds.set(table, fold);
    if (!this.#backlog.has(table, fold.through, target)) {
      fold.reached(target);
      return fold;
    }
    const before = this.#bytesOf.get(table) ?? 0;
    const hasRoom = (): boolean => this.#bytes + fold.bytes - before < (this.#parts.holding?.bytesMax ?? 0);
    const arrivedMs = this.#backlog.arrivals.arrivedMs;
    try {
      const blocks = this.#parts.journal.read(table, fold.through, target, signal);
      if (!(await fold.extend(blocks, { upTo: target, changesMax: this.changesMax, hasRoom, arrivedMs }))) {
        this.drop(table);
        return null;
      }
    } catch (error) {
      this.drop(table);
      throw error;
    }
    this.#look(table, fold);
    if (this.#bytes >= (this.#parts.holding?.bytesMax ?? 0)) this.#makeRoom(fold.through < target ? table : null);
    return fold;
  }

  get #easeNow(): Ease {
    return this.isOn ? this.#ease : FREELY;
  }

  readonly #hears = {
    changed: (table: TableName, identity: number, atMs: number): void => this.#parts.holding?.changed(table, identity, atMs),
    left: (row: number, written: boolean): void => this.#calls.left(row, written),
  };

  #all(table: TableName, fold: HeldFold): OpenFold {
    return this.#open(table, fold, fold.going({ rowsMax: this.changesMax }));
  }

  #open(table: TableName, fold: HeldFold, going: Going): OpenFold {
    return {
      first: going.folded,
      goesOn: false,
      async *pieces() {
        yield going.folded;
      },
      went: (progress) => {
        fold.went(going, progress);
        this.#look(table, fold);
      },
      [Symbol.asyncDispose]: () => Promise.resolve(),
    };
  }

  #dueMs(row: number): number {
    const toleranceMs = this.#parts.lagToleranceMs(this.#rows.table(row));
    const leadMs = Math.max(2 * this.#parts.foldEveryMs, Math.min(toleranceMs * LEAD_SHARE, LEAD_MS_MAX));
    return this.#rows.sinceMs(row) + toleranceMs - leadMs;
  }

  /** The largest makes room; and one that came to nothing for want of it. */
  #makeRoom(table: TableName | null): void {
    let largest: TableName | null = table;
    for (const [each, bytes] of this.#bytesOf) if (largest === null || bytes > (this.#bytesOf.get(largest) ?? 0)) largest = each;
    if (largest !== null) this.#crowded.add(largest);
    if (table !== null) this.#crowded.add(table);
    // Their turn may have been before this one's.
    this.#hurry();
  }

  /** Takes account of what the fold holds by now, if it still is of use. */
  #look(table: TableName, fold: HeldFold): void {
    const bytes = fold.count === 0 ? 0 : fold.bytes;
    this.#bytes += bytes - (this.#bytesOf.get(table) ?? 0);
    if (fold.count === 0) {
      this.#folds.delete(table);
      this.#bytesOf.delete(table);
      this.#crowded.delete(table);
    } else this.#bytesOf.set(table, bytes);
    const { oldest, changes } = fold;
    this.#backlog.held(table, changes, oldest === -1 ? null : this.#rows.sinceMs(oldest) - performance.timeOrigin);
  }
}
