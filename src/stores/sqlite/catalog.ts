import { createHash } from 'node:crypto';
import type { DatabaseSync } from 'node:sqlite';
import type { Catalog, DocumentName } from '../../capture/catalog.ts';
import type { CaptureNumber, CaptureRecord, Seal } from '../../model/capture.ts';
import { type DataSetSchema, OWN_PREFIX, type TableName } from '../../model/schema.ts';
import type { SqliteStore } from './store.ts';

const CAPTURE = `${OWN_PREFIX}_capture`;
const SCHEMA = `${OWN_PREFIX}_schema`;
const SEAL = `${OWN_PREFIX}_seal`;
const DOCUMENT = `${OWN_PREFIX}_document`;
const ELEMENT = `${OWN_PREFIX}_element`;

/**
 * The catalog, in the shadow's own file. SQLite has one writer at a time, so a cut takes its turn behind an apply in progress
 * rather than beside it; applies are kept short for that.
 */
export class SqliteCatalog implements Catalog {
  readonly #store: SqliteStore;

  constructor(store: SqliteStore) {
    this.#store = store;
  }

  async exists(): Promise<boolean> {
    return await Promise.resolve(this.#store.prepared());
  }

  async list(): Promise<readonly CaptureRecord[]> {
    return await this.#read(
      (db) => (db.prepare(`SELECT record FROM ${CAPTURE} ORDER BY number`).all() as { record: string }[]).map(recordOf),
      () => [],
    );
  }

  async get(number: CaptureNumber): Promise<CaptureRecord | null> {
    return await this.#read(
      (db) => {
        const row = db.prepare(`SELECT record FROM ${CAPTURE} WHERE number = ?`).get(number) as { record: string } | undefined;
        return row === undefined ? null : recordOf(row);
      },
      () => null,
    );
  }

  async save(record: CaptureRecord): Promise<void> {
    this.#store.drains(record.state === 'planned' || record.state === 'draining');
    await this.#store.write((db) => {
      saveRecord(db, record);
    });
    await this.#checkpointAfter(record);
  }

  async cut(record: CaptureRecord, schema: DataSetSchema): Promise<void> {
    await this.#store.write((db) => {
      saveRecord(db, record);
      db.prepare(`UPDATE ${CAPTURE} SET schema = ? WHERE number = ?`).run(pinSchema(db, schema), record.number);
      const moveOn = db.prepare(`UPDATE ${ELEMENT} SET capture = ?1 + 1 WHERE tbl = ?2 AND capture <= ?1`);
      for (const { table } of record.absent) moveOn.run(record.number, table);
    });
    this.#store.drains(false);
  }

  async schema(number: CaptureNumber): Promise<DataSetSchema | null> {
    return await this.#read(
      (db) => {
        const sql = `SELECT s.schema FROM ${CAPTURE} c JOIN ${SCHEMA} s ON s.id = c.schema WHERE c.number = ?`;
        const row = db.prepare(sql).get(number) as { schema: string } | undefined;
        return row === undefined ? null : (JSON.parse(row.schema) as DataSetSchema);
      },
      () => null,
    );
  }

  async seals(number: CaptureNumber): Promise<readonly Seal[]> {
    return await this.#read(
      (db) => {
        const rows = db.prepare(`SELECT tbl, rows, sums FROM ${SEAL} WHERE number = ? ORDER BY tbl`).all(number);
        return (rows as { tbl: string; rows: bigint; sums: Uint8Array }[]).map((row) => ({
          table: row.tbl as TableName,
          rows: row.rows,
          sums: Buffer.from(row.sums),
        }));
      },
      () => [],
    );
  }

  async seal(record: CaptureRecord, seals: readonly Seal[]): Promise<void> {
    await this.#store.write((db) => {
      saveRecord(db, record);
      db.prepare(`DELETE FROM ${SEAL} WHERE number = ?`).run(record.number);
      const insert = db.prepare(`INSERT INTO ${SEAL} (number, tbl, rows, sums) VALUES (?, ?, ?, ?)`);
      for (const each of seals) insert.run(record.number, each.table, each.rows, each.sums);
    });
    await this.#checkpointAfter(record);
  }

  async read(name: DocumentName): Promise<unknown> {
    return await this.#read(
      (db) => {
        const row = db.prepare(`SELECT value FROM ${DOCUMENT} WHERE name = ?`).get(name) as { value: string } | undefined;
        return row === undefined ? null : (JSON.parse(row.value) as unknown);
      },
      () => null,
    );
  }

  async write(name: DocumentName, value: unknown): Promise<void> {
    await this.#store.write((db) => {
      db.prepare(`INSERT OR REPLACE INTO ${DOCUMENT} (name, value) VALUES (?, ?)`).run(name, JSON.stringify(value));
    });
  }

  /** What the applies of its drain left in the log. */
  async #checkpointAfter({ state }: CaptureRecord): Promise<void> {
    if (state === 'sealed' || state === 'aborted') await this.#store.checkpoint();
  }

  async #read<T>(work: (db: DatabaseSync) => T, otherwise: () => T): Promise<T> {
    return await Promise.resolve(this.#store.read(work, otherwise));
  }
}

function recordOf(row: { record: string }): CaptureRecord {
  return JSON.parse(row.record) as CaptureRecord;
}

/** Replaces the record and leaves the schema it pinned alone. */
function saveRecord(db: DatabaseSync, record: CaptureRecord): void {
  db.prepare(
    `INSERT INTO ${CAPTURE} (number, state, record) VALUES (?, ?, ?)
     ON CONFLICT (number) DO UPDATE SET state = excluded.state, record = excluded.record`,
  ).run(record.number, record.state, JSON.stringify(record));
}

/** Captures of the same structure share one stored schema, so a cut writes a few hundred bytes. */
function pinSchema(db: DatabaseSync, schema: DataSetSchema): bigint {
  const text = JSON.stringify(schema);
  const digest = createHash('sha256').update(text).digest('hex');
  db.prepare(`INSERT INTO ${SCHEMA} (digest, schema) VALUES (?, ?) ON CONFLICT (digest) DO NOTHING`).run(digest, text);
  return (db.prepare(`SELECT id FROM ${SCHEMA} WHERE digest = ?`).get(digest) as { id: bigint }).id;
}
