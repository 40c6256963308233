import { scanBlock } from '../journal/frame.ts';
import type { CaptureNumber } from '../model/capture.ts';
import type { EndedTransaction, TransactionId } from '../model/change.ts';
import { isKeyless } from '../model/copies.ts';
import { messageOf } from '../model/errors.ts';
import { ORIGIN, type Position, position } from '../model/position.ts';
import type { Element, Progress } from '../model/progress.ts';
import { Pulse } from '../model/pulse.ts';
import type { TableName } from '../model/schema.ts';
import type { Tracked, TrackedPiece } from '../tracking/tracker.ts';
import type { Engine } from './engine.ts';
import type { EngineParts } from './parts.ts';
import { type FoldLimit, Pending } from './pending.ts';
import { AheadInVain, type ApplyReport, type RowBatch } from './shadow.ts';
import type { FoldTask, Outcome } from './write.ts';

/** From how many bytes of a table's changes on a transaction is worth a connection and a transaction of its own. */
const AHEAD_FROM_BYTES = 4 << 20;
/** At the same time. Each holds one piece of at most `PIECE`. */
const AHEAD_MAX = 2;
const PIECE: FoldLimit = { changes: 50_000, bytes: 32 << 20 };
/** A capture that comes between ends one, and the next begins from the first row. Something may stand in the way for good. */
const TRIES_MAX = 3;
/** How long the store waits for more rows before it looks whether somebody waits for it. */
const LOOK_EVERY_MS = 250;

/** Where an element stands that is written to ahead. */
interface Ground {
  readonly element: Element;
  readonly savedThrough: CaptureNumber;
}

/** What the engine is doing. */
type Surroundings = Pick<Engine, 'elements' | 'drain' | 'parked' | 'backlog' | 'savedThrough'>;

/** A transaction that comes in pieces. */
interface Coming {
  /** Of the changes of each table. */
  readonly bytes: Map<TableName, number>;
  /** How often each table was begun to be written ahead to. */
  readonly tries: Map<TableName, number>;
  /** As far as is known it only inserts, and all of it will count. */
  fit: boolean;
}

/** A transaction on its way into one table. */
interface Run {
  readonly transaction: TransactionId;
  readonly ground: Ground;
  readonly stop: AbortController;
  /** There is more to read, it has ended, or it was granted. */
  readonly more: Pulse;
  /** That was so since it was last looked at. */
  news: boolean;
  changes: number;
  /** The boundary of its commit. */
  end: Position | null;
  /** The store has all rows, up to the last. */
  complete: boolean;
  granted: { readonly from: Progress; readonly to: Progress } | null;
  /** Never rejects. Null: it came to nothing. */
  done: Promise<ApplyReport | null>;
}

/**
 * Large transactions that only insert are written to the shadow while they run, each in a transaction there that nobody sees. When the one
 * has committed and its element has applied everything before it, the other commits with that progress. It is one more way to come by
 * the same rows: whatever stands in its way, it is given up, and the journal has them all.
 */
export class Ahead implements AsyncDisposable {
  readonly #parts: EngineParts;
  readonly #engine: Surroundings;
  readonly #stir: () => void;
  readonly #coming = new Map<TransactionId, Coming>();
  readonly #runs = new Map<TableName, Run>();
  /** Runs whose transactions in the shadow are open still. */
  readonly #open = new Set<Promise<unknown>>();
  readonly #stopListening: (() => void)[];

