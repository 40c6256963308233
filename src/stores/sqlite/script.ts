import type { TableSchema } from '../../model/schema.ts';
import { type Cell, type Tuple, cellsOf } from '../../model/tuple.ts';
import { BLOB, INTEGER, REAL, TEXT, isBrokenText, textBytes } from './cell.ts';
import { quoteIdentifier, quoteText } from './connection.ts';

/** One INSERT holds as many rows as fit in these bounds, or one. */
const STATEMENT_ROWS = 200;
const STATEMENT_CHARACTERS = 64 << 10;

/** Columns a restore writes: those the user declared and the engine does not compute. */
export function writtenColumns(schema: TableSchema): number[] {
  return schema.columns.flatMap((column, index) => (column.hidden || column.generated ? [] : [index]));
}

/** INSERT statements for rows of a table, one text for each statement. */
export function* insertStatements(schema: TableSchema, rows: Iterable<Tuple>): Generator<string> {
  const written = writtenColumns(schema);
  const table = quoteIdentifier(schema.table);
  // A table may consist of generated columns and a hidden key alone; its rows are then all defaults.
  if (written.length === 0) {
    for (const _ of rows) yield `INSERT INTO ${table} DEFAULT VALUES;\n`;
    return;
  }
  const names = written.map((index) => quoteIdentifier(schema.columns[index]?.name ?? '')).join(', ');
  const head = `INSERT INTO ${table} (${names}) VALUES\n`;
  let lines: string[] = [];
  let length = 0;
  for (const row of rows) {
    const cells = cellsOf(row);
    const line = `(${written.map((index) => literal(cells[index])).join(', ')})`;
    if (lines.length >= STATEMENT_ROWS || (lines.length > 0 && length + line.length > STATEMENT_CHARACTERS)) {
      yield `${head}${lines.join(',\n')};\n`;
      lines = [];
      length = 0;
    }
    lines.push(line);
    length += line.length;
  }
  if (lines.length > 0) yield `${head}${lines.join(',\n')};\n`;
}

/** A cell as SQL that gives back the same storage class and the same bytes. */
export function literal(cell: Cell): string {
  if (cell === undefined) throw new Error('a row of the shadow has no absent columns');
  if (cell === null) return 'NULL';
  switch (cell[0]) {
    case INTEGER:
      return integerLiteral(cell.readBigInt64BE(1));
    case REAL:
      return realLiteral(cell.readDoubleBE(1));
    case TEXT:
      return textLiteral(cell);
    case BLOB:
      return `X'${cell.subarray(1).toString('hex')}'`;
    default:
      throw new Error(`damaged SQLite cell: storage class ${cell[0]}`);
  }
}

/** The smallest integer cannot be written as a literal: its digits without the sign are beyond 64 bits, and become a real. */
function integerLiteral(value: bigint): string {
  return value === -(1n << 63n) ? '(-9223372036854775807 - 1)' : value.toString();
}

/** SQLite has no literal for infinity, but reads any exponent. */
function realLiteral(value: number): string {
  if (value === Infinity) return '9e999';
  if (value === -Infinity) return '-9e999';
  if (Object.is(value, -0)) return '-0.0';
  const text = String(value);
  return /[.e]/u.test(text) ? text : `${text}.0`;
}

/** A statement's text ends at NUL, and must be UTF-8: other text goes as bytes. */
function textLiteral(cell: Buffer): string {
  const bytes = textBytes(cell);
  if (bytes.includes(0) || isBrokenText(cell)) return `CAST(X'${bytes.toString('hex')}' AS TEXT)`;
  return quoteText(bytes.toString('utf8'));
}
