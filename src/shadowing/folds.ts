import { setImmediate as otherWork } from 'node:timers/promises';
import type { Journal } from '../journal/journal.ts';
import type { ChangeBlock, TransactionRef } from '../model/change.ts';
import type { Position } from '../model/position.ts';
import type { Element, Progress } from '../model/progress.ts';
import type { TableName } from '../model/schema.ts';
import type { Holding } from './holding.ts';
import { type FoldLimit, type FoldPiece, type Folded, foldPieces, Pending } from './pending.ts';

/**
 * How much goes into one fold. Larger ones coalesce more of what is hot, and hold up a capture that comes in between: of 300,000
 * uniform updates to as many rows, folds of 50, 100 and 250 thousand cost the shadow the same CPU (PostgreSQL 18.4).
 */
export const FOLD_CHANGES = 100_000;
const FOLD_BYTES = 64 << 20;
/** Folds made ahead at the same time, each of at most so much. */
const AHEAD_MAX = 2;

/** A fold under way: its first piece, and what comes after it in the same transaction. */
export interface OpenFold extends AsyncDisposable {
  readonly first: Folded;
  /** The transaction at `first.through` is too large for one piece. */
  readonly goesOn: boolean;
  /** All pieces, the first included; to be taken once. */
  pieces(): AsyncGenerator<Folded>;
  /** It is in the shadow, and the element stands there. Told where the rows are out of a fold that is kept. */
  readonly went?: (progress: Progress) => void;
}

interface Ahead {
  readonly schema: Element['schema'];
  readonly after: Position;
  readonly fold: Promise<OpenFold>;
}

/** Folds what the journal holds of a table; while the store writes one full fold, the next is made. */
export class Folds {
  readonly #journal: Journal;
  readonly #holding: Holding;
  readonly #ahead = new Map<TableName, Ahead>();

  constructor(journal: Journal, holding: Holding) {
    this.#journal = journal;
    this.#holding = holding;
  }

  /** What is to be written of an element now, up to `target`: everything, unless rows are held back. Null: nothing is. */
  async due(element: Element, target: Position, signal: AbortSignal): Promise<OpenFold | null> {
    const holds = this.#holding.holds(element) && !this.#ahead.has(element.schema.table);
    const due = holds ? await this.#holding.due(element, target, signal) : 'afresh';
    return due === 'afresh' ? this.open(element, target, null, signal) : due;
  }

  /** The changes after the element's low, up to `target` or the limit. `shows`: see `Pending`. */
  async open(element: Element, target: Position, shows: ((ref: TransactionRef) => boolean) | null, signal: AbortSignal): Promise<OpenFold> {
    const { schema, progress } = element;
    const held = shows === null ? await this.#holding.all(element, target, signal) : 'afresh';
    if (held !== 'afresh') return held;
    this.#holding.drop(schema.table);
    const ahead = this.#ahead.get(schema.table);
    this.#ahead.delete(schema.table);
    if (ahead !== undefined) {
      const made = await ahead.fold;
      if (ahead.schema === schema && ahead.after === progress.low && shows === null && made.first.through <= target) return made;
      await made[Symbol.asyncDispose]();
    }
    const range = { after: progress.low, upTo: target };
    const blocks = this.#journal.read(schema.table, range.after, range.upTo, signal);
    return openFold(element, blocks, range, { shows, changesMax: this.#holding.changesMax });
  }

  /** Begins the fold after one that was full. `element`: as it will be then. */
  prepare(element: Element, target: Position, signal: AbortSignal): void {
    const { schema, progress } = element;
    if (progress.low >= target || this.#ahead.size >= AHEAD_MAX || this.#ahead.has(schema.table)) return;
    const range = { after: progress.low, upTo: target };
    const blocks = unhurried(this.#journal.read(schema.table, range.after, range.upTo, signal));
    const fold = openFold(element, blocks, range, { shows: null, changesMax: this.#holding.changesMax });
    // Told to whoever opens it; nobody does where the table goes another way.
    fold.catch(() => undefined);
    this.#ahead.set(schema.table, { schema, after: progress.low, fold });
  }

  /** The table goes another way: what was made ahead for it is of no use, and must not keep others from being served. */
  abandon(table: TableName): void {
    this.#holding.drop(table);
    const ahead = this.#ahead.get(table);
    this.#ahead.delete(table);
    // One that failed holds nothing.
    ahead?.fold.then((fold) => fold[Symbol.asyncDispose]()).catch(() => undefined);
  }
}

async function openFold(
  element: Element,
  blocks: AsyncIterable<ChangeBlock>,
  range: { readonly after: Position; readonly upTo: Position },
  { shows, changesMax }: { readonly shows: ((ref: TransactionRef) => boolean) | null; readonly changesMax: number },
): Promise<OpenFold> {
  const limit: FoldLimit = { changes: changesMax, bytes: FOLD_BYTES };
  const begin = (only: Position | null): Pending =>
    new Pending(element.schema, range.after, limit, shows === null ? { only } : { only, shows });
  const rest = foldPieces(blocks, range, begin);
  const { pending, goesOn } = (await rest.next()).value as FoldPiece;
  if (!goesOn) await rest.return();
  return {
    first: pending,
    goesOn,
    async *pieces() {
      yield pending;
      if (goesOn) for await (const piece of rest) yield piece.pending;
    },
    [Symbol.asyncDispose]: () => rest[Symbol.asyncDispose](),
  };
}

/** Blocks with room between them for what matters more: the rows of the fold before are on their way to the store. */
async function* unhurried(blocks: AsyncIterable<ChangeBlock>): AsyncGenerator<ChangeBlock> {
  for await (const block of blocks) {
    yield block;
    await otherWork();
  }
}
