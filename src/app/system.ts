import { stat } from 'node:fs/promises';
import { rollback } from '../capture/rollback.ts';
import { knownGood, lastReadable } from '../capture/states.ts';
import { bytesOf } from '../model/change.ts';
import { ForeshadowError, isAbort, messageOf } from '../model/errors.ts';
import { Pulse } from '../model/pulse.ts';
import type { TableName, TableSchema } from '../model/schema.ts';
import { CaptureReader } from './capture-reader.ts';
import type { Tracked } from '../tracking/tracker.ts';
import type { Config } from './config.ts';
import type { DueTimes } from './due-times.ts';
import { failpoint } from './failpoint.ts';
import { lastHour } from './learning.ts';
import { checkLive } from './live-check.ts';
import type { LocalSystem, SystemOptions } from './local-system.ts';
import type {
  CaptureListing,
  CaptureReport,
  DiffReport,
  DiffRow,
  ProgressListener,
  QueryReport,
  RestoreReport,
  RestoreRequest,
  ResumeReport,
  RollbackReport,
  StatusReport,
  TailLine,
  ValidateReport,
} from './operations.ts';
import { type PlanReport, planReport } from './plan-report.ts';
import {
  activityReport,
  captureReport,
  logged,
  readable,
  round,
  slotLeft,
  tailLines,
  troubleReport,
  unmirroredIndexes,
} from './reports.ts';
import { RetainedWatch } from './retained.ts';
import { Session } from './session.ts';
import { type OpenShadow, openPrimary, openShadow, schemeOf } from './stores.ts';

/** Opens both ends and the journal. Installs nothing and claims nothing until something is asked that needs it. */
export async function openSystem(config: Config, options: SystemOptions): Promise<LocalSystem> {
  return new System(config, options);
}

/** Changes that a slow reader of `tail` may leave in memory. */
const TAIL_BYTES_MAX = 64 << 20;

/** How long `status` waits for a primary that nothing follows. */
const STATUS_PATIENCE_MS = 3000;

class System implements LocalSystem {
  readonly #config: Config;
  readonly #options: SystemOptions;
  readonly #closing = new AbortController();
  #session: Promise<Session> | null = null;
  #reader: Promise<OpenShadow> | null = null;
  /** Whether it goes on when what was asked for is done. */
  #running = false;
  readonly #captures: CaptureReader;

  constructor(config: Config, options: SystemOptions) {
    this.#config = config;
    this.#options = options;
    this.#captures = new CaptureReader(config, () => this.#reading());
  }

  async run(signal: AbortSignal): Promise<void> {
    this.#running = true;
    const session = await this.#open();
    const ended = AbortSignal.any([signal, session.signal]);
    const { due } = session.foresight;
    const last = lastReadable(await session.catalog.list());
    if (last?.cutAt != null) due.captured(Date.parse(last.cutAt));
    const ending = new AbortController();
    const foreseeing = session.foresight.run(session.engine, AbortSignal.any([ended, ending.signal]));
    try {
      for (;;) {
        const next = due.next(Date.now());
        // Waking early just asks again.
        const waitMs = next === null ? undefined : Math.min(next.atMs - Date.now(), due.changesAfterMs);
        if (waitMs === undefined || waitMs > 0) await new Pulse().next(ended, waitMs);
        if (next !== null && Date.now() >= next.atMs && due.stands(next)) await this.#captureOnSchedule(session, due, ended);
      }
    } catch (error) {
      if (signal.aborted) return;
      throw session.signal.aborted ? session.signal.reason : error;
    } finally {
      ending.abort();
      await foreseeing;
    }
  }

