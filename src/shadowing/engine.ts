import { setImmediate as otherWork } from 'node:timers/promises';
import { type CaptureNumber, captureNumber } from '../model/capture.ts';
import { ForeshadowError, isAbort, messageOf } from '../model/errors.ts';
import { type Position, maxPosition } from '../model/position.ts';
import type { Element, Generation } from '../model/progress.ts';
import { Pulse } from '../model/pulse.ts';
import type { TableName } from '../model/schema.ts';
import type { KeyTuple } from '../model/tuple.ts';
import { Turns } from '../model/turns.ts';
import type { Tracked } from '../tracking/tracker.ts';
import { Advance } from './advance.ts';
import { Ahead } from './ahead.ts';
import { Conflicts } from './conflicts.ts';
import { type Drain, crossings, newDrain, uncrossed } from './drain.ts';
import { Holding } from './holding.ts';
import { Backlog } from './lag.ts';
import { Pace } from './pace.ts';
import type { EngineParts } from './parts.ts';
import { Rest } from './rest.ts';
import type { ApplyReport, ApplyWork } from './shadow.ts';
import { Footing } from './footing.ts';
import { Write, type Written, grouped, isFull } from './write.ts';

const RETRY_MS = 250;

/**
 * Moves changes from the journal into the shadow, each element in its own order, and copies what is not there yet. One loop does
 * all writing; others ask it to drain for a capture, to repair keys, or to stand still while they look.
 */
export class Engine {
  readonly #parts: EngineParts;
  readonly #elements: Map<TableName, Element>;
  readonly #backlog: Backlog;
  readonly #ahead: Ahead;
  readonly #advance: Advance;
  readonly #footing: Footing;
  readonly #pace: Pace;
  readonly #turns = new Turns();
  readonly #wake = new Pulse();
  readonly #settled = new Pulse();
  /** What should not wait for changes to gather. */
  readonly #urgent = new Pulse();
  #stirred = true;
  #drain: Drain | null = null;
  #lastCut: CaptureNumber;
  #parked = false;
  #failure: Error | null = null;
  /** Elements whose last step failed in a way that may pass: not tried before then. */
  readonly #rest = new Rest<TableName>();
  #appliedRows = 0;
  /** Foreign writes that apply ran into. */
  readonly conflicts = new Conflicts();
  /** The changed rows that are held back, and how to move them. */
  readonly holding: Holding;
  readonly #stopListening: () => void;

