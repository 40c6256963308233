import { statSync } from 'node:fs';
import type { DatabaseSync } from 'node:sqlite';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { crc32 } from 'node:zlib';
import { transactionsOf } from '../../journal/frame.ts';
import type { Bookmark, Journal } from '../../journal/journal.ts';
import { placeOf, prunedAway } from '../../journal/order.ts';
import type { ChangeBlock, ShapeChange, TableEvent, TrackedBatch, TransactionId } from '../../model/change.ts';
import { ForeshadowError } from '../../model/errors.ts';
import { ORIGIN, type Position, maxPosition, minPosition, parsePosition } from '../../model/position.ts';
import type { TableName } from '../../model/schema.ts';
import { type JournalFile, journalFailure, openJournalFile } from './journal-file.ts';
import {
  type EventRow,
  type FrameRow,
  type PruneRow,
  type StateRow,
  type Statements,
  type TableRow,
  prepareStatements,
} from './journal-statements.ts';

/** A read fetches frames ahead up to this many bytes: the bound of its memory, but for a single frame that is larger. */
const READ_AHEAD_BYTES = 1 << 20;
const READ_AHEAD_FRAMES = 256;

/** Deleting goes in transactions of about this long, for an append waits for one: frames may be tiny or of megabytes. */
const DELETE_SLICE_MS = 10;
const DELETE_SLICE_FRAMES = 32;

/** The journal in one SQLite file, which is made if it is missing. See `openJournalFile` for what it refuses. */
export async function openSqliteJournal(path: string): Promise<Journal> {
  const file = openJournalFile(path);
  try {
    const journal = new SqliteJournal(file);
    await journal.clear();
    return journal;
  } catch (error) {
    file[Symbol.dispose]();
    throw journalFailure(file.path, 'open', error);
  }
}

interface Interned {
  readonly number: number;
  /** Changes at or below are not held. */
  floor: Position;
  /** The highest id pruned while this process runs: a read that stands below it has lost frames. */
  prunedId: number;
}

interface State {
  readonly head: Bookmark | null;
  readonly began: Position;
  /** Ids in [firstId, lastId] are what the journal holds. */
  readonly firstId: number;
  readonly lastId: number;
}

class SqliteJournal implements Journal {
  readonly id: string;
  readonly #file: JournalFile;
  readonly #db: DatabaseSync;
  readonly #sql: Statements;
  readonly #tables = new Map<TableName, Interned>();
  #state: State;
  /** Never reused while the process runs: reads in progress go by them. */
  #nextId: number;
  /** Where the transaction ends whose pieces lie above lastId. */
  #piecesOf: Position | null = null;

