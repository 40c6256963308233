import { hostname } from 'node:os';
import type { Catalog } from '../capture/catalog.ts';
import { type CapturePolicy, suspects } from '../capture/judge.ts';
import { Orchestrator } from '../capture/orchestrator.ts';
import { lastReadable, toState } from '../capture/states.ts';
import type { Journal } from '../journal/journal.ts';
import { type CaptureNumber, NO_CAPTURE, captureNumber } from '../model/capture.ts';
import { type ErrorCode, type Finding, ForeshadowError, isAbort, messageOf } from '../model/errors.ts';
import type { TableEvent } from '../model/change.ts';
import type { Position } from '../model/position.ts';
import { COPY_BY_COMPARISON, COPY_FROM_NOTHING, type Element, type Generation, type Progress } from '../model/progress.ts';
import { type DataSetSchema, type TableName, type TableSchema, tableOf } from '../model/schema.ts';
import { type Drain, newDrain } from '../shadowing/drain.ts';
import { Engine } from '../shadowing/engine.ts';
import { IndexMirror, type MirroringParts } from '../shadowing/indexes.ts';
import { Newcomers } from '../shadowing/newcomers.ts';
import type { Shadow } from '../shadowing/shadow.ts';
import type { Primary } from '../tracking/primary.ts';
import { Tracker } from '../tracking/tracker.ts';
import { type Config, redactUrl, ruleFor } from './config.ts';
import { failpoint } from './failpoint.ts';
import { Foresight } from './foresight.ts';
import { type Learning, startLearning } from './learning.ts';
import type { SystemOptions } from './local-system.ts';
import { RetainedWatch } from './retained.ts';
import { openJournal, openPrimary, openShadow, schemeOf } from './stores.ts';

interface DataSetDocument {
  readonly name: string;
  /** The URL without its password. */
  readonly primary: string;
  readonly primaryIdentity: string;
  readonly journalId: string;
}

/** Live changes gather this long before they are written: hot rows are then written once for many changes. */
const FOLD_EVERY_MS = 200;
const DRAIN_DEADLINE_MS = 60_000;
const ROLLING_BUDGET_MS = 2_000;
/** Of that, while the primary is busier than it should be. */
const YIELDING_SHARE = 0.1;

/** A data set being tracked, shadowed and captured by this process: it holds the shadow's claim until it is closed. */
export class Session implements AsyncDisposable {
  readonly primary: Primary;
  readonly shadow: Shadow;
  readonly catalog: Catalog;
  readonly journal: Journal;
  readonly tracker: Tracker;
  readonly engine: Engine;
  readonly orchestrator: Orchestrator;
  readonly retained: RetainedWatch;
  readonly indexes: IndexMirror;
  readonly learning: Learning;
  readonly foresight: Foresight;
  readonly #lifetime: AbortController;
  readonly #resources: AsyncDisposableStack;
  readonly #loops: Promise<unknown>;

  private constructor(
    parts: { primary: Primary; shadow: Shadow; catalog: Catalog; journal: Journal; tracker: Tracker; engine: Engine },
    orchestrator: Orchestrator,
    running: {
      lifetime: AbortController;
      loops: Promise<unknown>;
      resources: AsyncDisposableStack;
      retained: RetainedWatch;
      indexes: IndexMirror;
      learning: Learning;
      foresight: Foresight;
    },
  ) {
    this.primary = parts.primary;
    this.shadow = parts.shadow;
    this.catalog = parts.catalog;
    this.journal = parts.journal;
    this.tracker = parts.tracker;
    this.engine = parts.engine;
    this.orchestrator = orchestrator;
    this.#lifetime = running.lifetime;
    this.#loops = running.loops;
    this.retained = running.retained;
    this.indexes = running.indexes;
    this.learning = running.learning;
    this.foresight = running.foresight;
    this.#resources = running.resources;
  }

  /** Aborts when the session is closed, or when a loop has failed for good: the reason is then the failure. */
  get signal(): AbortSignal {
    return this.#lifetime.signal;
  }

