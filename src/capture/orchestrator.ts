import { type CaptureRecord, captureNumber } from '../model/capture.ts';
import { ForeshadowError, isAbort, messageOf } from '../model/errors.ts';
import { type Position, maxPosition } from '../model/position.ts';
import type { DataSetSchema, TableSchema } from '../model/schema.ts';
import { Turns } from '../model/turns.ts';
import type { Drain } from '../shadowing/drain.ts';
import { type CaptureOutcome, type CaptureParts, Judge, type OnPhase } from './judge.ts';
import { lastReadable, toState } from './states.ts';

const NO_PHASE: OnPhase = () => {};
/** How long a primary that does not answer may hold up a capture, before one is cut from what the journal has. */
const ASK_PRIMARY_MS = 10_000;
const UNASKED = 'the primary could not be asked where it stands';
const UNREACHED = 'tracking did not come to where the primary stood before the drain deadline';
const CREATED = 'created since: it is copied from now on, and is in the next capture';

/** Takes captures: drain, cut, seal, validate, cure. One at a time. */
export class Orchestrator {
  readonly #parts: CaptureParts;
  readonly #judge: Judge;
  readonly #turns = new Turns();
  /** What the primary said of its structure last. */
  #described: DataSetSchema | null = null;

  constructor(parts: CaptureParts) {
    this.#parts = parts;
    this.#judge = new Judge(parts);
  }

  /** What an earlier process left between `planned` and `sealed` is finished, or aborted where nothing had crossed. */
  recover(signal: AbortSignal): Promise<void> {
    return this.#turns.take(() => this.#recover(NO_PHASE, signal));
  }

  async #recover(onPhase: OnPhase, signal: AbortSignal): Promise<void> {
    const { catalog, engine } = this.#parts;
    for (const record of await catalog.list()) {
      if (record.state === 'planned') {
        await catalog.save(toState(record, 'aborted', { note: 'interrupted before anything crossed' }));
      } else if (record.state === 'draining' && record.position !== null) {
        if (!(await this.#resumeDrain(record, record.position))) continue;
        const due = { begunMs: performance.now(), appliedBefore: engine.appliedRows };
        await this.#finish(record, due, onPhase, signal, true);
      } else if (record.state === 'cut' || record.state === 'validating') {
        // Its cut may have become durable although an error was reported: the engine must know before it writes on.
        engine.wasCut(
          record.number,
          record.absent.map(({ table }) => table),
        );
        const described = record.state === 'cut' ? await this.#describeCut(record, signal) : record;
        await this.#judge.judge(described, performance.now(), onPhase, signal, true);
      }
    }
  }

  /** False: an element went past the position meanwhile, because an error kept the engine from knowing it. The capture is aborted. */
  #resumeDrain(record: CaptureRecord, at: Position): Promise<boolean> {
    const { engine, catalog } = this.#parts;
    return engine.still(async (elements) => {
      if (engine.drain?.number === record.number) return true;
      if (Array.from(elements.values()).some(({ progress }) => progress.capture <= record.number && progress.high > at)) {
        await catalog.save(toState(record, 'aborted', { note: 'an error kept tables from stopping at its position' }));
        return false;
      }
      await engine.beginDrain(record.number, at, Promise.resolve());
      return true;
    });
  }

  /** Runs `work` when no capture is under way, and lets none begin meanwhile. */
  exclusively<T>(work: () => Promise<T>): Promise<T> {
    return this.#turns.take(work);
  }

  /** Takes a capture now. `validate: false` cuts and seals only: its verdict is INCONCLUSIVE. */
  capture(onPhase: OnPhase, signal: AbortSignal): Promise<CaptureOutcome> {
    return this.#turns.take(() => this.captureNow(onPhase, signal, { validate: true }));
  }

  /** As `capture`, within `exclusively`. */
  async captureNow(onPhase: OnPhase, signal: AbortSignal, options: { readonly validate: boolean }): Promise<CaptureOutcome> {
    const { engine, catalog, failpoint, lifetime } = this.#parts;
    if (engine.parked) {
      throw new ForeshadowError('PARKED', 'the shadow is parked after a rollback, so no capture was taken', {
        remedy: 'Run `foreshadow resume` to let it follow the primary again.',
      });
    }
    const begunMs = performance.now();
    const appliedBefore = engine.appliedRows;
    onPhase('asking the primary', null, 0, null);
    const reached = this.#reachNow(signal);
    // Told below, where its failure aborts what was planned.
    reached.catch(() => undefined);
    // An error may have left the last one half-way: elements that crossed for it wait for its cut.
    await this.#recover(onPhase, lifetime);
    const planned = await this.#plan();
    failpoint('planned');
    try {
      let doubt = await reached;
      await this.#parts.adopt([], signal);
      if (engine.isCopying) {
        await this.#untilCopied(planned, onPhase, signal);
        // A new table may have waited for one of its name to go.
        await this.#parts.adopt([], signal);
        if (engine.isCopying) await this.#untilCopied(planned, onPhase, signal);
        doubt = await this.#reachNow(signal);
      }
      const draining = await this.#beginDrain(planned, doubt);
      failpoint('draining');
      return await this.#finish(draining, { begunMs, appliedBefore }, onPhase, lifetime, options.validate);
    } catch (error) {
      const now = await catalog.get(planned.number);
      if (now?.state === 'planned')
        await catalog.save(toState(now, 'aborted', { note: isAbort(error) ? 'interrupted' : messageOf(error) }));
      throw error;
    }
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

  /** Waits until the journal has what the primary has committed by now. Returns why it may lack some; null: it does not. */
  async #reachNow(signal: AbortSignal): Promise<string | null> {
    const { primary, tracker, policy } = this.#parts;
    let doubt = UNASKED;
    try {
      const at = await primary.now(AbortSignal.any([signal, AbortSignal.timeout(ASK_PRIMARY_MS)]));
      doubt = UNREACHED;
      await tracker.reached(at, AbortSignal.any([signal, AbortSignal.timeout(policy.drainDeadlineMs)]));
      return null;
    } catch (error) {
      if (signal.aborted) throw error;
      this.#parts.log(doubt, { reason: messageOf(error) });
      return doubt;
    }
  }

