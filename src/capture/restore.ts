import type { CaptureNumber, CaptureRecord } from '../model/capture.ts';
import { copiesOf } from '../model/copies.ts';
import { ForeshadowError } from '../model/errors.ts';
import type { DataSetSchema, TableName, TableSchema } from '../model/schema.ts';
import type { Tuple } from '../model/tuple.ts';
import type { Shadow } from '../shadowing/shadow.ts';
import type { Catalog } from './catalog.ts';
import type { RestoreTarget } from './restore-target.ts';
import { Sums, rowsAt, sealsEqual } from './seal.ts';

export interface RestoreParts {
  readonly shadow: Shadow;
  readonly catalog: Catalog;
}

export interface RestoreOutcome {
  readonly tables: number;
  readonly rows: number;
  /** Every row that was written adds up to the capture's seals. */
  readonly proved: boolean;
  readonly skipped: readonly { readonly object: string; readonly reason: string }[];
}

/**
 * Writes a capture into an empty database as a working one: tables, rows, then keys, indexes, constraints, sequences, views and
 * triggers. With `table`, only that one, beside what the database holds.
 */
export async function restore(
  parts: RestoreParts,
  record: CaptureRecord,
  table: TableName | null,
  target: RestoreTarget,
  onRows: (table: TableName, rows: number) => void,
  signal: AbortSignal,
): Promise<RestoreOutcome> {
  const schema = await schemaOf(parts.catalog, record, table);
  const seals = await parts.catalog.seals(record.number);
  const skipped = [];
  let rows = 0;
  let proved = true;
  await target.begin(schema.tables, table === null ? 'empty' : 'beside', signal);
  skipped.push(...(await target.run(schema.before, signal)));
  for (const each of schema.tables) {
    skipped.push(...(await target.run(each.create, signal)));
    const sums = new Sums();
    const counted = counting(each, rowsAt(parts.shadow, each.table, record.number, signal), sums, (done) => onRows(each.table, done));
    rows += await target.load(each, counted, signal);
    const seal = seals.find((candidate) => candidate.table === each.table);
    proved &&= seal !== undefined && sealsEqual(seal, sums.seal(each.table));
  }
  for (const each of schema.tables) skipped.push(...(await target.run(each.finish, signal)));
  skipped.push(...(await target.run(schema.after, signal)));
  if (!proved) {
    throw new ForeshadowError(
      'CAPTURE_DAMAGED',
      `the rows of capture ${record.number} no longer add up to its seals; nothing was restored`,
      {
        remedy: 'Restore another capture (`foreshadow captures`), and run `foreshadow validate` to find what was altered.',
      },
    );
  }
  await target.finish(signal);
  return { tables: schema.tables.length, rows, proved, skipped };
}

/** The structure a capture pinned; with `table`, that part of it which stands alone. */
export async function schemaOf(catalog: Catalog, record: CaptureRecord, table: TableName | null): Promise<DataSetSchema> {
  const schema = await catalog.schema(record.number);
  if (schema === null) throw new Error(`capture ${record.number} has no schema`);
  if (table === null) return schema;
  const absent = record.absent.find((each) => each.table === table);
  if (absent !== undefined) throw leftOut(table, record.number, absent.reason);
  const one = schema.tables.find((each): each is TableSchema => each.table === table);
  if (one === undefined) {
    throw new ForeshadowError('TABLE_MISSING', `capture ${record.number} has no table ${table}`, {
      remedy: `It has: ${schema.tables.map((each) => each.table).join(', ')}.`,
    });
  }
  return { before: schema.before, tables: [one], after: [] };
}

export function leftOut(table: TableName, capture: CaptureNumber, reason: string): ForeshadowError {
  return new ForeshadowError('CAPTURE_ABSENT_TABLE', `${table} was left out of capture ${capture}: ${reason}`, {
    remedy: 'Choose a capture that has it: `foreshadow captures` lists what each lacks.',
  });
}

async function* counting(
  schema: TableSchema,
  pages: AsyncIterable<readonly Tuple[]>,
  sums: Sums,
  onRows: (rows: number) => void,
): AsyncGenerator<readonly Tuple[]> {
  for await (const page of pages) {
    for (const row of page) sums.add(row, copiesOf(schema, row));
    onRows(Number(sums.rows));
    yield page;
  }
}
