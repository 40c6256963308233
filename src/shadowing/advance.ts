import type { ShapeChange, TableEvent, TransactionRef } from '../model/change.ts';
import { captureNumber } from '../model/capture.ts';
import { isKeyless } from '../model/copies.ts';
import { ForeshadowError, isAbort, messageOf } from '../model/errors.ts';
import { type Position, positionBefore } from '../model/position.ts';
import { COPY_BY_COMPARISON, COPY_FROM_NOTHING, type Element } from '../model/progress.ts';
import { type TableName, tableOf } from '../model/schema.ts';
import { type KeyTuple, identityOf } from '../model/tuple.ts';
import type { Ahead } from './ahead.ts';
import { type Chunk, type ChunkScope, goesOnFrom, rowsIn } from './copy.ts';
import { Apart } from './apart.ts';
import type { EngineParts } from './parts.ts';
import type { Backlog } from './lag.ts';
import { Folds, type OpenFold } from './folds.ts';
import type { Holding } from './holding.ts';
import { type OpenChunk, Reads } from './reads.ts';
import { Repairs } from './repairs.ts';
import { Reshaper, isTaken, restarted } from './reshape.ts';
import { RowsMissing } from './shadow.ts';
import { Touched } from './touched.ts';
import { type FoldTask, type Outcome, type StepTask, Write, type Written, inCaptureOf } from './write.ts';

/** Copies that are being written beside the engine's turns, together. */
interface Writing {
  readonly done: Promise<void>;
  result: { readonly outcomes: Written } | { readonly error: unknown } | null;
}

/** Takes one element one step further: a fold, a chunk with its fold, or what an event demands. */
export class Advance {
  readonly #parts: EngineParts;
  readonly #backlog: Backlog;
  readonly #ahead: Ahead;
  readonly #stir: () => void;
  readonly #reshaper: Reshaper;
  readonly #folds: Folds;
  readonly #reads: Reads;
  readonly #writing = new Map<TableName, Writing>();
  readonly #apart = new Apart();
  /** Of tables that are copied for the first time. */
  readonly #touched = new Map<TableName, Touched>();
  readonly #repairs = new Repairs();
  /** Where a table stood when the types in the shadow were last brought up to the primary's for it. */
  readonly #renewed = new Map<TableName, Position>();

  constructor(
    parts: EngineParts,
    beside: { readonly backlog: Backlog; readonly ahead: Ahead; readonly holding: Holding },
    hasElement: (table: TableName) => boolean,
    stir: () => void,
  ) {
    this.#parts = parts;
    this.#ahead = beside.ahead;
    this.#reshaper = new Reshaper(parts, hasElement);
    this.#backlog = beside.backlog;
    this.#folds = new Folds(parts.journal, beside.holding);
    this.#stir = stir;
    this.#reads = new Reads(parts, stir);
  }

  /** Returns whether it is done by now. */
  requestRepair(table: TableName, keys: readonly KeyTuple[]): () => boolean {
    return this.#repairs.request(table, keys);
  }

  hasRepair(table: TableName): boolean {
    return this.#repairs.has(table) || this.#reads.get(table) !== undefined;
  }

  /**
   * Null: there was nothing to do, or what is to be done waits for the primary. A `Write` is for `write`, within the same turn.
   */
  async step(element: Element, task: StepTask, signal: AbortSignal): Promise<Outcome | Write | null> {
    if (element.state.kind === 'halted') return null;
    try {
      return await this.#step(element, task, signal);
    } catch (error) {
      return this.#failed(element, task, error, signal);
    }
  }

  async #failed(element: Element, task: StepTask, error: unknown, signal: AbortSignal): Promise<Outcome | Write | null> {
    if (isAbort(error) || signal.aborted) throw error;
    if (error instanceof ForeshadowError && (error.retry === 'later' || error.code === 'FENCED')) throw error;
    if (error instanceof ForeshadowError && error.code === 'JOURNAL_GAP') return this.#resync(element, messageOf(error), signal);
    if (await this.#renewedTypes(element, signal)) return this.step(element, task, signal);
    const { table } = element.schema;
    if (task.drain !== null && this.#backlog.hasEvent(table, element.progress.low)) {
      task.drain.leftOut.set(table, 'its shape changed, and with it that of rows from just before');
      return null;
    }
    return this.#halt(element, error, signal);
  }

