import type { DatabaseSync, SQLInputValue, SQLOutputValue, StatementSync } from 'node:sqlite';
import { type KeyTuple, type Tuple, cellsOf, keyTuple } from '../../model/tuple.ts';
import type { RowChunk, RowLimit } from '../../tracking/primary.ts';
import { decodeCell, isBrokenText, mayBeBroken, packExact, packValues, textBytes } from './cell.ts';
import { quoteIdentifier } from './connection.ts';
import { type SqliteTable, columnExpression } from './describe.ts';
import { keyExpressions } from './triggers.ts';

/**
 * How values are read. `plain` is fast, but cannot carry text that is not valid UTF-8: it stands as U+FFFD. So where a U+FFFD is met
 * the same statement runs again in `exact` form: every value as a pair, text as bytes. UTF-16 text always passes: `unchecked`.
 */
export type ReadForm = 'plain' | 'exact' | 'unchecked';

/** Thrown inside a `plain` reading to have it done again; never leaves this folder. */
export class BrokenText extends Error {}

export function selectList(expressions: readonly string[], form: ReadForm): string {
  if (form !== 'exact') return expressions.join(', ');
  return expressions
    .map((value) => `CASE WHEN typeof(${value}) = 'text' THEN CAST(${value} AS BLOB) ELSE ${value} END, typeof(${value}) = 'text'`)
    .join(', ');
}

/** Packs the expressions `from` up to `to` of a row that was selected in this form. */
export function packForm(values: readonly SQLOutputValue[], form: ReadForm, from: number, to: number): Tuple {
  if (form === 'exact') return packExact(values, from * 2, to * 2);
  if (form === 'plain') for (let i = from; i < to; i++) if (mayBeBroken(values[i])) throw new BrokenText();
  return packValues(values, from, to);
}

/** Does `read` in plain form, and again in exact form if a value may not have come through. */
function inEitherForm<T>(table: SqliteTable, read: (form: ReadForm) => T): T {
  if (table.utf16) return read('unchecked');
  try {
    return read('plain');
  } catch (error) {
    if (error instanceof BrokenText) return read('exact');
    throw error;
  }
}

export function rowExpressions(table: SqliteTable, alias: string): string[] {
  return table.schema.columns.map((_, index) => columnExpression(table, index, alias));
}

/** The condition that finds the row of a key, as conditions on the columns and on the rowid. */
export function keyCondition(table: SqliteTable, alias: string, key: (at: number) => string, by: 'columns' | 'rowid'): string {
  if (by === 'rowid') return `${alias}.${table.rowid} = ${key(table.schema.key.length - 1)}`;
  return table.keyColumns
    .map((column, at) => `${alias}.${quoteIdentifier(column.name)} COLLATE ${quoteIdentifier(column.collation)} = ${key(at)}`)
    .join(' AND ');
}

/** A key's cells as parameters. Text that no string can carry is bound as bytes and cast. */
export function keyParameters(key: KeyTuple): { values: SQLInputValue[]; sql: string[] } {
  const cells = cellsOf(key);
  return {
    values: cells.map((cell) => (cell !== null && isBrokenText(cell) ? textBytes(cell as Buffer) : decodeCell(cell))),
    sql: cells.map((cell) => (isBrokenText(cell) ? 'CAST(? AS TEXT)' : '?')),
  };
}

export function prepareArrays(db: DatabaseSync, sql: string): StatementSync {
  const statement = db.prepare(sql);
  statement.setReturnArrays(true);
  return statement;
}

