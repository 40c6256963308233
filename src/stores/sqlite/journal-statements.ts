import type { DatabaseSync, StatementSync } from 'node:sqlite';
import type { TableEvent } from '../../model/change.ts';
import type { TableName } from '../../model/schema.ts';

export interface FrameRow {
  readonly id: number;
  readonly first: string;
  readonly last: string;
  readonly changes: number;
  readonly crc: number;
  /** Null where the bytes name their transactions. */
  readonly spool: string | null;
}

export interface SpooledRow extends Pick<FrameRow, 'id' | 'changes' | 'crc'> {
  readonly part: number | null;
}

export interface AdoptedRow {
  readonly spool: string;
  readonly committed_micros: string;
  /** Parts, with a space between. */
  readonly dropped: string;
}

export interface StateRow {
  readonly id: string;
  readonly began: string | null;
  readonly head: string | null;
  readonly evidence: string | null;
  readonly first_id: number;
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
  readonly id: number;
  readonly last: string;
}

export interface FrameRef {
  readonly id: number;
  /** 1: it holds changes of one transaction only. */
  readonly whole: number;
}

/** Up to where a table's frames go. */
export interface PruneTop {
  readonly known: { readonly number: number };
  readonly floor: string;
}

/** Drops frames of table after table, as many as it is asked for. Returns how many it found: fewer where that was all. */
export function dropping(pruneFrames: StatementSync, tops: readonly PruneTop[], belowId: number): (frames: number) => number {
  let next = 0;
  return (frames) => {
    let left = frames;
    for (let top = tops[next]; left > 0 && top !== undefined; top = tops[next]) {
      const dropped = Number(pruneFrames.run(top.known.number, top.floor, belowId, left).changes);
      if (dropped < left) next++;
      left -= dropped;
    }
    return frames - left;
  };
}

/** What the journal asks of its file, over the tables of `journal-file.ts`. */
export type Statements = ReturnType<typeof prepareStatements>;

export function prepareStatements(db: DatabaseSync) {
  const sql = (text: string): StatementSync => db.prepare(text);
  return {
    state: sql('SELECT id, began, head, evidence, first_id FROM state'),
    saveState: sql('UPDATE state SET began = ?, head = ?, evidence = ?, first_id = ?'),
    highestId: sql('SELECT max(coalesce((SELECT max(id) FROM frames), 0), coalesce((SELECT max(id) FROM events), 0)) AS id'),
    tables: sql('SELECT number, name, floor FROM tables'),
    insertTable: sql('INSERT INTO tables (number, name, floor) VALUES (?, ?, ?)'),
    setFloor: sql('UPDATE tables SET floor = ? WHERE number = ?'),
    resetFloors: sql('UPDATE tables SET floor = ?'),
    insertFrame: sql('INSERT INTO frames VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)'),
    bytes: sql('SELECT bytes FROM frame_bytes WHERE id = ?'),
    insertBytes: sql('INSERT INTO frame_bytes VALUES (?, ?)'),
    adoptedChanges: sql(`
      SELECT name, sum(changes) AS changes FROM frames JOIN tables ON number = tbl WHERE spool = ? AND last IS NULL GROUP BY name`),
    adoptFrames: sql(`
      UPDATE frames SET first = coalesce(first, ?1), last = ?1, part = NULL, spool = CASE WHEN first IS NULL THEN spool END
      WHERE spool = ?2 AND last IS NULL`),
    insertAdopted: sql('INSERT OR REPLACE INTO adopted VALUES (?, ?, ?, ?)'),
    adopted: sql('SELECT spool, committed_micros, dropped FROM adopted WHERE at = ?'),
    insertEvent: sql('INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)'),
    // A frame that goes on with the transaction the last one ended in has the same `last` and a higher id.
    read: sql(`
      SELECT id, first, last, changes, crc, spool FROM frames INDEXED BY frames_of_table
      WHERE tbl = ?1 AND last >= ?2 AND (last > ?2 OR ?3 > 0 AND id > ?3) AND id >= ?4
      ORDER BY last, id`),
    spooled: sql(`
      SELECT id, part, changes, crc FROM frames INDEXED BY frames_of_spool
      WHERE spool = ?1 AND last IS ?2 AND id > ?3 AND tbl = ?4 AND (first IS NULL OR last IS NOT NULL)
      ORDER BY id LIMIT ?5`),
    frame: sql(`SELECT frames.*, name FROM frames JOIN tables ON number = tbl WHERE id = ?`),
    framesWith: sql(`
      SELECT id, lowest_transaction = highest_transaction AS whole FROM frames INDEXED BY frames_of_transaction
      WHERE highest_transaction >= ?1 AND lowest_transaction <= ?1 AND first <= ?2 AND last IS NOT NULL AND id >= ?3
      ORDER BY whole DESC`),
    events: sql('SELECT kind, at, reason, change FROM events WHERE tbl = ? AND at > ? AND at <= ? AND id >= ? ORDER BY at, id'),
    lastChange: sql('SELECT last FROM frames WHERE tbl = ? AND last IS NOT NULL AND id >= ? ORDER BY last DESC LIMIT 1'),
    pruneTop: sql(`
      SELECT id, last FROM (
        SELECT * FROM (SELECT id, last FROM frames WHERE tbl = ?1 AND last <= ?2 AND id >= ?3 ORDER BY last DESC, id DESC LIMIT 1)
        UNION ALL
        SELECT * FROM (SELECT id, at FROM events WHERE tbl = ?1 AND at <= ?2 AND id >= ?3 ORDER BY at DESC, id DESC LIMIT 1))
      ORDER BY last DESC, id DESC LIMIT 1`),
    pruneFrames: sql(`
      DELETE FROM frames WHERE id IN (SELECT id FROM frames WHERE tbl = ? AND last <= ? AND id < ? ORDER BY last, id LIMIT ?)`),
    pruneEvents: sql('DELETE FROM events WHERE tbl = ? AND at <= ? AND id < ?'),
    pruneAdopted: sql(`
      DELETE FROM adopted WHERE at <= ? AND NOT EXISTS (SELECT 1 FROM frames WHERE frames.spool = adopted.spool AND frames.last = adopted.at)`),
    dropSpooled: sql(`
      DELETE FROM frames WHERE id IN (SELECT id FROM frames WHERE spool IS NOT NULL AND last IS NULL LIMIT ?)`),
    dropSpool: sql('DELETE FROM frames WHERE id IN (SELECT id FROM frames WHERE spool = ? AND last IS NULL LIMIT ?)'),
    dropSpoolPart: sql(`
      DELETE FROM frames WHERE id IN (SELECT id FROM frames WHERE spool = ? AND last IS NULL AND part = ? LIMIT ?)`),
    dropFramesBelow: sql('DELETE FROM frames WHERE id IN (SELECT id FROM frames WHERE id < ? ORDER BY id LIMIT ?)'),
    dropEventsBelow: sql('DELETE FROM events WHERE id < ?'),
  };
}
