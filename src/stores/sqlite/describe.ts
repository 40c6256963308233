import { createHash } from 'node:crypto';
import type { DatabaseSync } from 'node:sqlite';
import type { Finding } from '../../model/errors.ts';
import {
  type ColumnSchema,
  type DataSetSchema,
  type DdlStatement,
  OWN_PREFIX,
  type TableName,
  type TableSchema,
} from '../../model/schema.ts';
import { type Selection, selects } from '../../model/selection.ts';
import { quoteIdentifier, quoteText } from './connection.ts';
import { type IndexSql, parseIndexSql } from './index-sql.ts';

/** The column that carries the identity of rows whose table declares none. */
const ROWID_COLUMN = '_foreshadow_rowid';

const ROWID_NAMES = ['rowid', '_rowid_', 'oid'];

/** A table as tracking needs to know it: what `TableSchema` says, and how SQLite stores and looks up its rows. */
export interface SqliteTable {
  readonly schema: TableSchema;
  /** A name of the rowid that no column takes; null in a WITHOUT ROWID table, and where columns take all three. */
  readonly rowid: string | null;
  readonly withoutRowid: boolean;
  /** UTF-16 text is read as UTF-8: its order there is not that of its own bytes, and a cast to a blob gives other bytes. */
  readonly utf16: boolean;
  /**
   * - `rowid`: the key is an INTEGER PRIMARY KEY, another name of the rowid
   * - `columns`: a primary key whose columns are never NULL
   * - `nullable`: a primary key whose columns may be NULL; rows with a NULL are told apart by their rowid
   * - `hidden`: no key; rows are told apart by their rowid
   */
  readonly identity: 'rowid' | 'columns' | 'nullable' | 'hidden';
  /** The declared key's columns; empty for `hidden`. */
  readonly keyColumns: readonly KeyColumn[];
  readonly columns: readonly SqliteColumn[];
  /** Unique indexes other than the rowid itself: by each of them INSERT OR REPLACE may remove a row. */
  readonly uniqueIndexes: readonly UniqueIndex[];
}

export interface KeyColumn {
  readonly name: string;
  /** The collation of the key's index, by which a look-up can use it. */
  readonly collation: string;
  /** Two keys that are equal to SQLite may differ in their bytes: 'a' and 'A' under NOCASE, 1 and 1.0 without affinity. */
  readonly loose: boolean;
}

export interface SqliteColumn {
  readonly name: string;
  readonly generated: boolean;
  /** The value that OR REPLACE puts in place of a NULL: the default of a NOT NULL column. */
  readonly replacesNull: string | null;
}

export interface UniqueIndex {
  readonly name: string;
  readonly terms: readonly { readonly column: string | null; readonly collation: string }[];
  /** The parsed text of a CREATE INDEX; null where the index comes from a constraint. */
  readonly sql: IndexSql | null;
  readonly primaryKey: boolean;
}

export interface Description {
  readonly schema: DataSetSchema;
  readonly tables: ReadonlyMap<TableName, SqliteTable>;
  readonly findings: readonly Finding[];
}

/** Reads the structure of the data set. Call it inside a transaction to have one moment of it. */
export function describeDatabase(db: DatabaseSync, selection: Selection): Description {
  const findings: Finding[] = [];
  const tables = new Map<TableName, SqliteTable>();
  for (const { name, type } of listTables(db)) {
    if (!selects(selection, name)) continue;
    if (type === 'virtual') findings.push(virtualTable(name));
    if (type !== 'table') continue;
    const table = describeTable(db, name);
    if (table === null) findings.push(unidentified(name));
    else tables.set(name, table);
  }
  const schemas = [...tables.values()].map((table) => table.schema);
  return { schema: { tables: schemas, before: [], after: describeAfter(db, tables) }, tables, findings };
}