/** Reads rows of one table by their keys, in the transaction that is open on the connection. */
export function readRowsByKey(db: DatabaseSync, table: SqliteTable, keys: readonly KeyTuple[]): Tuple[] {
  const rows: Tuple[] = [];
  const statements = new Map<string, StatementSync>();
  const prepared = (sql: string) => {
    const known = statements.get(sql) ?? prepareArrays(db, sql);
    statements.set(sql, known);
    return known;
  };
  for (const key of keys) {
    const { values, sql } = keyParameters(key);
    const byRowid = values.at(-1) !== null && (table.identity === 'hidden' || table.identity === 'nullable');
    const condition = keyCondition(table, 't', (at) => sql[at] as string, byRowid ? 'rowid' : 'columns');
    const bound = byRowid ? values.slice(-1) : values.slice(0, table.keyColumns.length);
    const row = inEitherForm(table, (form) => {
      const text = `SELECT ${selectList(rowExpressions(table, 't'), form)} FROM ${quoteIdentifier(table.schema.table)} AS t WHERE ${condition}`;
      const found = prepared(text).get(...bound) as unknown as SQLOutputValue[] | undefined;
      return found === undefined ? null : packForm(found, form, 0, table.schema.columns.length);
    });
    // SQLite's equality is looser than that of keys: 1 finds 1.0, and 'a' finds 'A' under NOCASE.
    if (row !== null && keyTuple(row, table.schema.key).equals(key)) rows.push(row);
  }
  return rows;
}

/** The rows with keys above `after`, ordered by the bytes of text, as many as fit in the limit (at least one). */
export function readRowsAfter(db: DatabaseSync, table: SqliteTable, after: KeyTuple | null, limit: RowLimit): RowChunk {
  const keys = keyExpressions(table, 't').map((key, at) => orderedKey(table, key, at));
  const { condition, values } = after === null ? { condition: '1', values: [] } : above(table, keys, after);
  const order = keys.join(', ');
  return inEitherForm(table, (form) => {
    const list = selectList(rowExpressions(table, 't'), form);
    const sql = `SELECT ${list} FROM ${quoteIdentifier(table.schema.table)} AS t WHERE ${condition} ORDER BY ${order} LIMIT ?`;
    const rows: Tuple[] = [];
    let bytes = 0;
    // One row more than asked for tells whether this is the end of the table.
    for (const row of prepareArrays(db, sql).iterate(...values, limit.rows + 1)) {
      if (rows.length >= limit.rows || (rows.length > 0 && bytes >= limit.bytes)) {
        return { rows, through: keyTuple(rows.at(-1) as Tuple, table.schema.key) };
      }
      const tuple = packForm(row as unknown as SQLOutputValue[], form, 0, table.schema.columns.length);
      rows.push(tuple);
      bytes += tuple.length;
    }
    return { rows, through: null };
  });
}

function orderedKey(table: SqliteTable, key: string, at: number): string {
  const collation = table.keyColumns[at]?.collation ?? 'BINARY';
  return collation.toUpperCase() === 'BINARY' && !mayDeclareCollation(table) ? key : `${key} COLLATE BINARY`;
}

/** A column may be declared with a collation that its key's index does not use; then comparing needs to say BINARY. */
function mayDeclareCollation(table: SqliteTable): boolean {
  return table.schema.create.some((statement) => /collate/i.test(statement.sql));
}

/** `(k1, k2) > (a, b)` in the order SQLite sorts by, where NULL comes first and equals itself. */
function above(table: SqliteTable, keys: readonly string[], after: KeyTuple): { condition: string; values: SQLInputValue[] } {
  const { values, sql } = keyParameters(after);
  if (!values.includes(null) && table.identity !== 'nullable') {
    const condition = keys.length === 1 ? `${keys[0]} > ${sql[0]}` : `(${keys.join(', ')}) > (${sql.join(', ')})`;
    return { condition, values };
  }
  const alternatives: string[] = [];
  const bound: SQLInputValue[] = [];
  keys.forEach((key, at) => {
    const equal = keys.slice(0, at).map((each, i) => `${each} IS ${sql[i]}`);
    const greater = values[at] === null ? `${key} IS NOT NULL` : `${key} > ${sql[at]}`;
    alternatives.push([...equal, greater].join(' AND '));
    bound.push(...values.slice(0, at), ...(values[at] === null ? [] : [values[at] as SQLInputValue]));
  });
  return { condition: `(${alternatives.map((each) => `(${each})`).join(' OR ')})`, values: bound };
}
