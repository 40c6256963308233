import { hash, randomBytes } from 'node:crypto';
import type { DatabaseSync } from 'node:sqlite';
import type { TableEvent } from '../../model/change.ts';
import { ForeshadowError, messageOf } from '../../model/errors.ts';
import type { TableName } from '../../model/schema.ts';
import { quoteIdentifier } from './connection.ts';
import { type SqliteTable, describeTable } from './describe.ts';
import { LOG, type Trigger, triggersFor } from './triggers.ts';

const STATE = '_foreshadow_state';
const TABLES = '_foreshadow_table';

/** Rows of the log with this table id are not keys: they carry an event, or only keep the sequence from going back. */
export const NO_TABLE = 0n;

/** An event needs three columns: its kind, its table, its reason. */
const KEY_COLUMNS_MIN = 3;

export interface TrackedTable {
  readonly id: bigint;
  readonly table: SqliteTable;
}

/** Where the log was read up to, and what its last row carried. */
export interface LogMark {
  readonly seq: bigint;
  readonly mark: bigint;
}

/** What stands on the primary after `settle`. */
export interface Standing {
  readonly tables: readonly TrackedTable[];
  readonly schemaVersion: bigint;
}

export interface SettleOptions {
  /** The tables to track from now on; null keeps those that are tracked. */
  readonly wanted: readonly TableName[] | null;
  /** Where reading will go on: a log that does not hold this row is another log, and all tables have a gap. */
  readonly from: LogMark | null;
}

/**
 * Brings log and triggers into the state they should be in, and writes down as events in the log what happened to the tables
 * meanwhile: so an event survives a crash and comes in order with the rows. Call it in a write transaction.
 */
export function settle(db: DatabaseSync, options: SettleOptions): Standing {
  createOwnTables(db);
  const tracked = readTracked(db);
  const moved = schemaVersion(db) !== knownSchemaVersion(db);
  const wanted = options.wanted ?? tracked.map((each) => each.name);
  const events: Omit<TableEvent, 'at'>[] = [];
  const standing: TrackedTable[] = [];
  const expected: { table: SqliteTable; triggers: Trigger[] }[] = [];
  for (const name of wanted) {
    const before = tracked.find((each) => each.name === name);
    const table = describeTable(db, name);
    if (table === null) {
      if (before !== undefined) events.push({ kind: 'dropped', table: name, reason: 'the table no longer exists' });
      continue;
    }
    const id = before?.id ?? nextTableId(db);
    if (before === undefined) rememberTable(db, id, table);
    const triggers = triggersFor(table, id);
    if (before !== undefined) events.push(...eventsOf(db, table, triggers, before.definition, moved));
    if (before !== undefined && before.definition !== definitionOf(table)) rememberTable(db, id, table);
    standing.push({ id, table });
    expected.push({ table, triggers });
  }
  for (const each of tracked)
    if (!standing.some((table) => table.id === each.id)) db.prepare(`DELETE FROM ${TABLES} WHERE id = ?`).run(each.id);
  widenLog(db, Math.max(KEY_COLUMNS_MIN, ...standing.map(({ table }) => table.schema.key.length)));
  placeTriggers(db, expected);
  continueLog(db, options.from, events, standing);
  writeState(db, 'schemaVersion', schemaVersion(db));
  return { tables: standing, schemaVersion: schemaVersion(db) };
}

function eventsOf(
  db: DatabaseSync,
  table: SqliteTable,
  triggers: readonly Trigger[],
  definition: string,
  moved: boolean,
): Omit<TableEvent, 'at'>[] {
  const name = table.schema.table;
  // Its text counts, not only its shape: a column dropped and added anew holds other values, and no trigger fires for it.
  if (definition !== definitionOf(table)) return [{ kind: 'schema-changed', table: name, reason: 'its definition changed' }];
  const present = presentTriggers(db);
  const missing = triggers.find((trigger) => present.get(trigger.name) !== trigger.sql);
  if (missing !== undefined)
    return [{ kind: 'gap', table: name, reason: `its changes were not tracked in full: trigger ${missing.name} was missing or altered` }];
  if (!moved || (table.identity !== 'hidden' && table.identity !== 'nullable')) return [];
  return [
    { kind: 'identity-moved', table: name, reason: 'VACUUM or a schema change may have renumbered rows that only their rowid identifies' },
  ];
}

