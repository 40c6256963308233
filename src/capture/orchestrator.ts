import type { Journal } from '../journal/journal.ts';
import {
  type CaptureNumber,
  type CaptureRecord,
  type CaptureTimings,
  type Coverage,
  type RowCounts,
  type Seal,
  type Verdict,
  captureNumber,
} from '../model/capture.ts';
import { ForeshadowError, messageOf } from '../model/errors.ts';
import { type Position, maxPosition } from '../model/position.ts';
import type { DataSetSchema, TableName } from '../model/schema.ts';
import { Turns } from '../model/turns.ts';
import type { Conflict, Drain, Engine } from '../shadowing/engine.ts';
import type { Shadow } from '../shadowing/shadow.ts';
import type { Primary } from '../tracking/primary.ts';
import type { Tracker } from '../tracking/tracker.ts';
import type { Catalog } from './catalog.ts';
import { type Cure, cure, sealsHold } from './cure.ts';
import { type DiagnosedDifference, diagnose } from './diagnose.ts';
import { undoForeignRows } from './rollback.ts';
import { sumsByDifference, sumsByReading } from './seal.ts';
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

export interface OrchestratorParts {
  readonly primary: Primary;
  readonly journal: Journal;
  readonly tracker: Tracker;
  readonly shadow: Shadow;
  readonly catalog: Catalog;
  readonly engine: Engine;
  readonly policy: CapturePolicy;
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

const NO_PHASE: OnPhase = () => {};
const NO_ROWS: RowCounts = { inserted: 0, updated: 0, deleted: 0 };
/** How long a primary that does not answer may hold up a capture, before one is cut from what the journal has. */
const ASK_PRIMARY_MS = 10_000;

/** Takes captures: drain, cut, seal, validate, cure. One at a time. */
export class Orchestrator {
  readonly #parts: OrchestratorParts;
  readonly #turns = new Turns();

  constructor(parts: OrchestratorParts) {
    this.#parts = parts;
  }

  /** What an earlier process left between `planned` and `sealed` is finished, or aborted where nothing had crossed. */
  async recover(signal: AbortSignal): Promise<void> {
    for (const record of await this.#parts.catalog.list()) {
      if (record.state === 'planned') {
        await this.#parts.catalog.save(toState(record, 'aborted', { note: 'interrupted before anything crossed' }));
      } else if (record.state === 'draining') {
        await this.#turns.take(() => this.#finish(record, performance.now(), NO_PHASE, signal));
      } else if (record.state === 'cut' || record.state === 'validating') {
        await this.#turns.take(() => this.#judge(record, performance.now(), NO_PHASE, signal));
      }
    }
  }

  /** Takes a capture now. `validate: false` cuts and seals only: its verdict is INCONCLUSIVE. */
  capture(onPhase: OnPhase, signal: AbortSignal, options: { readonly validate: boolean } = { validate: true }): Promise<CaptureOutcome> {
    return this.#turns.take(async () => {
      if (this.#parts.engine.parked) {
        throw new ForeshadowError('PARKED', 'the shadow is parked after a rollback, so no capture was taken', {
          remedy: 'Run `foreshadow resume` to let it follow the primary again.',
        });
      }
      const begunMs = performance.now();
      const planned = await this.#plan();
      this.#parts.failpoint('planned');
      try {
        onPhase('asking the primary', null, 0, null);
        let { position, certain } = await this.#position(signal);
        if (this.#parts.engine.isCopying) {
          await this.#untilCopied(planned, onPhase, signal);
          ({ position, certain } = await this.#position(signal));
        }
        const draining = toState(planned, 'draining', { position, note: certain ? null : 'the primary could not be asked' });
        await this.#parts.catalog.save(draining);
        this.#parts.failpoint('draining');
        this.#parts.engine.beginDrain({ number: draining.number, at: position, leftOut: new Map() });
        return await this.#finish(draining, begunMs, onPhase, this.#parts.lifetime, options.validate);
      } catch (error) {
        const now = await this.#parts.catalog.get(planned.number);
        if (now?.state === 'planned') await this.#parts.catalog.save(toState(now, 'aborted', { note: messageOf(error) }));
        throw error;
      }
    });
  }

  /** Records a scheduled capture that was not taken. */
  async skip(reason: string): Promise<void> {
    await this.#parts.catalog.save(toState(await this.#plan(), 'aborted', { note: reason }));
  }

