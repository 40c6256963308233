import type { Journal } from '../journal/journal.ts';
import type { ChangeBlock, TableEvent, TrackedBatch } from '../model/change.ts';
import { ForeshadowError, isAbort, messageOf } from '../model/errors.ts';
import type { Position } from '../model/position.ts';
import { Pulse } from '../model/pulse.ts';
import type { TableName } from '../model/schema.ts';
import type { Primary } from './primary.ts';

export interface TrackerParts {
  readonly primary: Primary;
  readonly journal: Journal;
  /** Names a place where a test may kill the process. */
  readonly failpoint: (name: string) => void;
  /** Told of each failure that is retried. */
  readonly onRetry: (error: unknown, waitMs: number) => void;
}

/** What became durable in the journal: everything in (`after`, `through`]. */
export interface Tracked {
  readonly after: Position;
  readonly through: Position;
  /** How many changes each table had. */
  readonly changes: ReadonlyMap<TableName, number>;
  readonly events: readonly TableEvent[];
  /** The changes themselves, where they came in one batch; null where there were too many to hold: they are in the journal. */
  readonly blocks: readonly ChangeBlock[] | null;
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
  #failure: Error | null = null;
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

  /** Called with what became durable, in order. Must not block. Returns how to stop it. */
  onTracked(listener: (tracked: Tracked) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
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
        });
      } catch (error) {
        if (signal.aborted || isAbort(error)) return;
        if (!(error instanceof ForeshadowError && error.retry === 'later')) {
          this.#failure = error instanceof Error ? error : new Error(messageOf(error));
          this.#appended.beat();
          throw error;
        }
        this.#parts.onRetry(error, waitMs);
        await pause(waitMs, signal);
        waitMs = Math.min(waitMs * 2, RETRY_LONGEST_MS);
      }
    }
  }

  async #pump(signal: AbortSignal, succeeded: () => void): Promise<void> {
    const { primary, journal, failpoint } = this.#parts;
    const from = journal.head();
    if (from === null) throw new Error('tracking began before the journal had a beginning');
    this.#head = from.at;
    // Pieces of a huge transaction that an earlier connection did not complete come again from the first.
    await journal.abandon();
    // What an earlier process made durable but did not live to acknowledge.
    await primary.acknowledge(from.at);
    let pieces: TrackedBatch[] = [];
    for await (const { batch, evidence } of primary.changes(from, signal)) {
      await journal.append(batch, evidence);
      pieces.push(batch.complete && pieces.length === 0 ? batch : withoutBytes(batch));
      if (!batch.complete) continue;
      const tracked = announced(pieces);
      pieces = [];
      // In one breath: whoever sees the new head must not find that a listener has not heard of its changes.
      this.#head = batch.through;
      for (const listener of this.#listeners) listener(tracked);
      this.#appended.beat();
      failpoint('appended');
      await primary.acknowledge(batch.through);
      failpoint('acknowledged');
      succeeded();
    }
  }
}

const NO_BYTES = Buffer.alloc(0);

/** What is to be remembered of a piece while the rest of a huge transaction arrives. */
function withoutBytes(piece: TrackedBatch): TrackedBatch {
  return { ...piece, blocks: piece.blocks.map((block) => ({ ...block, bytes: NO_BYTES })) };
}

function announced(pieces: readonly TrackedBatch[]): Tracked {
  const [first] = pieces;
  if (first === undefined) throw new Error('nothing was tracked');
  const changes = new Map<TableName, number>();
  for (const { blocks } of pieces) for (const block of blocks) changes.set(block.table, (changes.get(block.table) ?? 0) + block.changes);
  const events = pieces.flatMap((piece) => piece.events);
  return { after: first.after, through: first.through, changes, events, blocks: pieces.length === 1 ? first.blocks : null };
}

/** Sleeps, and wakes early without an error when aborted: the caller looks at the signal anyway. */
async function pause(ms: number, signal: AbortSignal): Promise<void> {
  try {
    await new Pulse().next(signal, ms);
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}
