import type { TransactionRef } from '../../model/change.ts';
import type { Position } from '../../model/position.ts';
import type { TableName, TableSchema } from '../../model/schema.ts';
import type { Selection } from '../../model/selection.ts';
import { cellsOf, type KeyTuple, keyTuple, type Tuple } from '../../model/tuple.ts';
import type { CaptureNumber } from '../../model/capture.ts';
import { isKeyless } from '../../model/copies.ts';
import type { PackedChunk, PrimarySnapshot, RowChunk, RowLimit } from '../../tracking/primary.ts';
import { binaryArray } from './array-format.ts';
import { identifier, literal } from './connection.ts';
import { CopyPack, readPack } from './copy-pack.ts';
import { frontierAt, lyingIn, placeAt, readHeap } from './heap.ts';
import { ask, type CatalogTable, isTrackable, qualifiedName, readTable, readTablesNamed, type TrackableTable } from './describe.ts';
import { readKeylessRows, readKeylessRowsByKey } from './keyless.ts';
import { splitName } from './layout.ts';
import type { Visibility } from './visibility.ts';
import type { Parameter, Wire } from './wire.ts';

/** What reading a table by key needs to know. */
interface KeyFacts {
  readonly from: string;
  readonly keys: readonly {
    readonly name: string;
    /** The quoted column; of a domain, cast to its base type, whose operators are meant. */
    readonly column: string;
    /** Its base type, and that of arrays of it; 0: there are none, or UNNEST would take their elements apart. */
    readonly type: number;
    readonly arrayType: number;
    /** Names of its type's own operators, which may lie outside pg_catalog (citext). */
    readonly greater: string;
    readonly equal: string;
    readonly builtIn: boolean;
  }[];
}

const KEYS_PER_QUERY = 5000;
const FIRST_SLICE_ROWS = 200;

/** A pack may come to so many times what was asked for before it is read again in smaller parts. */
const PACK_EXCESS = 4;
/** How much longer than the last range of places the next may be, where that one was sparse. */
const RANGE_GROWTH = 4;

/** What the last range of places of each table came to; rows differ in width, and in how they were compressed. */
export type PlaceRanges = Map<TableName, { readonly places: number; readonly bytes: number }>;

/** A REPEATABLE READ transaction. Rows leave it as the bytes of the binary format. */
export class PostgresSnapshot implements PrimarySnapshot {
  readonly end: Position;
  readonly #wire: Wire;
  /** Tables that are going to be read: described together. */
  readonly #of: readonly TableName[];
  #described: Promise<readonly CatalogTable[]> | null = null;
  readonly #visibility: Visibility;
  readonly #selection: Selection;
  readonly #schemaOf: (table: TrackableTable) => TableSchema;
  readonly #release: () => Promise<void>;
  readonly #facts = new Map<TableName, KeyFacts>();
  readonly #ranges: PlaceRanges;

  constructor(
    wire: Wire,
    visibility: Visibility,
    end: Position,
    parts: {
      readonly of: readonly TableName[];
      readonly ranges: PlaceRanges;
      readonly selection: Selection;
      readonly schemaOf: (table: TrackableTable) => TableSchema;
    },
    release: () => Promise<void>,
  ) {
    this.#wire = wire;
    this.#of = parts.of;
    this.#ranges = parts.ranges;
    this.#schemaOf = parts.schemaOf;
    this.#selection = parts.selection;
    this.#visibility = visibility;
    this.end = end;
    this.#release = release;
  }

  includes(transaction: TransactionRef): boolean {
    return this.#visibility.includes(transaction.id);
  }

