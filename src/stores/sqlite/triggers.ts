import { createHash } from 'node:crypto';
import { quoteIdentifier } from './connection.ts';
import type { SqliteTable, UniqueIndex } from './describe.ts';

/** The log of changed keys. Its columns beyond `mark` are k1, k2, …: as many as the widest key has, and at least three. */
export const LOG = '_foreshadow_log';

export interface Trigger {
  readonly name: string;
  readonly sql: string;
}

/**
 * The triggers that log every key of a table whose row changes. A key logged too often is harmless (rows are read by key when the
 * log is); a key not logged is a lost change. So:
 *
 * - AFTER INSERT logs the new key, AFTER DELETE the old one, AFTER UPDATE the new one and, where its bytes changed, the old one.
 * - INSERT OR REPLACE and UPDATE OR REPLACE remove rows without firing delete triggers: before each, a look-up through every
 *   unique index logs the keys it is about to remove.
 * - No name of an index is ever used: a trigger that names a dropped one would make the application's statement fail.
 */
export function triggersFor(table: SqliteTable, id: bigint): Trigger[] {
  const triggers = [
    trigger(table, `${id}_ai`, 'AFTER INSERT', [logRow(table, id, 'NEW')]),
    trigger(table, `${id}_au`, 'AFTER UPDATE', [logRow(table, id, 'NEW'), logOldKey(table, id)]),
    trigger(table, `${id}_ad`, 'AFTER DELETE', [logRow(table, id, 'OLD')]),
  ];
  if ((table.identity === 'columns' || table.identity === 'nullable') && table.rowid !== null) {
    const where = `${aliasOf(table)}.${table.rowid} = NEW.${table.rowid}`;
    triggers.push(trigger(table, `${id}_ri`, 'BEFORE INSERT', [logMatching(table, id, where)]));
    triggers.push(
      trigger(table, `${id}_ru`, 'BEFORE UPDATE', [logMatching(table, id, where)], `NEW.${table.rowid} IS NOT OLD.${table.rowid}`),
    );
  }
  const lookups = new Set<string>();
  for (const index of table.uniqueIndexes) {
    const where = matching(table, index);
    // A table may have the same index twice, as a constraint and by name.
    if (!removesOtherKeys(table, index) || lookups.has(where)) continue;
    lookups.add(where);
    const suffix = `${id}_${createHash('sha256').update(where).digest('hex').slice(0, 8)}`;
    triggers.push(trigger(table, `${suffix}_i`, 'BEFORE INSERT', [logMatching(table, id, where)]));
    triggers.push(
      trigger(table, `${suffix}_u`, `BEFORE UPDATE${updatedColumns(table, index)}`, [
        logMatching(table, id, `${where} AND ${notItself(table)}`),
      ]),
    );
  }
  return triggers;
}

function trigger(table: SqliteTable, suffix: string, event: string, statements: readonly string[], when?: string): Trigger {
  const name = `_foreshadow_${suffix}`;
  const condition = when === undefined ? '' : ` WHEN ${when}`;
  const sql = `CREATE TRIGGER ${name} ${event} ON ${quoteIdentifier(table.schema.table)} FOR EACH ROW${condition} BEGIN ${statements.join('; ')}; END`;
  return { name, sql };
}

/**
 * `mark` is a little randomness in each row, so that a log of the same length that took another course (the file was put back
 * from a backup) is not taken for the one that was read.
 */
function logInto(id: bigint, keys: readonly string[]): string {
  const columns = keys.map((_, at) => `, k${at + 1}`).join('');
  return `INSERT INTO ${LOG} (tbl, mark${columns}) SELECT ${id}, random() & 32767${keys.map((key) => `, ${key}`).join('')}`;
}

/** The expressions of a row's key, read from NEW, OLD or a table's alias. */
export function keyExpressions(table: SqliteTable, alias: string): string[] {
  const columns = table.keyColumns.map((column) => `${alias}.${quoteIdentifier(column.name)}`);
  if (table.identity === 'hidden') return [`${alias}.${table.rowid}`];
  if (table.identity !== 'nullable') return columns;
  return [...columns, `CASE WHEN ${columns.map((column) => `${column} IS NULL`).join(' OR ')} THEN ${alias}.${table.rowid} END`];
}