/** Null if there is no such table, or if nothing identifies its rows. */
export function describeTable(db: DatabaseSync, name: TableName): SqliteTable | null {
  const listed = listTables(db).find((each) => each.name === name && each.type === 'table');
  if (listed === undefined) return null;
  const columns = readColumns(db, name);
  const taken = new Set(columns.map((column) => column.name.toLowerCase()));
  const rowid = listed.withoutRowid ? null : (ROWID_NAMES.find((each) => !taken.has(each)) ?? null);
  const utf16 = isUtf16(db);
  const indexes = readUniqueIndexes(db, name, columns);
  const keyIndex = indexes.find((index) => index.primaryKey);
  const declared = columns.filter((column) => column.pk > 0).toSorted((a, b) => a.pk - b.pk);
  const keyColumns = declared.map((column) => keyColumn(column, keyIndex));
  const identity = identityOf(listed.withoutRowid, declared, keyIndex);
  if ((identity === 'hidden' || identity === 'nullable') && rowid === null) return null;
  const hidden: ColumnSchema[] =
    identity === 'hidden' || identity === 'nullable'
      ? [{ name: ROWID_COLUMN, type: 'INTEGER', nullable: identity === 'nullable', generated: false, hidden: true }]
      : [];
  const mirrored: ColumnSchema[] = [
    ...columns.map((column) => ({
      name: column.name,
      type: column.type,
      nullable: !column.notNull && !(identity === 'rowid' && column.pk > 0),
      generated: column.generated,
      hidden: false,
    })),
    ...hidden,
  ];
  const key = [...declared.map((column) => columns.indexOf(column)), ...hidden.map((_, at) => columns.length + at)];
  const schema: TableSchema = {
    table: name,
    columns: mirrored,
    key,
    keyOrderShared: !utf16,
    shape: fingerprint(mirrored, key),
    create: [{ object: `table ${name}`, sql: listed.sql, mayFail: false }],
    finish: describeFinish(db, name, listed.sql),
  };
  return { schema, rowid, withoutRowid: listed.withoutRowid, utf16, identity, keyColumns, columns, uniqueIndexes: indexes };
}

function isUtf16(db: DatabaseSync): boolean {
  return (db.prepare('PRAGMA encoding').get() as { encoding: string }).encoding !== 'UTF-8';
}

interface ReadColumn extends SqliteColumn {
  readonly type: string;
  readonly notNull: boolean;
  readonly pk: number;
}

function listTables(db: DatabaseSync): { name: TableName; type: string; withoutRowid: boolean; sql: string }[] {
  const rows = db
    .prepare(
      `SELECT l.name, l.type, l.wr, s.sql FROM pragma_table_list AS l JOIN sqlite_schema AS s ON s.name = l.name AND s.type = 'table'
        WHERE l.schema = 'main' AND l.type IN ('table', 'virtual') AND l.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY l.name`,
    )
    .all() as { name: TableName; type: string; wr: bigint; sql: string }[];
  return rows
    .filter((row) => !row.name.toLowerCase().startsWith(OWN_PREFIX))
    .map((row) => ({ name: row.name, type: row.type, withoutRowid: row.wr !== 0n, sql: row.sql }));
}

function readColumns(db: DatabaseSync, table: TableName): ReadColumn[] {
  const rows = db.prepare('SELECT name, type, "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(?)').all(table) as {
    name: string;
    type: string;
    notnull: bigint;
    dflt_value: string | null;
    pk: bigint;
    hidden: bigint;
  }[];
  return rows.map((row) => ({
    name: row.name,
    type: row.type,
    notNull: row.notnull !== 0n,
    generated: row.hidden === 2n || row.hidden === 3n,
    replacesNull: row.notnull === 0n ? null : row.dflt_value,
    pk: Number(row.pk),
  }));
}

function readUniqueIndexes(db: DatabaseSync, table: TableName, columns: readonly SqliteColumn[]): UniqueIndex[] {
  const indexes = db
    .prepare(
      `SELECT i.name, i.origin, s.sql FROM pragma_index_list(?) AS i LEFT JOIN sqlite_schema AS s ON s.type = 'index' AND s.name = i.name
        WHERE i."unique" = 1 ORDER BY i.name`,
    )
    .all(table) as { name: string; origin: string; sql: string | null }[];
  const terms = db.prepare('SELECT name, coll FROM pragma_index_xinfo(?) WHERE key = 1 ORDER BY seqno');
  return indexes.map((index) => ({
    name: index.name,
    primaryKey: index.origin === 'pk',
    terms: (terms.all(index.name) as { name: string | null; coll: string }[]).map((term) => ({ column: term.name, collation: term.coll })),
    sql:
      index.sql === null
        ? null
        : parseIndexSql(
            index.sql,
            columns.map((column) => column.name),
          ),
  }));
}

function identityOf(withoutRowid: boolean, declared: readonly ReadColumn[], keyIndex: UniqueIndex | undefined): SqliteTable['identity'] {
  if (declared.length === 0) return 'hidden';
  if (withoutRowid) return 'columns';
  // SQLite makes no index for a key that is the rowid itself.
  if (keyIndex === undefined) return 'rowid';
  return declared.every((column) => column.notNull) ? 'columns' : 'nullable';
}

