import type { Journal } from '../journal/journal.ts';
import type { CaptureNumber, CaptureRecord, CaptureTimings, Coverage, RowCounts, Seal, Verdict } from '../model/capture.ts';
import { ForeshadowError, messageOf } from '../model/errors.ts';
import type { Position } from '../model/position.ts';
import type { DataSetSchema, TableName, TableSchema } from '../model/schema.ts';
import type { Engine } from '../shadowing/engine.ts';
import type { Conflict, Shadow } from '../shadowing/shadow.ts';
import type { Primary } from '../tracking/primary.ts';
import type { Tracker } from '../tracking/tracker.ts';
import type { Catalog } from './catalog.ts';
import { type Cure, cure, sealsHold, takeUp } from './cure.ts';
import { type DiagnosedDifference, diagnose } from './diagnose.ts';
import { undoForeignRows } from './rollback.ts';
import { sumsBetween, sumsByReading } from './seal.ts';
import { knownGood, lastReadable, toState } from './states.ts';
import { type Cursor, FROM_THE_START, type TableToValidate, Validation, type ValidationOutcome } from './validate.ts';

export interface CapturePolicy {
  readonly validate: 'none' | 'changed' | 'full';
  readonly onInvalid: 'rollback' | 'repair' | 'halt';
  /** How long elements may take to reach the capture before they are left out of it. */
  readonly drainDeadlineMs: number;
  /** Time for comparing rows that did not change, each capture. */
  readonly rollingBudgetMs: number;
}

export interface CaptureParts {
  readonly primary: Primary;
  readonly journal: Journal;
  readonly tracker: Tracker;
  readonly shadow: Shadow;
  readonly catalog: Catalog;
  readonly engine: Engine;
  readonly policy: CapturePolicy;
  /** Begins to track and copy these tables, and those that the log has told of as new. */
  readonly adopt: (tables: readonly TableName[], signal: AbortSignal) => Promise<void>;
  /** Awaited before changes are dropped from the journal: what reads them later than others must have done so. */
  readonly beforePrune?: () => Promise<void>;
  /** As long as the system lives. Once elements are crossing, only its end stops a capture, whoever asked for it. */
  readonly lifetime: AbortSignal;
  readonly failpoint: (name: string) => void;
  readonly log: (message: string, fields: Readonly<Record<string, unknown>>) => void;
}

export interface CaptureOutcome {
  readonly record: CaptureRecord;
  readonly differences: readonly DiagnosedDifference[];
  readonly conflicts: readonly Conflict[];
  readonly cure: Cure | null;
}

export type OnPhase = (phase: string, table: string | null, done: number, total: number | null) => void;

const NO_ROWS: RowCounts = { inserted: 0, updated: 0, deleted: 0 };

/** One document for all tables, so that a capture of thousands reads and writes it once. */
type StoredCursors = Readonly<Partial<Record<TableName, StoredCursor>>>;

interface StoredCursor {
  readonly shape: string;
  readonly pass: Cursor['pass'];
  /** A key tuple, base64. */
  readonly after: string | null;
}

/** What comes after the cut: seals the capture, validates it, cures it if need be, and gives it its verdict. */
export class Judge {
  readonly #parts: CaptureParts;

  constructor(parts: CaptureParts) {
    this.#parts = parts;
  }