  private constructor(parts: EngineParts, elements: ReadonlyMap<TableName, Element>, backlog: Backlog, lastCut: CaptureNumber) {
    this.#parts = parts;
    this.#elements = new Map(elements);
    this.#backlog = backlog;
    this.#lastCut = lastCut;
    const stir = (): void => this.#stir();
    this.holding = new Holding(parts, backlog, () => this.#hurry());
    this.#footing = new Footing(parts, this.#elements, backlog, this.holding);
    this.#pace = new Pace(parts, this.#elements, backlog, this.holding);
    this.#ahead = new Ahead(parts, this, stir);
    this.#advance = new Advance(parts, { backlog, ahead: this.#ahead, holding: this.holding }, (table) => this.#elements.has(table), stir);
    this.#stopListening = parts.tracker.onTracked((tracked) => this.#heard(tracked));
  }

  /** Reads where the shadow stands. `drain` is a capture that an earlier process did not live to cut. */
  static async open(
    parts: EngineParts,
    at: { readonly lastCut: CaptureNumber; readonly drain: Drain | null; readonly parked: boolean },
    signal: AbortSignal,
  ): Promise<Engine> {
    const elements = await parts.shadow.elements();
    const backlog = await Backlog.read(parts.journal, elements, parts.tracker.head, signal);
    const engine = new Engine(parts, elements, backlog, at.lastCut);
    engine.#drain = at.drain;
    engine.#parked = at.parked;
    return engine;
  }

  get elements(): ReadonlyMap<TableName, Element> {
    return this.#elements;
  }

  get backlog(): Backlog {
    return this.#backlog;
  }

  /** Whether an element is being copied, or is about to be because of something the journal tells of it. */
  get isCopying(): boolean {
    return Array.from(this.#elements.values()).some(
      ({ state, schema, progress }) =>
        state.kind === 'copying' || (state.kind === 'live' && this.#backlog.hasEvent(schema.table, progress.low)),
    );
  }

  /** Rows written to the shadow since this process began. */
  get appliedRows(): number {
    return this.#appliedRows;
  }

  get parked(): boolean {
    return this.#parked;
  }

  /** Shadows until `signal` aborts. Rejects on a failure that repeating cannot mend. */
  async run(signal: AbortSignal): Promise<void> {
    try {
      while (!signal.aborted) {
        this.#stirred = false;
        this.#rest.look();
        const worked = await this.#round(signal);
        this.#settled.beat();
        const hurries = this.#pace.hurries(this.#isCrossing);
        if (worked && !hurries) await this.#urgent.next(signal, this.#parts.foldEveryMs);
        else if (!worked && !this.#stirred) await this.#wake.next(signal, this.#pace.nextTryMs(this.#isCrossing, this.#rest.nextTryMs));
        // Woken, but only for elements that rest: not before the first of them may be tried again.
        else if (!worked && this.#rest.nextTryMs !== undefined) await this.#urgent.next(signal, Math.min(RETRY_MS, this.#rest.nextTryMs));
        // What came is held back: more may gather before it is looked at again.
        else if (!worked && this.holding.isOn && !hurries) await this.#urgent.next(signal, this.#parts.foldEveryMs);
      }
    } catch (error) {
      if (signal.aborted || isAbort(error)) return;
      this.#failure = error instanceof Error ? error : new Error(messageOf(error));
      throw error;
    } finally {
      this.#stopListening();
      this.holding.end(this.#failure ?? signal.reason);
      await this.#ahead[Symbol.asyncDispose]();
      await this.#advance.settle(this.#elements);
      this.#settled.beat();
    }
  }

  /**
   * Begins to bring every element to exactly `at`; none crosses before `written` resolves, and where it rejects nothing was begun. Elements
   * that are not live are left out at once.
   */
  async beginDrain(number: CaptureNumber, at: Position, written: Promise<void>): Promise<void> {
    const drain = newDrain(number, at, false);
    this.#drain = drain;
    this.#hurry();
    try {
      await written;
      drain.isWritten = true;
    } catch (error) {
      if (this.#drain === drain) this.#drain = null;
      throw error;
    } finally {
      this.#hurry();
    }
  }

  /** Resolves when every element has crossed or is left out; after `deadlineMs` the rest is left out. */
  async drained(deadlineMs: number, signal: AbortSignal): Promise<Drain> {
    const drain = this.#drain;
    if (drain === null) throw new Error('nothing is draining');
    const due = performance.now() + deadlineMs;
    for (;;) {
      if (uncrossed(this.#elements, drain).length === 0) return drain;
      if (this.#failure !== null) throw this.#failure;
      const leftMs = due - performance.now();
      if (leftMs <= 0) {
        // Between turns, so that no element is half-way over.
        await this.#turns.take(async () => {
          const reason = 'did not reach the capture before the drain deadline';
          for (const { schema } of uncrossed(this.#elements, drain)) drain.leftOut.set(schema.table, reason);
        });
        continue;
      }
      await this.#settled.next(signal, leftMs);
    }
  }

  /** A capture is cut: what it reads must be saved from now on, and what it leaves out goes on in the next. */
  wasCut(number: CaptureNumber, leftOut: Iterable<TableName>): void {
    if (number > this.#lastCut) this.#lastCut = number;
    for (const table of leftOut) {
      const element = this.#elements.get(table);
      if (element === undefined || element.progress.capture > number) continue;
      this.#elements.set(table, { ...element, progress: { ...element.progress, capture: captureNumber(number + 1) } });
    }
    if (this.#drain !== null && this.#drain.number <= number) this.#drain = null;
    this.#stir();
  }

  /** The capture that elements are crossing, if there is one. */
  get drain(): Drain | null {
    return this.#drain;
  }

  /** Resolves when every element that is not halted has everything up to `at` for good that is not held back, copies included. */
  async caughtUp(at: Position, signal: AbortSignal, onRound?: () => void): Promise<void> {
    const isBehind = (): boolean =>
      Array.from(this.#elements.values()).some((element) => this.#backlog.isBehind(element, this.holding.reached(element), at));
    for (;;) {
      if (this.#failure !== null) throw this.#failure;
      onRound?.();
      if (!isBehind() && !(await this.#alone(async () => isBehind()))) return;
      await this.#settled.next(signal, 1000);
    }
  }

  /** Reads these keys from the primary again and brings the shadow's rows to equality with it. */
  async repair(table: TableName, keys: readonly KeyTuple[], signal: AbortSignal): Promise<void> {
    const done = this.#advance.requestRepair(table, keys);
    this.#hurry();
    while (!done()) {
      if (this.#failure !== null) throw this.#failure;
      // Nothing is written to a halted table: its resync will bring these rows too.
      if (this.#elements.get(table)?.state.kind !== 'live' && this.#elements.get(table)?.state.kind !== 'copying') return;
      await this.#settled.next(signal);
    }
  }

  /** Runs `work` while the engine stands still: nothing is applied meanwhile. Keep it short. */
  still<T>(work: (elements: ReadonlyMap<TableName, Element>) => Promise<T>): Promise<T> {
    return this.#alone(() => work(this.#elements));
  }

  /**
   * Writes what is not a fold: a rollback, a change of state. All or nothing, while the engine stands still.
   * The works' progress becomes the elements'.
   */
  async write(works: readonly ApplyWork[], signal: AbortSignal): Promise<ApplyReport> {
    try {
      return await this.#parts.shadow.apply(works, signal);
    } finally {
      await this.#footing.reload(new Set(works.map(({ table }) => table)));
      this.#stir();
    }
  }

  /** Takes up what was prepared beside it: tables that came to the data set. */
  async adopt(): Promise<void> {
    await this.#alone(async () => {
      for (const [table, element] of await this.#parts.shadow.elements())
        if (!this.#elements.has(table)) this.#elements.set(table, element);
    });
    this.#stir();
  }

  /** Begins to bring tables to equality with the primary whatever the journal says: halted ones too, in the shape they have there. */
  async resync(tables: readonly TableName[], signal: AbortSignal): Promise<void> {
    await this.#alone(async () => {
      for (const table of tables) {
        const element = this.#elements.get(table);
        if (element === undefined) continue;
        this.#replace(table, await this.#advance.restart(element, signal));
        this.#rest.succeeded(table);
      }
    });
    this.#stir();
  }

  /** Parked: tracking goes on, nothing is applied. */
  park(parked: boolean): void {
    this.#parked = parked;
    this.#stir();
  }

  /** The newest capture whose rows an element may no longer overwrite unsaved. */
  savedThrough(element: Element): CaptureNumber {
    const drain = this.#drain;
    if (drain !== null && element.progress.capture > drain.number) return drain.number;
    return this.#lastCut;
  }

  /** The lowest number a next capture may have, as far as the elements are concerned. */
  get nextNumber(): CaptureNumber {
    let next = captureNumber(this.#lastCut + 1);
    for (const { progress } of this.#elements.values()) if (progress.capture > next) next = progress.capture;
    return next;
  }

  get generation(): Generation {
    return Math.max(1, ...Array.from(this.#elements.values(), ({ progress }) => progress.generation)) as Generation;
  }

  /** Every element's high: a cut lies past all of them. */
  get high(): Position {
    return Array.from(this.#elements.values(), ({ progress }) => progress.high).reduce(maxPosition, '' as Position);
  }

  async #round(signal: AbortSignal): Promise<boolean> {
    if (this.#parked && this.#drain === null) return false;
    if (this.#footing.isUncertain) await this.#orLater('asking where the shadow stands', () => this.#footing.reload(), signal);
    this.holding.callNext();
    const order = this.#pace.order(this.#isCrossing, (table) => this.#advance.hasRepair(table), this.#drain !== null).toReversed();
    const yields = (table: TableName): boolean => this.holding.copiesYield && this.#elements.get(table)?.state.kind === 'copying';
    const last = this.#drain === null ? order.filter(yields) : [];
    const worked = await this.#serve(last.length === 0 ? order : order.filter((table) => !yields(table)), signal);
    const copied = !worked && (await this.#serve(last, signal));
    this.#advance.beginReads(signal);
    const drain = this.#drain;
    if (drain?.isWritten === true) await this.#orLater('crossing', () => this.#crossQuiet(drain, signal), signal);
    return worked || copied;
  }

  /** Steps of all of these. Returns whether one moved. */
  async #serve(order: TableName[], signal: AbortSignal): Promise<boolean> {
    let worked = false;
    while (order.length > 0 && !signal.aborted && !this.#footing.isUncertain) {
      const moved = await this.#turns.take(() => this.#turn(order, signal));
      worked ||= moved;
      if (!moved) continue;
      this.#settled.beat();
      // An embedded store answers without ever letting timers, sockets and signals have their turn.
      await otherWork();
    }
    if (order.length > 0) this.#stir(); // cut short: those that are left have their turn in the next round
    return worked && !signal.aborted;
  }

  /** Steps of as many elements, from the end of `order`, as go into one transaction, and that transaction. */
  async #turn(order: TableName[], signal: AbortSignal): Promise<boolean> {
    const writes: Write[] = [];
    let moved = false;
    while (order.length > 0 && !moved && !isFull(writes)) {
      const table = order.pop() as TableName;
      if (this.#rest.has(table)) continue;
      const step = await this.#attempt([table], () => this.#step(table, signal), signal);
      moved = step === true;
      if (step instanceof Write) writes.push(step);
      else if (step !== null) this.#rest.succeeded(table);
    }
    if (writes.some(({ element }) => element.state.kind === 'live')) this.#pace.folded();
    for (const group of grouped(writes)) {
      const tables = group.map(({ work }) => work.table);
      const written = await this.#attempt(tables, () => this.#advance.write(group, signal), signal);
      if (written === null) continue;
      for (const table of tables) this.#rest.succeeded(table);
      this.#took(written);
      moved ||= written.size > 0;
    }
    return moved;
  }

  /** One element's trouble is not the others': it rests, longer each time, and they go on. Null: it was so. */
  #attempt<T>(tables: readonly TableName[], work: () => Promise<T>, signal: AbortSignal): Promise<T | null> {
    const tell = (table: TableName, error: ForeshadowError, waitMs: number): void => {
      this.#footing.doubt(error);
      this.holding.excuse(table);
      this.#parts.log('a table will be tried again', { table, code: error.code, reason: error.message, waitMs });
    };
    return this.#rest.attempt(tables, work, tell, signal);
  }

  /** Whether the element moved; or what it takes to move it. */
  async #step(table: TableName, signal: AbortSignal): Promise<boolean | Write> {
    const element = this.#elements.get(table);
    if (element === undefined) return false;
    const drain = this.#drain !== null && element.progress.capture <= this.#drain.number ? this.#drain : null;
    if (drain?.leftOut.has(table)) return false;
    if (drain !== null && element.state.kind !== 'live') {
      drain.leftOut.set(table, element.state.kind === 'halted' ? element.state.reason : 'still being copied');
      return true;
    }
    if (this.#parked) return false;
    const step = await this.#advance.step(element, { drain, savedThrough: this.savedThrough(element) }, signal);
    if (step instanceof Write) return step;
    if (step !== null) this.#took(new Map([[table, step]]));
    return step !== null;
  }

  #took(written: Written): void {
    for (const [table, { element, rows, conflicts }] of written) {
      this.#appliedRows += rows;
      for (const { table: of } of conflicts) this.#parts.log('a foreign write in the shadow was undone: the primary wins', { table: of });
      this.conflicts.add(conflicts);
      this.#replace(table, element);
    }
  }

  /** A turn in which no copy is written beside it either, and what the elements say is in the shadow for good. */
  #alone<T>(work: () => Promise<T>): Promise<T> {
    return this.#turns.take(async () => {
      this.#took(await this.#advance.settle(this.#elements));
      if (await this.#footing.ascertain()) this.#stir();
      return work();
    });
  }

  /** What became of an element: it may have another name. Null: its table is gone. */
  #replace(table: TableName, element: Element | null): void {
    if (element?.schema.table !== table) this.#elements.delete(table);
    if (element !== null) this.#elements.set(element.schema.table, element);
  }

  /** A turn for all elements. Fails it in a way that may pass, the next round comes a little later. */
  async #orLater(what: string, work: () => Promise<void>, signal: AbortSignal): Promise<void> {
    try {
      await this.#turns.take(work);
    } catch (error) {
      if (signal.aborted || !(error instanceof ForeshadowError && error.retry === 'later')) throw error;
      this.#footing.doubt(error);
      this.#parts.log(`${what} will be tried again`, { code: error.code, reason: error.message, waitMs: RETRY_MS });
      await this.#urgent.next(signal, RETRY_MS);
      this.#stir();
    }
  }

  /** Elements that have everything up to the capture cross together, in one transaction without rows. */
  async #crossQuiet(drain: Drain, signal: AbortSignal): Promise<void> {
    const works = crossings(this.#elements, drain, this.#backlog, (element) => this.savedThrough(element));
    if (works.length === 0) return;
    await this.#parts.shadow.apply(works, signal);
    this.#parts.failpoint('crossed');
    for (const work of works) {
      const element = this.#elements.get(work.table) as Element;
      this.#elements.set(work.table, { ...element, progress: work.progress });
      drain.crossed.set(work.table, element.schema);
    }
    this.#settled.beat();
  }

  /** A capture waits for elements. */
  get #isCrossing(): boolean {
    return this.#drain !== null && uncrossed(this.#elements, this.#drain).length > 0;
  }

  #heard(tracked: Tracked): void {
    this.#backlog.add(tracked);
    this.#stir();
  }

  #hurry(): void {
    this.#stir();
    this.#urgent.beat();
  }

  #stir(): void {
    this.#stirred = true;
    this.#wake.beat();
  }
}