  /** Checks both ends, claims the shadow, installs on the primary, and begins to track and shadow. */
  static async open(config: Config, options: SystemOptions, signal: AbortSignal): Promise<Session> {
    await using resources = new AsyncDisposableStack();
    const journal = resources.use(await openJournal(config.journal.path));
    const { shadow, catalog } = await openShadow(config);
    resources.use(shadow);
    const owners = async (): Promise<readonly string[]> => {
      const former = await knownDataSet(catalog);
      return former === null ? [journal.id] : [journal.id, former.journalId];
    };
    const shapes = (): Promise<TableSchema[]> => shapesAtHead(shadow, catalog, journal);
    const primary = resources.use(await openPrimary(config, (ids, upTo) => journal.contains(ids, upTo), { owners, shapes }));
    await refuseSame(config, primary, shadow, signal);
    refuseErrors(await primary.check(signal));
    const described = await describe(config, primary, signal);
    const findings = await shadow.check(described.tables, signal);
    refuseErrors(findings);
    const unwatched = findings.filter(({ code }) => code === 'GUARD_MISSING').map(({ subject }) => subject as TableName);
    for (const table of unwatched)
      options.log('warn', 'the guard of a table was gone: it is compared whole with the next capture', { table });
    await shadow.claim(`foreshadow on ${hostname()}, process ${process.pid}`);
    if (unwatched.length > 0) await catalog.write('suspect', Array.from(new Set([...(await suspects(catalog)), ...unwatched])));
    await prepare({ config, primary, shadow, catalog, journal, described }, options, signal);
    return Session.#start(config, options, { primary, shadow, catalog, journal }, resources.move(), signal);
  }

  static async #start(
    config: Config,
    options: SystemOptions,
    stores: { primary: Primary; shadow: Shadow; catalog: Catalog; journal: Journal },
    resources: AsyncDisposableStack,
    signal: AbortSignal,
  ): Promise<Session> {
    const lifetime = new AbortController();
    let running: { readonly engine: Engine } | null = null;
    const log = (message: string, fields: Readonly<Record<string, unknown>>): void => options.log('info', message, fields);
    try {
      const onRetry = (error: unknown, waitMs: number): void =>
        options.log('warn', 'tracking will be tried again', { reason: messageOf(error), waitMs });
      const learning = await startLearning(config, stores, () => running?.engine ?? null, resources, options.log, signal);
      const foresight = new Foresight(config, learning, resources, options.log);
      const tracker = new Tracker({ ...stores, failpoint, onRetry, recorder: learning.recorder });
      const parked = await stores.catalog.read('parked');
      const foldEveryMs = Math.max(1, Math.min(FOLD_EVERY_MS, config.policy.lagToleranceMs / 2));
      const engine = await Engine.open(
        {
          ...stores,
          tracker,
          failpoint,
          log,
          foldEveryMs,
          lagToleranceMs: (table) => foresight.lagToleranceMs(table),
          followsShape: (table) => followsShape(config, table),
          ...(foresight.holding === undefined ? {} : { holding: foresight.holding }),
        },
        { ...(await whereCapturesStand(stores.catalog)), parked: parked !== null && parked !== undefined },
        signal,
      );
      const policy = capturePolicy(config, foresight);
      const newcomers = new Newcomers({ ...stores, tracker, engine, log });
      const adopt = async (tables: readonly TableName[], within: AbortSignal): Promise<void> => {
        newcomers.want(tables);
        await newcomers.adopt(within);
      };
      const beforePrune = (): Promise<void> => learning.recorder.flush();
      const around = { adopt, beforePrune, lifetime: lifetime.signal, failpoint, log };
      const orchestrator = new Orchestrator({ ...stores, tracker, engine, policy, ...around });
      const indexes = new IndexMirror({ ...stores, ...mirroring(config, stores.catalog), engine, failpoint, log });
      const retained = new RetainedWatch();
      const watching = retained.run(stores.primary, options.log, lifetime.signal);
      running = { engine };
      const working = [
        tracker.run(lifetime.signal),
        engine.run(lifetime.signal),
        newcomers.run(lifetime.signal),
        indexes.run(lifetime.signal),
        watching,
      ];
      const loops = Promise.all([...working, learning.run(lifetime.signal)]).catch((error: unknown) => {
        if (!isAbort(error)) options.log('error', 'stopped', { reason: messageOf(error) });
        lifetime.abort(error);
      });
      const session = new Session({ ...stores, tracker, engine }, orchestrator, {
        lifetime,
        loops,
        resources,
        retained,
        indexes,
        learning,
        foresight,
      });
      try {
        await orchestrator.recover(AbortSignal.any([signal, lifetime.signal]));
      } catch (error) {
        await session[Symbol.asyncDispose]();
        throw error;
      }
      return session;
    } catch (error) {
      lifetime.abort();
      await resources.disposeAsync();
      throw error;
    }
  }

  /** Tables that cannot go on from where they stand: halted, of another shape than the primary's, or further back than the journal. */
  async tablesToRestart(described: DataSetSchema, signal: AbortSignal): Promise<TableName[]> {
    const tables: TableName[] = [];
    for (const { schema, state, progress } of this.engine.elements.values()) {
      const { table } = schema;
      const reached =
        state.kind === 'live' && tableOf(described, table)?.shape === schema.shape && (await this.#reaches(table, progress.low, signal));
      if (!reached && state.kind !== 'copying') tables.push(table);
    }
    return tables;
  }

  /** Whether the journal has everything of a table since a position, with nothing among it that rows do not express. */
  async #reaches(table: TableName, low: Position, signal: AbortSignal): Promise<boolean> {
    if (this.engine.backlog.hasEvent(table, low)) return false;
    try {
      const blocks = this.journal.read(table, low, this.tracker.head, signal)[Symbol.asyncIterator]();
      await blocks.next();
      await blocks.return?.();
      return true;
    } catch (error) {
      if (error instanceof ForeshadowError && error.code === 'JOURNAL_GAP') return false;
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#lifetime.abort();
    await this.#loops;
    await this.#resources.disposeAsync();
  }
}

