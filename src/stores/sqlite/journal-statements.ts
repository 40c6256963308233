import type { DatabaseSync, StatementSync } from 'node:sqlite';
import type { TableEvent } from '../../model/change.ts';
import type { TableName } from '../../model/schema.ts';

export interface FrameRow {
  readonly id: number;
  readonly first: string;
  readonly last: string;
  readonly changes: number;
  readonly crc: number;
  readonly bytes: Uint8Array;
}

export interface StateRow {
  readonly id: string;
  readonly began: string | null;
  readonly head: string | null;
  readonly evidence: string | null;
  readonly first_id: number;
  readonly last_id: number;
}

export interface TableRow {
  readonly number: number;
  readonly name: TableName;
  readonly floor: string;
}

export interface EventRow {
  readonly kind: TableEvent['kind'];
  readonly at: string;
  readonly reason: string;
  /** A `ShapeChange` as JSON. */
  readonly change: string | null;
}

export interface PruneRow {
  readonly id: number | null;
  readonly last: string | null;
}

/** What the journal asks of its file, over the tables of `journal-file.ts`. */
export type Statements = ReturnType<typeof prepareStatements>;

export function prepareStatements(db: DatabaseSync) {
  const sql = (text: string): StatementSync => db.prepare(text);
  return {
    state: sql('SELECT id, began, head, evidence, first_id, last_id FROM state'),
    saveState: sql('UPDATE state SET began = ?, head = ?, evidence = ?, first_id = ?, last_id = ?'),
    tables: sql('SELECT number, name, floor FROM tables'),
    insertTable: sql('INSERT INTO tables (number, name, floor) VALUES (?, ?, ?)'),
    setFloor: sql('UPDATE tables SET floor = ? WHERE number = ?'),
    resetFloors: sql('UPDATE tables SET floor = ?'),
    insertFrame: sql('INSERT INTO frames VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)'),
    insertEvent: sql('INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)'),
    // A frame that goes on with the transaction the last one ended in has the same `last` and a higher id.
    read: sql(`
      SELECT id, first, last, changes, crc, bytes FROM frames INDEXED BY frames_of_table
      WHERE tbl = ?1 AND last >= ?2 AND (last > ?2 OR ?3 > 0 AND id > ?3) AND id BETWEEN ?4 AND ?5
      ORDER BY last, id`),
    frame: sql(`SELECT frames.*, tables.name FROM frames JOIN tables ON number = tbl WHERE id = ?`),
    framesWith: sql(`
      SELECT id FROM frames INDEXED BY frames_of_transaction
      WHERE highest_transaction >= ?1 AND lowest_transaction <= ?1 AND first <= ?2 AND id BETWEEN ?3 AND ?4`),
    events: sql('SELECT kind, at, reason, change FROM events WHERE tbl = ? AND at > ? AND at <= ? AND id BETWEEN ? AND ? ORDER BY at, id'),
    lastChange: sql('SELECT last FROM frames WHERE tbl = ? AND id BETWEEN ? AND ? ORDER BY last DESC LIMIT 1'),
    pruneTop: sql(`
      SELECT max(id) AS id, max(last) AS last FROM (
        SELECT max(id) AS id, max(last) AS last FROM frames WHERE tbl = ?1 AND last <= ?2 AND id BETWEEN ?3 AND ?4
        UNION ALL SELECT max(id), max(at) FROM events WHERE tbl = ?1 AND at <= ?2 AND id BETWEEN ?3 AND ?4)`),
    pruneFrames: sql(`
      DELETE FROM frames WHERE id IN (SELECT id FROM frames WHERE tbl = ? AND last <= ? AND id <= ? ORDER BY last, id LIMIT ?)`),
    pruneEvents: sql('DELETE FROM events WHERE tbl = ? AND at <= ? AND id <= ?'),
    dropPieces: sql('DELETE FROM frames WHERE id > ?'),
    dropFramesBelow: sql('DELETE FROM frames WHERE id IN (SELECT id FROM frames WHERE id < ? ORDER BY id LIMIT ?)'),
    dropFramesAbove: sql('DELETE FROM frames WHERE id IN (SELECT id FROM frames WHERE id > ? ORDER BY id LIMIT ?)'),
    dropEventsOutside: sql('DELETE FROM events WHERE id NOT BETWEEN ? AND ?'),
  };
}
