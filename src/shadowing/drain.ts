import type { CaptureNumber } from '../model/capture.ts';
import type { Position } from '../model/position.ts';
import type { TableName } from '../model/schema.ts';

/** A capture that elements are crossing: each applies to exactly `at`, then writes for the next. */
export interface Drain {
  readonly number: CaptureNumber;
  readonly at: Position;
  /** Tables that cannot reach it, with the reason. */
  readonly leftOut: Map<TableName, string>;
  /** Tables that have crossed: what becomes of them afterwards is no matter of this capture. */
  readonly crossed: Set<TableName>;
}

export function newDrain(number: CaptureNumber, at: Position): Drain {
  return { number, at, leftOut: new Map(), crossed: new Set() };
}
