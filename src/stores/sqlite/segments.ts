import type { DatabaseSync } from 'node:sqlite';
import { type CaptureNumber, captureNumber } from '../../model/capture.ts';
import { ForeshadowError } from '../../model/errors.ts';
import { parsePosition } from '../../model/position.ts';
import type { Element, ElementState, Generation, Progress } from '../../model/progress.ts';
import { type DataSetSchema, OWN_PREFIX, type TableName, type TableSchema } from '../../model/schema.ts';
import type { KeyTuple } from '../../model/tuple.ts';
import { type ApplyWork, requireGround } from '../../shadowing/shadow.ts';
import { dropGuard, guardStands, guardStatements, sealStatements } from './guard.ts';
import { type Layout, type Segment, createStatements, historyName, layoutOf, retiredNames } from './layout.ts';

const SEGMENT = `${OWN_PREFIX}_segment`;
const ELEMENT = `${OWN_PREFIX}_element`;
const CAPTURE = `${OWN_PREFIX}_capture`;

interface SegmentRow {
  readonly id: bigint;
  readonly tbl: string;
  readonly schema: string;
  readonly live: string;
  readonly history: string;
  readonly first: bigint;
  readonly last: bigint | null;
}

interface ElementRow {
  readonly tbl: string;
  readonly schema: string;
  readonly state: string;
  readonly generation: bigint;
  readonly low: string;
  readonly high: string;
  readonly capture: bigint;
}

export function readElements(db: DatabaseSync): Map<TableName, Element> {
  const rows = db.prepare(`SELECT e.*, s.schema FROM ${ELEMENT} e JOIN ${SEGMENT} s ON s.id = e.segment ORDER BY e.tbl`).all();
  return new Map((rows as unknown as ElementRow[]).map((row) => [row.tbl as TableName, elementOf(row)]));
}

function elementOf(row: ElementRow): Element {
  return {
    schema: JSON.parse(row.schema) as TableSchema,
    state: parseState(row.state),
    progress: {
      generation: Number(row.generation) as Generation,
      low: parsePosition(row.low),
      high: parsePosition(row.high),
      capture: captureNumber(Number(row.capture)),
    },
  };
}

/** The frontier is bytes, which JSON has no form for. */
function stateText(state: ElementState): string {
  return JSON.stringify(state.kind === 'copying' ? { ...state, frontier: state.frontier?.toString('base64') ?? null } : state);
}

function parseState(text: string): ElementState {
  const state = JSON.parse(text) as { kind: string; frontier?: string | null };
  if (state.kind !== 'copying') return state as ElementState;
  const frontier = state.frontier == null ? null : (Buffer.from(state.frontier, 'base64') as unknown as KeyTuple);
  return { ...state, frontier } as ElementState;
}

/**
 * Stores how far an element is. Throws FENCED where that would move back within a generation, TABLE_MISSING without an element; the ground
 * of an `apply` is asked for too.
 */
export function advanceElement(
  db: DatabaseSync,
  work: Pick<ApplyWork, 'table' | 'progress' | 'state'> & Partial<Pick<ApplyWork, 'from'>>,
): void {
  const { table, from, progress, state } = work;
  const before = readElements(db).get(table)?.progress;
  if (before === undefined) throw missingTable(table);
  if (from !== undefined) requireGround({ table, from, progress }, before);
  const { generation, low, high, capture } = progress;
  const back = generation === before.generation && (low < before.low || high < before.high || capture < before.capture);
  if (generation < before.generation || back) {
    throw new ForeshadowError(
      'FENCED',
      `the progress of ${table} would move back (${before.low} to ${low}): another writer has been here`,
      {
        remedy: 'Start Foreshadow again: it goes on from what the shadow holds.',
      },
    );
  }
  db.prepare(`UPDATE ${ELEMENT} SET state = ?, generation = ?, low = ?, high = ?, capture = ? WHERE tbl = ?`).run(
    stateText(state),
    generation,
    low,
    high,
    capture,
    table,
  );
}

export function missingTable(table: TableName): ForeshadowError {
  return new ForeshadowError('TABLE_MISSING', `the shadow does not hold a table ${table}`, {
    remedy: 'Check the name; "foreshadow status" lists the tables of the data set.',
  });
}

