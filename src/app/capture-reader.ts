import { leftOut, restore, schemaOf } from '../capture/restore.ts';
import { rowsAt, sealsEqual, sumsByReading } from '../capture/seal.ts';
import { type CaptureRecord, type Coverage, type RowDifference, captureNumber } from '../model/capture.ts';
import { type BothSchemas, changeOf } from '../model/copies.ts';
import { type ErrorCode, ForeshadowError, messageOf } from '../model/errors.ts';
import type { DdlStatement, TableName } from '../model/schema.ts';
import { keyTuple } from '../model/tuple.ts';
import { type Config, redactUrl } from './config.ts';
import type {
  CaptureListing,
  DiffReport,
  DiffRow,
  ProgressListener,
  QueryReport,
  RestoreReport,
  RestoreRequest,
  ValidateReport,
} from './operations.ts';
import { listing, readable, round } from './reports.ts';
import { type OpenShadow, openRestoreTarget } from './stores.ts';

interface TableSlice {
  readonly table: TableName;
  readonly slice: readonly RowDifference[];
}

/** What can be done with captures by reading the shadow alone: no claim, no primary, beside a running `start`. */
export class CaptureReader {
  readonly #config: Config;
  readonly #open: () => Promise<OpenShadow>;

  constructor(config: Config, open: () => Promise<OpenShadow>) {
    this.#config = config;
    this.#open = open;
  }

  async list(signal: AbortSignal): Promise<readonly CaptureListing[]> {
    const { catalog } = await this.#open();
    signal.throwIfAborted();
    return (await catalog.exists()) ? (await catalog.list()).map(listing) : [];
  }

  /** A capture against its own seal. */
  async validate(number: number, progress: ProgressListener, signal: AbortSignal): Promise<ValidateReport> {
    const begunMs = performance.now();
    const { shadow, catalog } = await this.#open();
    const record = await readable(catalog, number);
    const seals = await catalog.seals(record.number);
    const skipped: Array<Coverage['skipped'][number]> = [...record.absent];
    let rows = 0;
    let broken = 0;
    for (const seal of seals) {
      const now = await sumsByReading(shadow, seal.table, record.number, signal);
      rows += Number(now.rows);
      progress({ phase: 'adding up', table: seal.table, done: rows, total: null, unit: 'rows' });
      if (sealsEqual(seal, now)) continue;
      broken++;
      skipped.push({
        table: seal.table,
        reason: `its rows no longer add up to the seal: ${seal.rows} rows were sealed, ${now.rows} are read`,
      });
    }
    return {
      against: 'seal',
      capture: number,
      verdict: broken > 0 ? 'INVALID' : seals.length === 0 || record.absent.length > 0 ? 'INCONCLUSIVE' : 'VALID',
      coverage: { tables: seals.length, rows, witnessed: 0, skipped },
      differences: [],
      moreDifferences: 0,
      elapsedMs: round(performance.now() - begunMs),
    };
  }

  async diff(from: number, to: number, signal: AbortSignal): Promise<DiffReport> {
    const tables = new Map<string, { inserted: number; updated: number; deleted: number }>();
    for await (const { table, slice } of this.#differences(from, to, signal)) {
      const counts = tables.get(table) ?? { inserted: 0, updated: 0, deleted: 0 };
      const schemas = await this.#schemas(table, from, to);
      for (const { before, after } of slice) {
        const { kind, rows } = changeOf(schemas, before, after);
        counts[kind] += Number(rows);
      }
      tables.set(table, counts);
    }
    return { from, to, tables: Array.from(tables, ([table, counts]) => ({ table, ...counts })) };
  }

  async *diffRows(from: number, to: number, signal: AbortSignal): AsyncIterable<DiffRow> {
    const { shadow } = await this.#open();
    for await (const { table, slice } of this.#differences(from, to, signal)) {
      const schemas = await this.#schemas(table, from, to);
      for (const { key, before, after } of slice) {
        const schema = after === null ? schemas.before : schemas.after;
        if (schema === null) continue;
        const { kind, rows } = changeOf(schemas, before, after);
        const row: DiffRow = {
          table,
          key: shadow.values.key(schema, key),
          before: before === null || schemas.before === null || kind === 'inserted' ? null : shadow.values.row(schemas.before, before),
          after: after === null || schemas.after === null || kind === 'deleted' ? null : shadow.values.row(schemas.after, after),
        };
        for (let left = rows; left > 0n; left--) yield row;
      }
    }
  }