/** What stands, read without writing; null where something moved since the last `settle`, which then has to run again. */
export function readStanding(db: DatabaseSync): Standing | null {
  if (!isInstalled(db) || schemaVersion(db) !== knownSchemaVersion(db)) return null;
  const tables = readTracked(db).flatMap(({ id, name }) => {
    const table = describeTable(db, name);
    return table === null ? [] : [{ id, table }];
  });
  return { tables, schemaVersion: schemaVersion(db) };
}

/** Removes everything of ours. Call it in a write transaction. */
export function removeAll(db: DatabaseSync): void {
  for (const name of presentTriggers(db).keys()) db.exec(`DROP TRIGGER ${quoteIdentifier(name)}`);
  for (const name of [LOG, TABLES, STATE]) db.exec(`DROP TABLE IF EXISTS ${name}`);
}

export function isInstalled(db: DatabaseSync): boolean {
  const names = db.prepare('SELECT count(*) AS n FROM sqlite_schema WHERE name IN (?, ?, ?)').get(LOG, TABLES, STATE) as { n: bigint };
  return names.n === 3n;
}

/** Anything of ours is there, even if it is not whole. */
export function hasTraces(db: DatabaseSync): boolean {
  const own = "SELECT 1 FROM sqlite_schema WHERE name IN (?, ?, ?) OR (type = 'trigger' AND name LIKE '\\_foreshadow\\_%' ESCAPE '\\')";
  return db.prepare(own).get(LOG, TABLES, STATE) !== undefined;
}

export function schemaVersion(db: DatabaseSync): bigint {
  return (db.prepare('PRAGMA schema_version').get() as { schema_version: bigint }).schema_version;
}

/** The last row of the log. It always has one. */
export function lastMark(db: DatabaseSync): LogMark {
  return db.prepare(`SELECT seq, mark FROM ${LOG} ORDER BY seq DESC LIMIT 1`).get() as unknown as LogMark;
}

export function holdsMark(db: DatabaseSync, from: LogMark): boolean {
  return db.prepare(`SELECT 1 FROM ${LOG} WHERE seq = ? AND mark = ?`).get(from.seq, from.mark) !== undefined;
}

/** Forgets rows below `acknowledged`, which itself stays: it proves later that this is still the same log. Returns how many. */
export function purgeLog(db: DatabaseSync, acknowledged: bigint, rowsMax: number): number {
  const statement = db.prepare(
    `DELETE FROM ${LOG} WHERE seq < ?1 AND seq < (SELECT max(seq) FROM ${LOG}) AND seq <= (SELECT min(seq) FROM ${LOG}) + ?2`,
  );
  return Number(statement.run(acknowledged, BigInt(rowsMax)).changes);
}

function createOwnTables(db: DatabaseSync): void {
  if (isInstalled(db)) return;
  db.exec(`CREATE TABLE IF NOT EXISTS ${LOG} (seq INTEGER PRIMARY KEY, tbl INTEGER, mark INTEGER, k1, k2, k3);
    CREATE TABLE IF NOT EXISTS ${TABLES} (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, definition TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS ${STATE} (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
    INSERT OR IGNORE INTO ${STATE} VALUES ('id', '${randomBytes(16).toString('hex')}'), ('tables', 0);
    INSERT INTO ${LOG} (tbl, mark) SELECT 0, random() & 32767 WHERE NOT EXISTS (SELECT 1 FROM ${LOG})`);
}

function readTracked(db: DatabaseSync): { id: bigint; name: TableName; definition: string }[] {
  return db.prepare(`SELECT id, name, definition FROM ${TABLES} ORDER BY id`).all() as {
    id: bigint;
    name: TableName;
    definition: string;
  }[];
}

/** Ids are never used again: rows of a table that is gone may still be in the log. */
function nextTableId(db: DatabaseSync): bigint {
  const row = db.prepare(`UPDATE ${STATE} SET value = value + 1 WHERE name = 'tables' RETURNING value`).get();
  return (row as { value: bigint }).value;
}

function rememberTable(db: DatabaseSync, id: bigint, table: SqliteTable): void {
  db.prepare(`INSERT OR REPLACE INTO ${TABLES} (id, name, definition) VALUES (?, ?, ?)`).run(id, table.schema.table, definitionOf(table));
}

