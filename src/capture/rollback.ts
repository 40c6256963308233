import { type CaptureNumber, type CaptureRecord, NO_CAPTURE, type Seal } from '../model/capture.ts';
import { ForeshadowError } from '../model/errors.ts';
import { COPY_FROM_NOTHING, type Element, type Generation, type Progress } from '../model/progress.ts';
import type { TableName } from '../model/schema.ts';
import type { Tuple } from '../model/tuple.ts';
import type { Engine } from '../shadowing/engine.ts';
import type { ApplyWork, RowBatch, Shadow } from '../shadowing/shadow.ts';
import type { Catalog } from './catalog.ts';
import { rowsAt, sealsEqual, sumsByReading } from './seal.ts';

export interface RollbackParts {
  readonly shadow: Shadow;
  readonly catalog: Catalog;
  readonly engine: Engine;
  readonly failpoint: (name: string) => void;
}

export interface RollbackOutcome {
  readonly rows: number;
  /** The live shadow adds up to the capture's seals. */
  readonly proved: boolean;
  /** Tables that the capture does not have, left as they stand. */
  readonly untouched: readonly TableName[];
}

/**
 * Makes the live shadow equal to a capture again, going forward: the capture's images become new versions of the capture in progress,
 * so no capture is lost and this can itself be rolled back. One transaction writes the rows and begins a new generation whose progress
 * is the capture's position; what came after it is in the journal, to be replayed or not.
 */
export async function rollback(parts: RollbackParts, to: CaptureRecord, signal: AbortSignal): Promise<RollbackOutcome> {
  const { shadow, catalog, engine } = parts;
  const { position } = to;
  const pinned = await catalog.schema(to.number);
  if (position === null || pinned === null) throw new Error(`capture ${to.number} was never cut`);
  const seals = await catalog.seals(to.number);
  return engine.still(async (elements) => {
    const generation = (engine.generation + 1) as Generation;
    const works: ApplyWork[] = [];
    for (const schema of pinned.tables) {
      const { table } = schema;
      const element = elements.get(table);
      const capture = element?.progress.capture ?? engine.nextNumber;
      const progress: Progress = { generation, low: position, high: position, capture };
      const same = element?.schema.shape === schema.shape;
      if (same) await undoForeignRows(shadow, table, signal);
      // Dropped since, or of another shape: a segment in the capture's own shape takes its place, empty until the rows below are in.
      else if (element === undefined) await shadow.prepare({ ...pinned, tables: [schema] }, progress);
      else await shadow.retire(table, schema, COPY_FROM_NOTHING, progress);
      const rows = same ? goingBack(shadow, table, to.number, capture, signal) : wholeTable(shadow, table, to.number, signal);
      const savedThrough = element === undefined ? NO_CAPTURE : engine.savedThrough(element);
      works.push({ table, rows, from: same ? element.progress : progress, progress, state: { kind: 'live' }, savedThrough });
    }
    const report = await engine.write(works, signal);
    parts.failpoint('rolled-back');
    const here = new Set(works.map(({ table }) => table));
    const untouched = Array.from(elements.keys()).filter((table) => !here.has(table));
    const proved = await provedBy(shadow, elements, seals, works, signal);
    return { rows: report.inserted + report.updated + report.deleted, proved, untouched };
  });
}

async function provedBy(
  shadow: Shadow,
  elements: ReadonlyMap<TableName, Element>,
  seals: readonly Seal[],
  works: readonly ApplyWork[],
  signal: AbortSignal,
): Promise<boolean> {
  for (const { table } of works) {
    const seal = seals.find((each) => each.table === table);
    const element = elements.get(table);
    if (seal === undefined || element === undefined) return false;
    if (!sealsEqual(seal, await sumsByReading(shadow, table, element.progress.capture, signal))) return false;
  }
  return true;
}

const FOREIGN_AT_ONCE = 1000;

/** Puts back the true rows where somebody else wrote. Returns their keys. */
export async function undoForeignRows(shadow: Shadow, table: TableName, signal: AbortSignal): Promise<number> {
  let undone = 0;
  for (;;) {
    const foreign = await shadow.foreignRows(table, FOREIGN_AT_ONCE, signal);
    if (foreign.length === 0) return undone;
    const count = await shadow.undoForeign(
      table,
      foreign.map(({ key }) => key),
    );
    if (count === 0) {
      throw new ForeshadowError('TABLE_HALTED', `foreign rows of ${table} could not be undone`, {
        remedy: 'Stop whatever writes to the shadow, then run the command again.',
      });
    }
    undone += count;
  }
}

async function* goingBack(
  shadow: Shadow,
  table: TableName,
  to: CaptureNumber,
  from: CaptureNumber,
  signal: AbortSignal,
): AsyncGenerator<RowBatch> {
  for await (const slice of shadow.diff(table, to, from, signal)) {
    const deletes = slice.filter(({ before }) => before === null).map(({ key }) => key);
    const puts = slice.map(({ before }) => before).filter((row): row is Tuple => row !== null);
    yield { deletes, puts, fresh: false };
  }
}

async function* wholeTable(shadow: Shadow, table: TableName, at: CaptureNumber, signal: AbortSignal): AsyncGenerator<RowBatch> {
  for await (const puts of rowsAt(shadow, table, at, signal)) yield { deletes: [], puts: [...puts], fresh: true };
}