  async describe(table: TableName, signal: AbortSignal): Promise<TableSchema | null> {
    return this.#mapped(async () => {
      const found = await this.#find(table, signal);
      return found !== null && isTrackable(found) ? this.#schemaOf(found) : null;
    }, signal);
  }

  async #find(table: TableName, signal: AbortSignal): Promise<CatalogTable | null> {
    if (!this.#of.includes(table)) return readTable(this.#wire, this.#selection, table, signal);
    this.#described ??= readTablesNamed(this.#wire, this.#selection, this.#of, signal);
    return (await this.#described).find((each) => each.table === table) ?? null;
  }

  async rows(table: TableSchema, after: KeyTuple | null, limit: RowLimit, signal: AbortSignal): Promise<RowChunk> {
    return this.#mapped(async () => {
      if (isKeyless(table)) return readKeylessRows(this.#wire, table, await this.#source(table, signal), after, limit, signal);
      const facts = await this.#factsOf(table, signal);
      const order = facts.keys.map(({ name }) => identifier(name)).join(', ');
      const where = after === null ? '' : `WHERE ${above(facts)}`;
      const sql = `SELECT ${columnList(table)} FROM ${facts.from} ${where} ORDER BY ${order} LIMIT ${limit.rows}`;
      const rows: Tuple[] = [];
      let bytes = 0;
      let slice = await this.#wire.fetch(
        sql,
        after === null ? [] : parametersOf(facts, after),
        Math.min(limit.rows, FIRST_SLICE_ROWS),
        signal,
      );
      let full = false;
      for (;;) {
        for (const row of slice.rows) {
          full ||= rows.length > 0 && bytes + row.length > limit.bytes;
          if (full) break;
          rows.push(row);
          bytes += row.length;
        }
        if (full || !slice.more || rows.length >= limit.rows) break;
        // As many as will fill the limit, going by those seen; never more than four times as many as so far.
        const fitting = Math.ceil(((limit.bytes - bytes) * rows.length) / Math.max(bytes, 1));
        slice = await this.#wire.fetchMore(Math.max(1, Math.min(fitting, rows.length * 4, limit.rows - rows.length)), signal);
      }
      const last = rows.at(-1);
      const end = !full && !slice.more && rows.length < limit.rows;
      return { rows, through: end || last === undefined ? null : keyTuple(last, table.key) };
    }, signal);
  }

  async rowsByKey(table: TableSchema, keys: readonly KeyTuple[], signal: AbortSignal): Promise<Tuple[]> {
    return this.#mapped(async () => {
      if (isKeyless(table)) return readKeylessRowsByKey(this.#wire, table, await this.#source(table, signal), keys, signal);
      const facts = await this.#factsOf(table, signal);
      const rows: Tuple[] = [];
      const joined = facts.keys.every(({ arrayType }) => arrayType !== 0);
      const step = joined ? KEYS_PER_QUERY : 1;
      for (let at = 0; at < keys.length; at += step) {
        const some = keys.slice(at, at + step);
        const [sql, parameters] = joined ? joinByKeys(table, facts, some) : oneByKey(table, facts, some[0] as KeyTuple);
        for await (const slice of this.#wire.select(sql, parameters, signal)) rows.push(...slice);
      }
      return rows;
    }, signal);
  }

  async pack(
    table: TableSchema,
    after: Tuple | null,
    capture: CaptureNumber,
    bytes: number,
    signal: AbortSignal,
  ): Promise<PackedChunk | 'moved' | null> {
    return this.#mapped(async () => {
      const heap = await readHeap(this.#wire, table, signal);
      if (heap === null) return null;
      const from = after === null ? 0 : placeAt(after, heap);
      if (from === null) return 'moved';
      if (from >= heap.end) return { pack: new CopyPack(capture, [], 0, 0), through: null };
      const last = this.#ranges.get(table.table);
      const density = last === undefined ? heap.density : Math.max(last.bytes / last.places, bytes / (last.places * RANGE_GROWTH));
      for (let places = Math.max(1, Math.floor(bytes / density)); ; places = Math.max(1, Math.floor(places / PACK_EXCESS))) {
        const to = Math.min(from + places, heap.end);
        const where = lyingIn(from, to);
        const copy = `SAVEPOINT pack; COPY (SELECT ${columnList(table)}, ${capture}::int8 FROM ${heap.from} WHERE ${where}) TO STDOUT (FORMAT binary)`;
        const pack = await readPack(this.#wire, copy, capture, places === 1 ? Number.POSITIVE_INFINITY : bytes * PACK_EXCESS, signal);
        if (pack !== null) {
          this.#ranges.set(table.table, { places: to - from, bytes: pack.bytes });
          return { pack, through: to === heap.end ? null : frontierAt(to, heap) };
        }
        await this.#wire.query('ROLLBACK TO pack', signal);
      }
    }, signal);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#release();
  }

  /** What to read a table from, as `source`. */
  async #source({ table }: TableSchema, signal: AbortSignal): Promise<string> {
    const { schema, name } = splitName(table);
    const qualified = qualifiedName({ schema, name });
    const [found] = await this.#wire.query(`SELECT relkind = 'p' FROM pg_class WHERE oid = ${literal(qualified)}::regclass`, signal);
    return sourceOf(qualified, found?.rows[0]?.[0] === 't');
  }

  async #factsOf(table: TableSchema, signal: AbortSignal): Promise<KeyFacts> {
    let facts = this.#facts.get(table.table);
    if (facts === undefined) {
      facts = await readKeyFacts(this.#wire, table, signal);
      this.#facts.set(table.table, facts);
    }
    return facts;
  }

  async #mapped<Result>(work: () => Promise<Result>, signal: AbortSignal): Promise<Result> {
    try {
      return await work();
    } catch (error) {
      signal.throwIfAborted();
      throw this.#wire.failure(error);
    }
  }
}

