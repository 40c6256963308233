import { type CaptureNumber, captureNumber } from '../model/capture.ts';
import { type Position, maxPosition } from '../model/position.ts';
import type { Element } from '../model/progress.ts';
import type { TableName, TableSchema } from '../model/schema.ts';
import type { ApplyWork } from './shadow.ts';

/** A capture that elements are crossing: each applies to exactly `at`, then writes for the next. */
export interface Drain {
  readonly number: CaptureNumber;
  readonly at: Position;
  /** Tables that cannot reach it, with the reason. */
  readonly leftOut: Map<TableName, string>;
  /** Tables that this process saw cross, in the shape they had then: what becomes of them afterwards is no matter of this capture. */
  readonly crossed: Map<TableName, TableSchema>;
}

export function newDrain(number: CaptureNumber, at: Position): Drain {
  return { number, at, leftOut: new Map(), crossed: new Map() };
}

/** Those of the elements that the capture waits for. */
export function uncrossed(elements: Iterable<Element>, { number, leftOut }: Drain): TableName[] {
  return Array.from(elements)
    .filter(({ schema, progress }) => progress.capture <= number && !leftOut.has(schema.table))
    .map(({ schema }) => schema.table);
}

/** What an element that has everything up to the capture crosses with: no rows. */
export function crossing({ schema, state, progress }: Element, drain: Drain, savedThrough: CaptureNumber): ApplyWork {
  const low = maxPosition(progress.low, drain.at);
  const across = { ...progress, low, high: low, capture: captureNumber(drain.number + 1) };
  return { table: schema.table, rows: [], progress: across, state, savedThrough };
}
