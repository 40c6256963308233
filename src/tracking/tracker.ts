import type { Journal } from '../journal/journal.ts';
import type {
  ChangeBlock,
  EndedTransaction,
  TableEvent,
  TrackedBatch,
  TransactionId,
  TransactionPart,
  TransactionPiece,
} from '../model/change.ts';
import { ForeshadowError, isAbort, messageOf } from '../model/errors.ts';
import type { Position } from '../model/position.ts';
import { Pulse } from '../model/pulse.ts';
import type { TableName } from '../model/schema.ts';
import type { Primary } from './primary.ts';
import type { Recorder } from './recorder.ts';

export interface TrackerParts {
  readonly primary: Primary;
  readonly journal: Journal;
  /** Names a place where a test may kill the process. */
  readonly failpoint: (name: string) => void;
  /** Told of each failure that is retried. */
  readonly onRetry: (error: unknown, waitMs: number) => void;
  /** Counts what passes. */
  readonly recorder?: Recorder;
}

/** What became durable in the journal: everything in (`after`, `through`]. */
export interface Tracked {
  readonly after: Position;
  readonly through: Position;
  /** How many changes each table had. */
  readonly changes: ReadonlyMap<TableName, number>;
  readonly events: readonly TableEvent[];
  /** Transactions that came in pieces. */
  readonly adopted: readonly EndedTransaction[];
  /** The changes themselves; null where some came in pieces, too many to hold: they are in the journal. */
  readonly blocks: readonly ChangeBlock[] | null;
}

/** What is heard of transactions that come in pieces, before a batch adopts them. */
export type TrackedPiece =
  /** It is in the journal. */
  | { readonly kind: 'piece'; readonly piece: TransactionPiece }
  /** Heard before the journal drops it. */
  | { readonly kind: 'rolled-back'; readonly transaction: TransactionId; readonly part: TransactionPart | null }
  /** Pieces of all transactions are dropped, and come again from the first. */
  | { readonly kind: 'abandoned' };

/** Why nothing is tracked for the time being. */
export interface Trouble {
  readonly error: ForeshadowError;
  readonly since: Date;
}

const RETRY_FIRST_MS = 250;
const RETRY_LONGEST_MS = 15_000;

/**
 * Pumps changes from the primary into the journal: durable first, acknowledged second. It never waits for the shadow, so the
 * primary's log is released promptly whatever the shadowing does.
 */
export class Tracker {
  readonly #parts: TrackerParts;
  readonly #appended = new Pulse();
  readonly #listeners = new Set<(tracked: Tracked) => void>();
  readonly #pieceListeners = new Set<(heard: TrackedPiece) => void>();
  #failure: Error | null = null;
  #trouble: Trouble | null = null;
  #head: Position | null = null;

  constructor(parts: TrackerParts) {
    this.#parts = parts;
  }

  /** Everything up to here is durable in the journal, and every listener has heard of it. */
  get head(): Position {
    const head = this.#head ?? this.#parts.journal.head()?.at;
    if (head === undefined) throw new Error('tracking began before the journal had a beginning');
    return head;
  }

  /** Set while the primary cannot be followed and that is tried again. */
  get trouble(): Trouble | null {
    return this.#trouble;
  }

  /** Called with what became durable, in order. Must not block. Returns how to stop it. */
  onTracked(listener: (tracked: Tracked) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Called with what is heard of transactions in pieces. Must not block. Returns how to stop it. */
  onPiece(listener: (heard: TrackedPiece) => void): () => void {
    this.#pieceListeners.add(listener);
    return () => this.#pieceListeners.delete(listener);
  }

  /** Resolves when the journal has reached a position; throws what ended tracking if it ended. */
  async reached(at: Position, signal: AbortSignal): Promise<void> {
    while (this.head < at) {
      if (this.#failure !== null) throw this.#failure;
      await this.#appended.next(signal);
    }
  }

  /** Tracks until `signal` aborts. Rejects on a failure that repeating cannot mend. */
  async run(signal: AbortSignal): Promise<void> {
    let waitMs = RETRY_FIRST_MS;
    while (!signal.aborted) {
      try {
        await this.#pump(signal, () => {
          waitMs = RETRY_FIRST_MS;
          this.#trouble = null;
        });
      } catch (error) {
        if (signal.aborted || isAbort(error)) return;
        this.#parts.recorder?.disconnected();
        if (!(error instanceof ForeshadowError && error.retry === 'later')) {
          this.#failure = error instanceof Error ? error : new Error(messageOf(error));
          this.#appended.beat();
          throw error;
        }
        this.#trouble = { error, since: this.#trouble?.since ?? new Date() };
        this.#parts.onRetry(error, waitMs);
        await pause(waitMs, signal);
        waitMs = Math.min(waitMs * 2, RETRY_LONGEST_MS);
      }
    }
  }

  async #pump(signal: AbortSignal, succeeded: () => void): Promise<void> {
    const { primary, journal, failpoint, recorder } = this.#parts;
    const from = journal.head();
    if (from === null) throw new Error('tracking began before the journal had a beginning');
    this.#head = from.at;
    // Pieces of transactions that an earlier connection did not see the end of come again from the first.
    this.#tell({ kind: 'abandoned' });
    await journal.abandon();
    // What an earlier process made durable but did not live to acknowledge.
    await primary.acknowledge(from.at);
    recorder?.connected();
    for await (const item of primary.changes(from, signal)) {
      if (item.kind === 'piece') {
        await journal.spool(item.piece);
        recorder?.piece(item.piece);
        this.#tell(item);
        failpoint('spooled');
      } else if (item.kind === 'rolled-back') {
        this.#tell(item);
        await journal.discard(item.transaction, item.part);
        recorder?.rolledBack(item.transaction, item.part);
      } else {
        await this.#append(item.batch, item.evidence);
        await recorder?.batch(item.batch);
        succeeded();
      }
    }
  }

  #tell(heard: TrackedPiece): void {
    for (const listener of this.#pieceListeners) listener(heard);
  }

  async #append(batch: TrackedBatch, evidence: string): Promise<void> {
    const { primary, journal, failpoint } = this.#parts;
    const changes = new Map(await journal.append(batch, evidence));
    if (batch.adopts.length > 0) failpoint('adopted');
    for (const block of batch.blocks) changes.set(block.table, (changes.get(block.table) ?? 0) + block.changes);
    const { after, through, events, adopts } = batch;
    const tracked: Tracked = { after, through, changes, events, adopted: adopts, blocks: adopts.length === 0 ? batch.blocks : null };
    // In one breath: whoever sees the new head must not find that a listener has not heard of its changes.
    this.#head = through;
    for (const listener of this.#listeners) listener(tracked);
    this.#appended.beat();
    failpoint('appended');
    await primary.acknowledge(through);
    failpoint('acknowledged');
  }
}

/** Sleeps, and wakes early without an error when aborted: the caller looks at the signal anyway. */
async function pause(ms: number, signal: AbortSignal): Promise<void> {
  try {
    await new Pulse().next(signal, ms);
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}
