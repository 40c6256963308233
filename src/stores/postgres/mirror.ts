import { isKeyless } from '../../model/copies.ts';
import { ForeshadowError } from '../../model/errors.ts';
import { OWN_PREFIX, type TableName, type TableSchema } from '../../model/schema.ts';
import { identifier, literal } from './connection.ts';
import { guardDdl } from './guard.ts';
import { insertedDdl, type PackedColumn } from './inserted.ts';
import { storedAsTheyCome } from './storage.ts';
import {
  FOREIGN_LITERAL,
  type KeyOperators,
  Layout,
  OWN_SCHEMA,
  type Segment,
  SINCE,
  splitName,
  type StoredColumns,
  UNTIL,
  WRITER,
} from './layout.ts';
import { type OidShape, readOidShape } from './type-oids.ts';
import type { Wire } from './wire.ts';

/** Throws SHADOW_OCCUPIED, naming each table that stands where a mirrored one belongs and is not ours. */
export async function refuseOccupied(wire: Wire, tables: readonly TableName[]): Promise<void> {
  const occupied = await occupiedTables(wire, tables);
  if (occupied.length === 0) return;
  throw new ForeshadowError('SHADOW_OCCUPIED', `The shadow already holds ${occupied.join(', ')}, not made by Foreshadow`, {
    remedy: 'Use an empty database as the shadow, or drop or rename these tables.',
  });
}

/** Those of `tables` whose names are taken in the shadow by something that is not ours. */
export async function occupiedTables(wire: Wire, tables: readonly TableName[]): Promise<TableName[]> {
  if (tables.length === 0) return [];
  const names = tables.map((table) => {
    const { schema, name } = splitName(table);
    return `(${literal(table)}, ${literal(schema)}, ${literal(name)})`;
  });
  const [found] = await wire.query(
    `SELECT v.table_name FROM (VALUES ${names.join(', ')}) v (table_name, nspname, relname)
       JOIN pg_namespace n ON n.nspname = v.nspname JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = v.relname
     ORDER BY 1`,
  );
  const ours = new Set<string>();
  const [own] = await wire.query(`SELECT to_regclass('${OWN_SCHEMA}.segment') IS NOT NULL`);
  if (own?.rows[0]?.[0] === 't') {
    const [live] = await wire.query(`SELECT table_name FROM ${OWN_SCHEMA}.segment WHERE last_capture IS NULL`);
    for (const row of live?.rows ?? []) ours.add(row[0] as string);
  }
  return (found?.rows ?? []).map((row) => row[0] as TableName).filter((table) => !ours.has(table));
}

/** Makes the live table of a new segment, with history, guard and notes, and writes down the segment. */
export async function makeSegment(wire: Wire, schema: TableSchema, first: Segment['first']): Promise<Segment> {
  const [made] = await makeSegments(wire, [schema], first, new Map());
  return made as Segment;
}

/** What this database says of types, by their names: asked once for all tables that are made together. */
export type KnownTypes = Map<string, { readonly key: KeyType; readonly shape: OidShape | null }>;

/** As `makeSegment`, in a number of statements that does not grow with the tables. */
export async function makeSegments(
  wire: Wire,
  schemas: readonly TableSchema[],
  first: Segment['first'],
  known: KnownTypes,
): Promise<Segment[]> {
  for (const type of new Set(schemas.flatMap(({ columns }) => columns.map((column) => column.type)))) {
    if (!known.has(type)) known.set(type, { key: await keyType(wire, type), shape: await readOidShape(wire, type) });
  }
  const typeOf = (type: string): { readonly key: KeyType; readonly shape: OidShape | null } => {
    const found = known.get(type);
    if (found === undefined) throw new Error(`the type ${type} was not asked for`);
    return found;
  };
  const collatable: ReadonlySet<number>[] = [];
  const segments = await addSegments(
    wire,
    schemas.map((schema) => {
      const { columns, key } = schema;
      const keys = key.map((index) => typeOf(columns[index]?.type ?? '').key);
      collatable.push(new Set(key.filter((_, index) => keys[index]?.collatable === true)));
      const packed = keys.flatMap((each) => each.packed ?? []);
      const operators = keys.map((each) => each.operators);
      const oids = columns.flatMap(({ type }, index) => {
        const { shape } = typeOf(type);
        return shape === null ? [] : [[index, shape] as const];
      });
      const types = { operators, packed: packed.length === key.length ? packed : null, oids };
      const stored: StoredColumns = { names: columns.map(({ name }) => name), others: [], began: first };
      return { schema, first, types, storage: null, stored };
    }),
  );
  await wire.query(segments.flatMap((segment, index) => segmentDdl(new Layout(segment), collatable[index] ?? new Set())).join('; '));
  return segments;
}

type NewSegment = Pick<Segment, 'schema' | 'first' | 'types' | 'stored'> & { readonly storage: number | null };

/** Writes down a live segment; without a `storage` it is the first of its own. */
export async function addSegment(wire: Wire, of: NewSegment): Promise<Segment> {
  const [added] = await addSegments(wire, [of]);
  return added as Segment;
}

