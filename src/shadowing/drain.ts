import { type CaptureNumber, captureNumber } from '../model/capture.ts';
import { type Position, maxPosition } from '../model/position.ts';
import type { Element } from '../model/progress.ts';
import type { TableName, TableSchema } from '../model/schema.ts';
import type { Backlog } from './lag.ts';
import type { ApplyWork } from './shadow.ts';

/** A capture that elements are crossing: each applies to exactly `at`, then writes for the next. */
export interface Drain {
  readonly number: CaptureNumber;
  readonly at: Position;
  /** Its position is durable: elements come to it before that, and cross only then. */
  isWritten: boolean;
  /** Tables that cannot reach it, with the reason. */
  readonly leftOut: Map<TableName, string>;
  /** Tables that this process saw cross, in the shape they had then: what becomes of them afterwards is no matter of this capture. */
  readonly crossed: Map<TableName, TableSchema>;
}

export function newDrain(number: CaptureNumber, at: Position, isWritten = true): Drain {
  return { number, at, isWritten, leftOut: new Map(), crossed: new Map() };
}

/** Elements that it still waits for. */
export function uncrossed(elements: ReadonlyMap<TableName, Element>, { number, leftOut }: Drain): Element[] {
  return Array.from(elements.values()).filter(({ schema, progress }) => progress.capture <= number && !leftOut.has(schema.table));
}

/** What those cross with that have everything up to the capture. Leaves out those that are past it. */
export function crossings(
  elements: ReadonlyMap<TableName, Element>,
  drain: Drain,
  backlog: Backlog,
  savedThrough: (element: Element) => CaptureNumber,
): readonly ApplyWork[] {
  for (const { schema, progress } of uncrossed(elements, drain)) {
    // It holds rows from beyond the capture: no other table has what belongs to them.
    if (progress.high > drain.at) drain.leftOut.set(schema.table, 'stood past the position of the capture');
  }
  return uncrossed(elements, drain)
    .filter(({ schema, state, progress }) => state.kind === 'live' && !backlog.has(schema.table, progress.low, drain.at))
    .map((element) => crossing(element, drain, savedThrough(element)));
}

/** No rows. */
function crossing({ schema, state, progress }: Element, drain: Drain, savedThrough: CaptureNumber): ApplyWork {
  const low = maxPosition(progress.low, drain.at);
  const across = { ...progress, low, high: low, capture: captureNumber(drain.number + 1) };
  return { table: schema.table, rows: [], from: progress, progress: across, state, savedThrough };
}