  /**
   * What was refused may be of a type that has changed: an enum has a new label, a composite another attribute. Where that is a new shape, an
   * event says so by then. Tried once for each place in the log.
   */
  async #renewedTypes(element: Element, signal: AbortSignal): Promise<boolean> {
    const { schema, progress } = element;
    if (!this.#parts.primary.tellsShapes || this.#renewed.get(schema.table) === progress.low) return false;
    this.#renewed.set(schema.table, progress.low);
    await this.#reshaper.renewTypes(progress, signal);
    await this.#reshaper.present(element, signal);
    return true;
  }

  async #step(element: Element, { drain, savedThrough }: StepTask, signal: AbortSignal): Promise<Outcome | Write | null> {
    const { schema, progress, state } = element;
    const writing = this.#writing.get(schema.table);
    if (writing !== undefined) {
      if (writing.result === null) return null;
      this.#writing.delete(schema.table);
      if ('error' in writing.result) throw writing.result.error;
      const outcome = writing.result.outcomes.get(schema.table);
      return outcome === undefined ? null : inCaptureOf(element, outcome);
    }
    const target = drain?.at ?? this.#parts.tracker.head;
    const task: FoldTask = { target, chunk: null, scope: null, drain, savedThrough };
    const hasEvent = this.#backlog.hasEvent(schema.table, progress.low);
    const end = this.#ahead.endOf(element, task, hasEvent || this.hasRepair(schema.table));
    if (hasEvent) {
      const outcome = await this.#meetEvents(element, task, signal);
      if (outcome !== null) return outcome;
    }
    const open = this.#reads.get(schema.table);
    if (open !== undefined) {
      if (drain === null) return this.#stepChunk(element, open, task, signal);
      // It would bring rows from beyond the capture: read again afterwards.
      this.#close(schema.table);
    } else if (state.kind === 'copying') return this.#begin(element, { kind: 'phase', state, extra: [] });
    else if (drain === null && this.#repairs.has(schema.table)) {
      return this.#begin(element, { kind: 'keys', keys: this.#repairs.keysOf(schema.table) });
    }
    if (!this.#backlog.has(schema.table, progress.low, target)) return null;
    if (end === null) {
      if (drain !== null || hasEvent) return this.#fold(element, task, signal);
      const due = await this.#folds.due(element, target, signal);
      return due === null ? null : this.#writeOf(element, task, due, signal);
    }
    // First what is before it, if there is anything.
    const before = positionBefore(end);
    const write = progress.low < before ? await this.#fold(element, { ...task, target: before }, signal) : null;
    if (write?.isEmpty === false) return write;
    await write?.[Symbol.asyncDispose]();
    const taken = await this.#ahead.take(element);
    return taken === 'given up' ? this.#fold(element, task, signal) : taken;
  }