  constructor(parts: EngineParts, engine: Surroundings, stir: () => void) {
    this.#parts = parts;
    this.#engine = engine;
    this.#stir = stir;
    this.#stopListening = [
      parts.tracker.onPiece((heard) => this.#heard(heard)),
      parts.tracker.onTracked((tracked) => this.#ended(tracked)),
    ];
  }

  /**
   * Where the transaction ends that is written ahead of this element, if it is to be part of it with this task. Null: there is none, or
   * what there was does not fit the way the table goes (`hindered`: not by folds) and was given up.
   */
  endOf(element: Element, { drain, savedThrough, target }: FoldTask, hindered: boolean): Position | null {
    const { schema, progress, state } = element;
    const run = this.#runs.get(schema.table);
    if (run === undefined) return null;
    const from = run.ground.element;
    const fits =
      schema === from.schema &&
      progress.generation === from.progress.generation &&
      progress.capture === from.progress.capture &&
      savedThrough === run.ground.savedThrough &&
      (run.end === null || progress.low < run.end);
    // What is to be in a capture was written for it, what is not was not.
    const late = drain !== null && (run.end === null || run.end > drain.at);
    if (fits && state.kind === 'live' && !hindered && !late) return run.end !== null && run.end <= target ? run.end : null;
    this.giveUp(schema.table, late ? 'a capture comes between' : 'the table goes another way');
    return null;
  }

  /** Makes what was written ahead part of the element, which has everything before it. Null: not all rows are written yet. */
  async take(element: Element): Promise<Outcome | 'given up' | null> {
    const { table } = element.schema;
    const run = this.#runs.get(table);
    if (run === undefined || run.end === null) return 'given up';
    if (!run.complete) return null;
    const { generation, capture } = element.progress;
    const to = { generation, low: run.end, high: run.end, capture };
    run.granted = { from: element.progress, to };
    tell(run);
    const report = await run.done;
    if (report === null) return 'given up';
    const { inserted: rows, conflicts } = report;
    this.#parts.failpoint('ahead-applied');
    this.#parts.log('a large transaction was written before it committed', { table, rows });
    this.#engine.backlog.applied(table, run.end, run.changes);
    return { element: { ...element, progress: to }, rows, conflicts };
  }

  /** Lets the table go without it, if there is one. */
  giveUp(table: TableName, reason: string): void {
    const run = this.#runs.get(table);
    this.#runs.delete(table);
    run?.stop.abort(new AheadInVain(reason));
  }

  /** Gives up all, and resolves when nothing of them is left in the shadow. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const stop of this.#stopListening) stop();
    for (const table of this.#runs.keys()) this.giveUp(table, 'the engine stops');
    await Promise.all(this.#open);
  }

  #heard(heard: TrackedPiece): void {
    if (this.#parts.shadow.applyAhead === undefined) return;
    if (heard.kind === 'abandoned') {
      this.#coming.clear();
      for (const table of this.#runs.keys()) this.giveUp(table, 'it comes again from its beginning');
    } else if (heard.kind === 'rolled-back') {
      // Parts are not told apart once they are written.
      const coming = this.#coming.get(heard.transaction);
      if (coming !== undefined) coming.fit = false;
      if (heard.part === null) this.#coming.delete(heard.transaction);
      for (const [table, run] of this.#runs) if (run.transaction === heard.transaction) this.giveUp(table, 'some of it was rolled back');
    } else this.#more(heard.piece.transaction, heard.piece.blocks);
  }

  #more(
    transaction: TransactionId,
    blocks: readonly { readonly table: TableName; readonly first: Position | null; readonly bytes: Buffer }[],
  ): void {
    const coming = this.#coming.get(transaction) ?? { bytes: new Map(), tries: new Map(), fit: true };
    this.#coming.set(transaction, coming);
    for (const { table, first, bytes } of blocks) {
      // Others may stand in the same bytes.
      if (first !== null) coming.fit = false;
      const size = (coming.bytes.get(table) ?? 0) + bytes.length;
      coming.bytes.set(table, size);
      const run = this.#runs.get(table);
      if (run?.transaction === transaction) tell(run);
      else if (run === undefined && size >= AHEAD_FROM_BYTES && coming.fit) {
        this.#begin(transaction, table, coming);
      }
    }
  }

  #ended({ adopted }: Tracked): void {
    for (const { transaction, dropped } of adopted) {
      this.#coming.delete(transaction.id);
      for (const [table, run] of this.#runs) {
        if (run.transaction !== transaction.id) continue;
        if (dropped.size > 0) this.giveUp(table, 'some of it was rolled back');
        run.end = transaction.at;
        tell(run);
      }
    }
  }

  /** Null: something is under way that what is written ahead of the element would not fit. */
  #groundOf(table: TableName): Ground | null {
    const { elements, drain, parked, backlog } = this.#engine;
    const element = elements.get(table);
    if (element?.state.kind !== 'live' || isKeyless(element.schema) || parked || drain !== null) return null;
    if (backlog.hasEvent(table, element.progress.low)) return null;
    return { element, savedThrough: this.#engine.savedThrough(element) };
  }

  #begin(transaction: TransactionId, table: TableName, coming: Coming): void {
    const ground = this.#runs.size < AHEAD_MAX && this.#open.size < AHEAD_MAX ? this.#groundOf(table) : null;
    const tries = coming.tries.get(table) ?? 0;
    if (tries >= TRIES_MAX || ground === null) return;
    coming.tries.set(table, tries + 1);
    const run: Run = {
      transaction,
      ground,
      stop: new AbortController(),
      more: new Pulse(),
      news: false,
      changes: 0,
      end: null,
      complete: false,
      granted: null,
      done: Promise.resolve(null),
    };
    this.#runs.set(table, run);
    run.done = this.#write(run, table);
    this.#open.add(run.done);
    void run.done.finally(() => this.#open.delete(run.done));
  }

  async #write(run: Run, table: TableName): Promise<ApplyReport | null> {
    const { shadow, log } = this.#parts;
    const { element, savedThrough } = run.ground;
    const reached = (): { readonly from: Progress; readonly to: Progress } => {
      if (run.granted === null) throw new Error(`${table} was written ahead to an end that nobody named`);
      return run.granted;
    };
    const rows = this.#rows(run, table);
    try {
      // Before a connection is made for it: most that does more than insert shows it at once.
      const work = { table, rows: await begun(rows), capture: element.progress.capture, savedThrough, reached };
      return (await shadow.applyAhead?.(work, run.stop.signal)) ?? null;
    } catch (error) {
      // Whatever it was, the journal has the rows; what is wrong with the store is met again on the way that must not fail.
      log('a large transaction is written after its commit after all', { table, reason: messageOf(error) });
      return null;
    } finally {
      if (this.#runs.get(table) === run) this.#runs.delete(table);
      this.#stir();
    }
  }

  /** Waits where there is nothing more to read, and ends when the engine has granted that it becomes part of the table. */
  async *#rows(run: Run, table: TableName): AsyncGenerator<RowBatch['puts']> {
    const { signal } = run.stop;
    let beyond = 0;
    for (;;) {
      signal.throwIfAborted();
      if (this.#engine.parked) throw new AheadInVain('the shadow is parked');
      run.news = false;
      const { end } = run;
      const within = withinAll(run.transaction);
      const { at } = within.transaction;
      const pending = new Pending(run.ground.element.schema, ORIGIN, PIECE, { only: at });
      for await (const { place, block } of this.#parts.journal.spooled(table, run.transaction, end, beyond, signal)) {
        beyond = place;
        scanBlock({ ...block, first: at, last: at, within }, ORIGIN, at, pending);
        if (pending.isOverLimit) break;
      }
      const { inserts } = pending;
      if (inserts === null) {
        const coming = this.#coming.get(run.transaction);
        if (coming !== undefined) coming.fit = false;
        throw new AheadInVain('it does more than insert');
      }
      run.changes += pending.changes;
      yield inserts;
      if (inserts.length > 0) {
        this.#parts.failpoint('ahead');
        continue;
      }
      // What was read with the end known, and came to nothing, was all.
      if (end !== null && !run.complete) {
        run.complete = true;
        this.#stir();
      }
      if (run.granted !== null) return;
      if (!run.news) await run.more.next(signal, LOOK_EVERY_MS);
    }
  }
}

function tell(run: Run): void {
  run.news = true;
  run.more.beat();
}

/** All of these, the first of them made already. */
async function begun<Item>(items: AsyncGenerator<Item>): Promise<AsyncGenerator<Item>> {
  const first = await items.next();
  return (async function* () {
    if (first.done !== true) yield first.value;
    yield* items;
  })();
}

/** A transaction whose end is not known, as one that ended after everything else. */
function withinAll(id: TransactionId): EndedTransaction {
  return { transaction: { id, at: LAST, committedAtMicros: 0n }, dropped: new Set() };
}

const LAST = position((1n << 64n) - 1n);