function capturePolicy({ captures: { validate, onInvalid } }: Config, { steering }: Foresight): CapturePolicy {
  return {
    validate,
    onInvalid,
    drainDeadlineMs: DRAIN_DEADLINE_MS,
    // Of all that reads the primary, what nobody waits for gives way first.
    get rollingBudgetMs(): number {
      return steering?.copiesYield === true ? ROLLING_BUDGET_MS * YIELDING_SHARE : ROLLING_BUDGET_MS;
    },
  };
}

/** Which secondary indexes policy asks for, and where those are written down that cannot be had. */
function mirroring(config: Config, catalog: Catalog): Pick<MirroringParts, 'mirrorsAny' | 'mirrorsIndexes' | 'report'> {
  return {
    mirrorsAny: [config.policy, ...config.policy.perTable].some(({ indexes: wanted }) => wanted === 'mirror'),
    mirrorsIndexes: (table) => (ruleFor(config.policy, table)?.indexes ?? config.policy.indexes) === 'mirror',
    report: (unmirrored) => catalog.write('unmirrored-indexes', unmirrored),
  };
}

function followsShape({ policy }: Config, table: TableName): boolean {
  return (ruleFor(policy, table)?.onSchemaChange ?? policy.onSchemaChange) === 'follow';
}

/** The shapes in which the journal's next changes of tables would be. */
async function shapesAtHead(shadow: Shadow, catalog: Catalog, journal: Journal): Promise<TableSchema[]> {
  const head = journal.head()?.at;
  if (head === undefined || !(await catalog.exists())) return [];
  const shapes: TableSchema[] = [];
  for (const { schema, progress } of (await shadow.elements()).values()) {
    let shape: TableSchema | null = schema;
    let after = progress.low;
    for (;;) {
      const events: readonly TableEvent[] = shape === null ? [] : await journal.events(shape.table, after, head);
      const told = events.find(({ kind, change }) => kind === 'dropped' || change !== undefined);
      if (told === undefined) break;
      shape = told.change?.to ?? null;
      after = told.at;
    }
    if (shape !== null) shapes.push(shape);
  }
  return shapes;
}

async function refuseSame(config: Config, primary: Primary, shadow: Shadow, signal: AbortSignal): Promise<void> {
  if ((await primary.identity(signal)) !== (await shadow.identity(signal))) return;
  throw new ForeshadowError('SHADOW_IS_PRIMARY', `the shadow ${redactUrl(config.shadow)} is the primary itself`, {
    remedy: 'Give the shadow a database of its own, best on another machine.',
  });
}

/** The first error among findings, thrown: what `doctor` would list. */
function refuseErrors(findings: readonly Finding[]): void {
  const error = findings.find(({ severity }) => severity === 'error');
  if (error === undefined) return;
  throw new ForeshadowError(error.code as ErrorCode, error.message, {
    remedy: error.remedy ?? 'Run `foreshadow doctor` for all findings.',
  });
}

async function describe(config: Config, primary: Primary, signal: AbortSignal): Promise<DataSetSchema> {
  const described = await primary.describe(signal);
  if (described.tables.length > 0) return described;
  throw new ForeshadowError('TABLE_MISSING', `no table of the primary matches ${config.selection.include.join(', ')}`, {
    remedy: 'Correct `tables` (or `policy.exclude`) in the config; * stands for any run of characters.',
  });
}

interface PrepareParts {
  readonly config: Config;
  readonly primary: Primary;
  readonly shadow: Shadow;
  readonly catalog: Catalog;
  readonly journal: Journal;
  readonly described: DataSetSchema;
}