/** Tables, views and indexes of somebody else's that stand where a table of the data set would. SQLite's names ignore case. */
export function occupiedBy(db: DatabaseSync, tables: readonly TableName[], prepared: boolean): TableName[] {
  const ours = new Set(prepared ? liveSegments(db).map((segment) => segment.table.toLowerCase()) : []);
  const standing = new Set(
    (db.prepare('SELECT name FROM main.sqlite_schema').all() as { name: string }[]).map((row) => row.name.toLowerCase()),
  );
  return tables.filter((table) => standing.has(table.toLowerCase()) && !ours.has(table.toLowerCase()));
}

export function occupiedError(path: string, tables: readonly TableName[]): ForeshadowError {
  return new ForeshadowError('SHADOW_OCCUPIED', `the shadow ${path} already holds ${tables.join(', ')}, not made by Foreshadow`, {
    remedy: 'Name a file that does not exist yet as the shadow, or move those tables out of this one.',
  });
}

export function prepareTables(db: DatabaseSync, path: string, schema: DataSetSchema, state: ElementState, progress: Progress): void {
  const elements = readElements(db);
  const missing = schema.tables.filter((table) => !elements.has(table.table));
  const names = missing.map((table) => table.table);
  const occupied = occupiedBy(db, names, true);
  if (occupied.length > 0) throw occupiedError(path, occupied);
  for (const table of missing) startSegment(db, table, state, progress);
  // A guard that somebody removed is put up again: what was written meanwhile is for validation to find.
  const triggers = db.prepare(`SELECT name FROM main.sqlite_schema WHERE type = 'trigger'`).all() as { name: string }[];
  const present = new Set(triggers.map(({ name }) => name));
  for (const segment of liveSegments(db)) {
    if (guardStands(segment.id, present)) continue;
    for (const statement of [...dropGuard(segment.id), ...guardStatements(layoutOf(segment))]) db.exec(statement);
  }
}

/** `INSERT OR REPLACE` keeps the element's row one, whether or not there was one before. */
function startSegment(db: DatabaseSync, schema: TableSchema, state: ElementState, progress: Progress): void {
  const { table } = schema;
  const history = historyName(table);
  const { lastInsertRowid } = db
    .prepare(`INSERT INTO ${SEGMENT} (tbl, schema, live, history, first) VALUES (?, ?, ?, ?, ?)`)
    .run(table, JSON.stringify(schema), table, history, progress.capture);
  const id = Number(lastInsertRowid);
  const layout = layoutOf({ id, table, schema, live: table, history, first: progress.capture, last: null });
  for (const statement of [...createStatements(layout), ...guardStatements(layout)]) db.exec(statement);
  db.prepare(`INSERT OR REPLACE INTO ${ELEMENT} (tbl, segment, state, generation, low, high, capture) VALUES (?, ?, ?, ?, ?, ?, ?)`).run(
    table,
    id,
    stateText(state),
    progress.generation,
    progress.low,
    progress.high,
    progress.capture,
  );
}

/**
 * Renames the table and its history out of the way, closed to other writers, or drops them where no capture reads them.
 * Renaming costs the same for any number of rows. FOREIGN stamps go along: reads pass over them there as before.
 */
export function retireTable(db: DatabaseSync, table: TableName, schema: TableSchema | null, state: ElementState, progress: Progress): void {
  const segment = liveSegment(db, table);
  advanceElement(db, { table, progress, state });
  const layout = layoutOf(segment);
  const last = progress.capture - 1;
  for (const statement of dropGuard(segment.id)) db.exec(statement);
  if (isRead(db, segment.first, last)) {
    const names = retiredNames(segment.id, table);
    db.exec(`ALTER TABLE ${layout.live} RENAME TO ${quoted(names.live)}; ALTER TABLE ${layout.history} RENAME TO ${quoted(names.history)}`);
    db.prepare(`UPDATE ${SEGMENT} SET live = ?, history = ?, last = ? WHERE id = ?`).run(names.live, names.history, last, segment.id);
    const retired = layoutOf({ ...segment, ...names });
    for (const statement of sealStatements(segment.id, [retired.live, retired.history])) db.exec(statement);
  } else {
    for (const name of [layout.live, layout.history, layout.inserted]) db.exec(`DROP TABLE ${name}`);
    db.prepare(`DELETE FROM ${SEGMENT} WHERE id = ?`).run(segment.id);
  }
  if (schema === null) db.prepare(`DELETE FROM ${ELEMENT} WHERE tbl = ?`).run(table);
  else startSegment(db, schema, state, progress);
}

