import { type DatabaseSync, type SQLOutputValue, type StatementSync, constants } from 'node:sqlite';
import type { CaptureNumber } from '../../model/capture.ts';
import { ForeshadowError, messageOf } from '../../model/errors.ts';
import { OWN_PREFIX, type TableName, visibleColumns } from '../../model/schema.ts';
import type { QuerySlice } from '../../shadowing/shadow.ts';
import { quoteIdentifier, quoteText } from './connection.ts';
import { SINCE, UNTIL, layoutOf, unqualified } from './layout.ts';
import { prepareArrays } from './rows.ts';
import { absentTable, absentTables, liveSegments, segmentAt, segmentsAt } from './segments.ts';

const SLICE_ROWS = 500;
const ABSENT = `${OWN_PREFIX}_absent`;

/** The name the shadow is attached under: `main.orders`, which would be the live table, is then nothing. */
export const SHADOW_ALIAS = `${OWN_PREFIX}_shadow`;

/**
 * Runs one statement on a connection to which the shadow is attached as SHADOW_ALIAS, and whose temporary views stand before its
 * tables: each shows its table as of the capture. The statement cannot reach round them (`authorize`), nor write.
 * The connection is the caller's to close.
 */
export function* runQuery(db: DatabaseSync, at: CaptureNumber, sql: string): Generator<QuerySlice> {
  const absent = new AbsentTables(db, at);
  const views = showCapture(db, at, absent);
  db.exec('PRAGMA query_only = ON');
  authorize(db, views);
  const statement = attempt(sql, absent, () => prepareOne(db, sql));
  const columns = attempt(sql, absent, () => statement.columns().map((column) => column.name));
  const rows = statement.iterate();
  for (let first = true; ; first = false) {
    const slice = attempt(sql, absent, () => takeSlice(rows));
    if (slice.length > 0 || first) yield { columns, rows: slice };
    if (slice.length < SLICE_ROWS) return;
  }
}

function takeSlice(rows: Iterator<unknown>): unknown[][] {
  const slice: unknown[][] = [];
  while (slice.length < SLICE_ROWS) {
    const next = rows.next();
    if (next.done === true) break;
    slice.push((next.value as SQLOutputValue[]).map(shownValue));
  }
  return slice;
}

/** As `ValueCodec` shows a cell, straight from the value. */
function shownValue(value: SQLOutputValue): unknown {
  if (typeof value === 'bigint') {
    const safe = value >= BigInt(Number.MIN_SAFE_INTEGER) && value <= BigInt(Number.MAX_SAFE_INTEGER);
    return safe ? Number(value) : value.toString();
  }
  if (typeof value === 'number') return Number.isFinite(value) ? value : String(value);
  if (value === null || typeof value === 'string') return value;
  return `\\x${Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('hex')}`;
}

/** Tables left out of a capture: a statement that touches one runs into a function that fails. */
class AbsentTables {
  readonly at: CaptureNumber;
  readonly #reasons: ReadonlyMap<TableName, string>;
  #touched: TableName | null = null;

  constructor(db: DatabaseSync, at: CaptureNumber) {
    this.at = at;
    const reasons = absentTables(db, at);
    for (const { table, first } of liveSegments(db))
      if (first > at && !reasons.has(table) && segmentAt(db, table, at) === null) reasons.set(table, 'it did not exist then');
    this.#reasons = reasons;
    db.function(ABSENT, { directOnly: false, deterministic: false }, (table: unknown) => {
      this.#touched = table as TableName;
      throw new Error(`${String(table)} is not in this capture`);
    });
  }

  names(): Iterable<TableName> {
    return this.#reasons.keys();
  }

  /** What a failure of a statement really means, if it ran into one. */
  explain(): ForeshadowError | null {
    if (this.#touched === null) return null;
    return absentTable(this.#touched, this.at, this.#reasons.get(this.#touched) ?? 'it was left out');
  }
}

/** Makes the views; returns their names. */
function showCapture(db: DatabaseSync, at: CaptureNumber, absent: AbsentTables): ReadonlySet<string> {
  const views = new Set<string>();
  const show = (table: TableName, body: string): void => {
    if (views.has(table)) return;
    views.add(table);
    db.exec(`CREATE TEMP VIEW ${quoteIdentifier(table)} AS ${body}`);
  };
  for (const table of absent.names()) {
    // A WHERE is evaluated whatever columns a statement asks for, even none.
    const schema = segmentAt(db, table, at)?.schema;
    const columns = schema === undefined ? [] : visibleColumns(schema).map((index) => quoteIdentifier(schema.columns[index]?.name ?? ''));
    const nulls = columns.length === 0 ? 'NULL AS absent' : columns.map((column) => `NULL AS ${column}`).join(', ');
    show(table, `SELECT ${nulls} WHERE ${ABSENT}(${quoteText(table)})`);
  }
  for (const segment of segmentsAt(db, at)) {
    const layout = layoutOf(segment);
    const names = visibleColumns(segment.schema)
      .map((index) => layout.columns[index] as string)
      .join(', ');
    const live = `${SHADOW_ALIAS}.${unqualified(layout.live)}`;
    const history = `${SHADOW_ALIAS}.${unqualified(layout.history)}`;
    show(
      segment.table,
      `SELECT ${names} FROM ${live} WHERE ${SINCE} <= ${at} UNION ALL SELECT ${names} FROM ${history} WHERE ${SINCE} <= ${at} AND ${UNTIL} > ${at}`,
    );
  }
  return views;
}

/** The shadow's tables are read through the views alone: the live ones hold what foreigners wrote, too. */
function authorize(db: DatabaseSync, views: ReadonlySet<string>): void {
  db.setAuthorizer((action, _, detail, database, within) => {
    const ours = within !== null && views.has(within);
    switch (action) {
      case constants.SQLITE_READ:
        return database === SHADOW_ALIAS && !ours ? constants.SQLITE_DENY : constants.SQLITE_OK;
      case constants.SQLITE_FUNCTION:
        return detail?.toLowerCase() === ABSENT && !ours ? constants.SQLITE_DENY : constants.SQLITE_OK;
      case constants.SQLITE_SELECT:
      case constants.SQLITE_RECURSIVE:
        return constants.SQLITE_OK;
      default:
        return constants.SQLITE_DENY;
    }
  });
}

/** SQLite compiles the first statement of a text and leaves the rest: a second one must not be dropped in silence. */
function prepareOne(db: DatabaseSync, sql: string): StatementSync {
  const statement = prepareArrays(db, sql);
  const rest = sql.slice(sql.indexOf(statement.sourceSQL) + statement.sourceSQL.length);
  if (/\S/u.test(withoutComments(rest))) throw new Error('only one statement is run at a time');
  return statement;
}

function withoutComments(sql: string): string {
  return sql.replaceAll(/--[^\n]*|\/\*[\s\S]*?\*\//gu, ' ').replaceAll(';', ' ');
}

function attempt<T>(sql: string, absent: AbsentTables, run: () => T): T {
  try {
    return run();
  } catch (error) {
    throw absent.explain() ?? queryError(sql, error);
  }
}

function queryError(sql: string, cause: unknown): ForeshadowError {
  const shown = sql.length > 200 ? `${sql.slice(0, 200)}…` : sql;
  const reason = messageOf(cause);
  const writes = /^cannot modify .* because it is a view$/.test(reason);
  return new ForeshadowError('QUERY_FAILED', `${writes ? 'captures cannot be changed: query only reads' : reason}, in: ${shown}`, {
    remedy: 'Correct the statement. It must be one SELECT over the tables of the data set, named without a schema.',
    cause,
  });
}