  /** The schemas a table has at two captures, which are both readable. */
  async #schemas(table: TableName, from: number, to: number): Promise<BothSchemas> {
    const { shadow } = await this.#open();
    return { before: await shadow.schemaAt(table, captureNumber(from)), after: await shadow.schemaAt(table, captureNumber(to)) };
  }

  /** Slices of differences, every table of both captures in turn. A table with none gives one empty slice. */
  async *#differences(from: number, to: number, signal: AbortSignal): AsyncGenerator<TableSlice> {
    const { catalog } = await this.#open();
    const [a, b] = [await readable(catalog, from), await readable(catalog, to)];
    if (a.number > b.number) {
      for await (const { table, slice } of this.#differences(to, from, signal)) {
        yield { table, slice: slice.map(({ key, before, after }) => ({ key, before: after, after: before })) };
      }
      return;
    }
    const names = new Set<TableName>();
    for (const { number } of [a, b]) for (const { table } of (await catalog.schema(number))?.tables ?? []) names.add(table);
    for (const table of names) {
      yield { table, slice: [] };
      if (a.number === b.number) continue;
      yield* this.#differencesOf(table, a, b, signal);
    }
  }

  /** A table that only one of two captures has differs in every row. */
  async *#differencesOf(table: TableName, a: CaptureRecord, b: CaptureRecord, signal: AbortSignal): AsyncGenerator<TableSlice> {
    const { shadow } = await this.#open();
    for (const { number, absent } of [a, b]) {
      const left = absent.find((each) => each.table === table);
      if (left !== undefined) throw leftOut(table, number, left.reason);
    }
    const before = await shadow.schemaAt(table, a.number);
    const after = await shadow.schemaAt(table, b.number);
    if (before !== null && after !== null) {
      for await (const slice of shadow.diff(table, a.number, b.number, signal)) yield { table, slice };
      return;
    }
    const schema = before ?? after;
    if (schema === null) return;
    for await (const page of rowsAt(shadow, table, before === null ? b.number : a.number, signal)) {
      const slice = page.map((row) => {
        const key = keyTuple(row, schema.key);
        return before === null ? { key, before: null, after: row } : { key, before: row, after: null };
      });
      yield { table, slice };
    }
  }

  async *query(capture: number, sql: string, signal: AbortSignal): AsyncIterable<QueryReport> {
    const { shadow, catalog } = await this.#open();
    yield* shadow.query((await readable(catalog, capture)).number, sql, signal);
  }

  async restore(request: RestoreRequest, progress: ProgressListener, signal: AbortSignal): Promise<RestoreReport> {
    const begunMs = performance.now();
    const { shadow, catalog } = await this.#open();
    const record = await readable(catalog, request.capture);
    await using target = await openRestoreTarget(this.#config, request.to).catch(asTarget(request.to));
    const onRows = (table: TableName, done: number): void => progress({ phase: 'restoring', table, done, total: null, unit: 'rows' });
    const table = request.table as TableName | null;
    const outcome = await restore({ shadow, catalog }, record, table, target, onRows, signal).catch(asTarget(request.to));
    return { capture: request.capture, to: redactUrl(request.to), ...outcome, elapsedMs: round(performance.now() - begunMs) };
  }

  async *script(capture: number, table: string | null, signal: AbortSignal): AsyncIterable<string> {
    const { shadow, catalog } = await this.#open();
    const record = await readable(catalog, capture);
    const schema = await schemaOf(catalog, record, table as TableName | null);
    yield `-- capture ${record.number} of ${this.#config.dataSet}, cut at ${record.cutAt}\n`;
    // All of it or nothing, and in any order of tables.
    yield SCRIPT_HEADS[shadow.kind] ?? 'BEGIN;\n';
    yield* statements(schema.before);
    for (const each of schema.tables) {
      yield* statements(each.create);
      yield* shadow.script(each.table, record.number, signal);
    }
    for (const each of schema.tables) yield* statements(each.finish);
    yield* statements(schema.after);
    yield 'COMMIT;\n';
  }
}

/** What text means must not depend on the settings of whoever runs the script, and names come with their schemas. */
const SCRIPT_HEADS: Readonly<Record<string, string>> = {
  sqlite: 'PRAGMA foreign_keys = OFF;\nBEGIN;\n',
  postgres: `BEGIN;
SET LOCAL client_encoding = 'UTF8';
SET LOCAL standard_conforming_strings = on;
SET LOCAL DateStyle = 'ISO, YMD';
SET LOCAL IntervalStyle = 'postgres';
SET LOCAL lc_monetary = 'C';
SET LOCAL xmloption = content;
SET LOCAL search_path = pg_catalog;
SET LOCAL check_function_bodies = off;
SET LOCAL client_min_messages = warning;
`,
};

/** A target is opened as any store is: its failures are of the target, not of what the config names. */
function asTarget(url: string): (error: unknown) => never {
  return (error) => {
    const code = error instanceof ForeshadowError ? TARGET_CODES.get(error.code) : undefined;
    if (code === undefined) throw error;
    throw new ForeshadowError(code, `cannot restore to ${redactUrl(url)}: ${messageOf(error)}`, {
      remedy: 'Correct what --to names.',
      cause: error,
    });
  };
}

const TARGET_CODES: ReadonlyMap<ErrorCode, ErrorCode> = new Map([
  ['SHADOW_UNREACHABLE', 'TARGET_UNREACHABLE'],
  ['SHADOW_ACCESS', 'TARGET_ACCESS'],
]);

function* statements(list: readonly DdlStatement[]): Generator<string> {
  for (const { sql } of list) yield `${sql.trimEnd().replace(/;$/, '')};\n`;
}
