import type { CaptureNumber } from '../model/capture.ts';
import { type Position, maxPosition } from '../model/position.ts';
import type { Element, ElementState } from '../model/progress.ts';
import type { TableName } from '../model/schema.ts';
import { type Chunk, type ChunkScope, afterChunk } from './copy.ts';
import type { Drain } from './drain.ts';
import type { OpenFold } from './folds.ts';
import type { Folded } from './pending.ts';
import { batchesOf } from './resolve.ts';
import type { ApplyWork, Conflict } from './shadow.ts';
import type { Touched } from './touched.ts';

/** What a step came to. A null element: the table is gone. */
export interface Outcome {
  readonly element: Element | null;
  readonly rows: number;
  readonly conflicts: readonly Conflict[];
}

/** What became of tables, by the names they had. */
export type Written = ReadonlyMap<TableName, Outcome>;

/** Under what terms an element takes a step. */
export interface StepTask {
  readonly drain: Drain | null;
  readonly savedThrough: CaptureNumber;
}

/** What is to be folded, and what is to be written with it. */
export interface FoldTask extends StepTask {
  readonly target: Position;
  readonly chunk: Chunk | null;
  readonly scope: ChunkScope | null;
}

/** What goes into one transaction: few enough elements that a server of default settings has locks for all of their tables. */
const TOGETHER_MAX = 100;
const TOGETHER_BYTES = 16 << 20;
/** Larger folds fill a transaction of their own. */
const SMALL_CHANGES = 5_000;

/** Rows of one element that are ready to be written, and where it stands then. */
export class Write implements AsyncDisposable {
  readonly element: Element;
  readonly task: FoldTask;
  /** As it will be. */
  readonly next: Element;
  /** The task's, if it has its ground. */
  readonly chunk: Chunk | null;
  readonly work: ApplyWork;
  /** May share a transaction with other elements. */
  readonly joins: boolean;
  readonly fold: OpenFold;
  /** Folded in by what was taken so far. */
  changes = 0;

  constructor(
    element: Element,
    task: FoldTask,
    fold: OpenFold,
    { alone, touched }: { readonly alone: boolean; readonly touched: Touched | null },
  ) {
    const { schema, progress, state } = element;
    const { first } = fold;
    const whole = !fold.goesOn && first.through === task.target;
    // A fold that ends before the chunk's fence, or empties the table, leaves the chunk without its ground.
    this.chunk = whole && !first.truncated ? task.chunk : null;
    this.element = element;
    this.task = task;
    this.fold = fold;
    const { through } = first;
    this.next = {
      schema,
      state: stateAfter(state, this.chunk, task.scope, fold.goesOn || !first.isEmpty),
      progress: { ...progress, low: through, high: maxPosition(progress.high, first.high ?? through) },
    };
    this.joins = !alone && !fold.goesOn && !first.full && first.changes <= SMALL_CHANGES;
    this.work = {
      table: schema.table,
      rows: (standing) => batchesOf(element, this.#pieces(), { chunk: this.chunk, touched }, standing),
      from: progress,
      progress: this.next.progress,
      state: this.next.state,
      // Where more waits the next fold takes it to the disk, or meets that it is lost. (How far a copy has come its place does not say.)
      unflushed: first.full && state.kind === 'live' && this.chunk === null,
      savedThrough: task.savedThrough,
      distinct: isDistinct(element, fold),
    };
  }

  /** Beside the engine's turns: nobody reads a table that is copied for the first time, so others need not wait for it or its key. */
  get beside(): boolean {
    return this.task.chunk?.pack != null;
  }

  get bytes(): number {
    return this.fold.first.bytes + (this.chunk?.pack?.bytes ?? 0);
  }

  /** Where a test may kill the process, once it is in the shadow. */
  get failpoint(): string {
    if (this.chunk !== null) return 'chunk-applied';
    return this.next.progress.low < this.next.progress.high ? 'moved-ahead' : 'applied';
  }

  /** There is nothing to be written, up to the target. */
  get isEmpty(): boolean {
    return this.fold.first.isEmpty && this.next.progress.low === this.task.target;
  }

  async *#pieces(): AsyncGenerator<Folded> {
    for await (const folded of this.fold.pieces()) {
      this.changes += folded.changes;
      yield folded;
    }
  }

  [Symbol.asyncDispose](): PromiseLike<void> {
    return this.fold[Symbol.asyncDispose]();
  }
}

/** Those that go into one transaction. */
export function grouped(writes: readonly Write[]): readonly (readonly Write[])[] {
  const joining = writes.filter(({ joins }) => joins);
  const groups = [joining.filter(({ beside }) => !beside), joining.filter(({ beside }) => beside)];
  for (const write of writes) if (!write.joins) groups.push([write]);
  return groups.filter((group) => group.length > 0);
}

/** Whether there is no room beside these for another. */
export function isFull(writes: readonly Write[]): boolean {
  const last = writes.at(-1);
  if (last === undefined) return false;
  return !last.joins || writes.length >= TOGETHER_MAX || writes.reduce((sum, { bytes }) => sum + bytes, 0) >= TOGETHER_BYTES;
}

/** A capture that left the table out may have been cut while it was written. */
export function inCaptureOf(element: Element | undefined, outcome: Outcome): Outcome {
  const now = element?.progress.capture;
  if (now === undefined || outcome.element === null || outcome.element.progress.capture >= now) return outcome;
  return { ...outcome, element: { ...outcome.element, progress: { ...outcome.element.progress, capture: now } } };
}

/**
 * Of a live table, in one piece, where no row is completed from another's or counted on from what stands: those must not be written again on top
 * of some of them. Nor where it is not known which rows went ahead: keys that are taken by them would be looked for as free.
 */
function isDistinct({ state, progress }: Element, { first, goesOn }: OpenFold): boolean {
  const known = progress.low === progress.high || first.high !== null;
  return state.kind === 'live' && known && !goesOn && !first.truncated && first.entries.isPlain;
}

function stateAfter(state: ElementState, chunk: Chunk | null, scope: ChunkScope | null, touched: boolean): ElementState {
  if (state.kind !== 'copying') return state;
  if (chunk === null || scope?.kind !== 'phase') return { ...state, fresh: state.fresh && !touched };
  return afterChunk(state, chunk, touched);
}
