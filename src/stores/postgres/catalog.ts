import { createHash } from 'node:crypto';
import type { Catalog, DocumentName } from '../../capture/catalog.ts';
import { type CaptureNumber, type CaptureRecord, captureNumber, type Seal } from '../../model/capture.ts';
import type { DataSetSchema, TableName } from '../../model/schema.ts';
import { literal } from './connection.ts';
import { OWN_SCHEMA } from './layout.ts';
import type { Writer } from './shadow-connections.ts';
import { EXISTS } from './shadow-schema.ts';
import type { TextResult } from './wire.ts';

/**
 * The catalog in the schema `_foreshadow`, on a connection of its own: none of its rows is written by an apply, so a cut waits for
 * nothing but the disk.
 */
export class PostgresCatalog implements Catalog {
  readonly #writer: Writer;
  #exists = false;
  /** The digest that the last cut of this process pinned. */
  #pinned: string | null = null;

  constructor(writer: Writer) {
    this.#writer = writer;
  }

  async exists(): Promise<boolean> {
    this.#exists ||= await this.#writer.read(async (wire) => (await wire.query(EXISTS))[0]?.rows[0]?.[0] === 't');
    return this.#exists;
  }

  async list(): Promise<readonly CaptureRecord[]> {
    return (await this.#rows(`SELECT record FROM ${OWN_SCHEMA}.capture ORDER BY number`)).map((row) => recordOf(row[0]));
  }

  async get(number: CaptureNumber): Promise<CaptureRecord | null> {
    const [row] = await this.#rows(`SELECT record FROM ${OWN_SCHEMA}.capture WHERE number = ${number}`);
    return row === undefined ? null : recordOf(row[0]);
  }

  async save(record: CaptureRecord): Promise<void> {
    await this.#writer.run(saveSql(record));
  }

  async cut(record: CaptureRecord, schema: DataSetSchema): Promise<void> {
    const text = JSON.stringify(schema);
    const digest = literal(createHash('sha256').update(text).digest('hex'));
    // Of thousands of tables it is some megabytes, and most captures have the one before's.
    const pinned = this.#pinned === digest;
    const moved = record.absent.map(
      ({ table }) => `INSERT INTO ${OWN_SCHEMA}.left_out AS l (table_name, capture) VALUES (${literal(table)}, ${record.number + 1})
        ON CONFLICT (table_name) DO UPDATE SET capture = greatest(l.capture, excluded.capture)`,
    );
    await this.#writer.run(
      `${pinned ? '' : `INSERT INTO ${OWN_SCHEMA}.schema (digest, schema) VALUES (${digest}, ${literal(text)}) ON CONFLICT DO NOTHING;`}
       ${saveSql(record)}; UPDATE ${OWN_SCHEMA}.capture SET schema = ${digest} WHERE number = ${record.number};
       ${moved.join('; ')}`,
    );
    this.#pinned = digest;
  }

  async schema(number: CaptureNumber): Promise<DataSetSchema | null> {
    const [row] = await this.#rows(
      `SELECT s.schema FROM ${OWN_SCHEMA}.capture c JOIN ${OWN_SCHEMA}.schema s ON s.digest = c.schema WHERE c.number = ${number}`,
    );
    return row === undefined ? null : (JSON.parse(row[0] as string) as DataSetSchema);
  }

  async seals(number: CaptureNumber): Promise<readonly Seal[]> {
    const rows = await this.#rows(
      `SELECT table_name, rows, encode(sums, 'hex') FROM ${OWN_SCHEMA}.seal WHERE number = ${number} ORDER BY table_name`,
    );
    return rows.map(([table, count, sums]) => ({
      table: table as TableName,
      rows: BigInt(count as string),
      sums: Buffer.from(sums as string, 'hex'),
    }));
  }

  async seal(record: CaptureRecord, seals: readonly Seal[]): Promise<void> {
    const added = seals.map(({ table, rows, sums }) => `(${record.number}, ${literal(table)}, ${rows}, '\\x${sums.toString('hex')}')`);
    const statements = [saveSql(record), `DELETE FROM ${OWN_SCHEMA}.seal WHERE number = ${record.number}`];
    if (added.length > 0) statements.push(`INSERT INTO ${OWN_SCHEMA}.seal (number, table_name, rows, sums) VALUES ${added.join(', ')}`);
    await this.#writer.run(statements.join('; '));
  }

  async read(name: DocumentName): Promise<unknown> {
    const [row] = await this.#rows(`SELECT value FROM ${OWN_SCHEMA}.document WHERE name = ${literal(name)}`);
    return row === undefined ? null : JSON.parse(row[0] as string);
  }

  async write(name: DocumentName, value: unknown): Promise<void> {
    await this.#writer.run(
      `INSERT INTO ${OWN_SCHEMA}.document (name, value) VALUES (${literal(name)}, ${literal(JSON.stringify(value ?? null))})
       ON CONFLICT (name) DO UPDATE SET value = excluded.value`,
    );
  }

  async #rows(sql: string): Promise<TextResult['rows']> {
    if (!(await this.exists())) return [];
    return this.#writer.read(async (wire) => (await wire.query(sql))[0]?.rows ?? []);
  }
}

function saveSql(record: CaptureRecord): string {
  return `INSERT INTO ${OWN_SCHEMA}.capture (number, record) VALUES (${record.number}, ${literal(JSON.stringify(record))})
    ON CONFLICT (number) DO UPDATE SET record = excluded.record`;
}

function recordOf(text: string | null | undefined): CaptureRecord {
  const record = JSON.parse(text as string) as CaptureRecord;
  return { ...record, number: captureNumber(record.number) };
}
