import { accessSync, constants, existsSync } from 'node:fs';
import { dirname } from 'node:path';
import type { DatabaseSync } from 'node:sqlite';
import type { Catalog } from '../../capture/catalog.ts';
import type { CaptureNumber, RowDifference } from '../../model/capture.ts';
import { type Finding, ForeshadowError, messageOf } from '../../model/errors.ts';
import { COPY_FROM_NOTHING, type Element, type ElementState, type Progress } from '../../model/progress.ts';
import type { DataSetSchema, TableName, TableSchema } from '../../model/schema.ts';
import type { KeyTuple, Tuple } from '../../model/tuple.ts';
import type { ApplyReport, ApplyWork, ForeignRow, QuerySlice, RowVersion, Shadow } from '../../shadowing/shadow.ts';
import type { RowChunk, RowLimit } from '../../tracking/primary.ts';
import { applyWorks } from './apply.ts';
import { SqliteCatalog } from './catalog.ts';
import { openSqlite, sqliteIdentity, sqlitePath } from './connection.ts';
import { chunks, differences } from './diff.ts';
import { foreignRows, undoForeign } from './foreign.ts';
import { guardStands } from './guard.ts';
import { layoutOf } from './layout.ts';
import { SHADOW_ALIAS, runQuery } from './query.ts';
import { replaceVersion } from './repair.ts';
import { insertStatements } from './script.ts';
import {
  absentTable,
  layoutAt,
  liveSegment,
  liveSegments,
  missingTable,
  occupiedBy,
  occupiedError,
  prepareTables,
  readElements,
  retireTable,
  segmentAt,
} from './segments.ts';
import { SqliteStore } from './store.ts';
import { sqliteValues } from './values.ts';
import { VersionReader } from './versions.ts';

/** The shadow and its catalog in one SQLite file, which is made by the first write. Reading needs no claim. */
export async function openSqliteShadow(url: string): Promise<{ shadow: Shadow; catalog: Catalog }> {
  const store = new SqliteStore(sqlitePath(url));
  return await Promise.resolve({ shadow: new SqliteShadow(store), catalog: new SqliteCatalog(store) });
}

class SqliteShadow implements Shadow {
  readonly kind = 'sqlite';
  readonly values = sqliteValues;
  readonly #store: SqliteStore;

  constructor(store: SqliteStore) {
    this.#store = store;
  }

  async identity(signal: AbortSignal): Promise<string> {
    signal.throwIfAborted();
    return await Promise.resolve(sqliteIdentity(this.#store.path, 'shadow'));
  }

  async check(tables: readonly TableSchema[], signal: AbortSignal): Promise<readonly Finding[]> {
    signal.throwIfAborted();
    return await Promise.resolve(checkShadow(this.#store, tables));
  }

  async claim(holder: string): Promise<void> {
    this.#store.claim(holder);
    await Promise.resolve();
  }

  async prepare(schema: DataSetSchema, progress: Progress): Promise<void> {
    // Before anything is written: a file of somebody else's must stay as it is.
    const { path } = this.#store;
    const occupied = occupiedTables(this.#store, schema.tables);
    if (occupied.length > 0) throw occupiedError(path, occupied);
    await this.#store.write((db) => {
      prepareTables(db, path, schema, COPY_FROM_NOTHING, progress);
    });
  }

  async elements(): Promise<ReadonlyMap<TableName, Element>> {
    return await Promise.resolve(this.#store.read(readElements, () => new Map<TableName, Element>()));
  }

  async apply(works: readonly ApplyWork[], signal: AbortSignal): Promise<ApplyReport> {
    signal.throwIfAborted();
    const report = await this.#store.write(async (db) => await applyWorks(db, works, signal));
    await this.#store.checkpoint();
    return report;
  }

  /** Whatever is written is flushed. */
  async flush(): Promise<void> {}

  /** A change of columns rebuilds the table on the primary, and moves its rows: another segment begins. */
  async reshape(): Promise<boolean> {
    return false;
  }

  async retire(table: TableName, schema: TableSchema | null, state: ElementState, progress: Progress): Promise<void> {
    await this.#store.write((db) => {
      retireTable(db, table, schema, state, progress);
    });
  }

  async rows(table: TableName, at: CaptureNumber, after: KeyTuple | null, limit: RowLimit, signal: AbortSignal): Promise<RowChunk> {
    signal.throwIfAborted();
    return await this.#at(table, at, (reader) => reader.rows(at, after, limit));
  }

  async rowsByKey(table: TableName, at: CaptureNumber, keys: readonly KeyTuple[], signal: AbortSignal): Promise<Tuple[]> {
    signal.throwIfAborted();
    return await this.#at(table, at, (reader) => reader.rowsByKey(at, keys));
  }

  async schemaAt(table: TableName, at: CaptureNumber): Promise<TableSchema | null> {
    return await Promise.resolve(
      this.#store.read(
        (db) => segmentAt(db, table, at)?.schema ?? null,
        () => null,
      ),
    );
  }

  async *diff(table: TableName, from: CaptureNumber, to: CaptureNumber, signal: AbortSignal): AsyncIterable<readonly RowDifference[]> {
    yield* this.#inSnapshot(signal, missingTable(table), (db) => differences(db, table, from, to));
  }

  /** All of them: a `diff` reads what changed and nothing else, without a round trip. */
  async changedTables(tables: readonly TableName[]): Promise<ReadonlySet<TableName>> {
    return await Promise.resolve(new Set(tables));
  }

  /** All of them, as with `changedTables`. */
  async foreignTables(tables: readonly TableName[]): Promise<ReadonlySet<TableName>> {
    return await Promise.resolve(new Set(tables));
  }

  /** An index finds every row that bears the mark, whoever put it there. */
  async searchForeign(): Promise<void> {}

  async foreignRows(table: TableName, limit: number, signal: AbortSignal): Promise<readonly ForeignRow[]> {
    signal.throwIfAborted();
    return await Promise.resolve(
      this.#store.read(
        (db) => foreignRows(db, layoutOf(liveSegment(db, table)), limit),
        () => {
          throw missingTable(table);
        },
      ),
    );
  }

