import { randomUUID } from 'node:crypto';
import { BlockWriter } from '../../journal/frame.ts';
import type { Bookmark } from '../../journal/journal.ts';
import type { Change, ChangeBlock, TableEvent, TrackedBatch, TransactionId, TransactionRef } from '../../model/change.ts';
import { type Finding, ForeshadowError } from '../../model/errors.ts';
import { ORIGIN, type Position, commitEndOf, position } from '../../model/position.ts';
import { Pulse } from '../../model/pulse.ts';
import { type DataSetSchema, type TableName, type TableSchema, tableOf } from '../../model/schema.ts';
import {
  type Identity,
  type KeyTuple,
  type Tuple,
  fillAbsent,
  identityOf,
  keyOfIdentity,
  keyTuple,
  identityOfRow,
} from '../../model/tuple.ts';
import type { Primary, PrimaryItem, PrimarySnapshot, RowChunk, RowLimit } from '../../tracking/primary.ts';
import type { LoadSample } from '../../tracking/load.ts';
import { compareKeys, memoryValues } from './values.ts';

/** What a transaction did, in its order. A row that is there already, or moves to another key, keeps what is absent. */
export type MemoryOperation = { readonly table: TableName } & (
  | { readonly kind: 'put'; readonly row: Tuple }
  | { readonly kind: 'move'; readonly key: KeyTuple; readonly row: Tuple }
  | { readonly kind: 'delete'; readonly key: KeyTuple }
  | { readonly kind: 'truncate' }
);

type Rows = Map<Identity, Tuple>;

interface LoggedChange {
  readonly table: TableName;
  readonly change: Change;
}

interface Logged {
  readonly at: Position;
  readonly transaction: TransactionRef;
  readonly changes: readonly LoggedChange[];
  readonly events: readonly TableEvent[];
  /** Its changes as they are delivered, where they come in more than one batch. */
  readonly pieces: readonly (readonly LoggedChange[])[] | null;
}

interface CommitOptions {
  readonly eventsAt?: (at: Position) => readonly TableEvent[];
  readonly pieceLengths?: readonly number[];
}

/** A primary in memory: obviously right, and able to show what real ones show rarely. For tests of everything above it. */
export class MemoryPrimary implements Primary {
  readonly kind = 'memory';
  readonly tellsShapes = false;
  readonly values = memoryValues;
  #id = randomUUID();
  #schema: DataSetSchema;
  #tables = new Map<TableName, Rows>();
  #tracked: ReadonlySet<TableName> | null = null;
  #log: Logged[] = [];
  /** What the log still reaches back to. */
  #floor: Position = ORIGIN;
  #end: Position = ORIGIN;
  #nextCommitEnd = 1n;
  #nextTransaction = 100n;
  /** In the log, but not yet visible to snapshots. */
  readonly #unseen = new Map<TransactionId, { readonly at: Position; readonly operations: readonly MemoryOperation[] }>();
  readonly #pulse = new Pulse();
  #reading = false;

  constructor(tables: readonly TableSchema[]) {
    this.#schema = { tables, before: [], after: [] };
    for (const table of tables) this.#tables.set(table.table, new Map());
  }

  /** Commits, and is visible at once. */
  transaction(operations: readonly MemoryOperation[]): TransactionRef {
    const logged = this.#commit(operations);
    this.#apply(operations);
    this.#pulse.beat();
    return logged.transaction;
  }

  /**
   * Commits, is visible at once, and is delivered as a huge transaction is: each piece as a batch of its own, of which only the last is
   * complete.
   */
  transactionInPieces(pieces: readonly (readonly MemoryOperation[])[]): TransactionRef {
    const operations = pieces.flat();
    const { transaction } = this.#commit(operations, { pieceLengths: pieces.map(({ length }) => length) });
    this.#apply(operations);
    this.#pulse.beat();
    return transaction;
  }

