import type { CaptureNumber, CaptureRecord, Seal } from '../model/capture.ts';
import { copiesOf } from '../model/copies.ts';
import type { TableName } from '../model/schema.ts';
import type { Engine } from '../shadowing/engine.ts';
import type { Shadow } from '../shadowing/shadow.ts';
import type { Catalog } from './catalog.ts';
import type { DiagnosedDifference } from './diagnose.ts';
import { rollback } from './rollback.ts';
import { Sums, difference, sealsEqual, sumsAlong, sumsByReading } from './seal.ts';
import { knownGood, toState } from './states.ts';
import type { TableDifference } from './validate.ts';

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
  const good = knownGood(await parts.catalog.list());
  if (policy === 'rollback' && good !== null && (await rollbackCures(parts.shadow, differences, record.number, good.number))) {
    const outcome = await rollback(parts, good, signal);
    if (outcome.proved) {
      return { action: 'rollback', rows: outcome.rows, note: `went back to capture ${good.number} and replays the journal` };
    }
  }
  const altered = differences.filter(({ diagnosis }) => diagnosis === 'altered in the shadow');
  const others = differences.filter(({ diagnosis }) => diagnosis !== 'altered in the shadow');
  const notes: string[] = [];
  if (altered.length > 0) notes.push(await repairInPlace(parts, record.number, altered, signal));
  for (const [table, group] of byTable(others)) {
    const keys = group.map(({ key }) => key);
    await parts.engine.repair(table, keys, signal);
    notes.push(`${counted(keys.length, 'row')} of ${table} read again from the primary`);
  }
  return { action: 'repair', rows: differences.length, note: notes.join('; ') };
}

/** Rows that the log did not tell of, of tables of which only inserts are tracked: they are taken up as the primary has them. */
export async function takeUp(engine: Engine, untold: readonly TableDifference[], signal: AbortSignal): Promise<void> {
  for (const [table, group] of byTable(untold))
    await engine.repair(
      table,
      group.map(({ key }) => key),
      signal,
    );
}

/**
 * Going back and replaying helps against what went wrong in the shadow after known-good: the journal holds the right images. It cannot
 * help where known-good reads a wrong version itself, or where the journal never had the change.
 */
async function rollbackCures(
  shadow: Shadow,
  differences: readonly DiagnosedDifference[],
  at: CaptureNumber,
  good: CaptureNumber,
): Promise<boolean> {
  for (const { schema, key, diagnosis } of differences) {
    if (diagnosis !== 'applied wrong' && diagnosis !== 'altered in the shadow') return false;
    const version = await shadow.versionAt(schema.table, key, at);
    // A row that is missing was removed from some version; known-good may have read it, unless it had none.
    const read = version === null ? await shadow.versionAt(schema.table, key, good) : version;
    if (version === null ? read !== null || diagnosis === 'altered in the shadow' : version.since <= good) return false;
  }
  return differences.length > 0;
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
      return [
        { table, rows: [], from: element.progress, progress: element.progress, state, savedThrough: parts.engine.savedThrough(element) },
      ];
    });
    await parts.engine.write(works, signal);
  });
  return { action: 'halt', rows: 0, note: `halted ${tables.join(', ')}` };
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
    const removed: DiagnosedDifference[] = [];
    await engine.still(async () => {
      for (const each of group) {
        const version = await shadow.versionAt(table, each.key, at);
        if (version === null) removed.push(each);
        else await shadow.replaceVersion(table, each.key, { since: version.since, until: version.until, at }, each.found);
      }
    });
    if (removed.length > 0) await putBack(parts, table, removed, at, signal);
  }
  parts.failpoint('repaired');
  const broken = await unsealed(parts, Array.from(byTable(altered).keys()), signal);
  for (const record of await catalog.list()) {
    // The record under cure is judged by its caller, from the same seals.
    if (record.state !== 'sealed' || record.verdict === 'INVALID' || !broken.includes(record.number)) continue;
    await catalog.save(toState(record, 'sealed', { verdict: 'INVALID', note: 'its rows no longer add up to its seal' }));
  }
  const where = broken.length === 0 ? 'every seal holds again' : `the seals of ${broken.join(', ')} do not hold`;
  return `${counted(altered.length, 'altered row')} put right in place; ${where}`;
}

/** The sealed captures in which one of the tables does not add up to its seal. */
async function unsealed({ shadow, catalog }: CureParts, tables: readonly TableName[], signal: AbortSignal): Promise<CaptureNumber[]> {
  const broken = new Set<CaptureNumber>();
  for (const table of tables) {
    const seals = await sealsOf(catalog, table);
    for await (const { number, seal } of sumsAlong(shadow, table, Array.from(seals.keys()), signal)) {
      if (!sealsEqual(seals.get(number) as Seal, seal)) broken.add(number);
    }
  }
  return Array.from(broken).toSorted((a, b) => a - b);
}

/** The seals of a table in every sealed capture that has one, oldest first. */
async function sealsOf(catalog: Catalog, table: TableName): Promise<Map<CaptureNumber, Seal>> {
  const seals = new Map<CaptureNumber, Seal>();
  for (const record of await catalog.list()) {
    if (record.state !== 'sealed') continue;
    const seal = (await catalog.seals(record.number)).find((each) => each.table === table);
    if (seal !== undefined) seals.set(record.number, seal);
  }
  return seals;
}

/**
 * Puts back rows that were removed past the guard. Which captures had read them is not written anywhere any more, but it shows: what a
 * capture lacks of its seal, beyond what the one before lacks, is the sum of the rows that began with it.
 */
async function putBack(
  parts: CureParts,
  table: TableName,
  removed: readonly DiagnosedDifference[],
  at: CaptureNumber,
  signal: AbortSignal,
): Promise<void> {
  const { shadow, catalog, engine } = parts;
  const since = new Map<DiagnosedDifference, CaptureNumber>();
  const left = new Set(removed);
  let lacked = new Sums().seal(table);
  const seals = await sealsOf(catalog, table);
  const numbers = Array.from(seals.keys()).filter((number) => number <= at);
  for await (const { number, seal } of sumsAlong(shadow, table, numbers, signal)) {
    const lacks = difference(seals.get(number) as Seal, seal);
    const began = difference(lacks, lacked);
    lacked = lacks;
    for (const each of startedWith(began, left)) {
      since.set(each, number);
      left.delete(each);
    }
  }
  await engine.still(async (elements) => {
    const capture = elements.get(table)?.progress.capture ?? at;
    for (const each of removed) {
      // The engine may have written the row again meanwhile: then the removed version ended there.
      const live = await shadow.versionAt(table, each.key, capture);
      await shadow.replaceVersion(table, each.key, { since: since.get(each) ?? at, until: live?.since ?? null, at }, each.found);
    }
  });
}

/** Which of the rows add up to a difference: all of them, or one. Where neither fits it is not guessed. */
function startedWith(began: Seal, rows: ReadonlySet<DiagnosedDifference>): DiagnosedDifference[] {
  const fits = (chosen: readonly DiagnosedDifference[]): boolean => {
    const sums = new Sums();
    for (const { schema, found } of chosen) if (found !== null) sums.add(found, copiesOf(schema, found));
    return sealsEqual(sums.seal(began.table), began);
  };
  if (began.rows <= 0n) return [];
  if (fits([...rows])) return [...rows];
  const one = Array.from(rows).find((each) => fits([each]));
  return one === undefined ? [] : [one];
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

function byTable<Difference extends TableDifference>(differences: readonly Difference[]): Map<TableName, Difference[]> {
  return Map.groupBy(differences, ({ schema }) => schema.table);
}