/** Makes primary, journal and shadow of one mind: installs, begins the journal, and marks for resync whatever has a gap. */
async function prepare(parts: PrepareParts, options: SystemOptions, signal: AbortSignal): Promise<void> {
  const { config, primary, shadow, catalog, journal, described } = parts;
  const known = await knownDataSet(catalog);
  if (known) refuseOther(config, known, await primary.identity(signal));
  const elements = known ? await shadow.elements() : new Map<never, Element>();
  // Where the log tells of shapes, it tells of tables that came, went or were renamed meanwhile too.
  const told = known !== null && primary.tellsShapes;
  const tables = told ? described.tables.filter(({ table }) => elements.has(table)) : described.tables;
  const bookmark = await primary.install(tables, signal);
  failpoint('installed');
  const lost = known ? known.journalId !== journal.id || journal.head() === null : false;
  if (!known || lost) await journal.begin(bookmark);
  const head = journal.head()?.at;
  if (head === undefined) throw new Error('the journal has no beginning');
  const capture = await nextCapture(catalog, elements.values(), known !== null);
  await shadow.prepare({ ...described, tables }, { generation: 1 as Generation, low: head, high: head, capture });
  if (lost) await abortDraining(catalog);
  // A parked shadow stands as it was at a capture, shapes included, until it is resumed.
  const parked = known ? await catalog.read('parked') : null;
  if (parked === null || parked === undefined) await reconcile(parts, elements.values(), head, lost, options, signal);
  const document: DataSetDocument = {
    name: config.dataSet,
    primary: redactUrl(config.primary),
    // Asked again: installing may give a database the identity it lacked.
    primaryIdentity: await primary.identity(signal),
    journalId: journal.id,
  };
  await catalog.write('data-set', document);
}

async function knownDataSet(catalog: Catalog): Promise<DataSetDocument | null> {
  return (await catalog.exists()) ? (((await catalog.read('data-set')) as DataSetDocument | null | undefined) ?? null) : null;
}

function refuseOther(config: Config, known: DataSetDocument, primaryIdentity: string): void {
  if (known.name !== config.dataSet) {
    throw new ForeshadowError('SHADOW_OCCUPIED', `the shadow holds the data set ${known.name}, not ${config.dataSet}`, {
      remedy: `Use a database of its own for each data set, or name this one ${known.name}.`,
    });
  }
  // A SQLite file at the same path is the same primary, whatever was put there: what tracking cannot continue from it reports as a gap.
  const samePath = schemeOf(config.primary) === 'sqlite' && known.primary === redactUrl(config.primary);
  if (known.primaryIdentity !== primaryIdentity && !samePath) {
    throw new ForeshadowError('PRIMARY_REPLACED', `${redactUrl(config.primary)} is not the database that this shadow follows`, {
      remedy: 'Point `primary` at the database it was made from, or begin a new shadow in an empty database.',
    });
  }
}

async function nextCapture(catalog: Catalog, elements: Iterable<Element>, known: boolean): Promise<CaptureNumber> {
  let next = 1;
  if (known) for (const { number } of await catalog.list()) next = Math.max(next, number + 1);
  for (const { progress } of elements) next = Math.max(next, progress.capture);
  return captureNumber(next);
}

/** What changed while nothing ran: tables that went, tables of another shape, a journal that was lost. */
async function reconcile(
  { described, primary, shadow }: PrepareParts,
  elements: Iterable<Element>,
  head: Position,
  lost: boolean,
  options: SystemOptions,
  signal: AbortSignal,
): Promise<void> {
  for (const { schema, progress } of elements) {
    const now = tableOf(described, schema.table);
    const restarted: Progress = { ...progress, generation: (progress.generation + 1) as Generation, low: head, high: head };
    if (now?.shape !== schema.shape && !primary.tellsShapes) {
      options.log('warn', now === undefined ? 'a table left the data set' : 'a table has a new shape and is copied again', {
        table: schema.table,
      });
      await shadow.retire(schema.table, now ?? null, COPY_FROM_NOTHING, restarted);
    } else if (lost) {
      options.log('warn', 'the journal was lost: the table is resynced by comparison', { table: schema.table });
      const work = {
        table: schema.table,
        rows: [],
        from: progress,
        progress: restarted,
        state: COPY_BY_COMPARISON,
        savedThrough: NO_CAPTURE,
      };
      await shadow.apply([work], signal);
    }
  }
}

/** Without the journal, what was draining cannot be brought to its position any more. What crossed stays crossed. */
async function abortDraining(catalog: Catalog): Promise<void> {
  for (const record of await catalog.list()) {
    if (record.state === 'draining') await catalog.save(toState(record, 'aborted', { note: 'the journal was lost before it was cut' }));
  }
}

async function whereCapturesStand(catalog: Catalog): Promise<{ lastCut: CaptureNumber; drain: Drain | null }> {
  const records = await catalog.list();
  const draining = records.find(({ state }) => state === 'draining');
  const drain = draining?.position ? newDrain(draining.number, draining.position) : null;
  return { lastCut: lastReadable(records)?.number ?? NO_CAPTURE, drain };
}