  /** Seals a cut capture, validates it, cures it, and gives it its verdict. */
  async judge(cut: CaptureRecord, begunMs: number, onPhase: OnPhase, signal: AbortSignal, validate: boolean): Promise<CaptureOutcome> {
    const { catalog, engine, policy, log } = this.#parts;
    onPhase('sealing', null, 0, null);
    const { seals, rows } = await this.#sums(cut, signal);
    const validating = cut.state === 'validating' ? cut : toState(cut, 'validating', { rows });
    await catalog.seal(validating, seals);
    this.#parts.failpoint('sealed');
    const validateBegunMs = performance.now();
    const conflicts = [...engine.conflicts.take(), ...(await this.#undoForeign(signal))];
    const asked = validate && policy.validate !== 'none';
    const { outcome, failure } = asked ? await this.#validateIfPossible(cut, onPhase, signal) : { outcome: null, failure: null };
    let verdict = verdictOf(cut, outcome);
    let differences: DiagnosedDifference[] = [];
    let cured: Cure | null = null;
    if (outcome !== null && verdict === 'INVALID') {
      differences = await this.#diagnose(outcome.differences, cut, signal);
      log('a capture is INVALID', { capture: cut.number, differences: differences.length + outcome.more });
      cured = await cure(this.#parts, cut, differences, policy.onInvalid, signal);
      if (await this.#healed(cut, seals, differences, outcome, cured, signal)) verdict = 'VALID';
    }
    if (outcome !== null && policy.onInvalid !== 'halt') await takeUp(engine, outcome.untold, signal);
    const endMs = performance.now();
    const timings: CaptureTimings = {
      ...(cut.timings ?? { residualRows: 0, drainMs: 0, cutMs: 0 }),
      validateMs: endMs - validateBegunMs,
      elapsedMs: endMs - begunMs,
    };
    const sealed = toState(validating, 'sealed', {
      rows,
      verdict,
      coverage: outcome?.coverage ?? notValidated(cut, seals.length),
      timings,
      note: noteOf(cut.note, cured?.note ?? failure) ?? whyNotAsked(validate, policy.validate),
    });
    await catalog.seal(sealed, seals);
    if (outcome !== null) {
      await this.#keepCursors(outcome.cursors);
      await this.#keepSuspects(outcome);
    }
    await this.#prune(signal);
    return { record: sealed, differences, conflicts, cure: cured };
  }

  /** A verdict returns to VALID only by matching a seal: this one's, derived from the versions, against the rows as they read now. */
  async #healed(
    cut: CaptureRecord,
    seals: readonly Seal[],
    differences: readonly DiagnosedDifference[],
    outcome: ValidationOutcome,
    cured: Cure,
    signal: AbortSignal,
  ): Promise<boolean> {
    if (cured.action !== 'repair' || outcome.more > 0 || outcome.coverage.skipped.length > 0) return false;
    if (differences.some(({ diagnosis }) => diagnosis !== 'altered in the shadow')) return false;
    return sealsHold(this.#parts.shadow, cut, seals, new Set(differences.map(({ schema }) => schema.table)), signal);
  }

  async #sums(cut: CaptureRecord, signal: AbortSignal): Promise<{ seals: Seal[]; rows: RowCounts }> {
    const { catalog, shadow } = this.#parts;
    const before = lastReadable(await catalog.list(), cut.number);
    const earlier = new Map((before === null ? [] : await catalog.seals(before.number)).map((seal) => [seal.table, seal]));
    const seals: Seal[] = [];
    let rows = NO_ROWS;
    const after = byTable(await catalog.schema(cut.number));
    const then = byTable(before === null ? null : await catalog.schema(before.number));
    const changed = before === null ? null : await shadow.changedTables(Array.from(after.keys()), before.number, cut.number);
    for (const [table, schema] of after) {
      const from = earlier.get(table);
      if (from !== undefined && changed?.has(table) === false) {
        seals.push(from);
        continue;
      }
      if (before === null || from === undefined) {
        const seal = await sumsByReading(shadow, table, cut.number, signal, schema);
        seals.push(seal);
        rows = { ...rows, inserted: rows.inserted + Number(seal.rows) };
        continue;
      }
      const { seal, counts } = await sumsBetween(shadow, from, before.number, cut.number, signal, {
        before: then.get(table) ?? null,
        after: schema,
      });
      seals.push(seal);
      rows = {
        inserted: rows.inserted + counts.inserted,
        updated: rows.updated + counts.updated,
        deleted: rows.deleted + counts.deleted,
      };
    }
    return { seals, rows };
  }

  /** No capture contains a foreign write; the live tables may. The primary wins. */
  async #undoForeign(signal: AbortSignal): Promise<Conflict[]> {
    const { engine, shadow } = this.#parts;
    return engine.still(async (elements) => {
      const conflicts: Conflict[] = [];
      for (const table of await suspects(this.#parts.catalog)) if (elements.has(table)) await shadow.searchForeign(table);
      for (const table of await shadow.foreignTables(Array.from(elements.keys()))) {
        const foreign = await shadow.foreignRows(table, 1000, signal);
        if (foreign.length === 0) continue;
        conflicts.push(...foreign.map(({ key }) => ({ table, key })));
        const rows = await undoForeignRows(shadow, table, signal);
        this.#parts.log('foreign writes in the shadow were undone: the primary wins', { table, rows });
      }
      return conflicts;
    });
  }

  /** Where the comparison was not possible the verdict is INCONCLUSIVE, with the reason, and the capture stands. */
  async #validateIfPossible(
    cut: CaptureRecord,
    onPhase: OnPhase,
    signal: AbortSignal,
  ): Promise<{ readonly outcome: ValidationOutcome | null; readonly failure: string | null }> {
    try {
      return { outcome: await this.#validate(cut, onPhase, signal), failure: null };
    } catch (error) {
      if (signal.aborted || (error instanceof ForeshadowError && error.code === 'FENCED')) throw error;
      this.#parts.log('a capture could not be compared with the primary', { capture: cut.number, reason: messageOf(error) });
      return { outcome: null, failure: `not compared with the primary: ${messageOf(error)}` };
    }
  }

  async #validate(cut: CaptureRecord, onPhase: OnPhase, signal: AbortSignal): Promise<ValidationOutcome> {
    const { catalog, policy, shadow } = this.#parts;
    const stand = { at: cut.number, position: cut.position as Position };
    const before = lastReadable(await catalog.list(), cut.number);
    const tables: TableToValidate[] = [];
    const suspect = await suspects(catalog);
    const schemas = byTable(await catalog.schema(cut.number));
    const earlierOf = byTable(before === null ? null : await catalog.schema(before.number));
    const changed = before === null ? null : await shadow.changedTables(Array.from(schemas.keys()), before.number, cut.number);
    const cursors = await this.#storedCursors();
    for (const schema of schemas.values()) {
      const cursor = cursorOf(schema, cursors[schema.table]);
      const earlier = earlierOf.get(schema.table);
      // Keys of another kind cannot be asked for.
      const had = before !== null && earlier !== undefined && sameKey(earlier, schema);
      const changedKeys =
        policy.validate === 'full' || !had || suspect.has(schema.table)
          ? null
          : this.#changedKeys(changed?.has(schema.table) === false ? null : schema.table, before.number, cut.number, signal);
      tables.push({ schema, changedKeys, cursor });
    }
    let compared = 0;
    // Another table begins each time: where the budget is short none is always the last.
    const first = tables.length === 0 ? 0 : cut.number % tables.length;
    const validation = new Validation(this.#parts, {
      tables: [...tables.slice(first), ...tables.slice(0, first)],
      skipped: cut.absent,
      stand: (_table, work) => work(stand),
      budgetMs: policy.rollingBudgetMs,
      onProgress: (table, rows) => {
        compared += rows;
        onPhase('validating', table, compared, null);
      },
    });
    return validation.run(signal);
  }

  async *#changedKeys(table: TableName | null, from: CaptureNumber, to: CaptureNumber, signal: AbortSignal) {
    if (table === null) return;
    for await (const slice of this.#parts.shadow.diff(table, from, to, signal)) yield slice.map(({ key }) => key);
  }

  async #storedCursors(): Promise<StoredCursors> {
    return ((await this.#parts.catalog.read('cursors')) as StoredCursors | null | undefined) ?? {};
  }

  async #keepCursors(cursors: ReadonlyMap<TableSchema, Cursor>): Promise<void> {
    if (cursors.size === 0) return;
    const now = Array.from(cursors, ([{ table, shape }, { pass, after }]): [TableName, StoredCursor] => [
      table,
      { shape, pass, after: after?.toString('base64') ?? null },
    ]);
    const present = Object.entries(await this.#storedCursors()).filter(([table]) => this.#parts.engine.elements.has(table as TableName));
    await this.#parts.catalog.write('cursors', Object.fromEntries([...present, ...now]));
  }

  /** Tables that could not be compared stay suspect; those where something was found are looked at whole once more. */
  async #keepSuspects(outcome: ValidationOutcome): Promise<void> {
    const { catalog } = this.#parts;
    const skipped = new Set(outcome.coverage.skipped.map(({ table }) => table));
    const still = Array.from(await suspects(catalog)).filter((table) => skipped.has(table));
    const found = [...outcome.differences, ...outcome.untold].map(({ schema }) => schema.table);
    const unconfirmed = Array.from(outcome.unconfirmed.keys(), ({ table }) => table);
    await catalog.write('suspect', Array.from(new Set([...still, ...found, ...unconfirmed])));
  }

  async #diagnose(differences: ValidationOutcome['differences'], cut: CaptureRecord, signal: AbortSignal): Promise<DiagnosedDifference[]> {
    const { catalog } = this.#parts;
    const good = knownGood(await catalog.list());
    const witness = good === null ? null : { record: good, seals: await catalog.seals(good.number) };
    const stand = { at: cut.number, position: cut.position as Position };
    return diagnose(this.#parts, differences, () => stand, witness, signal);
  }

  /** The journal is kept from known-good on, for a replay; and from wherever an element still stands. */
  async #prune(signal: AbortSignal): Promise<void> {
    await this.#parts.beforePrune?.();
    const { catalog, journal, engine } = this.#parts;
    const records = await catalog.list();
    const keep = (knownGood(records) ?? lastReadable(records))?.position ?? null;
    if (keep === null) return;
    if (signal.aborted) return;
    // A shadow that lost what it had not flushed asks for it again.
    const standing = await engine.still(async (elements) => Array.from(elements.values()));
    await journal.prune(new Map(standing.map(({ schema, progress }) => [schema.table, progress.low < keep ? progress.low : keep])));
  }
}

function byTable(schema: DataSetSchema | null): ReadonlyMap<TableName, TableSchema> {
  return new Map(schema?.tables.map((table) => [table.table, table]));
}

function cursorOf({ shape }: TableSchema, stored: StoredCursor | undefined): Cursor {
  // A key of another shape means nothing in this one.
  if (stored?.shape !== shape) return FROM_THE_START;
  return { pass: stored.pass, after: stored.after === null ? null : (Buffer.from(stored.after, 'base64') as unknown as Cursor['after']) };
}

/** Why a capture was not to be compared; null: it was. */
function whyNotAsked(validate: boolean, policy: CapturePolicy['validate']): string | null {
  if (!validate) return 'taken before a rollback, to keep what stood then; not compared';
  return policy === 'none' ? 'not compared with the primary: captures.validate is none' : null;
}

function verdictOf(cut: CaptureRecord, outcome: ValidationOutcome | null): Verdict {
  if (outcome === null) return 'INCONCLUSIVE';
  if (outcome.differences.length > 0) return 'INVALID';
  return outcome.coverage.skipped.length > 0 || cut.note !== null ? 'INCONCLUSIVE' : 'VALID';
}

/** Tables that the next capture compares whole. */
export async function suspects(catalog: Catalog): Promise<ReadonlySet<TableName>> {
  return new Set((await catalog.read('suspect')) as TableName[] | null | undefined);
}

function sameKey(a: TableSchema, b: TableSchema): boolean {
  const typesOf = ({ key, columns }: TableSchema): string =>
    JSON.stringify(key.map((index) => [columns[index]?.type, columns[index]?.made]));
  return typesOf(a) === typesOf(b);
}

function notValidated(cut: CaptureRecord, tables: number): Coverage {
  return { tables, rows: 0, witnessed: 0, skipped: cut.absent };
}

function noteOf(...notes: readonly (string | null)[]): string | null {
  const said = notes.filter((note) => note !== null);
  return said.length === 0 ? null : said.join('; ');
}