  #begin(element: Element, scope: ChunkScope): null {
    this.#close(element.schema.table);
    this.#reads.want(element, scope);
    return null;
  }

  /** Begins to read what the steps of a round asked for. */
  beginReads(signal: AbortSignal): void {
    this.#reads.begin(this.#parts.tracker.head, signal);
  }

  /** Reads the chunk after this one, which is about to be applied up to `at`, as if it were. */
  #readAhead(element: Element, scope: ChunkScope, chunk: Chunk, at: Position, signal: AbortSignal): void {
    if (scope.kind !== 'phase' || scope.state.phase !== 'primary' || chunk.through === null) return;
    const state = { ...scope.state, frontier: chunk.through };
    const progress = { ...element.progress, low: at, high: at };
    this.#reads.read([{ element: { ...element, state, progress }, scope: { kind: 'phase', state, extra: [] } }], at, signal);
  }

  #close(table: TableName): void {
    this.#folds.abandon(table);
    this.#ahead.giveUp(table, 'the table goes another way');
    if (this.#reads.close(table)) this.#stir();
  }

  async #stepChunk(element: Element, open: OpenChunk, task: FoldTask, signal: AbortSignal): Promise<Outcome | Write | null> {
    const { outcome, scope } = open;
    const head = task.target;
    if (outcome === null) return null;
    if ('error' in outcome) {
      this.#close(element.schema.table);
      throw outcome.error;
    }
    const { chunk } = outcome;
    if (head < chunk.end) return null;
    this.#close(element.schema.table);
    this.#parts.failpoint('chunk-read');
    if (chunk.low !== element.progress.low || !goesOnFrom(scope, element.state)) return null;
    if (chunk.shape !== element.schema.shape) return this.#misread(element, signal);
    if (chunk.moved) return this.#resync(element, 'its rows were moved on the primary while they were copied', signal);
    this.#readAhead(element, scope, chunk, head, signal);
    return this.#fold(element, { ...task, chunk, scope }, signal);
  }

  async #fold(element: Element, task: FoldTask, signal: AbortSignal): Promise<Write> {
    const shows = task.chunk === null ? null : (ref: TransactionRef): boolean => task.chunk?.includes(ref) === true;
    return this.#writeOf(element, task, await this.#folds.open(element, task.target, shows, signal), signal);
  }

  #writeOf(element: Element, task: FoldTask, fold: OpenFold, signal: AbortSignal): Write {
    const how = { alone: this.#apart.has(element.schema.table), touched: this.#touchedOf(element) };
    const write = new Write(element, task, fold, how);
    if (fold.first.full) this.#folds.prepare(write.next, task.target, signal);
    return write;
  }

  /** Known only to the process that has copied all of the table so far. */
  #touchedOf({ schema, state }: Element): Touched | null {
    const { table } = schema;
    if (state.kind !== 'copying' || !state.initial || isKeyless(schema)) this.#touched.delete(table);
    else if (state.fresh) this.#touched.set(table, new Touched());
    return this.#touched.get(table) ?? null;
  }

  /**
   * Writes what steps came to in one transaction: one of `grouped`. Returns what became of each table that is through with it; none where it
   * goes on beside the turns. What failed wrote nothing: a group is then tried again one by one.
   */
  async write(writes: readonly Write[], signal: AbortSignal): Promise<Written> {
    const [first] = writes;
    if (first === undefined || first.beside) return this.#writeBeside(writes, signal);
    try {
      return await this.#together(writes, signal);
    } catch (error) {
      if (writes.length > 1) throw error;
      const found = await this.#failed(first.element, first.task, error, signal);
      if (found instanceof Write) return this.write([found], signal);
      return found === null ? new Map() : new Map([[first.work.table, found]]);
    }
  }

  #writeBeside(writes: readonly Write[], signal: AbortSignal): Written {
    const done = this.#together(writes, signal).then(
      (outcomes) => {
        writing.result = { outcomes };
        this.#stir();
      },
      (error: unknown) => {
        writing.result = { error };
        this.#stir();
      },
    );
    const writing: Writing = { done, result: null };
    for (const { work } of writes) this.#writing.set(work.table, writing);
    return new Map();
  }

  /**
   * Resolves when nothing is being written beside the turns, with what came of it. What failed wrote nothing: it is read again, and
   * fails in its own turn if it must.
   */
  async settle(elements: ReadonlyMap<TableName, Element>): Promise<Written> {
    const all = Array.from(this.#writing);
    await Promise.all(all.map(([, { done }]) => done));
    this.#writing.clear();
    const settled = new Map<TableName, Outcome>();
    for (const [table, { result }] of all) {
      const outcome = result === null || 'error' in result ? undefined : result.outcomes.get(table);
      if (outcome !== undefined) settled.set(table, inCaptureOf(elements.get(table), outcome));
    }
    return settled;
  }

  async #together(writes: readonly Write[], signal: AbortSignal): Promise<Written> {
    try {
      return await this.#apply(writes, signal);
    } catch (error) {
      const [first] = writes;
      if (writes.length > 1) {
        if (signal.aborted || isAbort(error)) throw error;
        const tables = writes.map(({ work }) => work.table);
        if (this.#apart.blame(tables, error)) throw error;
        this.#parts.log('tables that were written together are written one by one', { tables: writes.length, reason: messageOf(error) });
        this.#stir();
      } else if (first !== undefined && error instanceof RowsMissing) this.#readMissing(first.element, error.keys, first.task, signal);
      else throw error;
      return new Map();
    } finally {
      for (const write of writes) await write[Symbol.asyncDispose]();
    }
  }

  async #apply(writes: readonly Write[], signal: AbortSignal): Promise<Written> {
    const report = await this.#parts.shadow.apply(
      writes.map(({ work }) => work),
      signal,
    );
    for (const name of new Set(writes.map(({ failpoint }) => failpoint))) this.#parts.failpoint(name);
    let rows = report.inserted + report.updated + report.deleted;
    const outcomes = new Map<TableName, Outcome>();
    for (const { element, next, task, chunk, changes, fold } of writes) {
      const { table } = element.schema;
      this.#apart.succeeded(table);
      this.#backlog.applied(table, next.progress.low, changes);
      fold.went?.(next.progress);
      if (chunk !== null && task.scope?.kind === 'keys') this.#repairs.done(table, task.scope.keys);
      if (element.state.kind === 'copying' && next.state.kind === 'live') {
        this.#parts.log('copied', { table, rows: element.state.copiedRows + (chunk === null ? 0 : rowsIn(chunk)) });
      }
      outcomes.set(table, { element: next, rows, conflicts: report.conflicts.filter((conflict) => conflict.table === table) });
      rows = 0;
    }
    return outcomes;
  }

  /** Rows that an incomplete image needs and the shadow lacks are read with the next chunk. */
  #readMissing(element: Element, missing: readonly KeyTuple[], task: FoldTask, signal: AbortSignal): null {
    const { table } = element.schema;
    const asked = task.chunk?.asked;
    const again = missing.some((key) => asked?.has(identityOf(key)) === true);
    if (again) throw new Error(`a changed row of ${table} is neither in the shadow nor in the primary`);
    if (task.drain !== null) {
      task.drain.leftOut.set(table, 'a changed row was missing from the shadow and must be read again');
      return null;
    }
    const scope: ChunkScope =
      element.state.kind === 'copying' ? { kind: 'phase', state: element.state, extra: missing } : { kind: 'keys', keys: missing };
    this.#close(table);
    this.#reads.read([{ element, scope }], this.#parts.tracker.head, signal);
    return null;
  }

  async #meetEvents(element: Element, task: FoldTask, signal: AbortSignal): Promise<Outcome | null> {
    const { schema, progress } = element;
    for (const event of await this.#parts.journal.events(schema.table, progress.low, task.target)) {
      if (event.change !== undefined && isTaken(element, event.change)) continue;
      if (event.change !== undefined) return this.#follow(element, event, event.change, task, signal);
      const outcome = await this.#meet(element, event, signal);
      if (outcome === null) continue;
      task.drain?.leftOut.set(schema.table, event.reason);
      this.#close(schema.table);
      return outcome;
    }
    return null;
  }

  /** The next shape, once everything before it is applied. */
  async #follow(element: Element, event: TableEvent, change: ShapeChange, task: FoldTask, signal: AbortSignal): Promise<Outcome> {
    const { schema, progress } = element;
    let { kept } = change;
    if (kept && change.from === schema.shape && progress.low < change.after) {
      const folded = await this.#together([await this.#fold(element, { ...task, target: change.after }, signal)], signal);
      const outcome = folded.get(schema.table);
      if (outcome !== undefined) return outcome;
      // A row that is missing cannot be read in this shape any more.
      kept = false;
    }
    this.#close(schema.table);
    const next = await this.#reshaper.follow(element, { ...change, kept }, event.at, signal);
    if (next.state.kind !== 'live') task.drain?.leftOut.set(next.schema.table, event.reason);
    return { element: next, rows: 0, conflicts: [] };
  }

  /** Null: the event asks for nothing. */
  async #meet(element: Element, event: TableEvent, signal: AbortSignal): Promise<Outcome | null> {
    this.#parts.log('something happened to a table', { table: event.table, kind: event.kind, reason: event.reason });
    switch (event.kind) {
      case 'dropped':
        return this.#retire(element, null, event.at);
      case 'schema-changed':
        // The same shape again may hold other values: a column dropped and added anew.
        return (await this.#reshape(element, event.at, signal)) ?? this.#resync(element, event.reason, signal, event.at);
      case 'created':
        return null;
      case 'gap':
      case 'identity-moved':
        return this.#resync(element, event.reason, signal, event.at);
    }
  }

  /** A chunk was read in another shape than the element's. Null: an event tells of it. */
  async #misread(element: Element, signal: AbortSignal): Promise<Outcome | null> {
    if (!this.#parts.primary.tellsShapes) return this.#reshape(element, element.progress.low, signal);
    const present = await this.#reshaper.present(element, signal);
    return present === 'told' ? null : this.#anew(element, present.schema, present.at, signal);
  }

  /** Begins the table anew: in the primary's shape if that is another now. Null: the primary has it no more. */
  async restart(element: Element, signal: AbortSignal): Promise<Element | null> {
    this.#close(element.schema.table);
    const { journal, tracker, primary } = this.#parts;
    const head = tracker.head;
    if (!primary.tellsShapes) {
      const reshaped = await this.#reshape(element, head, signal);
      return (reshaped ?? (await this.#resync(element, 'asked for', signal, head))).element;
    }
    for (;;) {
      const events = await journal.events(element.schema.table, element.progress.low, tracker.head);
      const told = events.findLast(({ kind, change }) => kind === 'dropped' || change !== undefined);
      if (told !== undefined) return (await this.#anew(element, told.change?.to ?? null, told.at, signal)).element;
      const present = await this.#reshaper.present(element, signal);
      if (present !== 'told') return (await this.#anew(element, present.schema, present.at, signal)).element;
    }
  }

  async #anew(element: Element, to: Element['schema'] | null, at: Position, signal: AbortSignal): Promise<Outcome> {
    if (to === null) return this.#retire(element, null, at);
    if (to.shape === element.schema.shape && to.table === element.schema.table) return this.#resync(element, 'asked for', signal, at);
    const change = { from: element.schema.shape, to, after: at, kept: false, initial: [] };
    return { element: await this.#reshaper.anew(element, change, at, signal), rows: 0, conflicts: [] };
  }

  /** Begins to compare the whole table with the primary: what happened up to `at` cannot be learned from the journal. */
  #resync(element: Element, reason: string, signal: AbortSignal, at: Position = this.#parts.tracker.head): Promise<Outcome> {
    this.#parts.log('a table is resynced by comparison', { table: element.schema.table, reason });
    const progress = restarted(element.progress, at);
    return this.#record(element, { ...element, state: COPY_BY_COMPARISON, progress }, signal);
  }

  /** The table's shape may have changed: if it has, a new segment begins, to be copied afresh. */
  async #reshape(element: Element, at: Position, signal: AbortSignal): Promise<Outcome | null> {
    const now = tableOf(await this.#parts.primary.describe(signal), element.schema.table);
    if (now?.shape === element.schema.shape) return null;
    this.#close(element.schema.table);
    return this.#retire(element, now ?? null, at);
  }

  async #retire(element: Element, schema: Element['schema'] | null, at: Position): Promise<Outcome> {
    const progress = restarted(element.progress, at);
    await this.#parts.shadow.retire(element.schema.table, schema, COPY_FROM_NOTHING, progress);
    return { element: schema === null ? null : { schema, state: COPY_FROM_NOTHING, progress }, rows: 0, conflicts: [] };
  }

  async #halt(element: Element, error: unknown, signal: AbortSignal): Promise<Outcome> {
    const reason = messageOf(error);
    this.#parts.log('a table was halted', { table: element.schema.table, reason });
    this.#close(element.schema.table);
    return this.#record(element, { ...element, state: { kind: 'halted', reason } }, signal);
  }

  async #record({ progress: from }: Element, next: Element, signal: AbortSignal): Promise<Outcome> {
    const { schema, progress, state } = next;
    await this.#parts.shadow.apply([{ table: schema.table, rows: [], from, progress, state, savedThrough: captureNumber(0) }], signal);
    return { element: next, rows: 0, conflicts: [] };
  }
}
