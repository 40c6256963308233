import { type DatabaseSync, type SQLOutputValue, type StatementSync, constants } from 'node:sqlite';
import type { CaptureNumber } from '../../model/capture.ts';
import { ForeshadowError, messageOf } from '../../model/errors.ts';
import { OWN_PREFIX, type TableName, visibleColumns } from '../../model/schema.ts';
import type { QuerySlice } from '../../shadowing/shadow.ts';
import { quoteIdentifier, quoteText } from './connection.ts';
import { SINCE, UNTIL, layoutOf } from './layout.ts';
import { prepareArrays } from './rows.ts';
import { absentTable, absentTables, segmentsAt } from './segments.ts';

const SLICE_ROWS = 500;
const ABSENT = `${OWN_PREFIX}_absent`;

/**
 * Runs one statement on a reading connection whose temporary views stand before the tables: each shows its table as of the capture.
 * The statement cannot reach round them (`authorize`), nor write. The connection is the caller's to close.
 */
export function* runQuery(db: DatabaseSync, at: CaptureNumber, sql: string): Generator<QuerySlice> {
  const absent = new AbsentTables(db, at);
  showCapture(db, at, absent);
  db.exec('PRAGMA query_only = ON');
  authorize(db);
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
    this.#reasons = absentTables(db, at);
    db.function(ABSENT, { directOnly: false, deterministic: false }, (table: unknown) => {
      this.#touched = table as TableName;
      throw new Error(`${String(table)} is not in this capture`);
    });
  }

  has(table: TableName): boolean {
    return this.#reasons.has(table);
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

function showCapture(db: DatabaseSync, at: CaptureNumber, absent: AbsentTables): void {
  const shown = new Set<TableName>();
  for (const segment of segmentsAt(db, at)) {
    const layout = layoutOf(segment);
    shown.add(segment.table);
    const visible = visibleColumns(segment.schema);
    const names = visible.map((index) => layout.columns[index] as string).join(', ');
    const body = absent.has(segment.table)
      ? // A WHERE is evaluated whatever columns the statement asks for, even none.
        `SELECT ${names} FROM (SELECT ${visible.map((index) => `NULL AS ${layout.columns[index]}`).join(', ')}) WHERE ${ABSENT}(${quoteText(segment.table)})`
      : `SELECT ${names} FROM ${layout.live} WHERE ${SINCE} <= ${at} UNION ALL ` +
        `SELECT ${names} FROM ${layout.history} WHERE ${SINCE} <= ${at} AND ${UNTIL} > ${at}`;
    db.exec(`CREATE TEMP VIEW ${quoteIdentifier(segment.table)} AS ${body}`);
  }
  // Left out for good: no segment covers the capture, but its name is known.
  for (const table of absent.names()) {
    if (shown.has(table)) continue;
    db.exec(`CREATE TEMP VIEW ${quoteIdentifier(table)} AS SELECT NULL AS absent WHERE ${ABSENT}(${quoteText(table)})`);
  }
}

/** Reading goes through the views alone: a table named `main.orders` is the live one, with what foreigners wrote to it. */
function authorize(db: DatabaseSync): void {
  db.setAuthorizer((action, subject, detail, database, within) => {
    switch (action) {
      case constants.SQLITE_READ:
        return database === 'main' && within === null && subject !== 'sqlite_schema' ? constants.SQLITE_DENY : constants.SQLITE_OK;
      case constants.SQLITE_FUNCTION:
        return detail?.toLowerCase() === ABSENT && within === null ? constants.SQLITE_DENY : constants.SQLITE_OK;
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
  return new ForeshadowError('QUERY_FAILED', `${messageOf(cause)}, in: ${shown}`, {
    remedy: 'Correct the statement. It must be one SELECT over the tables of the data set, named without a schema.',
    cause,
  });
}