  async #captureOnSchedule(session: Session, due: DueTimes, signal: AbortSignal): Promise<void> {
    const { log } = this.#options;
    due.captured(Date.now());
    try {
      if (session.engine.parked) {
        await session.orchestrator.skip('the shadow is parked after a rollback');
        log('warn', 'a scheduled capture was skipped: the shadow is parked; run foreshadow resume');
        return;
      }
      const { record } = await session.orchestrator.capture(() => {}, signal);
      log(record.verdict === 'VALID' ? 'info' : 'warn', 'captured', logged(record));
    } catch (error) {
      if (isAbort(error)) throw error;
      due.failed(Date.now());
      log('error', 'a scheduled capture failed', { reason: messageOf(error) });
    }
  }

  async status(signal: AbortSignal): Promise<StatusReport> {
    const session = this.#session === null ? null : await this.#session;
    const { shadow, catalog } = await this.#reading();
    const exists = await catalog.exists();
    const records = exists ? await catalog.list() : [];
    const elements = session?.engine.elements ?? (exists ? await shadow.elements() : new Map());
    const backlog = session?.engine.backlog ?? null;
    const parked = exists ? ((await catalog.read('parked')) as { at: number } | null | undefined) : null;
    const unmirrored = exists ? await unmirroredIndexes(catalog) : [];
    const { activity, troubles } = await lastHour(this.#config, session?.learning ?? null);
    const tables = Array.from(elements.values(), ({ schema, state }) => ({
      table: schema.table,
      state: state.kind,
      reason: state.kind === 'halted' ? state.reason : null,
      lagMs: backlog === null ? null : Math.round(backlog.lagMs(schema.table)),
      pendingRows: backlog?.pendingRows(schema.table) ?? 0,
      copiedRows: state.kind === 'copying' ? state.copiedRows : null,
      insertOnly: schema.insertOnly === true,
      lastHour: activityReport(activity, schema.table),
    }));
    const next = parked ? null : ((this.#running ? session?.foresight.due.next(Date.now()) : null) ?? null);
    signal.throwIfAborted();
    return {
      dataSet: this.#config.dataSet,
      running: session !== null,
      lagMs: backlog === null ? null : Math.max(0, ...tables.map(({ lagMs }) => lagMs ?? 0)),
      tables,
      unmirroredIndexes: unmirrored,
      captures: {
        last: lastReadable(records)?.number ?? null,
        knownGood: knownGood(records)?.number ?? null,
        parkedAt: parked?.at ?? null,
      },
      learning: { troubles: [...troubles, ...(session?.foresight.troubles ?? [])] },
      nextCapture:
        next === null
          ? null
          : {
              at: new Date(next.atMs).toISOString(),
              forecastResidualRows: session?.foresight.steering?.residualRows ?? null,
              because: next.because,
            },
      tracking: await this.#tracking(session, signal),
      journal: {
        path: this.#config.journal.path,
        bytes: session === null ? await fileBytes(this.#config.journal.path) : await session.journal.size(),
        onPrimaryHost: schemeOf(this.#config.primary) === 'sqlite' ? true : null,
      },
    };
  }

  async #tracking(session: Session | null, signal: AbortSignal): Promise<StatusReport['tracking']> {
    if (session !== null) {
      const trouble = session.tracker.trouble;
      if (trouble === null) await session.retained.look(session.primary, STATUS_PATIENCE_MS, signal);
      return { trouble: trouble === null ? null : troubleReport(trouble.error, trouble.since), retained: session.retained.report };
    }
    try {
      await using primary = await openPrimary(this.#config, async () => new Set());
      const watch = new RetainedWatch();
      watch.add(await primary.retained(AbortSignal.any([signal, AbortSignal.timeout(STATUS_PATIENCE_MS)])));
      return { trouble: null, retained: watch.report };
    } catch (error) {
      signal.throwIfAborted();
      return { trouble: troubleReport(error, new Date()), retained: null };
    }
  }

  async capture(progress: ProgressListener, signal: AbortSignal): Promise<CaptureReport> {
    const session = await this.#open(signal);
    const within = AbortSignal.any([signal, session.signal]);
    const outcome = await session.orchestrator.capture(phases(progress), within);
    session.foresight.due.captured(Date.now());
    // A `start` goes on to make them; here nothing does, once the capture is reported.
    if (!this.#running) {
      if (session.indexes.isWanted) progress({ phase: 'making indexes', table: null, done: 0, total: null, unit: 'rows' });
      await session.indexes.bring(within);
    }
    return captureReport(outcome, schemasOf(session), session.shadow.values, await this.#leaves(session, within));
  }

  /** Reporting and going back need tracking, but must not be what installs it. */
  async #requireInstalled(signal: AbortSignal): Promise<void> {
    if (this.#session !== null) return;
    await using primary = await openPrimary(this.#config, async () => new Set());
    if (await primary.installed(signal)) return;
    throw new ForeshadowError('NOT_INSTALLED', 'nothing tracks the primary: nothing is installed on it', {
      remedy: 'Run `foreshadow capture` or `foreshadow start`, which install it; captures can be queried and restored without.',
    });
  }

  /** What stays on the primary when nothing runs on. */
  async #leaves(session: Session, signal: AbortSignal): Promise<string | null> {
    if (this.#running) return null;
    if (schemeOf(this.#config.primary) === 'sqlite')
      return 'triggers go on logging changed keys in the primary (about 15 bytes a change) until the next capture or start';
    session.retained.add(await session.primary.retained(signal));
    const { report } = session.retained;
    return report === null ? null : slotLeft(report);
  }

  captures(signal: AbortSignal): Promise<readonly CaptureListing[]> {
    return this.#captures.list(signal);
  }

  async validate(capture: number | null, progress: ProgressListener, signal: AbortSignal): Promise<ValidateReport> {
    if (capture !== null) return this.#captures.validate(capture, progress, signal);
    const { catalog } = await this.#reading();
    if (!(await catalog.exists())) {
      throw new ForeshadowError('NOT_INSTALLED', 'there is no shadow to validate yet', {
        remedy: 'Run `foreshadow capture` or `foreshadow start` first.',
      });
    }
    await this.#requireInstalled(signal);
    const session = await this.#open(signal);
    return checkLive(session, progress, AbortSignal.any([signal, session.signal]));
  }

  diff(from: number, to: number, signal: AbortSignal): Promise<DiffReport> {
    return this.#captures.diff(from, to, signal);
  }

  diffRows(from: number, to: number, signal: AbortSignal): AsyncIterable<DiffRow> {
    return this.#captures.diffRows(from, to, signal);
  }

  query(capture: number, sql: string, signal: AbortSignal): AsyncIterable<QueryReport> {
    return this.#captures.query(capture, sql, signal);
  }

  restore(request: RestoreRequest, progress: ProgressListener, signal: AbortSignal): Promise<RestoreReport> {
    return this.#captures.restore(request, progress, signal);
  }

  script(capture: number, table: string | null, signal: AbortSignal): AsyncIterable<string> {
    return this.#captures.script(capture, table, signal);
  }

  async rollback(to: number, progress: ProgressListener, signal: AbortSignal): Promise<RollbackReport> {
    const begunMs = performance.now();
    const record = await readable((await this.#reading()).catalog, to);
    await this.#requireInstalled(signal);
    const session = await this.#open(signal);
    const within = AbortSignal.any([signal, session.signal]);
    const { engine, catalog, orchestrator } = session;
    return orchestrator.exclusively(async () => {
      const wasParked = engine.parked;
      // The capture cut first keeps what stands now: nothing is lost, whatever is rolled back.
      const before = wasParked ? null : (await orchestrator.captureNow(phases(progress), within, { validate: false })).record.number;
      progress({ phase: 'rolling back', table: null, done: 0, total: null, unit: 'rows' });
      engine.park(true);
      try {
        await catalog.write('parked', { at: to, since: new Date().toISOString() });
        const { rows, proved, untouched } = await rollback({ shadow: session.shadow, catalog, engine, failpoint }, record, session.signal);
        return { to, rows, proved, parked: true, before, untouched, elapsedMs: round(performance.now() - begunMs) };
      } catch (error) {
        if (!wasParked && !session.signal.aborted) {
          await catalog.write('parked', null);
          engine.park(false);
        }
        throw error;
      }
    });
  }

  async resume(progress: ProgressListener, signal: AbortSignal): Promise<ResumeReport> {
    const begunMs = performance.now();
    const reading = await this.#reading();
    const exists = await reading.catalog.exists();
    const parked = exists ? ((await reading.catalog.read('parked')) as { at: number } | null | undefined) : null;
    // Where a session goes on, the shadow is asked by its engine alone: it has to know what a crash may have lost.
    const elements = exists ? ((await this.#session)?.engine.elements ?? (await reading.shadow.elements())) : new Map<never, never>();
    const halted = Array.from(elements.values()).some(({ state }) => state.kind === 'halted');
    if (!parked && !halted) {
      throw new ForeshadowError('USAGE', 'the shadow is not parked, and no table of it is halted', {
        remedy: 'It follows the primary already: nothing is to be done.',
      });
    }
    const session = await this.#open(signal);
    const within = AbortSignal.any([signal, session.signal]);
    const { engine, catalog, tracker, primary } = session;
    const before = engine.appliedRows;
    const described = await primary.describe(within);
    const anew = await session.tablesToRestart(described, within);
    if (anew.length > 0) await engine.resync(anew, within);
    await catalog.write('parked', null);
    engine.park(false);
    const method = anew.length > 0 ? 'resync' : 'replay';
    const report = (): void => progress({ phase: method, table: null, done: engine.appliedRows - before, total: null, unit: 'rows' });
    await engine.caughtUp(tracker.head, within, report);
    return { from: parked?.at ?? null, method, rows: engine.appliedRows - before, elapsedMs: round(performance.now() - begunMs) };
  }

  async plan(signal: AbortSignal): Promise<PlanReport> {
    const session = this.#session === null ? null : await this.#session;
    signal.throwIfAborted();
    return planReport(this.#config, this.#running ? (session?.foresight ?? null) : null);
  }

  async *tail(signal: AbortSignal): AsyncIterable<TailLine> {
    const session = await this.#open(signal);
    const within = AbortSignal.any([signal, session.signal]);
    const { tracker, journal, engine, shadow } = session;
    const arrived = new Pulse();
    const queue: Tracked[] = [];
    let waitingBytes = 0;
    const stop = tracker.onTracked((tracked) => {
      if (tracked.changes.size === 0) return;
      const bytes = bytesOf(tracked.blocks ?? []);
      // What does not fit is read from the journal when its turn comes.
      const fits = waitingBytes + bytes <= TAIL_BYTES_MAX;
      if (fits) waitingBytes += bytes;
      queue.push(fits ? tracked : { ...tracked, blocks: null });
      arrived.beat();
    });
    try {
      for (;;) {
        const tracked = queue.shift();
        if (tracked === undefined) {
          await arrived.next(within);
          continue;
        }
        waitingBytes -= bytesOf(tracked.blocks ?? []);
        yield* tailLines(tracked, journal, (table) => engine.elements.get(table)?.schema, shadow.values, within);
      }
    } catch (error) {
      if (!signal.aborted) throw error;
    } finally {
      stop();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort();
    const session = await this.#session?.catch(() => null);
    await session?.[Symbol.asyncDispose]();
    if (this.#reader !== null) await (await this.#reader).shadow[Symbol.asyncDispose]();
  }

  /** The session of this process, opened when it is first needed. A failure is not kept: the next call tries again. */
  #open(signal: AbortSignal = this.#closing.signal): Promise<Session> {
    this.#session ??= Session.open(this.#config, this.#options, AbortSignal.any([signal, this.#closing.signal])).catch((error: unknown) => {
      this.#session = null;
      throw error;
    });
    return this.#session;
  }

  /** The shadow for reading: the session's if there is one. */
  async #reading(): Promise<OpenShadow> {
    if (this.#session !== null) return this.#session;
    this.#reader ??= openShadow(this.#config).catch((error: unknown) => {
      this.#reader = null;
      throw error;
    });
    return this.#reader;
  }
}

function phases(progress: ProgressListener): (phase: string, table: string | null, done: number, total: number | null) => void {
  return (phase, table, done, total) => progress({ phase, table, done, total, unit: 'rows' });
}

function schemasOf(session: Session): Map<TableName, TableSchema> {
  return new Map(Array.from(session.engine.elements.values(), ({ schema }) => [schema.table, schema]));
}

async function fileBytes(path: string): Promise<number> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 0;
    throw error;
  }
}
