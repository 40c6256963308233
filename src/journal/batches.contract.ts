/** Batches in the short hand the suites of the journal are written in, and a reader that shows what it sees. */

import type {
  ChangeBlock,
  EndedTransaction,
  TableEvent,
  TrackedBatch,
  TransactionId,
  TransactionPiece,
  TransactionRef,
} from '../model/change.ts';
import { type Position, position } from '../model/position.ts';
import type { TableName } from '../model/schema.ts';
import { type KeyTuple, packTuple } from '../model/tuple.ts';
import { BlockWriter, walkBlock } from './frame.ts';
import type { Journal } from './journal.ts';

/** A transaction as the tests write it: its end, its id, and the numbers of the rows it puts, by table. */
export interface Written {
  readonly end: number;
  readonly id?: number;
  readonly rows: Readonly<Record<string, readonly number[]>>;
}

export const ORDERS = 'orders' as TableName;
export const STOCK = 'stock' as TableName;
export const FOREVER = new AbortController().signal;

export function at(end: number): Position {
  return position(BigInt(end));
}

function refOf(written: Written): TransactionRef {
  return { id: BigInt(written.id ?? written.end) as TransactionId, at: at(written.end), committedAtMicros: BigInt(written.end) * 1000n };
}

export function rowOf(value: number): KeyTuple {
  const cell = Buffer.alloc(4);
  cell.writeInt32BE(value);
  return packTuple([cell]) as KeyTuple;
}

/** A batch of whole transactions; `through` defaults to the end of the last. */
export function batchOf(after: number, transactions: readonly Written[], more: Partial<TrackedBatch> = {}): TrackedBatch {
  const writers = new Map<string, BlockWriter>();
  for (const written of transactions) {
    for (const [table, rows] of Object.entries(written.rows)) {
      const writer = writers.get(table) ?? new BlockWriter(table as TableName);
      writers.set(table, writer);
      writer.transaction(refOf(written));
      for (const row of rows) writer.insert(rowOf(row));
    }
  }
  const blocks = [...writers.values()].map((writer) => writer.take()).filter((block) => block !== null);
  return { after: at(after), through: at(transactions.at(-1)?.end ?? after), blocks, adopts: [], events: [], ...more };
}

/** What a reader of the journal sees: `end:row`, in order. */
export async function rowsIn(journal: Journal, table: TableName, after: Position, upTo: Position): Promise<string[]> {
  const seen: string[] = [];
  for await (const block of journal.read(table, after, upTo, FOREVER)) seen.push(...rowsOf(block, after, upTo));
  return seen;
}

export function rowsOf(block: ChangeBlock, after: Position, upTo: Position): string[] {
  const seen: string[] = [];
  let end = '';
  const put = (row: Buffer) => seen.push(`${end}:${row.readInt32BE(6)}`);
  walkBlock(block, after, upTo, {
    transaction: (ref) => {
      end = BigInt(`0x${ref.at.slice(0, 16)}`).toString();
      return true;
    },
    insert: put,
    update: put,
    delete: put,
    truncate: () => seen.push(`${end}:truncate`),
  });
  return seen;
}

export function eventAt(end: number, table: TableName = ORDERS): TableEvent {
  return { kind: 'schema-changed', table, at: at(end), reason: `at ${end}` };
}

/** A rejection's code, for outcomes that may be either. */
export function codeOf(error: unknown): unknown {
  return (error as { code?: unknown }).code ?? error;
}

/** A piece of a transaction that has not ended: rows by part, in this order. */
export function piece(
  transaction: number,
  parts: readonly (readonly [part: number, rows: readonly number[]])[],
  table = ORDERS,
): TransactionPiece {
  const writer = new BlockWriter(table);
  for (const [part, rows] of parts) {
    writer.part(part);
    for (const row of rows) writer.insert(rowOf(row));
  }
  const block = writer.takeOpen();
  return { transaction: BigInt(transaction) as TransactionId, blocks: block === null ? [] : [block] };
}

/** What became of a transaction that came in pieces. */
export function ended(end: number, id: number, dropped: readonly number[] = []): EndedTransaction {
  return { transaction: refOf({ end, id, rows: {} }), dropped: new Set(dropped) };
}

/** What the parts of the suite share: the journal of the test that runs, and short forms of its calls. */
export interface Means {
  readonly begin: () => Promise<void>;
  readonly append: (batch: TrackedBatch, evidence?: string) => Promise<ReadonlyMap<TableName, number>>;
  readonly all: (table?: TableName) => Promise<string[]>;
  readonly journal: () => Journal;
}