/** Operators come from the default btree operator class of each key column's base type. */
async function readKeyFacts(wire: Wire, table: TableSchema, signal: AbortSignal): Promise<KeyFacts> {
  const names = table.key.map((index) => table.columns[index]?.name ?? '');
  const { schema, name } = splitName(table.table);
  const found = await ask<KeyFacts['keys'][number] & { partitioned: boolean }>(
    wire,
    `WITH RECURSIVE based AS (
      SELECT a.attname, a.atttypid AS type, a.atttypid AS base, c.relkind = 'p' AS partitioned
      FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname = ${literal(schema)} AND c.relname = ${literal(name)} AND NOT a.attisdropped
        AND a.attname IN (${names.map(literal).join(', ')})
      UNION ALL
      SELECT b.attname, b.type, t.typbasetype, b.partitioned FROM based b JOIN pg_type t ON t.oid = b.base AND t.typbasetype <> 0
    )
    SELECT b.attname AS name, b.partitioned, t.oid::int8 AS type,
      quote_ident(b.attname) || CASE WHEN t.oid = b.type THEN '' ELSE '::' || format_type(t.oid, NULL) END AS column,
      CASE WHEN t.typcategory = 'A' OR t.typtype = 'c' THEN 0 ELSE t.typarray::int8 END AS "arrayType",
      operator_of.greater, operator_of.equal, operator_of."builtIn"
    FROM based b JOIN pg_type t ON t.oid = b.base AND t.typbasetype = 0
    CROSS JOIN LATERAL (
      SELECT max(quote_ident(n.nspname) || '.' || o.oprname) FILTER (WHERE s.amopstrategy = 5) AS greater,
        max(quote_ident(n.nspname) || '.' || o.oprname) FILTER (WHERE s.amopstrategy = 3) AS equal,
        bool_and(n.nspname = 'pg_catalog') AS "builtIn"
      FROM (
        SELECT k.opcfamily, k.opcintype FROM pg_opclass k JOIN pg_am m ON m.oid = k.opcmethod
        WHERE m.amname = 'btree' AND k.opcdefault AND (k.opcintype = t.oid OR k.opcintype = CASE
          WHEN t.typtype = 'e' THEN 'anyenum'::regtype WHEN t.typcategory = 'A' THEN 'anyarray'::regtype
          WHEN t.typtype = 'r' THEN 'anyrange'::regtype WHEN t.typtype = 'm' THEN 'anymultirange'::regtype
          WHEN t.typtype = 'c' THEN 'record'::regtype WHEN t.typname = 'varchar' THEN 'text'::regtype
          WHEN t.typname = 'cidr' THEN 'inet'::regtype END)
        ORDER BY k.opcintype = t.oid DESC LIMIT 1
      ) class
      JOIN pg_amop s ON s.amopfamily = class.opcfamily AND s.amoplefttype = class.opcintype AND s.amoprighttype = class.opcintype
      JOIN pg_operator o ON o.oid = s.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace
    ) operator_of`,
    signal,
  );
  const keys = names.map((each) => found.find((key) => key.name === each));
  const missing = names[keys.findIndex((key) => key?.greater === undefined || key.greater === null)];
  if (missing !== undefined) throw new Error(`the key column ${missing} of ${table.table} is gone or has no order`);
  return { from: sourceOf(qualifiedName({ schema, name }), found[0]?.partitioned === true), keys: keys as KeyFacts['keys'] };
}