  /**
   * Commits, but snapshots do not include it until it is released: on PostgreSQL commits enter the log in one order and become
   * visible in another (a "long fork"). Until then no other transaction may touch its rows.
   */
  transactionUnseen(operations: readonly MemoryOperation[]): { readonly transaction: TransactionRef; release(): void } {
    const { transaction, at } = this.#commit(operations);
    this.#unseen.set(transaction.id, { at, operations });
    this.#pulse.beat();
    const release = () => {
      if (!this.#unseen.delete(transaction.id)) return;
      this.#apply(operations);
      this.#pulse.beat();
    };
    return { transaction, release };
  }

  /** Gives a table another shape, and the rows that go with it; null drops it. In the log as an event. */
  alter(name: TableName, schema: TableSchema | null, rows: readonly Tuple[] = []): void {
    const others = this.#schema.tables.filter((table) => table.table !== name);
    this.#schema = { ...this.#schema, tables: schema === null ? others : [...others, schema] };
    this.#tables.delete(name);
    if (schema !== null) this.#tables.set(name, new Map(rows.map((row) => [identityOfRow(row, schema.key), row])));
    const kind = schema === null ? 'dropped' : 'schema-changed';
    this.#commit([], { eventsAt: (at) => [{ kind, table: name, at, reason: 'altered' }] });
    this.#pulse.beat();
  }

  /** Drops the log, as a primary does that ran out of room for it: whoever has not read it all has a gap. */
  loseLog(): void {
    this.#id = randomUUID();
    this.#log = [];
    this.#floor = this.#end;
    this.#pulse.beat();
  }

  /** All rows of a table as a new snapshot would see them, by key. */
  rowsNow(name: TableName): Tuple[] {
    this.#require(name);
    return sorted(this.#tables.get(name) ?? new Map());
  }

  async identity(): Promise<string> {
    return 'memory:primary';
  }

  async check(): Promise<readonly Finding[]> {
    return [{ severity: 'ok', code: 'MEMORY', subject: 'memory', message: 'a primary in memory', remedy: null }];
  }

  async describe(): Promise<DataSetSchema> {
    return this.#schema;
  }

  async install(tables: readonly TableSchema[]): Promise<Bookmark> {
    this.#tracked = new Set(tables.map((table) => table.table));
    return { at: this.#end, evidence: this.#id };
  }

  async installed(): Promise<boolean> {
    return this.#tracked !== null;
  }

  /** A memory is never busy. */
  async sizes(): Promise<ReadonlyMap<TableName, number>> {
    const bytesOf = (rows: Iterable<Tuple>): number => Array.from(rows).reduce((sum, { length }) => sum + length, 0);
    return new Map(Array.from(this.#tables, ([table, rows]) => [table, bytesOf(rows.values())]));
  }

  async load(): Promise<LoadSample> {
    return { atMs: Date.now(), readings: [] };
  }

  async uninstall(): Promise<void> {
    this.#tracked = null;
    this.#log = [];
    this.#floor = this.#end;
  }

  async *changes(from: Bookmark, signal: AbortSignal): ReturnType<Primary['changes']> {
    if (this.#tracked === null) throw notInstalled();
    if (this.#reading) throw new Error('the changes of this primary are being read already');
    this.#reading = true;
    try {
      let { at, evidence } = from;
      while (!signal.aborted) {
        if (evidence !== this.#id || at < this.#floor) {
          const batch = this.#gap(at);
          ({ at, evidence } = { at: batch.through, evidence: this.#id });
          yield { kind: 'batch', batch, evidence };
        }
        const items = this.#items(at, evidence);
        if (items.length === 0) await this.#beatOr(signal);
        for (const item of items) {
          if (item.kind === 'batch') at = item.batch.through;
          yield item;
        }
      }
    } finally {
      this.#reading = false;
    }
  }

  async acknowledge(upTo: Position): Promise<void> {
    if (upTo <= this.#floor) return;
    this.#floor = upTo;
    this.#log = this.#log.filter((logged) => logged.at > upTo);
  }

  async now(): Promise<Position> {
    if (this.#tracked === null) throw notInstalled();
    return this.#end;
  }

  retained(): Promise<null> {
    return Promise.resolve(null);
  }

  async snapshot(covering: Position, signal: AbortSignal): Promise<PrimarySnapshot> {
    const isCovered = () => this.#end >= covering && ![...this.#unseen.values()].some(({ at }) => at <= covering);
    while (!isCovered()) {
      await this.#pulse.next(signal);
    }
    const tables = new Map([...this.#tables].map(([name, rows]) => [name, new Map(rows)]));
    return new MemorySnapshot(this.#schema, tables, this.#end, new Set(this.#unseen.keys()));
  }

  /** What is in memory outlives the closing, as a database does. */
  async [Symbol.asyncDispose](): Promise<void> {}

  /** Being told to stop is no failure of `changes`. */
  async #beatOr(signal: AbortSignal): Promise<void> {
    try {
      await this.#pulse.next(signal);
    } catch (error) {
      if (!signal.aborted) throw error;
    }
  }

  #commit(operations: readonly MemoryOperation[], { eventsAt, pieceLengths }: CommitOptions = {}): Logged {
    const at = position(this.#nextCommitEnd++);
    const transaction: TransactionRef = {
      id: this.#nextTransaction++ as TransactionId,
      at,
      committedAtMicros: BigInt(Date.now()) * 1000n,
    };
    const changes = operations.map((operation) => ({ table: operation.table, change: this.#changeOf(operation) }));
    const pieces = pieceLengths === undefined ? null : inPieces(changes, pieceLengths);
    const logged: Logged = { at, transaction, changes, events: eventsAt?.(at) ?? [], pieces };
    this.#end = at;
    if (this.#tracked === null) this.#floor = at;
    else this.#log.push(logged);
    return logged;
  }

  #changeOf(operation: MemoryOperation): Change {
    const table = this.#require(operation.table);
    for (const { operations } of this.#unseen.values()) {
      if (operations.some((other) => other.table === operation.table && touches(table, other, operation))) {
        throw new Error(`a row of ${operation.table} is locked by a transaction that is not visible yet`);
      }
    }
    if (operation.kind === 'truncate') return { kind: 'truncate' };
    if (operation.kind === 'delete') return { kind: 'delete', key: operation.key };
    if (operation.kind === 'move') return { kind: 'update', row: operation.row, oldKey: operation.key };
    const known = this.#tables.get(operation.table)?.has(identityOf(keyTuple(operation.row, table.key)));
    return known === true ? { kind: 'update', row: operation.row, oldKey: null } : { kind: 'insert', row: operation.row };
  }

  #apply(operations: readonly MemoryOperation[]): void {
    for (const operation of operations) {
      const table = this.#require(operation.table);
      const rows = this.#tables.get(operation.table) as Rows;
      if (operation.kind === 'truncate') {
        rows.clear();
        continue;
      }
      const after = operation.kind === 'delete' ? null : operation.row;
      const before = identityOf(operation.kind === 'put' ? keyTuple(operation.row, table.key) : operation.key);
      const stood = rows.get(before);
      if (operation.kind !== 'put') rows.delete(before);
      if (after !== null) rows.set(identityOfRow(after, table.key), stood === undefined ? after : fillAbsent(after, stood));
    }
  }

  /** What is in the log, up to the next transaction that comes in pieces; or that one, piece by piece. */
  #items(after: Position, evidence: string): PrimaryItem[] {
    const waiting = this.#log.filter((each) => each.at > after);
    const [first] = waiting;
    if (first === undefined) return [];
    if (first.pieces !== null) {
      const { at: through, transaction, events, pieces } = first;
      const items = pieces.map((changes): PrimaryItem => {
        const blocks = this.#blocks([{ transaction, changes }]).map((block) => ({ ...block, part: 0 }));
        return { kind: 'piece', piece: { transaction: transaction.id, blocks } };
      });
      const adopts = [{ transaction, dropped: new Set<number>() }];
      return [...items, { kind: 'batch', batch: { after, through, blocks: [], adopts, events }, evidence }];
    }
    const next = waiting.findIndex(({ pieces }) => pieces !== null);
    const logged = next === -1 ? waiting : waiting.slice(0, next);
    const through = (logged.at(-1) as Logged).at;
    const events = logged.flatMap((each) => each.events);
    return [{ kind: 'batch', batch: { after, through, blocks: this.#blocks(logged), adopts: [], events }, evidence }];
  }

  #blocks(transactions: readonly Pick<Logged, 'transaction' | 'changes'>[]): ChangeBlock[] {
    const writers = new Map<TableName, BlockWriter>();
    for (const { transaction, changes } of transactions) {
      for (const { table, change } of changes) {
        if (this.#tracked?.has(table) !== true) continue;
        const writer = writers.get(table) ?? new BlockWriter(table);
        writers.set(table, writer);
        writer.transaction(transaction);
        write(writer, change);
      }
    }
    return [...writers.values()].map((writer) => writer.take()).filter((block): block is ChangeBlock => block !== null);
  }

  /** Positions keep rising: the gap has one of its own. */
  #gap(after: Position): TrackedBatch {
    if (this.#end <= after) this.#nextCommitEnd = commitEndOf(after) + 1n;
    const { at } = this.#commit([]);
    this.#floor = this.#end;
    this.#log = [];
    const reason = 'the log was lost';
    const events = [...(this.#tracked ?? [])].map((table): TableEvent => ({ kind: 'gap', table, at, reason }));
    return { after, through: at, blocks: [], adopts: [], events };
  }

  #require(name: TableName): TableSchema {
    const table = tableOf(this.#schema, name);
    if (table === undefined) throw new Error(`the primary has no table ${name}`);
    return table;
  }
}

class MemorySnapshot implements PrimarySnapshot {
  readonly end: Position;
  readonly #schema: DataSetSchema;
  readonly #tables: ReadonlyMap<TableName, Rows>;
  readonly #unseen: ReadonlySet<TransactionId>;

  constructor(schema: DataSetSchema, tables: ReadonlyMap<TableName, Rows>, end: Position, unseen: ReadonlySet<TransactionId>) {
    this.#schema = schema;
    this.#tables = tables;
    this.end = end;
    this.#unseen = unseen;
  }

  includes(transaction: TransactionRef): boolean {
    return transaction.at <= this.end && !this.#unseen.has(transaction.id);
  }

  async describe(table: TableName): Promise<TableSchema | null> {
    return tableOf(this.#schema, table) ?? null;
  }

  async rows(table: TableSchema, after: KeyTuple | null, limit: RowLimit): Promise<RowChunk> {
    const rows: Tuple[] = [];
    let bytes = 0;
    for (const row of sorted(this.#tables.get(table.table) ?? new Map())) {
      if (after !== null && compareKeys(keyTuple(row, table.key), after) <= 0) continue;
      if (rows.length >= limit.rows || (rows.length > 0 && bytes >= limit.bytes)) {
        return { rows, through: keyTuple(rows.at(-1) as Tuple, table.key) };
      }
      rows.push(row);
      bytes += row.length;
    }
    return { rows, through: null };
  }

  async rowsByKey(table: TableSchema, keys: readonly KeyTuple[]): Promise<Tuple[]> {
    return keys.map((key) => this.#tables.get(table.table)?.get(identityOf(key))).filter((row) => row !== undefined);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#tables.forEach((rows) => rows.clear());
  }
}

function inPieces<T>(all: readonly T[], lengths: readonly number[]): T[][] {
  let end = 0;
  return lengths.map((length) => all.slice(end, (end += length)));
}

function write(writer: BlockWriter, change: Change): void {
  switch (change.kind) {
    case 'insert':
      return writer.insert(change.row);
    case 'update':
      return writer.update(change.row, change.oldKey);
    case 'delete':
      return writer.delete(change.key);
    case 'truncate':
      return writer.truncate();
  }
}

function touches(table: TableSchema, a: MemoryOperation, b: MemoryOperation): boolean {
  if (a.kind === 'truncate' || b.kind === 'truncate') return true;
  const keysOf = (operation: typeof a) => [
    ...(operation.kind === 'put' ? [] : [operation.key]),
    ...(operation.kind === 'delete' ? [] : [keyTuple(operation.row, table.key)]),
  ];
  return keysOf(a).some((key) => keysOf(b).some((other) => key.equals(other)));
}

function sorted(rows: ReadonlyMap<Identity, Tuple>): Tuple[] {
  return [...rows].toSorted(([a], [b]) => compareKeys(keyOfIdentity(a), keyOfIdentity(b))).map(([, row]) => row);
}

function notInstalled(): ForeshadowError {
  return new ForeshadowError('NOT_INSTALLED', 'the primary in memory is not tracked', { remedy: 'Install tracking first.' });
}
