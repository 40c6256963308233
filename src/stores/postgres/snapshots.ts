import type { TransactionId, TransactionRef } from '../../model/change.ts';
import type { Position } from '../../model/position.ts';
import type { TableName, TableSchema } from '../../model/schema.ts';
import type { Selection } from '../../model/selection.ts';
import { codeOf } from './connection.ts';
import type { TrackableTable } from './describe.ts';
import { qualified } from './layout.ts';
import { boundary, widen } from './numbering.ts';
import { type PlaceRanges, PostgresSnapshot } from './snapshot.ts';
import { Visibility } from './visibility.ts';
import { parseLsn } from './stream.ts';
import { Wire } from './wire.ts';

export interface SnapshotParts {
  readonly url: string;
  readonly journaled: (ids: readonly TransactionId[], upTo: Position) => Promise<ReadonlySet<TransactionId>>;
  readonly selection: Selection;
  /** A table's schema as it is compared with what the log says. */
  readonly schemaOf: (table: TrackableTable) => TableSchema;
}

/** Connections kept for the next snapshot. */
const IDLE_MAX = 4;
/** Streamed transactions that no snapshot was seen to include: beyond this many one is taken only to look. */
const UNSEEN_MAX = 20_000;
/** There is no such table, or schema. */
const GONE_STATES = new Set(['42P01', '3F000']);
const RETAKE_FIRST_MS = 1;
const RETAKE_LONGEST_MS = 50;

/**
 * Takes snapshots that include all transactions up to a position. The log has a commit before snapshots show it (by long where a
 * synchronous standby is waited for), and in another order: so what was streamed is held against each snapshot, and the snapshot is
 * retaken until it shows everything it should.
 */
export class Snapshots {
  readonly #parts: SnapshotParts;
  readonly #idle: Wire[] = [];
  readonly #open = new Set<Wire>();
  /** Streamed by this process and not yet seen in a snapshot; once seen, every later one has it. */
  #unseen: TransactionRef[] = [];
  #looking = false;
  #lookAbove = UNSEEN_MAX;
  /** Those of earlier processes that were running when this one first looked, and not seen since; null: it has not looked. */
  #earlier: ReadonlySet<bigint> | null = null;
  /** What lies before the slot, which will never be streamed; null once a snapshot has shown all of it. */
  #before: Visibility | null = null;
  #closed = false;
  readonly #ranges: PlaceRanges = new Map();

  constructor(parts: SnapshotParts) {
    this.#parts = parts;
  }