  constructor(file: JournalFile) {
    this.#file = file;
    this.#db = file.db;
    this.#sql = prepareStatements(file.db);
    const row = this.#sql.state.get() as unknown as StateRow | undefined;
    if (row === undefined) throw new ForeshadowError('JOURNAL_ACCESS', `the journal ${file.path} is damaged: its state is gone`, DAMAGE);
    this.id = row.id;
    this.#state = {
      head: row.head === null ? null : { at: parsePosition(row.head), evidence: row.evidence ?? '' },
      began: row.began === null ? ORIGIN : parsePosition(row.began),
      firstId: row.first_id,
      lastId: row.last_id,
    };
    this.#nextId = row.last_id + 1;
    for (const table of this.#sql.tables.all() as unknown as TableRow[]) {
      this.#tables.set(table.name, { number: table.number, floor: parsePosition(table.floor), prunedId: 0 });
    }
  }

  head(): Bookmark | null {
    return this.#state.head;
  }

  async begin(from: Bookmark): Promise<void> {
    const state: State = { head: from, began: from.at, firstId: this.#nextId, lastId: this.#nextId - 1 };
    this.#write(() => {
      this.#saveState(state);
      this.#sql.resetFloors.run(ORIGIN);
    });
    this.#state = state;
    this.#piecesOf = null;
    for (const table of this.#tables.values()) {
      table.floor = ORIGIN;
      table.prunedId = state.lastId;
    }
    await this.clear();
  }

  async append(batch: TrackedBatch, evidence: string): Promise<void> {
    const place = placeOf(batch, this.#state.head);
    if (place === 'repeat') return;
    if (place === 'renewal' && (!batch.complete || evidence === this.#state.head?.evidence)) return;
    if (this.#piecesOf !== null && this.#piecesOf !== batch.through) await this.abandon();

    let id = this.#nextId;
    const interned = new Map<TableName, Interned>();
    const lastId = id + batch.blocks.length + batch.events.length - 1;
    const state = batch.complete ? { ...this.#state, head: { at: batch.through, evidence }, lastId } : this.#state;
    this.#write(() => {
      for (const block of batch.blocks) this.#insertFrame(id++, this.#intern(block.table, interned), block);
      for (const event of batch.events) {
        const change = event.change === undefined ? null : JSON.stringify(event.change);
        this.#sql.insertEvent.run(id++, this.#intern(event.table, interned).number, event.at, event.kind, event.reason, change);
      }
      if (batch.complete) this.#saveState(state);
    });
    for (const [name, table] of interned) this.#tables.set(name, table);
    this.#state = state;
    this.#nextId = id;
    this.#piecesOf = batch.complete ? null : batch.through;
  }

  async abandon(): Promise<void> {
    if (this.#piecesOf === null) return;
    this.#piecesOf = null;
    // Before the head can move past them, which would make them visible.
    this.#write(() => {
      this.#sql.dropEventsOutside.run(this.#state.firstId, this.#state.lastId);
      this.#sql.dropPieces.run(this.#state.lastId);
    });
  }

  async *read(table: TableName, after: Position, upTo: Position, signal: AbortSignal): AsyncGenerator<ChangeBlock> {
    signal.throwIfAborted();
    const began = this.#state.began;
    if (after < began) throw prunedAway(table, after, began);
    const known = this.#tables.get(table);
    if (known === undefined) return;
    if (after < known.floor) throw prunedAway(table, after, known.floor);
    const to = minPosition(upTo, this.#state.head?.at ?? ORIGIN);
    const lastId = this.#state.lastId;
    let at = after;
    let id = 0;
    for (;;) {
      if (id > 0 && known.prunedId > id) throw prunedAway(table, at, maxPosition(known.floor, this.#state.began));
      const rows = this.#fetch(known.number, at, id, to, lastId);
      if (rows.length === 0) return;
      for (const row of rows) {
        signal.throwIfAborted();
        at = row.last as Position;
        id = row.id;
        yield this.#blockOf(table, row);
      }
    }
  }

  async events(table: TableName, after: Position, upTo: Position): Promise<readonly TableEvent[]> {
    const known = this.#tables.get(table);
    if (known === undefined) return [];
    const rows = this.#reading(() => this.#sql.events.all(known.number, after, upTo, this.#state.firstId, this.#state.lastId));
    return (rows as unknown as EventRow[]).map(({ kind, at, reason, change }) => ({
      kind,
      table,
      at: parsePosition(at),
      reason,
      ...(change === null ? {} : { change: JSON.parse(change) as ShapeChange }),
    }));
  }

  async lastChange(table: TableName): Promise<Position | null> {
    const known = this.#tables.get(table);
    if (known === undefined) return null;
    const row = this.#reading(() => this.#sql.lastChange.get(known.number, this.#state.firstId, this.#state.lastId));
    return row === undefined ? null : parsePosition(row['last'] as string);
  }

  async contains(ids: readonly TransactionId[], upTo: Position): Promise<ReadonlySet<TransactionId>> {
    const wanted = new Set(ids);
    const found = new Set<TransactionId>();
    if (wanted.size === 0) return found;
    const { firstId, lastId } = this.#state;
    // Asked one by one: together with an old transaction that is still open, the newest would span all frames in between.
    const frames = new Set<number>();
    for (const text of [...wanted].map(transactionText)) {
      const rows = this.#reading(() => this.#sql.framesWith.all(text, upTo, firstId, lastId));
      for (const { id } of rows as unknown as { id: number }[]) frames.add(id);
    }
    for (const id of frames) {
      if (found.size === wanted.size) break;
      const row = this.#reading(() => this.#sql.frame.get(id)) as unknown as (FrameRow & { name: TableName }) | undefined;
      if (row === undefined) continue;
      for (const transaction of transactionsOf(this.#blockOf(row.name, row))) {
        if (transaction.at <= upTo && wanted.has(transaction.id)) found.add(transaction.id);
      }
      await nextTurn();
    }
    return found;
  }

  async prune(table: TableName, through: Position): Promise<void> {
    const known = this.#tables.get(table);
    if (known === undefined) return;
    const { firstId, lastId } = this.#state;
    const top = this.#reading(() => this.#sql.pruneTop.get(known.number, through, firstId, lastId)) as unknown as PruneRow;
    if (top.id === null || top.last === null) return;
    const floor = maxPosition(known.floor, parsePosition(top.last));
    // The floor goes down first: from here on nobody can begin to read what is being deleted, nor after a crash half-way.
    this.#write(() => this.#sql.setFloor.run(floor, known.number));
    known.floor = floor;
    known.prunedId = Math.max(known.prunedId, top.id);
    const { id } = top;
    await this.#inSlices((frames) => this.#sql.pruneFrames.run(known.number, floor, id, frames).changes);
    this.#write(() => this.#sql.pruneEvents.run(known.number, floor, top.id));
  }

  async size(): Promise<number> {
    const value = (name: string): number => Number(Object.values(this.#db.prepare(`PRAGMA ${name}`).get() ?? {})[0] ?? 0);
    const held = this.#reading(() => (value('page_count') - value('freelist_count')) * value('page_size'));
    return held + (statSync(`${this.#file.path}-wal`, { throwIfNoEntry: false })?.size ?? 0);
  }

  /** Deletes what is not held: leftovers of an earlier beginning, and pieces whose transaction a crash cut short. */
  async clear(): Promise<void> {
    const { firstId, lastId } = this.#state;
    this.#write(() => this.#sql.dropEventsOutside.run(firstId, lastId));
    await this.#inSlices((frames) => this.#sql.dropFramesBelow.run(firstId, frames).changes);
    await this.#inSlices((frames) => this.#sql.dropFramesAbove.run(lastId, frames).changes);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#file[Symbol.dispose]();
  }

  async #inSlices(drop: (frames: number) => number | bigint): Promise<void> {
    let frames = DELETE_SLICE_FRAMES;
    for (;;) {
      const began = performance.now();
      const limit = frames;
      if (Number(this.#write(() => drop(limit))) < limit) return;
      const tookMs = performance.now() - began;
      frames = tookMs < DELETE_SLICE_MS ? frames * 2 : Math.max(1, Math.floor(frames / 2));
      await nextTurn();
    }
  }

  #fetch(table: number, at: Position, id: number, to: Position, lastId: number): FrameRow[] {
    return this.#reading(() => {
      const rows: FrameRow[] = [];
      let bytes = 0;
      const frames = this.#sql.read.iterate(table, at, id, this.#state.firstId, lastId) as unknown as Iterable<FrameRow>;
      for (const row of frames) {
        // In order, and beginnings rise with ends: no later frame can begin in range.
        if (row.first > to) break;
        rows.push(row);
        bytes += row.bytes.length;
        if (bytes >= READ_AHEAD_BYTES || rows.length >= READ_AHEAD_FRAMES) break;
      }
      return rows;
    });
  }

  #blockOf(table: TableName, row: FrameRow): ChangeBlock {
    const bytes = Buffer.from(row.bytes.buffer, row.bytes.byteOffset, row.bytes.byteLength);
    if (crc32(bytes) !== row.crc) {
      throw new ForeshadowError('JOURNAL_ACCESS', `the journal ${this.#file.path} is damaged: a frame of ${table} at ${row.last}`, DAMAGE);
    }
    return { table, first: row.first as Position, last: row.last as Position, changes: row.changes, bytes };
  }

  #insertFrame(id: number, table: Interned, block: ChangeBlock): void {
    let lowest: bigint | null = null;
    let highest: bigint | null = null;
    for (const { id: transaction } of transactionsOf(block)) {
      if (lowest === null || transaction < lowest) lowest = transaction;
      if (highest === null || transaction > highest) highest = transaction;
    }
    if (lowest === null || highest === null) throw new RangeError(`a block of ${block.table} names no transaction`);
    const { first, last, changes, bytes } = block;
    this.#sql.insertFrame.run(
      id,
      table.number,
      first,
      last,
      changes,
      transactionText(lowest),
      transactionText(highest),
      crc32(bytes),
      bytes,
    );
  }

  /** `fresh` takes the tables that are new in a transaction: they are known only once it has committed. */
  #intern(name: TableName, fresh: Map<TableName, Interned>): Interned {
    const known = this.#tables.get(name) ?? fresh.get(name);
    if (known !== undefined) return known;
    const interned = { number: this.#tables.size + fresh.size + 1, floor: ORIGIN, prunedId: 0 };
    this.#sql.insertTable.run(interned.number, name, interned.floor);
    fresh.set(name, interned);
    return interned;
  }

  #saveState(state: State): void {
    this.#sql.saveState.run(state.began, state.head?.at ?? null, state.head?.evidence ?? null, state.firstId, state.lastId);
  }

  #write<T>(work: () => T): T {
    try {
      this.#db.exec('BEGIN IMMEDIATE');
      const result = work();
      this.#db.exec('COMMIT');
      return result;
    } catch (error) {
      if (this.#db.isOpen && this.#db.isTransaction) this.#db.exec('ROLLBACK');
      throw journalFailure(this.#file.path, 'write', error);
    }
  }

  #reading<T>(work: () => T): T {
    try {
      return work();
    } catch (error) {
      throw journalFailure(this.#file.path, 'read', error);
    }
  }
}

const DAMAGE = {
  remedy: 'Move the file away and start again: tracking begins anew, and the tables are resynced by comparison.',
};

/** Text of fixed width, so that its order is the order of unsigned 64-bit ids, which SQLite's integers do not hold. */
function transactionText(id: bigint): string {
  return id.toString(16).padStart(16, '0');
}