  /**
   * Chooses C, a journal boundary past everything the shadow has applied. While the engine stands still: an element that went past C before it
   * knew of it would bring rows into the capture that no other table has. Elements come to C while it is made durable, and cross after that.
   */
  async #beginDrain(planned: CaptureRecord, doubt: string | null): Promise<CaptureRecord> {
    const { engine, catalog, tracker } = this.#parts;
    const { draining, written } = await engine.still(() => {
      const position = maxPosition(tracker.head, engine.high);
      const record = toState(planned, 'draining', { position, note: doubt });
      const begun = engine.beginDrain(record.number, position, catalog.save(record));
      // Told below.
      begun.catch(() => undefined);
      return Promise.resolve({ draining: record, written: begun });
    });
    await written;
    return draining;
  }

  async #finish(
    draining: CaptureRecord,
    { begunMs, appliedBefore }: { readonly begunMs: number; readonly appliedBefore: number },
    onPhase: OnPhase,
    signal: AbortSignal,
    validate: boolean,
  ): Promise<CaptureOutcome> {
    const { engine, catalog, policy, failpoint } = this.#parts;
    const drainBegunMs = performance.now();
    onPhase('draining', null, 0, null);
    const [known, drain] = await Promise.all([this.#described ?? this.#describe(signal), engine.drained(policy.drainDeadlineMs, signal)]);
    const schema = worded(await this.#shapes(drain), known);
    const residualRows = engine.appliedRows - appliedBefore;
    const absent = Array.from(drain.leftOut, ([table, reason]) => ({ table, reason }));
    const cutBegunMs = performance.now();
    const cut = toState(draining, 'cut', { cutAt: new Date().toISOString(), absent });
    await catalog.cut(cut, schema);
    failpoint('cut');
    engine.wasCut(cut.number, drain.leftOut.keys());
    const cutMs = performance.now() - cutBegunMs;
    onPhase('describing', null, 0, null);
    const described = await this.#describeCut(cut, signal);
    const timings = { residualRows, drainMs: cutBegunMs - drainBegunMs, cutMs, validateMs: 0, elapsedMs: 0 };
    return this.#judge.judge({ ...described, timings }, begunMs, onPhase, signal, validate);
  }

  /**
   * What is around the rows of a capture that was cut, in the primary's words of now. The cut does not wait for them: it has those of the
   * capture before. Tables that the capture does not hold although the primary has them are named in its record.
   */
  async #describeCut(cut: CaptureRecord, signal: AbortSignal): Promise<CaptureRecord> {
    const described = await this.#describe(signal);
    const { catalog } = this.#parts;
    const pinned = await catalog.schema(cut.number);
    if (described === null || pinned === null) return cut;
    this.#described = described;
    const schema = worded(pinned.tables, described);
    const held = new Set([...schema.tables, ...cut.absent].map(({ table }) => table));
    const unknown = described.tables.map(({ table }) => table).filter((table) => !this.#parts.engine.elements.has(table));
    const missing = [...unknown.map((table) => ({ table, reason: CREATED })), ...(described.refused ?? [])];
    const record = { ...cut, absent: [...cut.absent, ...missing.filter(({ table }) => !held.has(table))] };
    if (JSON.stringify([schema, record]) !== JSON.stringify([pinned, cut])) await catalog.cut(record, schema);
    await this.#parts.adopt(unknown, signal);
    return record;
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

  /** The shape each table's rows have in this capture, whatever has become of it since it crossed. */
  async #shapes(drain: Drain): Promise<TableSchema[]> {
    const shapes: TableSchema[] = [];
    for (const table of new Set([...this.#parts.engine.elements.keys(), ...drain.crossed.keys()])) {
      if (drain.leftOut.has(table)) continue;
      // What crossed for an earlier process is asked of the shadow.
      const schema = drain.crossed.get(table) ?? (await this.#parts.shadow.schemaAt(table, drain.number));
      if (schema !== null) shapes.push(schema);
    }
    return shapes;
  }
}

/** Tables in their shapes with the primary's statements for them, where it has the shape still, and for what is around them. */
function worded(shapes: readonly TableSchema[], described: DataSetSchema | null): DataSetSchema {
  const present = new Map(described?.tables.map((schema) => [schema.table, schema]));
  const tables = shapes.map((schema) => {
    const now = present.get(schema.table);
    return now?.shape === schema.shape ? now : schema;
  });
  return { tables, before: described?.before ?? [], after: described?.after ?? [] };
}
