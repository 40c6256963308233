import type { CaptureNumber } from './capture.ts';
import type { Position } from './position.ts';
import type { TableSchema } from './schema.ts';
import type { KeyTuple } from './tuple.ts';

/** One unbroken line of progress; only rollback and resync begin a new one. */
export type Generation = number & { readonly __brand: 'Generation' };

/**
 * How far an element of the shadow has come. Kept in the shadow and written in the transaction of the rows it speaks of.
 * Every change at or below `low` is in; some in (`low`, `high`] are. (Until prediction moves cold rows ahead, low = high.)
 * Within a generation neither moves back.
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
 * - `copying`: keys up to `frontier` (null: none yet) stand as the primary had them at `low`; the rest is still to be read.
 *   An initial copy finds nothing there (`fresh`), a resync compares.
 * - `live`: everything is in up to `low`.
 * - `halted`: stopped with a reason; nothing is applied until it is resynced.
 */
export type ElementState =
  | { readonly kind: 'copying'; readonly frontier: KeyTuple | null; readonly fresh: boolean; readonly copiedRows: number }
  | { readonly kind: 'live' }
  | { readonly kind: 'halted'; readonly reason: string };

/** An element: a table of the shadow, with its shape, its state and its progress. */
export interface Element {
  readonly schema: TableSchema;
  readonly state: ElementState;
  readonly progress: Progress;
}