/** A table's inheritance children are tables of their own; a partitioned table has its rows in partitions only. */
function sourceOf(qualified: string, partitioned: boolean): string {
  return `${partitioned ? '' : 'ONLY '}${qualified} AS source`;
}

/** What is mirrored as text may have another type here: see `mirroredType`. */
function columnList(table: TableSchema): string {
  return table.columns.map(({ name, type }) => `source.${identifier(name)}${type === 'text' ? '::text' : ''}`).join(', ');
}

/** Keys above the parameters. Comparing rows lets the index find the place; it needs operators of one schema. */
function above({ keys }: KeyFacts): string {
  if (keys.every(({ builtIn }) => builtIn)) {
    const [left, right] = [keys.map(({ column }) => column), keys.map((_, index) => `$${index + 1}`)];
    return `(${left.join(', ')}) > (${right.join(', ')})`;
  }
  return keys
    .map(({ column, greater }, index) => {
      const equal = keys.slice(0, index).map((each, at) => `${each.column} OPERATOR(${each.equal}) $${at + 1}`);
      return `(${[...equal, `${column} OPERATOR(${greater}) $${index + 1}`].join(' AND ')})`;
    })
    .join(' OR ');
}

function parametersOf({ keys }: KeyFacts, key: KeyTuple): Parameter[] {
  const cells = cellsOf(key);
  return keys.map(({ type }, index) => ({ type, value: cells[index] ?? null }));
}

function joinByKeys(table: TableSchema, { from, keys }: KeyFacts, wanted: readonly KeyTuple[]): [string, Parameter[]] {
  const cells = wanted.map((key) => cellsOf(key));
  const arrays = keys.map(({ type, arrayType }, index) => ({
    type: arrayType,
    value: binaryArray(
      type,
      cells.map((key) => key[index] ?? null),
    ),
  }));
  const names = keys.map((_, index) => `k${index}`);
  const on = keys.map(({ column, equal }, index) => `source.${column} OPERATOR(${equal}) wanted.k${index}`);
  const unnest = `unnest(${keys.map((_, index) => `$${index + 1}`).join(', ')}) AS wanted(${names.join(', ')})`;
  return [`SELECT ${columnList(table)} FROM ${unnest} JOIN ${from} ON ${on.join(' AND ')}`, arrays];
}

function oneByKey(table: TableSchema, facts: KeyFacts, key: KeyTuple): [string, Parameter[]] {
  const on = facts.keys.map(({ column, equal }, index) => `source.${column} OPERATOR(${equal}) $${index + 1}`);
  return [`SELECT ${columnList(table)} FROM ${facts.from} WHERE ${on.join(' AND ')}`, parametersOf(facts, key)];
}