function keyColumn(column: ReadColumn, keyIndex: UniqueIndex | undefined): KeyColumn {
  if (keyIndex === undefined) return { name: column.name, collation: 'BINARY', loose: false };
  const collation = keyIndex.terms.find((term) => term.column === column.name)?.collation ?? 'BINARY';
  return { name: column.name, collation, loose: collation.toUpperCase() !== 'BINARY' || isUntyped(column.type) };
}

/** Columns without affinity (https://www.sqlite.org/datatype3.html, 3.1), and ANY in STRICT tables, keep 1 and 1.0 apart. */
function isUntyped(type: string): boolean {
  const upper = type.toUpperCase();
  if (upper === '' || upper === 'ANY') return true;
  return upper.includes('BLOB') && !/INT|CHAR|CLOB|TEXT/.test(upper);
}

function fingerprint(columns: readonly ColumnSchema[], key: readonly number[]): string {
  const shape = [columns.map((column) => [column.name, column.type, column.generated, column.hidden]), key];
  return createHash('sha256').update(JSON.stringify(shape)).digest('hex').slice(0, 32);
}

function describeFinish(db: DatabaseSync, table: TableName, createSql: string): DdlStatement[] {
  const indexes = db
    .prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL ORDER BY name")
    .all(table) as { name: string; sql: string }[];
  const statements: DdlStatement[] = indexes.map((index) => ({ object: `index ${index.name}`, sql: index.sql, mayFail: false }));
  const sequence = /AUTOINCREMENT/i.test(createSql) ? readSequence(db, table) : null;
  if (sequence !== null) {
    const object = `sequence of ${table}`;
    statements.push(
      { object, sql: `DELETE FROM sqlite_sequence WHERE name = ${quoteText(table)}`, mayFail: false },
      { object, sql: `INSERT INTO sqlite_sequence (name, seq) VALUES (${quoteText(table)}, ${sequence})`, mayFail: false },
    );
  }
  return statements;
}

function readSequence(db: DatabaseSync, table: TableName): bigint | null {
  const exists = db.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence'").get();
  if (exists === undefined) return null;
  const row = db.prepare('SELECT CAST(seq AS INTEGER) AS seq FROM sqlite_sequence WHERE name = ?').get(table);
  return (row as { seq: bigint } | undefined)?.seq ?? null;
}

/** Views first: a trigger may stand on one. They may lean on tables outside the data set. */
function describeAfter(db: DatabaseSync, tables: ReadonlyMap<TableName, SqliteTable>): DdlStatement[] {
  const rows = db
    .prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE type IN ('view', 'trigger') ORDER BY type = 'trigger', rowid")
    .all() as { type: string; name: string; tbl_name: TableName; sql: string }[];
  const views = new Set(rows.filter((row) => row.type === 'view').map((row) => row.tbl_name));
  return rows
    .filter((row) => !row.name.toLowerCase().startsWith(OWN_PREFIX))
    .filter((row) => row.type === 'view' || tables.has(row.tbl_name) || views.has(row.tbl_name))
    .map((row) => ({ object: `${row.type} ${row.name}`, sql: row.sql, mayFail: true }));
}

function virtualTable(name: TableName): Finding {
  return {
    severity: 'warning',
    code: 'TABLE_VIRTUAL',
    subject: name,
    message: `${name} is a virtual table: triggers cannot watch it, so it is not part of the data set`,
    remedy: `Exclude it (policy.exclude: ["${name}"]) and rebuild it from its source tables after a restore.`,
  };
}

function unidentified(name: TableName): Finding {
  return {
    severity: 'error',
    code: 'TABLE_UNIDENTIFIED',
    subject: name,
    message: `nothing identifies the rows of ${name}: it has no primary key without NULLs, and its columns take all names of the rowid`,
    remedy: `Give ${name} a NOT NULL primary key, or exclude it (policy.exclude: ["${name}"]).`,
  };
}

/** The qualified expression of a mirrored column, read from the table under this alias. */
export function columnExpression(table: SqliteTable, index: number, alias: string): string {
  const column = table.schema.columns[index];
  if (column === undefined) throw new RangeError(`${table.schema.table} has no column ${index}`);
  return column.hidden ? hiddenExpression(table, alias) : `${alias}.${quoteIdentifier(column.name)}`;
}

function hiddenExpression(table: SqliteTable, alias: string): string {
  const rowid = `${alias}.${table.rowid}`;
  if (table.identity === 'hidden') return rowid;
  const anyNull = table.keyColumns.map((column) => `${alias}.${quoteIdentifier(column.name)} IS NULL`).join(' OR ');
  return `CASE WHEN ${anyNull} THEN ${rowid} END`;
}
