import { type CaptureNumber, captureNumber, FOREIGN, type RowDifference } from '../../model/capture.ts';
import type { TableName } from '../../model/schema.ts';
import { cellsOf, type KeyTuple, keyTuple, packTuple, type Tuple } from '../../model/tuple.ts';
import type { RowVersion, StandingRows } from '../../shadowing/shadow.ts';
import type { RowChunk, RowLimit } from '../../tracking/primary.ts';
import { collectRows } from './foreign.ts';
import { insertedKeys } from './inserted.ts';
import { type Layout, SINCE, UNTIL } from './layout.ts';
import { BEGIN_READING, layoutAt, layoutOf, segmentsOf } from './segments.ts';
import { sentRecord, sentRow } from './sent-record.ts';
import { sourceOfKeys } from './staging.ts';
import { leavingOids } from './type-oids.ts';
import type { Wire } from './wire.ts';

/** What the planner would guess wrong: a page of rows in key order comes from the key's indexes, never from sorting the table. */
const BY_KEY = 'SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off';

/** `Shadow.rows`, on a connection of its own. */
export async function readRows(
  wire: Wire,
  table: TableName,
  at: CaptureNumber,
  after: KeyTuple | null,
  limit: RowLimit,
  signal: AbortSignal,
): Promise<RowChunk> {
  await wire.query(`${BEGIN_READING}; ${BY_KEY}`);
  return pageOfRows(wire, await layoutAt(wire, table, at), at, after, limit, signal);
}

async function pageOfRows(
  wire: Wire,
  layout: Layout,
  at: CaptureNumber,
  after: KeyTuple | null,
  limit: RowLimit,
  signal: AbortSignal,
): Promise<RowChunk> {
  const where = after === null ? 'true' : layout.keyIsAfter('r');
  const sql = `SELECT * FROM (${layout.asOf(at, where, limit.rows)}) v ORDER BY ${layout.keyList('v')} LIMIT ${limit.rows}`;
  const parameters = after === null ? [] : layout.keyParameters(after);
  const leave = await leavingOids(wire, layout.segment.types.oids);
  const rows: Tuple[] = [];
  let bytes = 0;
  let full = false;
  // Ending the loop early cancels the statement: what is beyond the bytes is not sent.
  for await (const some of wire.select(sql, parameters, signal)) {
    for (const row of some) {
      if (rows.length > 0 && bytes + row.length > limit.bytes) {
        full = true;
        break;
      }
      rows.push(leave(row));
      bytes += row.length;
    }
    if (full) break;
  }
  const last = rows.at(-1);
  const more = last !== undefined && (full || rows.length === limit.rows);
  return { rows, through: more ? keyTuple(last, layout.segment.schema.key) : null };
}

/** `Shadow.everyRow`, as they lie: no index is followed to them. */
export async function* readEveryRow(wire: Wire, table: TableName, at: CaptureNumber, signal: AbortSignal): AsyncIterable<readonly Tuple[]> {
  await wire.query(BEGIN_READING);
  const layout = await layoutAt(wire, table, at);
  const leave = await leavingOids(wire, layout.segment.types.oids);
  for await (const rows of wire.select(layout.asOf(at), [], signal)) yield rows.map(leave);
}

/** Whether the transaction of a reader is in the way of one that changes tables. */
export async function isInTheWay(wire: Wire, reader: number): Promise<boolean> {
  const [found] = await wire.query(
    `SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND locktype = 'relation' AND mode = 'AccessExclusiveLock'
       AND ${reader} = ANY (pg_blocking_pids(pid)))`,
  );
  return found?.rows[0]?.[0] === 't';
}

/** `Shadow.rowsByKey`. */
export async function readRowsByKey(
  wire: Wire,
  table: TableName,
  at: CaptureNumber,
  keys: readonly KeyTuple[],
  signal: AbortSignal,
): Promise<Tuple[]> {
  if (keys.length === 0) return [];
  await wire.query(`${BEGIN_READING}; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off`);
  return rowsOfKeys(wire, await layoutAt(wire, table, at), at, keys, signal);
}

/** The live rows inside the writer's transaction, whose settings already look keys up through their index. */
export function standingRows(wire: Wire, layout: Layout, at: CaptureNumber, signal: AbortSignal): StandingRows {
  return {
    async rows(after, limit) {
      await wire.query(BY_KEY);
      const page = await pageOfRows(wire, layout, at, after, limit, signal);
      await wire.query('SET LOCAL enable_seqscan = on; SET LOCAL enable_bitmapscan = on; SET LOCAL enable_sort = on');
      return page;
    },
    rowsByKey: (keys) => (keys.length === 0 ? Promise.resolve([]) : rowsOfKeys(wire, layout, at, keys, signal)),
  };
}

async function rowsOfKeys(wire: Wire, layout: Layout, at: CaptureNumber, keys: readonly KeyTuple[], signal: AbortSignal): Promise<Tuple[]> {
  const source = await sourceOfKeys(wire, layout, keys, signal);
  const sql = `SELECT v.* FROM (SELECT * FROM ${source.from} ORDER BY ${layout.key.join(', ')} OFFSET 0) g,
    LATERAL (${layout.asOf(at, layout.sameKey('r', 'g'))}) v`;
  const leave = await leavingOids(wire, layout.segment.types.oids);
  return (await collectRows(wire.select(sql, source.parameters, signal))).map(leave);
}

