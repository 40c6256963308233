import { statSync } from 'node:fs';
import type { DatabaseSync } from 'node:sqlite';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { transactionIds, transactionsOf } from '../../journal/frame.ts';
import type { Bookmark, Journal, SpooledBlock } from '../../journal/journal.ts';
import { placeOf, prunedAway } from '../../journal/order.ts';
import {
  bytesOf,
  type ChangeBlock,
  type EndedTransaction,
  type OpenBlock,
  type ShapeChange,
  type TableEvent,
  type TrackedBatch,
  type TransactionId,
  type TransactionPart,
  type TransactionPiece,
} from '../../model/change.ts';
import { ORIGIN, type Position, maxPosition, minPosition, parsePosition, position } from '../../model/position.ts';
import type { TableName } from '../../model/schema.ts';
import { FrameBytes, journalDamaged } from './frame-bytes.ts';
import { type JournalFile, journalFailure, openJournalFile } from './journal-file.ts';
import {
  type AdoptedRow,
  type EventRow,
  type FrameRef,
  type FrameRow,
  type PruneRow,
  type SpooledRow,
  type StateRow,
  type Statements,
  type TableRow,
  dropping,
  prepareStatements,
} from './journal-statements.ts';

/** A read fetches frames ahead up to this many bytes: the bound of its memory, but for a single frame that is larger. */
const READ_AHEAD_BYTES = 1 << 20;
const READ_AHEAD_FRAMES = 256;
/** Of a transaction in pieces, which are of about a MiB. */
const SPOOLED_FRAMES = 2;

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
  /** The last id pruned at the floor while this process runs: a read that stands before it has lost frames. */
  prunedId: number;
}

interface Fetched {
  readonly row: FrameRow;
  readonly bytes: Buffer;
}

interface State {
  readonly head: Bookmark | null;
  readonly began: Position;
  /** Ids from here on are what the journal holds. */
  readonly firstId: number;
}

class SqliteJournal implements Journal {
  readonly id: string;
  readonly #file: JournalFile;
  readonly #db: DatabaseSync;
  readonly #sql: Statements;
  readonly #bytes: FrameBytes;
  readonly #tables = new Map<TableName, Interned>();
  #state: State;
  /** Never reused while the process runs: reads in progress go by them. */
  #nextId: number;

