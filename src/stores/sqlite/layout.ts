import type { CaptureNumber } from '../../model/capture.ts';
import { OWN_PREFIX, type TableName, type TableSchema } from '../../model/schema.ts';
import { quoteIdentifier } from './connection.ts';

/** FOREIGN as it stands in SQL. The partial indexes match only this very literal. */
export const FOREIGN_SQL = '9223372036854775807';
export const SINCE = `${OWN_PREFIX}_since`;
export const UNTIL = `${OWN_PREFIX}_until`;
const ROW = `${OWN_PREFIX}_row`;

/** The stretch of a table's history that has one shape, and the tables it is kept in. */
export interface Segment {
  readonly id: number;
  readonly table: TableName;
  readonly schema: TableSchema;
  readonly live: string;
  readonly history: string;
  /** The captures it can be read at; `last` is null while it is the live one. */
  readonly first: CaptureNumber;
  readonly last: CaptureNumber | null;
}

/**
 * How the rows of a segment lie in SQLite.
 *
 * Columns are declared without a type: with one, SQLite would convert values on their way in (the affinity of a column whose type
 * was changed, or of a STRICT table's ANY, is not what the values were stored by), and bytes could differ from the primary's.
 *
 * A row is addressed by `row`: the key itself where it is an INTEGER PRIMARY KEY of the primary, else an integer of ours beside
 * a unique index over the key. WITHOUT ROWID is not used: it forbids NULL in keys, which hidden identities hold.
 */
export interface Layout {
  readonly segment: Segment;
  readonly live: string;
  readonly history: string;
  readonly inserted: string;
  /** Quoted names. */
  readonly columns: readonly string[];
  readonly keys: readonly string[];
  readonly row: string;
  /** Whether the key is `row`. */
  readonly keyIsRow: boolean;
}

export function layoutOf(segment: Segment): Layout {
  const { schema } = segment;
  const columns = schema.columns.map((column) => quoteIdentifier(column.name));
  const keys = schema.key.map((index) => columns[index] as string);
  const keyIsRow = isRowKey(schema);
  return {
    segment,
    live: `main.${quoteIdentifier(segment.live)}`,
    history: `main.${quoteIdentifier(segment.history)}`,
    inserted: `main.${insertedName(segment.id)}`,
    columns,
    keys,
    row: keyIsRow ? (keys[0] as string) : ROW,
    keyIsRow,
  };
}

/** Only a rowid is certain to hold integers: INTEGER in a WITHOUT ROWID table, or declared DESC, may hold anything. */
function isRowKey(schema: TableSchema): boolean {
  const column = schema.columns[schema.key[0] ?? -1];
  if (schema.key.length !== 1 || column === undefined) return false;
  if (column.hidden) return true;
  const sql = schema.create[0]?.sql ?? '';
  return /^\s*integer\s*$/iu.test(column.type) && /\bprimary\s+key\b/iu.test(sql) && !/\bwithout\s+rowid\b|\bdesc\b/iu.test(sql);
}

export function historyName(table: TableName): string {
  return `${OWN_PREFIX}_history_${table}`;
}

export function retiredNames(id: number, table: TableName): { live: string; history: string } {
  return { live: `${OWN_PREFIX}_segment_${id}_${table}`, history: `${OWN_PREFIX}_segment_${id}_history_${table}` };
}

function insertedName(id: number): string {
  return `${OWN_PREFIX}_inserted_${id}`;
}

/**
 * What makes a segment's tables.
 *
 * The keys a capture inserted are found through a table of their own, to which inserts append: an index on `since` would be paid
 * by every update instead (measured, 1 M rows, 1 % updated per apply: 16 % of the apply and 30 % of the initial load, against
 * nothing). The rows of a segment's first capture need no entry: no earlier capture can be compared within the segment.
 * FOREIGN rows are found through a partial index, which our own rows are never in.
 */
export function createStatements(layout: Layout): string[] {
  const { live, history, inserted, columns, keys, row, keyIsRow } = layout;
  const { id } = layout.segment;
  const liveColumns = keyIsRow
    ? columns.map((column) => (column === row ? `${column} INTEGER PRIMARY KEY` : column))
    : [...columns, `${ROW} INTEGER PRIMARY KEY`];
  const statements = [
    `CREATE TABLE ${live} (${liveColumns.join(', ')}, ${SINCE} INTEGER NOT NULL DEFAULT ${FOREIGN_SQL})`,
    `CREATE INDEX main.${OWN_PREFIX}_foreign_${id} ON ${unqualified(live)} (${SINCE}) WHERE ${SINCE} = ${FOREIGN_SQL}`,
    `CREATE TABLE ${history} (${columns.join(', ')}, ${ROW} INTEGER PRIMARY KEY, ${SINCE} INTEGER NOT NULL, ${UNTIL} INTEGER NOT NULL)`,
    `CREATE INDEX main.${OWN_PREFIX}_versions_${id} ON ${unqualified(history)} (${keys.join(', ')}, ${UNTIL})`,
    `CREATE INDEX main.${OWN_PREFIX}_ended_${id} ON ${unqualified(history)} (${UNTIL})`,
    `CREATE TABLE ${inserted} (${ROW} INTEGER PRIMARY KEY, ${SINCE} INTEGER NOT NULL, ${keys.join(', ')})`,
    `CREATE INDEX main.${OWN_PREFIX}_begun_${id} ON ${unqualified(inserted)} (${SINCE})`,
  ];
  if (!keyIsRow) statements.push(`CREATE UNIQUE INDEX main.${OWN_PREFIX}_key_${id} ON ${unqualified(live)} (${keys.join(', ')})`);
  return statements;
}

/** Inside CREATE INDEX and triggers a table is named without its schema. */
export function unqualified(name: string): string {
  return name.replace(/^main\./u, '');
}

/** NULL keys are found too; both sides have the columns of the key. */
export function keysMatch(layout: Layout, left: string, right: string): string {
  return layout.keys.map((key) => `${left}.${key} IS ${right}.${key}`).join(' AND ');
}

/** For the key's values as parameters, in order, from `?first` on. */
export function keyIs(layout: Layout, first = 1): string {
  return layout.keys.map((key, i) => `${key} ${layout.keyIsRow ? '=' : 'IS'} ?${first + i}`).join(' AND ');
}

/** `column, column`, each of `alias`. */
export function columnsOf(layout: Layout, alias: string): string {
  return layout.columns.map((column) => `${alias}.${column}`).join(', ');
}