function definitionOf({ schema }: SqliteTable): string {
  return hash('sha256', JSON.stringify([schema.shape, schema.create.map(({ sql }) => sql)]), 'hex');
}

function knownSchemaVersion(db: DatabaseSync): bigint | null {
  const row = db.prepare(`SELECT value FROM ${STATE} WHERE name = 'schemaVersion'`).get();
  return (row as { value: bigint } | undefined)?.value ?? null;
}

function writeState(db: DatabaseSync, name: string, value: bigint): void {
  db.prepare(`INSERT INTO ${STATE} VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = ?2 WHERE value IS NOT ?2`).run(name, value);
}

function widenLog(db: DatabaseSync, keys: number): void {
  const present = db.prepare('SELECT count(*) AS n FROM pragma_table_info(?)').get(LOG) as { n: bigint };
  for (let k = Number(present.n) - 3 + 1; k <= keys; k++) db.exec(`ALTER TABLE ${LOG} ADD COLUMN k${k}`);
}

function presentTriggers(db: DatabaseSync): Map<string, string> {
  const rows = db.prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND name LIKE '\\_foreshadow\\_%' ESCAPE '\\'").all();
  return new Map((rows as { name: string; sql: string }[]).map((row) => [row.name, row.sql]));
}

/** Touches only what differs: each statement of DDL makes every program on the file read the schema again. */
function placeTriggers(db: DatabaseSync, expected: readonly { table: SqliteTable; triggers: readonly Trigger[] }[]): void {
  const wanted = new Map(expected.flatMap(({ triggers }) => triggers.map((trigger) => [trigger.name, trigger.sql])));
  const present = presentTriggers(db);
  for (const [name, sql] of present) if (wanted.get(name) !== sql) db.exec(`DROP TRIGGER ${quoteIdentifier(name)}`);
  for (const { table, triggers } of expected) {
    const missing = triggers.filter((trigger) => present.get(trigger.name) !== trigger.sql);
    if (missing.length === 0) continue;
    const failedBefore = compileFailure(db, table);
    for (const trigger of missing) db.exec(trigger.sql);
    const failsNow = failedBefore === null ? compileFailure(db, table) : null;
    if (failsNow !== null) throw wouldBreak(table, failsNow);
  }
}

/** Null if writing to the table compiles, else why not: the application's own triggers may call functions that only it has. */
function compileFailure(db: DatabaseSync, table: SqliteTable): unknown {
  const name = quoteIdentifier(table.schema.table);
  const columns = table.columns.filter((column) => !column.generated).map((column) => quoteIdentifier(column.name));
  try {
    db.prepare(`EXPLAIN INSERT INTO ${name} DEFAULT VALUES`);
    db.prepare(`EXPLAIN UPDATE ${name} SET ${columns.map((column) => `${column} = ${column}`).join(', ')}`);
    db.prepare(`EXPLAIN DELETE FROM ${name}`);
    return null;
  } catch (error) {
    return error;
  }
}

function wouldBreak(table: SqliteTable, cause: unknown): ForeshadowError {
  return new ForeshadowError('PRIMARY_SETTING', `tracking ${table.schema.table} would make writing to it fail: ${messageOf(cause)}`, {
    remedy: `Nothing was installed. Exclude the table (policy.exclude: ["${table.schema.table}"]), or simplify its unique indexes.`,
    cause,
  });
}

/** Writes the events down, above everything that was ever read. */
function continueLog(
  db: DatabaseSync,
  from: LogMark | null,
  events: readonly Omit<TableEvent, 'at'>[],
  standing: readonly TrackedTable[],
): void {
  const insert = db.prepare(`INSERT INTO ${LOG} (tbl, mark, k1, k2, k3) VALUES (0, random() & 32767, ?, ?, ?)`);
  if (from !== null && !holdsMark(db, from)) {
    const last = lastMark(db).seq;
    const next = (last > from.seq ? last : from.seq) + 1n;
    db.prepare(`INSERT INTO ${LOG} (seq, tbl, mark) VALUES (?, 0, random() & 32767)`).run(next);
    const reason = 'the log is not the one that was read before: the file was put back from a backup, or the log was removed';
    for (const { table } of standing) insert.run('gap', table.schema.table, reason);
  }
  for (const event of events) insert.run(event.kind, event.table, event.reason);
}
