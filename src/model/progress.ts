import type { CaptureNumber } from './capture.ts';
import type { Position } from './position.ts';
import type { TableSchema } from './schema.ts';
import type { Tuple } from './tuple.ts';

/** One unbroken line of progress; only rollback and resync begin a new one. */
export type Generation = number & { readonly __brand: 'Generation' };

/**
 * How far an element of the shadow has come. Kept in the shadow and written in the transaction of the rows it speaks of.
 * Every change at or below `low` is in; some in (`low`, `high`] are: cold rows go early, hot rows wait. Which ones is known only to the process
 * that moved them: after a restart a row may be in either state, until all up to `high` is folded. Within a generation neither moves back.
 */
export interface Progress {
  readonly generation: Generation;
  readonly low: Position;
  readonly high: Position;
  /** The capture its writer works for: what it writes is part of this capture and of later ones. */
  readonly capture: CaptureNumber;
}

/**
 * What an element is doing.
 * - `copying`: being brought to equality with the primary in chunks. In the phase `primary` the chunks are the primary's rows: those
 *   up to `frontier` (null: none yet) are in; it is a key, or a place that only the primary understands. A resync then runs a phase
 *   `shadow` over the shadow's rows (`frontier` is a key), for those that the primary no longer has. `fresh`: the shadow holds nothing but chunks yet, so rows can be inserted without looking.
 * - `live`: everything is in up to `low`.
 * - `halted`: stopped with a reason; nothing is applied until it is resynced.
 */
export type ElementState =
  | {
      readonly kind: 'copying';
      readonly phase: 'primary' | 'shadow';
      readonly frontier: Tuple | null;
      readonly initial: boolean;
      readonly fresh: boolean;
      readonly copiedRows: number;
    }
  | { readonly kind: 'live' }
  | { readonly kind: 'halted'; readonly reason: string };

export const COPY_FROM_NOTHING: ElementState = {
  kind: 'copying',
  phase: 'primary',
  frontier: null,
  initial: true,
  fresh: true,
  copiedRows: 0,
};

/** Resync: what stands there is compared, and only differences are written. */
export const COPY_BY_COMPARISON: ElementState = {
  kind: 'copying',
  phase: 'primary',
  frontier: null,
  initial: false,
  fresh: false,
  copiedRows: 0,
};

/** An element: a table of the shadow, with its shape, its state and its progress. */
export interface Element {
  readonly schema: TableSchema;
  readonly state: ElementState;
  readonly progress: Progress;
}