function logRow(table: SqliteTable, id: bigint, alias: 'NEW' | 'OLD'): string {
  return logInto(id, keyExpressions(table, alias));
}

function logOldKey(table: SqliteTable, id: bigint): string {
  const after = keyExpressions(table, 'NEW');
  const changed = keyExpressions(table, 'OLD').map((old, at) => {
    const differs = `${old} IS NOT ${after[at]}`;
    return table.keyColumns[at]?.loose === true
      ? `${old} COLLATE BINARY IS NOT ${after[at]} OR typeof(${old}) <> typeof(${after[at]})`
      : differs;
  });
  return `${logRow(table, id, 'OLD')} WHERE ${changed.join(' OR ')}`;
}

function logMatching(table: SqliteTable, id: bigint, where: string): string {
  const alias = aliasOf(table);
  const from = `${quoteIdentifier(table.schema.table)} AS ${alias}`;
  return `${logInto(id, keyExpressions(table, alias))} FROM ${from} WHERE ${where}`;
}

/** The condition of a partial index may name its table, so the table keeps its name unless that would hide NEW or OLD. */
function aliasOf(table: SqliteTable): string {
  return /^(?:new|old)$/i.test(table.schema.table) ? 't' : quoteIdentifier(table.schema.table);
}

/** The key's own index removes rows of another identity only where SQLite's equality is looser than that of bytes. */
function removesOtherKeys(table: SqliteTable, index: UniqueIndex): boolean {
  return !index.primaryKey || table.identity === 'nullable' || table.keyColumns.some((column) => column.loose);
}

/** The rows whose entry in the index is that of the row to be written. */
function matching(table: SqliteTable, index: UniqueIndex): string {
  const terms = index.terms.map((term, at) => {
    if (term.column !== null) {
      return `${aliasOf(table)}.${quoteIdentifier(term.column)} COLLATE ${quoteIdentifier(term.collation)} = ${written(table, term.column)}`;
    }
    const expression = index.sql?.terms[at] ?? 'NULL';
    return `(${expression}) COLLATE ${quoteIdentifier(term.collation)} = (SELECT ${expression} FROM (SELECT ${writtenRow(table)}))`;
  });
  // The index's own condition, over the rows found, so that the planner may use a partial index.
  const condition = index.sql?.where ?? null;
  return condition === null ? terms.join(' AND ') : `${terms.join(' AND ')} AND (${condition})`;
}

/** A NULL that OR REPLACE would replace by the column's default is still a NULL when BEFORE triggers run. */
function written(table: SqliteTable, name: string): string {
  const column = table.columns.find((each) => each.name === name);
  const value = `NEW.${quoteIdentifier(name)}`;
  return column === undefined || column.replacesNull === null ? value : `ifnull(${value}, ${column.replacesNull})`;
}

function writtenRow(table: SqliteTable): string {
  const columns = table.columns.map((column) => `${written(table, column.name)} AS ${quoteIdentifier(column.name)}`);
  return columns.join(', ');
}

function notItself(table: SqliteTable): string {
  if (table.rowid !== null) return `${aliasOf(table)}.${table.rowid} <> OLD.${table.rowid}`;
  const columns = keyExpressions(table, aliasOf(table));
  return `(${columns.map((column, at) => `${column} IS NOT ${keyExpressions(table, 'OLD')[at]}`).join(' OR ')})`;
}

/** Updates of other columns cannot touch the index. A generated column changes with columns that the index does not mention. */
function updatedColumns(table: SqliteTable, index: UniqueIndex): string {
  const mentioned = new Set([
    ...(index.sql?.mentions ?? []),
    ...index.terms.flatMap((term) => (term.column === null ? [] : [term.column])),
  ]);
  const generated = table.columns.some((column) => column.generated && mentioned.has(column.name));
  if (generated || mentioned.size === 0) return '';
  return ` OF ${[...mentioned].map(quoteIdentifier).join(', ')}`;
}