  streamed(ref: TransactionRef): void {
    this.#unseen.push(ref);
    if (this.#unseen.length > this.#lookAbove && !this.#looking && !this.#closed) void this.#look();
  }

  /** Of a slot that was made just now: what had committed before it. */
  mustCover(before: Visibility): void {
    this.#before = before;
  }

  /** The primary's history was broken off: what was streamed of it may never be visible again. */
  forget(): void {
    this.#unseen = [];
    this.#earlier = null;
  }

  /** Gives up the connections, and with them whatever is being read. New ones are made when they are needed. */
  abandon(error: Error): void {
    for (const wire of [...this.#idle, ...this.#open]) wire.fail(error);
  }

  /** `of`, tables, stay as they are while the snapshot is open: what TRUNCATE and rewriting take away, no snapshot shows. */
  async take(covering: Position, base: bigint, signal: AbortSignal, of: readonly TableName[] = []): Promise<PostgresSnapshot> {
    const wire = await this.#borrow(signal);
    try {
      let waitMs = RETAKE_FIRST_MS;
      for (;;) {
        this.#earlier ??= new Set(await runningTransactions(wire, signal));
        const [text = '', lsn = ''] = await begin(wire, of, signal);
        const visibility = new Visibility(text);
        this.#seen(visibility);
        if (this.#before === null || visibility.covers(this.#before)) this.#before = null;
        if (this.#before === null && this.#covers(covering) && (await this.#coversEarlier(visibility, covering))) {
          const known = { ...this.#parts, ranges: this.#ranges };
          return new PostgresSnapshot(wire, visibility, boundary(parseLsn(lsn), base), { ...known, of }, () => this.#giveBack(wire));
        }
        await wire.query('ROLLBACK', signal);
        await pause(waitMs, signal);
        waitMs = Math.min(waitMs * 2, RETAKE_LONGEST_MS);
      }
    } catch (error) {
      await this.#giveBack(wire);
      signal.throwIfAborted();
      throw wire.failure(error);
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all([...this.#idle.splice(0), ...this.#open].map((wire) => wire.close()));
  }

  #seen(visibility: Visibility): void {
    this.#unseen = this.#unseen.filter(({ id }) => !visibility.includes(id));
  }

  #covers(covering: Position): boolean {
    return this.#unseen.every(({ at }) => at > covering);
  }

  /**
   * Of transactions streamed by an earlier process we have no list. Any that is not visible yet was still running when we first looked;
   * those are few, and the journal knows which of them it holds.
   */
  async #coversEarlier(visibility: Visibility, covering: Position): Promise<boolean> {
    const hidden = [...(this.#earlier ?? [])].filter((id) => !visibility.includes(id));
    this.#earlier = new Set(hidden);
    if (hidden.length === 0) return true;
    const held = await this.#parts.journaled(hidden as TransactionId[], covering);
    return held.size === 0;
  }

  async #look(): Promise<void> {
    this.#looking = true;
    try {
      const wire = await this.#borrow(new AbortController().signal);
      const [seen] = await wire.query('SELECT pg_current_snapshot()::text');
      this.#seen(new Visibility(seen?.rows[0]?.[0] as string));
      this.#lookAbove = Math.max(UNSEEN_MAX, 2 * this.#unseen.length);
      await this.#giveBack(wire);
    } catch {
      // The stream will fail in the same way, and says so; until then the list only grows.
    } finally {
      this.#looking = false;
    }
  }

  async #borrow(signal: AbortSignal): Promise<Wire> {
    for (let wire = this.#idle.pop(); wire !== undefined; wire = this.#idle.pop()) {
      if (wire.broken) continue;
      this.#open.add(wire);
      return wire;
    }
    const wire = await Wire.open(this.#parts.url, { side: 'primary', purpose: 'snapshot' }, signal);
    this.#open.add(wire);
    // Keys are looked up through their index whatever the planner thinks of a list it cannot see into; a range of places is read as one.
    await wire.query('SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off', signal);
    return wire;
  }

  async #giveBack(wire: Wire): Promise<void> {
    if (!this.#open.delete(wire)) return;
    if (!wire.broken) {
      try {
        await wire.query('ROLLBACK');
      } catch {
        // It broke just now; it is closed below and was of no further use anyway.
      }
    }
    if (wire.broken || this.#closed || this.#idle.length >= IDLE_MAX) await wire.close();
    else this.#idle.push(wire);
  }
}

/** What the snapshot shows, and where the log ends after it. LOCK takes no snapshot: the one that is taken agrees with the table. */
async function begin(wire: Wire, of: readonly TableName[], signal: AbortSignal): Promise<readonly string[]> {
  const lock = of.length === 0 ? '' : `LOCK TABLE ${of.map(qualified).join(', ')} IN ACCESS SHARE MODE;`;
  // Others must not wait for one of them.
  const limit = of.length > 1 ? `SET LOCAL lock_timeout = '1s';` : '';
  try {
    const results = await wire.query(
      `BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; ${limit} ${lock} SELECT pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text`,
      signal,
    );
    return (results.at(-1)?.rows[0] ?? []) as string[];
  } catch (error) {
    if (of.length !== 1 || !GONE_STATES.has(codeOf(error))) throw error;
    await wire.query('ROLLBACK', signal);
    return begin(wire, [], signal);
  }
}

/**
 * Transactions that hold their own id's lock: every one that is running, and every one that has committed in the log and is not visible
 * yet. Readable by anybody, unlike pg_stat_activity. Must be read before the snapshot it is held against.
 */
async function runningTransactions(wire: Wire, signal: AbortSignal): Promise<bigint[]> {
  const [found] = await wire.query(
    `SELECT pg_snapshot_xmax(pg_current_snapshot())::text, transactionid::text FROM pg_locks
     WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' AND granted`,
    signal,
  );
  return (found?.rows ?? []).map(([near, id]) => widen(Number(id), BigInt(near as string)));
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await new Promise<void>((resolve) => {
    setTimeout(resolve, ms);
  });
  signal.throwIfAborted();
}