  async #plan(): Promise<CaptureRecord> {
    const { catalog, engine } = this.#parts;
    const last = (await catalog.list()).at(-1)?.number ?? 0;
    const record: CaptureRecord = {
      number: captureNumber(Math.max(last + 1, engine.nextNumber)),
      state: 'planned',
      dueAt: new Date().toISOString(),
      cutAt: null,
      position: null,
      verdict: null,
      coverage: null,
      absent: [],
      rows: null,
      timings: null,
      note: null,
    };
    await catalog.save(record);
    return record;
  }

  /** The first capture waits for every element; a later one as long as the drain deadline. */
  async #untilCopied(record: CaptureRecord, onPhase: OnPhase, signal: AbortSignal): Promise<void> {
    const { engine, catalog, policy, tracker } = this.#parts;
    const first = lastReadable(await catalog.list(), record.number) === null;
    const limit = first ? signal : AbortSignal.any([signal, AbortSignal.timeout(policy.drainDeadlineMs)]);
    const report = (): void => {
      for (const { schema, state } of engine.elements.values()) {
        if (state.kind === 'copying') onPhase('copying', schema.table, state.copiedRows, null);
      }
    };
    try {
      await engine.caughtUp(tracker.head, limit, report);
    } catch (error) {
      if (signal.aborted || !limit.aborted) throw error;
    }
  }

  /** C: a journal boundary at or past what the primary has committed now, and past everything the shadow has applied. */
  async #position(signal: AbortSignal): Promise<{ position: Position; certain: boolean }> {
    const { primary, tracker, engine } = this.#parts;
    const within = AbortSignal.any([signal, AbortSignal.timeout(ASK_PRIMARY_MS)]);
    try {
      await tracker.reached(await primary.now(within), within);
      return { position: maxPosition(tracker.head, engine.high), certain: true };
    } catch (error) {
      if (signal.aborted) throw error;
      this.#parts.log('the primary could not be asked where it stands', { reason: messageOf(error) });
      return { position: maxPosition(tracker.head, engine.high), certain: false };
    }
  }

  async #finish(draining: CaptureRecord, begunMs: number, onPhase: OnPhase, signal: AbortSignal, validate = true): Promise<CaptureOutcome> {
    const { engine, catalog, policy } = this.#parts;
    const drainBegunMs = performance.now();
    const appliedBefore = engine.appliedRows;
    onPhase('draining', null, 0, null);
    const pinned = this.#describe(signal);
    const drain = await engine.drained(policy.drainDeadlineMs, signal);
    const schema = this.#pinned(await pinned, drain);
    const residualRows = engine.appliedRows - appliedBefore;
    const absent = Array.from(drain.leftOut, ([table, reason]) => ({ table, reason }));
    const cutBegunMs = performance.now();
    const cut = toState(draining, 'cut', { cutAt: new Date().toISOString(), absent });
    await catalog.cut(cut, schema);
    this.#parts.failpoint('cut');
    engine.endDrain(true);
    const cutMs = performance.now() - cutBegunMs;
    const timings = { residualRows, drainMs: cutBegunMs - drainBegunMs, cutMs, validateMs: 0, elapsedMs: 0 };
    return this.#judge({ ...cut, timings }, begunMs, onPhase, signal, validate);
  }

  /** The primary's own words for the structure; null if it cannot be asked now. */
  async #describe(signal: AbortSignal): Promise<DataSetSchema | null> {
    try {
      return await this.#parts.primary.describe(AbortSignal.any([signal, AbortSignal.timeout(ASK_PRIMARY_MS)]));
    } catch (error) {
      if (signal.aborted) throw error;
      this.#parts.log('the primary could not be asked for its schema', { reason: messageOf(error) });
      return null;
    }
  }

  /** The shapes the elements have, with the newest statements for what is around the rows. */
  #pinned(described: DataSetSchema | null, drain: Drain): DataSetSchema {
    const tables = Array.from(this.#parts.engine.elements.values())
      .filter(({ schema }) => !drain.leftOut.has(schema.table))
      .map(({ schema }) => {
        const now = described?.tables.find(({ table }) => table === schema.table);
        return now?.shape === schema.shape ? now : schema;
      });
    return { tables, before: described?.before ?? [], after: described?.after ?? [] };
  }

  /** Seals a cut capture, validates it, cures it, and gives it its verdict. */
  async #judge(cut: CaptureRecord, begunMs: number, onPhase: OnPhase, signal: AbortSignal, validate = true): Promise<CaptureOutcome> {
    const { catalog, engine, policy, log } = this.#parts;
    onPhase('sealing', null, 0, null);
    const { seals, rows } = await this.#sums(cut, signal);
    const validating = cut.state === 'validating' ? cut : toState(cut, 'validating', { rows });
    await catalog.seal(validating, seals);
    this.#parts.failpoint('sealed');
    const validateBegunMs = performance.now();
    const conflicts = [...engine.takeConflicts(), ...(await this.#undoForeign(signal))];
    const outcome = validate && policy.validate !== 'none' ? await this.#validate(cut, onPhase, signal) : null;
    let verdict = verdictOf(cut, outcome);
    let differences: DiagnosedDifference[] = [];
    let cured: Cure | null = null;
    if (outcome !== null && verdict === 'INVALID') {
      differences = await this.#diagnose(outcome.differences, cut, signal);
      log('a capture is INVALID', { capture: cut.number, differences: differences.length + outcome.more });
      cured = await cure(this.#parts, cut, differences, policy.onInvalid, signal);
      if (await this.#healed(cut, seals, differences, outcome, cured, signal)) verdict = 'VALID';
    }
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
      note: cured?.note ?? cut.note,
    });
    await catalog.seal(sealed, seals);
    if (outcome !== null) await this.#keepCursors(outcome.cursors);
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
    const earlier = before === null ? [] : await catalog.seals(before.number);
    const seals: Seal[] = [];
    let rows = NO_ROWS;
    for (const { table } of (await catalog.schema(cut.number))?.tables ?? []) {
      const from = earlier.find((each) => each.table === table);
      if (before === null || from === undefined) {
        const seal = await sumsByReading(shadow, table, cut.number, signal);
        seals.push(seal);
        rows = { ...rows, inserted: rows.inserted + Number(seal.rows) };
        continue;
      }
      const { seal, counts } = await sumsByDifference(shadow.diff(table, before.number, cut.number, signal), from);
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
      for (const table of elements.keys()) {
        const foreign = await shadow.foreignRows(table, 1000, signal);
        if (foreign.length === 0) continue;
        conflicts.push(...foreign.map(({ key }) => ({ table, key })));
        const rows = await undoForeignRows(shadow, table, signal);
        this.#parts.log('foreign writes in the shadow were undone: the primary wins', { table, rows });
      }
      return conflicts;
    });
  }

  async #validate(cut: CaptureRecord, onPhase: OnPhase, signal: AbortSignal): Promise<ValidationOutcome> {
    const { catalog, policy, shadow } = this.#parts;
    const stand = { at: cut.number, position: cut.position as Position };
    const before = lastReadable(await catalog.list(), cut.number);
    const tables: TableToValidate[] = [];
    for (const schema of (await catalog.schema(cut.number))?.tables ?? []) {
      const cursor = await this.#cursor(schema.table);
      const had = before !== null && !isAbsent(before, schema.table) && (await shadow.schemaAt(schema.table, before.number)) !== null;
      const changedKeys = policy.validate === 'full' || !had ? null : this.#changedKeys(schema.table, before.number, cut.number, signal);
      tables.push({ schema, changedKeys, cursor });
    }
    let compared = 0;
    const validation = new Validation(this.#parts, {
      tables,
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

  async *#changedKeys(table: TableName, from: CaptureNumber, to: CaptureNumber, signal: AbortSignal) {
    for await (const slice of this.#parts.shadow.diff(table, from, to, signal)) yield slice.map(({ key }) => key);
  }

  async #cursor(table: TableName): Promise<Cursor> {
    const stored = (await this.#parts.catalog.read(`cursor:${table}`)) as { pass: Cursor['pass']; after: string | null } | null | undefined;
    if (stored === null || stored === undefined) return FROM_THE_START;
    return { pass: stored.pass, after: stored.after === null ? null : (Buffer.from(stored.after, 'base64') as unknown as Cursor['after']) };
  }

  async #keepCursors(cursors: ReadonlyMap<TableName, Cursor>): Promise<void> {
    for (const [table, { pass, after }] of cursors) {
      await this.#parts.catalog.write(`cursor:${table}`, { pass, after: after?.toString('base64') ?? null });
    }
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
    const { catalog, journal, engine } = this.#parts;
    const records = await catalog.list();
    const keep = (knownGood(records) ?? lastReadable(records))?.position ?? null;
    if (keep === null) return;
    for (const { schema, progress } of engine.elements.values()) {
      if (signal.aborted) return;
      await journal.prune(schema.table, progress.low < keep ? progress.low : keep);
    }
  }
}

function verdictOf(cut: CaptureRecord, outcome: ValidationOutcome | null): Verdict {
  if (outcome === null) return 'INCONCLUSIVE';
  if (outcome.differences.length > 0) return 'INVALID';
  return outcome.coverage.skipped.length > 0 || cut.note !== null ? 'INCONCLUSIVE' : 'VALID';
}

function isAbsent(record: CaptureRecord, table: TableName): boolean {
  return record.absent.some((each) => each.table === table);
}

function notValidated(cut: CaptureRecord, tables: number): Coverage {
  return { tables, rows: 0, witnessed: 0, skipped: cut.absent };
}