function quoted(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}

/** Whether a capture was cut in this range, or may still be. */
function isRead(db: DatabaseSync, first: number, last: number): boolean {
  const sql = `SELECT 1 FROM ${CAPTURE} WHERE number BETWEEN ? AND ? AND state NOT IN ('aborted', 'expired') LIMIT 1`;
  return db.prepare(sql).get(first, last) !== undefined;
}

function segmentOf(row: SegmentRow): Segment {
  return {
    id: Number(row.id),
    table: row.tbl as TableName,
    schema: JSON.parse(row.schema) as TableSchema,
    live: row.live,
    history: row.history,
    first: captureNumber(Number(row.first)),
    last: row.last === null ? null : captureNumber(Number(row.last)),
  };
}

export function liveSegments(db: DatabaseSync): Segment[] {
  const sql = `SELECT s.* FROM ${SEGMENT} s JOIN ${ELEMENT} e ON e.segment = s.id ORDER BY s.tbl`;
  return (db.prepare(sql).all() as unknown as SegmentRow[]).map(segmentOf);
}

export function liveSegment(db: DatabaseSync, table: TableName): Segment {
  const sql = `SELECT s.* FROM ${SEGMENT} s JOIN ${ELEMENT} e ON e.segment = s.id WHERE e.tbl = ?`;
  const row = db.prepare(sql).get(table) as unknown as SegmentRow | undefined;
  if (row === undefined) throw missingTable(table);
  return segmentOf(row);
}

export function segmentAt(db: DatabaseSync, table: TableName, at: CaptureNumber): Segment | null {
  const sql = `SELECT * FROM ${SEGMENT} WHERE tbl = ?1 AND first <= ?2 AND (last IS NULL OR last >= ?2)`;
  const row = db.prepare(sql).get(table, at) as unknown as SegmentRow | undefined;
  return row === undefined ? null : segmentOf(row);
}

/** Every table's segment at a capture. */
export function segmentsAt(db: DatabaseSync, at: CaptureNumber): Segment[] {
  const sql = `SELECT * FROM ${SEGMENT} WHERE first <= ?1 AND (last IS NULL OR last >= ?1) ORDER BY tbl`;
  return (db.prepare(sql).all(at) as unknown as SegmentRow[]).map(segmentOf);
}

/** Where to read a table at a capture. Throws CAPTURE_ABSENT_TABLE where it did not exist then or was left out. */
export function layoutAt(db: DatabaseSync, table: TableName, at: CaptureNumber): Layout {
  const reason = absentTables(db, at).get(table);
  if (reason !== undefined) throw absentTable(table, at, reason);
  const segment = segmentAt(db, table, at);
  if (segment === null) throw absentTable(table, at, 'it did not exist then');
  return layoutOf(segment);
}

/** The tables a capture left out, with the reason. */
export function absentTables(db: DatabaseSync, at: CaptureNumber): Map<TableName, string> {
  const row = db.prepare(`SELECT record FROM ${CAPTURE} WHERE number = ?`).get(at) as { record: string } | undefined;
  if (row === undefined) return new Map();
  const { absent } = JSON.parse(row.record) as { absent: { table: TableName; reason: string }[] };
  return new Map(absent.map((each) => [each.table, each.reason]));
}

export function absentTable(table: TableName, at: CaptureNumber, reason: string): ForeshadowError {
  return new ForeshadowError('CAPTURE_ABSENT_TABLE', `${table} is not in capture ${at}: ${reason}`, {
    remedy: 'Read it at another capture; "foreshadow captures" says which tables each one left out.',
  });
}