/** `Shadow.versionAt`. A version that a foreign write hides is the live one. */
export async function readVersion(wire: Wire, table: TableName, key: KeyTuple, at: CaptureNumber): Promise<RowVersion | null> {
  await wire.query(BEGIN_READING);
  const layout = await layoutAt(wire, table, at);
  const where = `${layout.keyIs('r')} AND r.${SINCE} <= ${at}`;
  const [found] = await collectRows(
    wire.select(
      `SELECT r.${SINCE}, ${FOREIGN}::bigint, ${layout.list('r')} FROM ${layout.live} r WHERE ${where}
       UNION ALL SELECT r.${SINCE}, r.${UNTIL}, ${layout.list('r')} FROM ${layout.history} r WHERE ${where} AND r.${UNTIL} > ${at}`,
      layout.keyParameters(key),
    ),
  );
  if (found === undefined) return null;
  const [since, until, ...cells] = cellsOf(found);
  const end = (until as Buffer).readBigInt64BE();
  return {
    since: captureNumber(Number((since as Buffer).readBigInt64BE())),
    until: end === FOREIGN ? null : captureNumber(Number(end)),
    row: (await leavingOids(wire, layout.segment.types.oids))(packTuple(cells)),
  };
}

/** `Shadow.diff`, in one snapshot; slices are as large as what arrived at once. */
export async function* readDiff(
  wire: Wire,
  table: TableName,
  from: CaptureNumber,
  to: CaptureNumber,
  signal: AbortSignal,
): AsyncIterable<readonly RowDifference[]> {
  await wire.query(BEGIN_READING);
  const { segments, absent } = await segmentsOf(wire, table, [from, to]);
  const before = layoutOf(table, segments, absent, from);
  const after = layoutOf(table, segments, absent, to);
  const together = before.segment.storage === after.segment.storage;
  if (!together && before.segment.schema.shape !== after.segment.schema.shape) {
    yield* oneSided(wire, before, from, signal, (row, key) => ({ key, before: row, after: null }));
    yield* oneSided(wire, after, to, signal, (row, key) => ({ key, before: null, after: row }));
    return;
  }
  if (together) await wire.query('SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off');
  const sql = together ? changedKeys(before, after, from, to) : wholeTables(before, after, from, to);
  const leaveOld = await leavingOids(wire, before.segment.types.oids);
  const leave = await leavingOids(wire, after.segment.types.oids);
  for await (const rows of wire.select(sql, [], signal)) {
    yield rows.map((row) => {
      const [sentBefore, sentAfter] = cellsOf(row);
      const old = sentRow(sentBefore, leaveOld);
      const now = sentRow(sentAfter, leave);
      const key = now === null ? keyTuple(old as Tuple, before.segment.schema.key) : keyTuple(now, after.segment.schema.key);
      return { key, before: old, after: now };
    });
  }
}

async function* oneSided(
  wire: Wire,
  layout: Layout,
  at: CaptureNumber,
  signal: AbortSignal,
  differenceOf: (row: Tuple, key: KeyTuple) => RowDifference,
): AsyncIterable<readonly RowDifference[]> {
  const leave = await leavingOids(wire, layout.segment.types.oids);
  for await (const rows of wire.select(layout.asOf(at), [], signal)) {
    yield rows.map((row) => differenceOf(leave(row), keyTuple(row, layout.segment.schema.key)));
  }
}

/** Each key that changed in between has a version or a marker that ends in between; each is looked up at both ends. */
function changedKeys(before: Layout, after: Layout, from: CaptureNumber, to: CaptureNumber): string {
  const keys = after.key.join(', ');
  const superseded = `SELECT ${keys} FROM ${after.history} WHERE ${UNTIL} > ${from} AND ${UNTIL} <= ${to}`;
  const inserted = insertedKeys(after, from, to);
  const changed = inserted === null ? superseded : `${superseded} UNION ALL ${inserted}`;
  const common = after.columns.filter((name) => before.columns.includes(name));
  const side = (layout: Layout, at: CaptureNumber): string => sideOf(layout, layout.asOf(at, layout.sameKey('r', 'k')), common);
  return `SELECT b.sent, a.sent
    FROM (SELECT DISTINCT ${keys} FROM (${changed}) c ORDER BY ${keys} OFFSET 0) k
    LEFT JOIN LATERAL ${side(before, from)} b ON true LEFT JOIN LATERAL ${side(after, to)} a ON true
    WHERE ${DIFFERING}`;
}

/** Between two segments of one shape (a resync, a truncation) only the rows themselves tell. */
function wholeTables(before: Layout, after: Layout, from: CaptureNumber, to: CaptureNumber): string {
  const same = after.key.map((_, index) => `a.key${index} ${after.operator(index)} b.key${index}`).join(' AND ');
  return `SELECT b.sent, a.sent FROM ${sideOf(before, before.asOf(from), before.columns)} b
    FULL JOIN ${sideOf(after, after.asOf(to), after.columns)} a ON ${same} WHERE ${DIFFERING}`;
}

/**
 * One side of a difference: the row as it is sent, its key, and the image it is compared by. Rows of two wide tables do not fit side by side
 * into one result, so each is one value of it.
 */
function sideOf(layout: Layout, rows: string, compared: readonly string[]): string {
  const image = `ROW(${compared.map((name) => `v.${name}`).join(', ')})::record`;
  const key = layout.key.map((name, index) => `v.${name} AS key${index}`).join(', ');
  return `(SELECT true AS present, ${key}, ${image} AS image, ${sentRecord(layout, 'v')} AS sent FROM (${rows}) v)`;
}

/** By the columns that both have: a column added or dropped in between is no difference of rows. */
const DIFFERING = 'a.present IS DISTINCT FROM b.present OR (a.present AND a.image OPERATOR(pg_catalog.*<>) b.image)';