  async undoForeign(table: TableName, keys: readonly KeyTuple[]): Promise<number> {
    return await this.#store.write((db) => undoForeign(db, layoutOf(liveSegment(db, table)), keys).length);
  }

  async versionAt(table: TableName, key: KeyTuple, at: CaptureNumber): Promise<RowVersion | null> {
    return await this.#at(table, at, (reader) => reader.versionAt(key, at));
  }

  async replaceVersion(
    table: TableName,
    key: KeyTuple,
    version: { since: CaptureNumber; until: CaptureNumber | null },
    row: Tuple | null,
  ): Promise<void> {
    await this.#store.write((db) => {
      const segment = segmentAt(db, table, version.since);
      if (segment === null) throw absentTable(table, version.since, 'it did not exist then');
      replaceVersion(db, layoutOf(segment), key, version, row);
    });
  }

  async *script(table: TableName, at: CaptureNumber, signal: AbortSignal): AsyncIterable<string> {
    yield* this.#inSnapshot(signal, missingTable(table), function* (db) {
      const reader = new VersionReader(db, layoutAt(db, table, at));
      for (const rows of chunks(reader, at)) yield* insertStatements(reader.layout.segment.schema, rows);
    });
  }

  async *query(at: CaptureNumber, sql: string, signal: AbortSignal): AsyncIterable<QuerySlice> {
    const read = function* (db: DatabaseSync): Generator<QuerySlice> {
      if (!isCaptured(db, at)) throw missingCapture(at);
      yield* runQuery(db, at, sql);
    };
    yield* this.#inSnapshot(signal, missingCapture(at), read, () => this.#store.attached(SHADOW_ALIAS));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#store[Symbol.dispose]();
    await Promise.resolve();
  }

  async #at<T>(table: TableName, at: CaptureNumber, read: (reader: VersionReader) => T): Promise<T> {
    return await Promise.resolve(
      this.#store.read(
        (db) => read(new VersionReader(db, layoutAt(db, table, at))),
        () => {
          throw missingTable(table);
        },
      ),
    );
  }

  /** Pulls from a generator that reads in one snapshot, on a connection that lives as long as the pulling. */
  async *#inSnapshot<T>(
    signal: AbortSignal,
    missing: ForeshadowError,
    read: (db: DatabaseSync) => Iterable<T>,
    open = (): DatabaseSync | null => this.#store.snapshot(),
  ): AsyncGenerator<T> {
    signal.throwIfAborted();
    using db = open();
    if (db === null) throw missing;
    for (const each of read(db)) {
      yield await Promise.resolve(each);
      signal.throwIfAborted();
    }
  }
}

function isCaptured(db: DatabaseSync, at: CaptureNumber): boolean {
  const sql = `SELECT 1 FROM _foreshadow_capture WHERE number = ? AND state IN ('cut', 'validating', 'sealed')`;
  return db.prepare(sql).get(at) !== undefined;
}

function missingCapture(at: CaptureNumber): ForeshadowError {
  return new ForeshadowError('CAPTURE_MISSING', `there is no capture ${at}`, { remedy: '"foreshadow captures" lists those there are.' });
}

function occupiedTables(store: SqliteStore, tables: readonly TableSchema[]): TableName[] {
  if (!existsSync(store.path)) return [];
  const names = tables.map((table) => table.table);
  using db = openSqlite(store.path, { role: 'shadow', readOnly: true });
  return occupiedBy(db, names, store.prepared());
}

function checkShadow(store: SqliteStore, tables: readonly TableSchema[]): Finding[] {
  const { path } = store;
  const findings: Finding[] = [];
  const error = (code: string, subject: string, message: string, remedy: string): number =>
    findings.push({ severity: 'error', code, subject, message, remedy });
  try {
    accessSync(dirname(path), constants.W_OK);
    if (existsSync(path)) accessSync(path, constants.W_OK);
  } catch (cause) {
    error(
      'SHADOW_ACCESS',
      path,
      `the shadow cannot be written: ${messageOf(cause)}`,
      'Give this user the right to write the file and its directory.',
    );
    return findings;
  }
  try {
    for (const table of occupiedTables(store, tables)) {
      const { message, remedy } = occupiedError(path, [table]);
      error('SHADOW_OCCUPIED', table, message, remedy);
    }
    findings.push(...checkGuard(store));
  } catch (cause) {
    if (!(cause instanceof ForeshadowError)) throw cause;
    error(cause.code, path, cause.message, cause.remedy);
  }
  if (findings.length === 0)
    findings.push({ severity: 'ok', code: 'SHADOW_READY', subject: path, message: 'the shadow can be written', remedy: null });
  return findings;
}

function checkGuard(store: SqliteStore): Finding[] {
  return store.read(
    (db) => {
      const rows = db.prepare(`SELECT name FROM main.sqlite_schema WHERE type = 'trigger'`).all() as { name: string }[];
      const present = new Set(rows.map((row) => row.name));
      return liveSegments(db)
        .filter((segment) => !guardStands(segment.id, present))
        .map((segment) => ({
          severity: 'warning' as const,
          code: 'GUARD_MISSING',
          subject: segment.table,
          message: `triggers that guard ${segment.table} in the shadow are gone: writes by other programs were taken for ours`,
          remedy: 'The next capture or start puts them up again and compares the whole table.',
        }));
    },
    () => [],
  );
}
