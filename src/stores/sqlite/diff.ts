import type { DatabaseSync, SQLOutputValue } from 'node:sqlite';
import type { CaptureNumber, RowDifference } from '../../model/capture.ts';
import type { TableName } from '../../model/schema.ts';
import type { KeyTuple, Tuple } from '../../model/tuple.ts';
import { packExact } from './cell.ts';
import { type Layout, SINCE, UNTIL } from './layout.ts';
import { prepareArrays, selectList } from './rows.ts';
import { layoutAt } from './segments.ts';
import { VersionReader } from './versions.ts';

/** Rows in one slice of a diff, and in one read behind it. */
const SLICE_ROWS = 1000;
const SLICE = { rows: SLICE_ROWS, bytes: 4 << 20 };

/** The differences of a table between two captures, in the snapshot that is open on the connection. */
export function* differences(db: DatabaseSync, table: TableName, from: CaptureNumber, to: CaptureNumber): Generator<RowDifference[]> {
  const before = new VersionReader(db, layoutAt(db, table, from));
  const after = new VersionReader(db, layoutAt(db, table, to));
  if (before.layout.segment.id === after.layout.segment.id) yield* betweenVersions(db, before, from, to);
  else if (before.layout.segment.schema.shape === after.layout.segment.schema.shape) yield* betweenSegments(before, from, after, to);
  else {
    yield* oneSided(before, from, (key, row) => ({ key, before: row, after: null }));
    yield* oneSided(after, to, (key, row) => ({ key, before: null, after: row }));
  }
}

/**
 * Within a segment the keys that may differ are those of versions that ended in the range, and those inserted in it: a row that
 * was updated has an ended version, or was itself inserted in the range. Both come from an index.
 */
function* betweenVersions(db: DatabaseSync, reader: VersionReader, from: CaptureNumber, to: CaptureNumber): Generator<RowDifference[]> {
  let slice: RowDifference[] = [];
  for (const key of changedKeys(db, reader.layout, from, to)) {
    push(slice, reader, key, reader.likeRowAt(key, from), reader.likeRowAt(key, to));
    if (slice.length >= SLICE_ROWS) {
      yield slice;
      slice = [];
    }
  }
  if (slice.length > 0) yield slice;
}

function* changedKeys(db: DatabaseSync, layout: Layout, from: CaptureNumber, to: CaptureNumber): Generator<KeyTuple> {
  const names = layout.keys.join(', ');
  const list = selectList(
    layout.keys.map((key) => `k.${key}`),
    'exact',
  );
  const sql =
    `SELECT ${list} FROM (SELECT ${names} FROM ${layout.history} WHERE ${UNTIL} > ?1 AND ${UNTIL} <= ?2 ` +
    `UNION SELECT ${names} FROM ${layout.inserted} WHERE ${SINCE} > ?1 AND ${SINCE} <= ?2 ORDER BY ${layout.keys.map((_, i) => i + 1).join(', ')}) AS k`;
  for (const values of prepareArrays(db, sql).iterate(from, to)) {
    yield packExact(values as unknown as SQLOutputValue[], 0, layout.keys.length * 2) as KeyTuple;
  }
}

/** Two segments of one shape (a truncate, a resync): both are read whole and matched by key. */
function* betweenSegments(before: VersionReader, from: CaptureNumber, after: VersionReader, to: CaptureNumber): Generator<RowDifference[]> {
  for (const rows of chunks(before, from)) {
    const slice: RowDifference[] = [];
    for (const row of rows) push(slice, before, before.keyOf(row), row, after.rowAt(before.keyOf(row), to));
    if (slice.length > 0) yield slice;
  }
  for (const rows of chunks(after, to)) {
    const fresh = rows.filter((row) => before.rowAt(after.keyOf(row), from) === null);
    if (fresh.length > 0) yield fresh.map((row) => ({ key: after.keyOf(row), before: null, after: row }));
  }
}

function* oneSided(
  reader: VersionReader,
  at: CaptureNumber,
  say: (key: KeyTuple, row: Tuple) => RowDifference,
): Generator<RowDifference[]> {
  for (const rows of chunks(reader, at)) yield rows.map((row) => say(reader.keyOf(row), row));
}

/** A whole table in chunks. */
export function* chunks(reader: VersionReader, at: CaptureNumber): Generator<readonly Tuple[]> {
  let after: KeyTuple | null = null;
  do {
    const chunk = reader.rows(at, after, SLICE);
    if (chunk.rows.length > 0) yield chunk.rows;
    after = chunk.through;
  } while (after !== null);
}

/** SQLite may have found a row under an equal key of other bytes (1 for 1.0): that is one row gone and one come. */
function push(slice: RowDifference[], reader: VersionReader, key: KeyTuple, before: Tuple | null, after: Tuple | null): void {
  if (before === null && after === null) return;
  if (before === null || after === null) {
    slice.push({ key: reader.keyOf((before ?? after) as Tuple), before, after });
    return;
  }
  if (before.equals(after)) return;
  const keyBefore = reader.keyOf(before);
  const keyAfter = reader.keyOf(after);
  if (keyBefore.equals(keyAfter)) slice.push({ key, before, after });
  else slice.push({ key: keyBefore, before, after: null }, { key: keyAfter, before: null, after });
}
