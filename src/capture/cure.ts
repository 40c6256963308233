import type { CaptureNumber, CaptureRecord, Seal } from '../model/capture.ts';
import type { TableName } from '../model/schema.ts';
import type { Engine } from '../shadowing/engine.ts';
import type { RowVersion, Shadow } from '../shadowing/shadow.ts';
import type { Catalog } from './catalog.ts';
import type { DiagnosedDifference } from './diagnose.ts';
import { rollback } from './rollback.ts';
import { sealsEqual, sumsByReading } from './seal.ts';
import { knownGood, toState } from './states.ts';

export interface CureParts {
  readonly shadow: Shadow;
  readonly catalog: Catalog;
  readonly engine: Engine;
  readonly failpoint: (name: string) => void;
}

export interface Cure {
  readonly action: 'repair' | 'rollback' | 'halt';
  readonly rows: number;
  readonly note: string;
}

/**
 * Cures an INVALID capture as its diagnosis says. What was altered in the shadow past the guard is put right in place, so that every
 * capture reading that version is right again (and is believed only if its seal says so); or, where policy prefers it and known-good
 * does not read the altered versions, the shadow goes back to known-good and replays the journal. What tracking missed or apply got
 * wrong is read again from the primary, for the capture in progress. The primary is never written to.
 */
export async function cure(
  parts: CureParts,
  record: CaptureRecord,
  differences: readonly DiagnosedDifference[],
  policy: 'rollback' | 'repair' | 'halt',
  signal: AbortSignal,
): Promise<Cure> {
  if (policy === 'halt') return halt(parts, record, differences, signal);
  const altered = differences.filter(({ diagnosis }) => diagnosis === 'altered in the shadow');
  const others = differences.filter(({ diagnosis }) => diagnosis !== 'altered in the shadow');
  const good = knownGood(await parts.catalog.list());
  if (
    policy === 'rollback' &&
    others.length === 0 &&
    good !== null &&
    (await noneReadBy(parts.shadow, altered, record.number, good.number))
  ) {
    const outcome = await rollback(parts, good, signal);
    if (outcome.proved) {
      return { action: 'rollback', rows: outcome.rows, note: `went back to capture ${good.number} and replays the journal` };
    }
  }
  const notes: string[] = [];
  if (altered.length > 0) notes.push(await repairInPlace(parts, record.number, altered, signal));
  for (const [table, group] of byTable(others)) {
    const keys = group.map(({ key }) => key);
    await parts.engine.repair(table, keys, signal);
    notes.push(`${counted(keys.length, 'row')} of ${table} read again from the primary`);
  }
  return { action: 'repair', rows: differences.length, note: notes.join('; ') };
}

async function halt(
  parts: CureParts,
  record: CaptureRecord,
  differences: readonly DiagnosedDifference[],
  signal: AbortSignal,
): Promise<Cure> {
  const tables = Array.from(byTable(differences).keys());
  const reason = `capture ${record.number} found differences, and policy says halt`;
  await parts.engine.still(async (elements) => {
    const works = tables.flatMap((table) => {
      const element = elements.get(table);
      if (element === undefined) return [];
      const state = { kind: 'halted', reason } as const;
      return [{ table, rows: [], progress: element.progress, state, savedThrough: parts.engine.savedThrough(element) }];
    });
    await parts.engine.write(works, signal);
  });
  return { action: 'halt', rows: 0, note: `halted ${tables.join(', ')}` };
}

async function noneReadBy(
  shadow: Shadow,
  altered: readonly DiagnosedDifference[],
  at: CaptureNumber,
  good: CaptureNumber,
): Promise<boolean> {
  for (const { schema, key } of altered) {
    const version = await shadow.versionAt(schema.table, key, at);
    // A row that is missing was removed from some version; known-good may have read it.
    if (version === null || version.since <= good) return false;
  }
  return altered.length > 0;
}

/** Replaces the versions, then lets the seals of every capture that reads them decide. */
async function repairInPlace(
  parts: CureParts,
  at: CaptureNumber,
  altered: readonly DiagnosedDifference[],
  signal: AbortSignal,
): Promise<string> {
  const { shadow, catalog, engine } = parts;
  for (const [table, group] of byTable(altered)) {
    const firstBroken = await firstUnsealed(parts, table, at, signal);
    await engine.still(async () => {
      for (const { key, found } of group) {
        const version: Pick<RowVersion, 'since' | 'until'> = (await shadow.versionAt(table, key, at)) ?? {
          since: firstBroken,
          until: null,
        };
        await shadow.replaceVersion(table, key, { since: version.since, until: version.until }, found);
      }
    });
  }
  parts.failpoint('repaired');
  const tables = new Set(byTable(altered).keys());
  const broken: CaptureNumber[] = [];
  for (const record of await catalog.list()) {
    if (record.state !== 'sealed') continue;
    const holds = await sealsHold(shadow, record, await catalog.seals(record.number), tables, signal);
    if (!holds) broken.push(record.number);
    if (!holds && record.verdict !== 'INVALID') {
      await catalog.save(toState(record, 'sealed', { verdict: 'INVALID', note: 'its rows no longer add up to its seal' }));
    }
    // The record under cure is judged by its caller, from the same seals.
  }
  const where = broken.length === 0 ? 'every seal holds again' : `the seals of ${broken.join(', ')} do not hold`;
  return `${counted(altered.length, 'altered row')} put right in place; ${where}`;
}

/** The earliest sealed capture whose rows of a table no longer add up: where a removed version must have begun. */
async function firstUnsealed(parts: CureParts, table: TableName, at: CaptureNumber, signal: AbortSignal): Promise<CaptureNumber> {
  for (const record of await parts.catalog.list()) {
    if (record.state !== 'sealed' || record.number >= at) continue;
    const seals = await parts.catalog.seals(record.number);
    if (!(await sealsHold(parts.shadow, record, seals, new Set([table]), signal))) return record.number;
  }
  return at;
}

/** Whether the tables still add up to the seals of a capture. Tables without a seal in it are not asked. */
export async function sealsHold(
  shadow: Shadow,
  record: CaptureRecord,
  seals: readonly Seal[],
  tables: ReadonlySet<TableName> | null,
  signal: AbortSignal,
): Promise<boolean> {
  for (const seal of seals) {
    if (tables !== null && !tables.has(seal.table)) continue;
    if (!sealsEqual(seal, await sumsByReading(shadow, seal.table, record.number, signal))) return false;
  }
  return true;
}

function counted(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`;
}

function byTable(differences: readonly DiagnosedDifference[]): Map<TableName, DiagnosedDifference[]> {
  return Map.groupBy(differences, ({ schema }) => schema.table);
}
