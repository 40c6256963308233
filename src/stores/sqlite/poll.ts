import type { DatabaseSync, SQLOutputValue } from 'node:sqlite';
import { BlockWriter } from '../../journal/frame.ts';
import type { ChangeBlock, TableEvent, TransactionId, TransactionRef } from '../../model/change.ts';
import { type Position, position } from '../../model/position.ts';
import type { TableName } from '../../model/schema.ts';
import { type KeyTuple, type Tuple, keyTuple } from '../../model/tuple.ts';
import type { PrimaryItem } from '../../tracking/primary.ts';
import { quoteIdentifier } from './connection.ts';
import { NO_TABLE, type TrackedTable } from './log.ts';
import { BrokenText, type ReadForm, keyCondition, packForm, prepareArrays, rowExpressions, selectList } from './rows.ts';
import { LOG } from './triggers.ts';

/** Blocks of one piece of a poll together hold about this many bytes at most, unless one row is larger. */
const PIECE_BYTES = 2 << 20;

/** A stretch of the log, from one poll's end to the next's. */
export interface PollRange {
  readonly after: bigint;
  readonly through: bigint;
}

/**
 * Reads the changes of one poll: the keys logged in the range, and the rows that stand under them now, in the read transaction
 * that is open. A row that exists is an update (it may be new), one that does not is a delete. Key mode has no other positions
 * than the ends of polls, so all of it is one transaction; of a large one all but the last blocks come in pieces.
 */
export function* readPoll(db: DatabaseSync, tables: readonly TrackedTable[], range: PollRange, evidence: string): Generator<PrimaryItem> {
  const after = position(range.after);
  const through = position(range.through);
  const events = readEvents(db, range, through);
  const reshaped = new Set(
    events.filter((event) => event.kind === 'schema-changed' || event.kind === 'dropped').map((event) => event.table),
  );
  const changed = changedTables(db, range);
  const id = range.through as TransactionId;
  const transaction: TransactionRef = { id, at: through, committedAtMicros: BigInt(Date.now()) * 1000n };
  let inPieces = false;
  let blocks: ChangeBlock[] = [];
  let bytes = 0;
  for (const tracked of tables) {
    // Rows of a table whose shape changed would be read in the new shape, before the event that announces it.
    if (!changed.has(tracked.id) || reshaped.has(tracked.table.schema.table)) continue;
    for (const block of readTable(db, tracked, range, transaction)) {
      blocks.push(block);
      bytes += block.bytes.length;
      if (bytes < PIECE_BYTES) continue;
      inPieces = true;
      yield { kind: 'piece', piece: { transaction: id, blocks: blocks.map((each) => ({ ...each, part: 0 })) } };
      blocks = [];
      bytes = 0;
    }
  }
  const adopts = inPieces ? [{ transaction, dropped: new Set<number>() }] : [];
  yield { kind: 'batch', batch: { after, through, blocks, adopts, events }, evidence };
}

function readEvents(db: DatabaseSync, range: PollRange, at: Position): TableEvent[] {
  const rows = db
    .prepare(
      `SELECT k1 AS kind, k2 AS name, k3 AS reason FROM ${LOG} WHERE seq > ? AND seq <= ? AND tbl = ${NO_TABLE} AND k1 IS NOT NULL ORDER BY seq`,
    )
    .all(range.after, range.through) as { kind: TableEvent['kind']; name: TableName; reason: string }[];
  return rows.map((row) => ({ kind: row.kind, table: row.name, at, reason: row.reason }));
}

function changedTables(db: DatabaseSync, range: PollRange): Set<bigint> {
  const rows = db.prepare(`SELECT DISTINCT tbl FROM ${LOG} WHERE seq > ? AND seq <= ?`).all(range.after, range.through);
  return new Set((rows as { tbl: bigint }[]).map((row) => row.tbl));
}