  constructor(file: JournalFile) {
    this.#file = file;
    this.#db = file.db;
    this.#sql = prepareStatements(file.db);
    const row = this.#sql.state.get() as unknown as StateRow | undefined;
    if (row === undefined) throw journalDamaged(file.path, 'its state is gone');
    this.id = row.id;
    this.#bytes = new FrameBytes(file.path, this.#sql);
    this.#state = {
      head: row.head === null ? null : { at: parsePosition(row.head), evidence: row.evidence ?? '' },
      began: row.began === null ? ORIGIN : parsePosition(row.began),
      firstId: row.first_id,
    };
    this.#nextId = Math.max(row.first_id, Number(this.#sql.highestId.get()?.['id'] ?? 0) + 1);
    for (const table of this.#sql.tables.all() as unknown as TableRow[]) {
      this.#tables.set(table.name, { number: table.number, floor: parsePosition(table.floor), prunedId: 0 });
    }
  }

  head(): Bookmark | null {
    return this.#state.head;
  }

  async begin(from: Bookmark): Promise<void> {
    const state: State = { head: from, began: from.at, firstId: this.#nextId };
    this.#write(() => {
      this.#saveState(state);
      this.#sql.resetFloors.run(ORIGIN);
    });
    this.#state = state;
    for (const table of this.#tables.values()) table.floor = ORIGIN;
    await this.clear();
  }

  async append(batch: TrackedBatch, evidence: string): Promise<ReadonlyMap<TableName, number>> {
    const place = placeOf(batch, this.#state.head);
    const adopted = new Map<TableName, number>();
    if (place === 'repeat') for (const { transaction } of batch.adopts) await this.discard(transaction.id, null);
    if (place === 'repeat' || (place === 'renewal' && evidence === this.#state.head?.evidence)) return adopted;

    let id = this.#nextId;
    const interned = new Map<TableName, Interned>();
    const state = { ...this.#state, head: { at: batch.through, evidence } };
    this.#write(() => {
      for (const ended of batch.adopts) this.#adopt(ended, adopted);
      for (const block of batch.blocks) {
        if (block.within !== null) this.#noteAdopted(block.within);
        this.#insertFrame(id++, this.#intern(block.table, interned), block);
      }
      for (const event of batch.events) {
        const change = event.change === undefined ? null : JSON.stringify(event.change);
        this.#sql.insertEvent.run(id++, this.#intern(event.table, interned).number, event.at, event.kind, event.reason, change);
      }
      this.#saveState(state);
    }, bytesOf(batch.blocks));
    for (const [name, table] of interned) this.#tables.set(name, table);
    this.#state = state;
    this.#nextId = id;
    return adopted;
  }

  async spool({ transaction, blocks }: TransactionPiece): Promise<void> {
    let id = this.#nextId;
    const interned = new Map<TableName, Interned>();
    const insert = (): void => {
      for (const block of blocks) this.#insertSpooled(id++, this.#intern(block.table, interned), transaction, block);
    };
    // It need not be on the disk before the batch that adopts it is: that flushes it too.
    this.#write(insert, bytesOf(blocks), false);
    for (const [name, table] of interned) this.#tables.set(name, table);
    this.#nextId = id;
  }

  async *spooled(
    table: TableName,
    transaction: TransactionId,
    at: Position | null,
    beyond: number,
    signal: AbortSignal,
  ): AsyncGenerator<SpooledBlock> {
    for (let place = beyond; ; ) {
      signal.throwIfAborted();
      const known = this.#tables.get(table);
      if (known === undefined) return;
      const from = [transactionText(transaction), at, Math.max(place, this.#state.firstId - 1), known.number] as const;
      const rows = this.#reading(() => this.#sql.spooled.all(...from, SPOOLED_FRAMES)) as unknown as SpooledRow[];
      if (rows.length === 0) return;
      for (const { id, part, changes, crc } of rows) {
        place = id;
        const bytes = this.#reading(() => this.#bytes.of(id, crc, `a frame of ${table} in a transaction that came in pieces`));
        yield { place, block: { table, first: null, part, changes, bytes } };
      }
    }
  }

  async discard(transaction: TransactionId, part: TransactionPart | null): Promise<void> {
    const spool = transactionText(transaction);
    if (part === null) await this.#inSlices((frames) => this.#sql.dropSpool.run(spool, frames).changes);
    else await this.#inSlices((frames) => this.#sql.dropSpoolPart.run(spool, part, frames).changes);
  }

  async abandon(): Promise<void> {
    await this.#inSlices((frames) => this.#sql.dropSpooled.run(frames).changes);
  }

  async *read(table: TableName, after: Position, upTo: Position, signal: AbortSignal): AsyncGenerator<ChangeBlock> {
    signal.throwIfAborted();
    const began = this.#state.began;
    if (after < began) throw prunedAway(table, after, began);
    const known = this.#tables.get(table);
    if (known === undefined) return;
    if (after < known.floor) throw prunedAway(table, after, known.floor);
    const { firstId, head } = this.#state;
    const to = minPosition(upTo, head?.at ?? ORIGIN);
    let at = after;
    let id = 0;
    let within: EndedTransaction | null = null;
    for (;;) {
      const lost = known.floor > at || (known.floor === at && known.prunedId > id);
      if (id > 0 && (lost || this.#state.firstId !== firstId)) throw prunedAway(table, at, maxPosition(known.floor, this.#state.began));
      const fetched = this.#fetch(table, known.number, { at, id, to });
      if (fetched.length === 0) return;
      for (const { row, bytes } of fetched) {
        signal.throwIfAborted();
        at = row.last as Position;
        id = row.id;
        if (row.spool === null) within = null;
        else if (within?.transaction.at !== at) within = this.#adoptedAt(at);
        yield blockOf(table, row, bytes, within);
      }
    }
  }

  async events(table: TableName, after: Position, upTo: Position): Promise<readonly TableEvent[]> {
    const known = this.#tables.get(table);
    if (known === undefined) return [];
    const rows = this.#reading(() => this.#sql.events.all(known.number, after, upTo, this.#state.firstId));
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
    const row = this.#reading(() => this.#sql.lastChange.get(known.number, this.#state.firstId));
    return row === undefined ? null : parsePosition(row['last'] as string);
  }

  async contains(ids: readonly TransactionId[], upTo: Position): Promise<ReadonlySet<TransactionId>> {
    const wanted = new Set(ids);
    const found = new Set<TransactionId>();
    if (wanted.size === 0) return found;
    const { firstId } = this.#state;
    // Asked one by one: together with an old transaction that is still open, the newest would span all frames in between.
    const frames = new Set<number>();
    for (const id of wanted) {
      const rows = this.#reading(() => this.#sql.framesWith.all(transactionText(id), upTo, firstId)) as unknown as FrameRef[];
      // Those of one transaction come first, and need not be read: it begins at or below `upTo`, so it ends there.
      if (rows[0]?.whole === 1) found.add(id);
      else for (const row of rows) frames.add(row.id);
    }
    for (const id of frames) {
      if (found.size === wanted.size) break;
      const row = this.#reading(() => this.#sql.frame.get(id)) as unknown as (FrameRow & { name: TableName }) | undefined;
      if (row === undefined) continue;
      const bytes = this.#bytes.of(id, row.crc, `a frame of ${row.name} at ${row.last}`);
      for (const transaction of transactionsOf(blockOf(row.name, row, bytes, null))) {
        if (transaction.at <= upTo && wanted.has(transaction.id)) found.add(transaction.id);
      }
      await nextTurn();
    }
    return found;
  }

  async prune(throughOf: ReadonlyMap<TableName, Position>): Promise<void> {
    const { firstId } = this.#state;
    const tops = Array.from(throughOf).flatMap(([table, through]) => {
      const known = this.#tables.get(table);
      if (known === undefined) return [];
      const top = this.#reading(() => this.#sql.pruneTop.get(known.number, through, firstId)) as unknown as PruneRow | undefined;
      // A crash may have cut off the deletion up to a floor that is higher: what lies below it is not whole.
      return top === undefined ? [] : [{ known, floor: maxPosition(known.floor, parsePosition(top.last)), id: top.id }];
    });
    if (tops.length === 0) return;
    // The floors go down first: from here on nobody can begin to read what is being deleted, nor after a crash half-way.
    this.#write(() => {
      for (const { known, floor } of tops) this.#sql.setFloor.run(floor, known.number);
    });
    for (const { known, floor, id } of tops) {
      known.prunedId = floor > known.floor ? id : Math.max(id, known.prunedId);
      known.floor = floor;
    }
    // What is begun anew meanwhile may count from lower.
    const belowId = this.#nextId;
    await this.#inSlices(dropping(this.#sql.pruneFrames, tops, belowId));
    this.#write(() => {
      for (const { known, floor } of tops) this.#sql.pruneEvents.run(known.number, floor, belowId);
      this.#sql.pruneAdopted.run(tops.map(({ floor }) => floor).reduce(maxPosition));
    });
  }

  async size(): Promise<number> {
    const value = (name: string): number => Number(Object.values(this.#db.prepare(`PRAGMA ${name}`).get() ?? {})[0] ?? 0);
    const held = this.#reading(() => (value('page_count') - value('freelist_count')) * value('page_size'));
    return held + (statSync(`${this.#file.path}-wal`, { throwIfNoEntry: false })?.size ?? 0);
  }

  /** Deletes what is not held: leftovers of an earlier beginning, and what a process spooled that is no more. */
  async clear(): Promise<void> {
    const { firstId } = this.#state;
    this.#write(() => this.#sql.dropEventsBelow.run(firstId));
    await this.#inSlices((frames) => this.#sql.dropFramesBelow.run(firstId, frames).changes);
    await this.abandon();
    this.#write(() => this.#sql.pruneAdopted.run(position((1n << 64n) - 1n)));
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

  /** With their bytes: before the next turn they may be pruned. */
  #fetch(table: TableName, number: number, { at, id, to }: { at: Position; id: number; to: Position }): Fetched[] {
    return this.#reading(() => {
      const fetched: Fetched[] = [];
      let size = 0;
      const frames = this.#sql.read.iterate(number, at, id, this.#state.firstId) as unknown as Iterable<FrameRow>;
      for (const row of frames) {
        // In order, and beginnings rise with ends: no later frame can begin in range.
        if (row.first > to) break;
        const bytes = this.#bytes.of(row.id, row.crc, `a frame of ${table} at ${row.last}`);
        fetched.push({ row, bytes });
        size += bytes.length;
        if (size >= READ_AHEAD_BYTES || fetched.length >= READ_AHEAD_FRAMES) break;
      }
      return fetched;
    });
  }

  #adoptedAt(at: Position): EndedTransaction {
    const row = this.#reading(() => this.#sql.adopted.get(at)) as unknown as AdoptedRow | undefined;
    if (row === undefined) throw journalDamaged(this.#file.path, `the transaction at ${at}`);
    const dropped = new Set(row.dropped === '' ? [] : row.dropped.split(' ').map(Number));
    const id = BigInt(`0x${row.spool}`) as TransactionId;
    return { transaction: { id, at, committedAtMicros: BigInt(row.committed_micros) }, dropped };
  }

  #adopt(ended: EndedTransaction, adopted: Map<TableName, number>): void {
    const spool = transactionText(ended.transaction.id);
    for (const row of this.#sql.adoptedChanges.all(spool) as unknown as { name: TableName; changes: number }[]) {
      adopted.set(row.name, (adopted.get(row.name) ?? 0) + row.changes);
    }
    this.#noteAdopted(ended);
    this.#sql.adoptFrames.run(ended.transaction.at, spool);
  }

  #noteAdopted({ transaction, dropped }: EndedTransaction): void {
    const { at, id, committedAtMicros } = transaction;
    this.#sql.insertAdopted.run(at, transactionText(id), committedAtMicros.toString(), [...dropped].join(' '));
  }

  #insertFrame(id: number, table: Interned, block: ChangeBlock): void {
    const { lowest, highest } = idRange(block);
    const { first, last, changes, bytes, within } = block;
    const spool = within === null ? null : lowest;
    this.#sql.insertFrame.run(id, table.number, first, last, changes, lowest, highest, spool, null, this.#bytes.insert(id, bytes));
  }

  #insertSpooled(id: number, table: Interned, transaction: TransactionId, { first, part, changes, bytes, ...block }: OpenBlock): void {
    const spool = transactionText(transaction);
    // Whole transactions before it may stand in the same bytes.
    const named = { table: block.table, first: first ?? ORIGIN, last: ORIGIN, changes, bytes, within: null };
    const { lowest, highest } = first === null ? { lowest: spool, highest: spool } : idRange(named);
    this.#sql.insertFrame.run(id, table.number, first, null, changes, lowest, highest, spool, part, this.#bytes.insert(id, bytes));
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
    this.#sql.saveState.run(state.began, state.head?.at ?? null, state.head?.evidence ?? null, state.firstId);
  }

  /** One transaction, which brings so many bytes of changes; null: it brings none. */
  #write<T>(work: () => T, bytes: number | null = null, flushed = true): T {
    try {
      this.#file.mode.expect(bytes, flushed);
      this.#db.exec('BEGIN IMMEDIATE');
      const result = work();
      this.#db.exec('COMMIT');
      this.#bytes.ended(true);
      return result;
    } catch (error) {
      this.#bytes.ended(false);
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

function blockOf(table: TableName, row: FrameRow, bytes: Buffer, within: EndedTransaction | null): ChangeBlock {
  return { table, first: row.first as Position, last: row.last as Position, changes: row.changes, bytes, within };
}

function idRange(block: ChangeBlock): { readonly lowest: string; readonly highest: string } {
  const ids = transactionIds(block);
  if (ids === null) throw new RangeError(`a block of ${block.table} names no transaction`);
  return { lowest: transactionText(ids.lowest), highest: transactionText(ids.highest) };
}

/** Text of fixed width, so that its order is the order of unsigned 64-bit ids, which SQLite's integers do not hold. */
function transactionText(id: bigint): string {
  return id.toString(16).padStart(16, '0');
}