async function addSegments(wire: Wire, all: readonly NewSegment[]): Promise<Segment[]> {
  const ids = await wire.query(
    `SELECT nextval(pg_get_serial_sequence('${OWN_SCHEMA}.segment', 'id')) FROM generate_series(1, ${all.length})`,
  );
  const segments = all.map(({ schema, first, types, stored, storage }, index): Segment => {
    const id = Number(ids[0]?.rows[index]?.[0]);
    return { id, table: schema.table, schema, types, first, last: null, storage: storage ?? id, home: schema.table, stored };
  });
  const rows = segments.map(({ id, table, schema, types, first, storage, stored }) => {
    const texts = [schema, types, stored].map((each) => literal(JSON.stringify(each)));
    return `(${id}, ${literal(table)}, ${first}, ${texts.join(', ')}, ${storage}, ${literal(table)})`;
  });
  await wire.query(
    `INSERT INTO ${OWN_SCHEMA}.segment (id, table_name, first_capture, schema, types, stored, storage, home) OVERRIDING SYSTEM VALUE
     VALUES ${rows.join(', ')}`,
  );
  return segments;
}

/** Somebody else's insert into a table without a key knows nothing of our columns, and does not fail: it is a row like no other. */
function keylessDefaults({ segment, live, columns }: Layout): string[] {
  if (!isKeyless(segment.schema)) return [];
  const [row, copies] = columns.slice(-2);
  return [`ALTER TABLE ${live} ALTER ${row} SET DEFAULT uuid_send(gen_random_uuid()), ALTER ${copies} SET DEFAULT 1`];
}

/**
 * No foreign keys, uniques, checks or defaults, and no key yet: they are in the capture's schema record. `fillfactor` leaves room for
 * updates on the same page. The live table has no index on since (a btree costs an apply 15 %): the history's markers, and packs of keys, stand in.
 */
function segmentDdl(layout: Layout, collatable: ReadonlySet<number>): string[] {
  const key = layout.key.join(', ');
  const columns = layout.columnDefinitions('all', collatable);
  return [
    `CREATE SCHEMA IF NOT EXISTS ${identifier(splitName(layout.segment.table).schema)}`,
    `CREATE TABLE ${layout.live} (${columns}, ${SINCE} bigint NOT NULL DEFAULT ${FOREIGN_LITERAL}) WITH (fillfactor = 90);
     ALTER TABLE ${layout.live} ${layout.key.map((name) => `ALTER ${name} SET NOT NULL`).join(', ')}`,
    ...keylessDefaults(layout),
    `CREATE TABLE ${layout.history} (${columns}, ${SINCE} bigint NOT NULL, ${UNTIL} bigint NOT NULL)`,
    storedAsTheyCome(layout.history),
    `CREATE INDEX ON ${layout.history} (${key})`,
    `CREATE INDEX ON ${layout.history} USING brin (${UNTIL}) WITH (pages_per_range = 16, autosummarize = on)`,
    ...insertedDdl(layout, collatable),
    `CREATE TABLE ${layout.notes} (${layout.columnDefinitions('key', collatable)}, ${WRITER} xid8 NOT NULL, PRIMARY KEY (${key}))`,
    ...guardDdl(layout),
  ];
}

/** What the live table gets when it is no longer only copied into: making it then takes half the time of keeping it meanwhile. */
export function keyDdl(layout: Layout): string {
  return `ALTER TABLE ${layout.live} ADD CONSTRAINT ${keyName(layout)} PRIMARY KEY (${layout.key.join(', ')})`;
}

export function keyName(layout: Layout): string {
  return `${OWN_PREFIX}_key_${layout.segment.storage}`;
}

/** What a type is as that of a column of a key. */
interface KeyType {
  /** The operators of its default btree class. */
  readonly operators: KeyOperators;
  readonly packed: PackedColumn | null;
  readonly collatable: boolean;
}

async function keyType(wire: Wire, type: string): Promise<KeyType> {
  const [found] = await wire.query(`
      WITH RECURSIVE base AS (
        SELECT t.oid, t.typtype, t.typbasetype, t.typcollation, t.typcategory, t.typelem FROM pg_type t WHERE t.oid = ${literal(type)}::regtype
        UNION ALL
        SELECT t.oid, t.typtype, t.typbasetype, b.typcollation, t.typcategory, t.typelem FROM base b JOIN pg_type t ON b.typtype = 'd' AND t.oid = b.typbasetype)
      SELECT b.typcollation <> 0, c.opcname IS NOT NULL,
             (SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname) FROM pg_amop a JOIN pg_operator o ON o.oid = a.amopopr
                JOIN pg_namespace n ON n.oid = o.oprnamespace
              WHERE a.amopfamily = c.opcfamily AND a.amopstrategy = 3 AND a.amoplefttype = c.opcintype AND a.amoprighttype = c.opcintype),
             (SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname) FROM pg_amop a JOIN pg_operator o ON o.oid = a.amopopr
                JOIN pg_namespace n ON n.oid = o.oprnamespace
              WHERE a.amopfamily = c.opcfamily AND a.amopstrategy = 5 AND a.amoplefttype = c.opcintype AND a.amoprighttype = c.opcintype),
             (SELECT format('%I.%I[]', n.nspname, t.typname) FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
              WHERE t.oid = ${literal(type)}::regtype AND t.typarray <> 0 AND b.typcategory <> 'A'),
             ${literal(type)}::regtype::oid
      FROM base b LEFT JOIN pg_opclass c ON c.opcintype = b.oid AND c.opcdefault AND c.opcmethod = (SELECT oid FROM pg_am WHERE amname = 'btree')
      WHERE b.typtype <> 'd'`);
  const [isCollatable, , equal, greater, array, element] = found?.rows[0] ?? [];
  return {
    // Types without a class of their own use that of what they coerce to (varchar: text; enums, arrays, ranges: any*): built in.
    operators: { equal: equal ?? 'OPERATOR(pg_catalog.=)', greater: greater ?? 'OPERATOR(pg_catalog.>)' },
    packed: typeof array === 'string' ? { type: array, element: Number(element) } : null,
    collatable: isCollatable === 't',
  };
}