function* readTable(db: DatabaseSync, tracked: TrackedTable, range: PollRange, transaction: TransactionRef): Generator<ChangeBlock> {
  const { table } = tracked;
  let form: ReadForm = table.utf16 ? 'unchecked' : 'plain';
  // After broken text everything is read again, but what was already handed out is skipped.
  let done = 0;
  for (;;) {
    const writer = new BlockWriter(table.schema.table);
    let seen = 0;
    try {
      for (const { key, row } of readChanged(db, tracked, range, form)) {
        if (seen++ < done) continue;
        writer.transaction(transaction);
        if (row !== null) writer.update(row, null);
        else if (key !== null) writer.delete(key);
        if (writer.length < PIECE_BYTES / 2) continue;
        yield writer.take() as ChangeBlock;
        done = seen;
      }
      const rest = writer.take();
      if (rest !== null) yield rest;
      return;
    } catch (error) {
      if (!(error instanceof BrokenText)) throw error;
      form = 'exact';
    }
  }
}

type ChangedRow = { readonly key: KeyTuple; readonly row: null } | { readonly key: null; readonly row: Tuple };

/** Each distinct key once, as the row under it or, without one, as itself; always in the same order within one transaction. */
function* readChanged(db: DatabaseSync, tracked: TrackedTable, range: PollRange, form: ReadForm): Generator<ChangedRow> {
  const { table } = tracked;
  const width = table.schema.key.length;
  const columns = table.schema.columns.length;
  const step = form === 'exact' ? 2 : 1;
  const exists = (width + columns) * step;
  const exact = table.identity === 'rowid' || table.identity === 'hidden';
  for (const by of lookups(tracked)) {
    for (const values of prepareArrays(db, changedRowsSql(tracked, by, form)).iterate(tracked.id, range.after, range.through)) {
      const cells = values as unknown as SQLOutputValue[];
      const row = cells[exists] === 0n ? null : packForm(cells, form, width, width + columns);
      if (row !== null && exact) {
        yield { key: null, row };
        continue;
      }
      const key = packForm(cells, form, 0, width) as KeyTuple;
      // The row found may bear another key that SQLite holds equal (1 for 1.0, 'A' for 'a'): that key was logged too.
      const same = row !== null && keyTuple(row, table.schema.key).equals(key);
      yield same ? { key: null, row } : { key, row: null };
    }
  }
}

function lookups({ table }: TrackedTable): ('columns' | 'rowid')[] {
  if (table.identity === 'nullable') return ['columns', 'rowid'];
  return [table.identity === 'hidden' ? 'rowid' : 'columns'];
}

function changedRowsSql({ table }: TrackedTable, by: 'columns' | 'rowid', form: ReadForm): string {
  const keys = table.schema.key.map((_, at) => `k${at + 1}`);
  // 1 and 1.0 are one value to DISTINCT, and two keys.
  const types = keys.filter((_, at) => table.keyColumns[at]?.loose === true).map((key) => `typeof(${key})`);
  const hidden = keys.at(-1) as string;
  const only = table.identity === 'nullable' ? ` AND ${hidden} IS ${by === 'rowid' ? 'NOT NULL' : 'NULL'}` : '';
  const distinct = `SELECT DISTINCT ${[...keys, ...types].join(', ')} FROM ${LOG} WHERE tbl = ? AND seq > ? AND seq <= ?${only} ORDER BY ${[...keys, ...types].join(', ')}`;
  const present = table.rowid === null ? `t.${quoteIdentifier(table.keyColumns[0]?.name ?? '')}` : `t.${table.rowid}`;
  const list = [
    selectList(
      keys.map((key) => `d.${key}`),
      form,
    ),
    selectList(rowExpressions(table, 't'), form),
    `${present} IS NOT NULL`,
  ].join(', ');
  const match = keyCondition(table, 't', (at) => `d.k${at + 1}`, by);
  return `SELECT ${list} FROM (${distinct}) AS d LEFT JOIN ${quoteIdentifier(table.schema.table)} AS t ON ${match}`;
}
