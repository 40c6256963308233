import type { CaptureNumber, CaptureRecord, Seal } from '../model/capture.ts';
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
  if (position === null) throw new Error(`capture ${to.number} has no position`);
  const absent = new Set(to.absent.map(({ table }) => table));
  const seals = await catalog.seals(to.number);
  return engine.still(async (elements) => {
    const generation = (engine.generation + 1) as Generation;
    const works: ApplyWork[] = [];
    const untouched: TableName[] = [];
    for (const element of elements.values()) {
      const { table } = element.schema;
      const schema = absent.has(table) ? null : await shadow.schemaAt(table, to.number);
      if (schema === null || element.state.kind === 'copying') {
        untouched.push(table);
        continue;
      }
      await undoForeignRows(shadow, table, signal);
      const progress: Progress = { generation, low: position, high: position, capture: element.progress.capture };
      let rows: ApplyWork['rows'];
      if (schema.shape === element.schema.shape) rows = goingBack(shadow, table, to.number, progress.capture, signal);
      else {
        // Another shape: a segment in the capture's own shape takes the live one's place, empty until the rows below are in.
        await shadow.retire(table, schema, COPY_FROM_NOTHING, { ...element.progress, generation });
        rows = wholeTable(shadow, table, to.number, signal);
      }
      works.push({ table, rows, progress, state: { kind: 'live' }, savedThrough: engine.savedThrough(element) });
    }
    const report = await engine.write(works, signal);
    parts.failpoint('rolled-back');
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
