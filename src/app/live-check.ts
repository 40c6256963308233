import { diagnose } from '../capture/diagnose.ts';
import { knownGood } from '../capture/states.ts';
import type { Stand } from '../capture/compare.ts';
import { suspects } from '../capture/judge.ts';
import { FROM_THE_START, Validation } from '../capture/validate.ts';
import { captureNumber } from '../model/capture.ts';
import type { TableName } from '../model/schema.ts';
import type { DifferenceReport, ProgressListener, ValidateReport } from './operations.ts';
import { DIFFERENCES_SHOWN, differenceReports, round } from './reports.ts';
import type { Session } from './session.ts';

/** The whole live shadow against the primary: every row, whatever changes meanwhile. Reports; cures nothing. */
export async function checkLive(session: Session, progress: ProgressListener, signal: AbortSignal): Promise<ValidateReport> {
  const begunMs = performance.now();
  const { engine, shadow, catalog, tracker, primary } = session;
  if (!engine.parked) {
    await tracker.reached(await primary.now(signal), signal);
    await engine.caughtUp(tracker.head, signal);
  }
  let compared = 0;
  const halted = Array.from(engine.elements.values()).filter(({ state }) => state.kind !== 'live');
  const validation = new Validation(session, {
    tables: Array.from(engine.elements.values())
      .filter(({ state }) => state.kind === 'live')
      .map(({ schema }) => ({ schema, changedKeys: null, cursor: FROM_THE_START })),
    skipped: halted.map(({ schema, state }) => ({
      table: schema.table,
      reason: state.kind === 'halted' ? state.reason : 'still being copied',
    })),
    stand: (table, work) => engine.still(() => work(liveStand(session, table))),
    budgetMs: 0,
    onProgress: (table, rows) => {
      compared += rows;
      progress({ phase: 'validating', table, done: compared, total: null, unit: 'rows' });
    },
  });
  const outcome = await validation.run(signal);
  const good = knownGood(await catalog.list());
  const witness = good === null ? null : { record: good, seals: await catalog.seals(good.number) };
  const stand = ({ schema }: { schema: { table: TableName } }): Stand => liveStand(session, schema.table);
  const diagnosed = await diagnose(session, outcome.differences, stand, witness, signal);
  const foreign = await foreignDifferences(session, signal);
  const wrong = [...diagnosed.map(({ schema }) => schema.table), ...foreign.map(({ table }) => table as TableName)];
  if (wrong.length > 0) await catalog.write('suspect', Array.from(new Set([...(await suspects(catalog)), ...wrong])));
  const differences = [...foreign, ...differenceReports(diagnosed, shadow.values)].slice(0, DIFFERENCES_SHOWN);
  const found = foreign.length + diagnosed.length + outcome.more;
  return {
    against: 'primary',
    capture: null,
    verdict: found > 0 ? 'INVALID' : outcome.coverage.skipped.length > 0 ? 'INCONCLUSIVE' : 'VALID',
    coverage: outcome.coverage,
    differences,
    moreDifferences: found - differences.length,
    elapsedMs: round(performance.now() - begunMs),
  };
}

/** The live state of an element: what is in up to its low, and some of it up to its high, under the number of the capture it works for. */
export function liveStand({ engine }: Pick<Session, 'engine'>, table: TableName): Stand {
  const element = engine.elements.get(table);
  if (element === undefined) return { at: captureNumber(0), position: engine.high };
  return { at: element.progress.capture, position: element.progress.low, high: element.progress.high };
}

/** Rows of the live tables that somebody else wrote: no capture contains them, but whoever reads the tables sees them. */
async function foreignDifferences({ engine, shadow }: Session, signal: AbortSignal): Promise<DifferenceReport[]> {
  const differences: DifferenceReport[] = [];
  for (const { schema } of engine.elements.values()) {
    await shadow.searchForeign(schema.table);
    for (const { key } of await shadow.foreignRows(schema.table, DIFFERENCES_SHOWN, signal)) {
      differences.push({ table: schema.table, key: shadow.values.key(schema, key), diagnosis: 'altered in the shadow' });
    }
  }
  return differences;
}
