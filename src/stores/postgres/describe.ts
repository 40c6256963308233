import { createHash } from 'node:crypto';
import { keylessColumns } from '../../model/copies.ts';
import { ForeshadowError } from '../../model/errors.ts';
import { asksInsertsOnly, type Selection, selects } from '../../model/selection.ts';
import { type ColumnSchema, OWN_PREFIX, type TableName, type TableSchema } from '../../model/schema.ts';
import { splitName } from './layout.ts';
import { type EnumLabels, mirroredType, readTypeFacts } from './carried-types.ts';
import { identifier, literal } from './connection.ts';
import type { Wire } from './wire.ts';

/** A table as the catalogs of the primary describe it. */
export interface CatalogTable {
  readonly oid: number;
  readonly schema: string;
  readonly name: string;
  readonly table: TableName;
  readonly partitioned: boolean;
  /** p permanent, u unlogged, t temporary. */
  readonly persistence: string;
  /** d default, n nothing, f full, i index. */
  readonly identity: string;
  /** The number of its last column, and the numbers of those that were dropped: none is given twice. */
  readonly lastColumn: number;
  readonly droppedColumns: readonly number[];
  /** Where its rows are: itself, or the partitions that have rows. */
  readonly units: readonly StorageUnit[];
  /** All columns that are not generated, in the table's order: what pgoutput sends, and what is mirrored. */
  readonly columns: readonly CatalogColumn[];
  /**
   * Names of the columns that identify a row, in their index's order. Empty: there are none, and the log has the whole row (`keyless.ts`).
   * Null: no usable identity.
   */
  readonly key: readonly string[] | null;
  /** Nothing identifies its rows, and policy is content with inserts: it has no key then, whatever the log would say of a row. */
  readonly insertOnly: boolean;
  /** The server's major version. */
  readonly serverVersion: number;
  /** Of all enums that its columns are made of. */
  readonly labels: EnumLabels;
  /** Columns that are computed: not in the log, and not mirrored. */
  readonly generated: readonly string[];
  /** Those that hold rows, at any depth. */
  readonly partitions: readonly CatalogPartition[];
  readonly owned: boolean;
  readonly readable: boolean;
  /** Row security would hide rows from our user. */
  readonly veiled: boolean;
}

export interface CatalogPartition {
  /** Qualified and quoted where need be. */
  readonly name: string;
  /** r table, f foreign table. */
  readonly kind: string;
  readonly persistence: string;
  readonly identity: string;
  /** Columns of the index of its replica identity; empty: it has none. */
  readonly key: readonly string[];
}

/**
 * What tells that rows were rewritten without a change in the log: `file` is another then, and `columns` (a digest of the versions of the
 * columns' own rows in the catalog) too. A TRUNCATE, CLUSTER or VACUUM FULL leaves `columns` as they are.
 */
export interface StorageUnit {
  readonly oid: number;
  readonly file: number;
  /** Another wherever a new file may hold other rows. Of a partition any new file may: the log has no TRUNCATE of one alone. */
  readonly columns: string;
  /** Another wherever a partition was detached and attached again: what was done to it meanwhile is not in the log. */
  readonly attached: string | null;
  /** Asked of partitions only: nothing was ever put into it. */
  readonly empty: boolean;
}

export interface CatalogColumn {
  /** pg_attribute.attnum. */
  readonly id: number;
  readonly name: string;
  /** What rows have in it that stood when it was added and were not written since (pg_attribute.attmissingval); null: NULL. */
  readonly initial: string | null;
  /** Whether `initial` says so: not where its text means something else on another server, or partitions differ. */
  readonly initialKnown: boolean;
  /** What it is mirrored with: `mirroredType`. */
  readonly type: string;
  readonly typeOid: number;
  readonly modifier: number;
  readonly notNull: boolean;
  /** Whether its values travel as text, having no binary form. */
  readonly asText: boolean;
  /** `ColumnSchema.shownAs`. */
  readonly shownAs: string | undefined;
  /** A digest of the attributes of the composites in it. */
  readonly made: string | undefined;
  /** There are enums in it. */
  readonly labelled: boolean;
  /** Why its values cannot be carried to another server. */
  readonly flaw: string | null;
  /** Whether values order alike on any server. */
  readonly orderShared: boolean;
}

/** Rows of a query, as objects. Integers beyond 2^53 must be cast to text in it. */
export async function ask<Row>(wire: Wire, sql: string, signal?: AbortSignal): Promise<Row[]> {
  const results = await wire.query(`SELECT to_json(q)::text FROM (${sql}) q`, signal);
  return (results[0]?.rows ?? []).map(([json]) => JSON.parse(json as string) as Row);
}

/**
 * What can order alike: types whose order is that of their values, and text under the C collation. Nothing is assumed of a database's
 * default collation: another server has another.
 */
const ORDERED_TYPES = ['bool', 'int2', 'int4', 'int8', 'oid', 'uuid', 'date', 'time', 'timestamp', 'timestamptz', 'bytea', 'numeric'];

/** Tables and partitioned tables that are not partitions themselves. */
const TABLES = `
  SELECT c.oid::int8 AS oid, n.nspname AS schema, c.relname AS name, c.relkind = 'p' AS partitioned, c.relpersistence AS persistence,
    c.relreplident AS identity, pg_has_role(c.relowner, 'USAGE') AS owned,
    has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE') AS readable,
    row_security_active(c.oid) AS veiled, current_setting('server_version_num')::int / 10000 AS "serverVersion",
    c.relnatts AS "lastColumn",
    (SELECT coalesce(json_agg(a.attnum), '[]') FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.attisdropped)
      AS "droppedColumns",
    (SELECT coalesce(json_agg(json_build_object('oid', p.oid::int8, 'file', p.relfilenode::int8, 'columns',
        (SELECT md5(string_agg(a.attnum || ':' || a.xmin, ',' ORDER BY a.attnum) || CASE WHEN c.relkind = 'p' THEN p.relfilenode::text ELSE '' END)
          FROM pg_attribute a WHERE a.attrelid = p.oid AND a.attnum > 0),
        'attached', (SELECT string_agg(i.xmin::text, ',' ORDER BY i.inhrelid) FROM pg_inherits i
          WHERE c.relkind = 'p' AND i.inhrelid IN (SELECT relid FROM pg_partition_ancestors(p.oid))),
        'empty', c.relkind = 'p' AND pg_relation_size(p.oid) = 0) ORDER BY p.oid), '[]')
      FROM (SELECT c.oid WHERE c.relkind = 'r' UNION ALL SELECT relid FROM pg_partition_tree(c.oid) WHERE isleaf AND c.relkind = 'p') unit
      JOIN pg_class p ON p.oid = unit.oid) AS units,
    (SELECT coalesce(json_agg(json_build_object(
        'id', a.attnum, 'initial', CASE WHEN a.atthasmissing AND t.typdelim = ',' THEN (a.attmissingval::text::text[])[1] END,
        'initialKnown', (NOT a.atthasmissing OR t.typdelim = ',' AND t.typname !~ '^_?(reg|money)')
          AND NOT (c.relkind = 'p' AND a.atthasdef),
        'name', a.attname, 'type', ${mirroredType('a.atttypid', 'a.atttypmod')}, 'typeOid', a.atttypid::int8, 'modifier', a.atttypmod,
        'notNull', a.attnotnull, 'asText', t.typsend = 0,
        'orderShared', t.typname = ANY ('{${ORDERED_TYPES.join(',')}}') AND t.typnamespace = 'pg_catalog'::regnamespace
          OR t.typname IN ('text', 'varchar') AND l.collname IN ('C', 'POSIX')) ORDER BY a.attnum), '[]')
      FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_collation l ON l.oid = a.attcollation
      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '') AS columns,
    (SELECT json_agg(a.attname ORDER BY k.ordinal)
      FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, ordinal)
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
      WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate AND k.ordinal <= i.indnkeyatts
        AND CASE c.relreplident WHEN 'i' THEN i.indisreplident WHEN 'n' THEN false ELSE i.indisprimary END) AS key,
    (SELECT coalesce(json_agg(a.attname ORDER BY a.attnum), '[]') FROM pg_attribute a
      WHERE a.attrelid = c.oid AND NOT a.attisdropped AND a.attgenerated <> '') AS generated,
    (SELECT coalesce(json_agg(json_build_object('name', p.oid::regclass::text, 'kind', p.relkind, 'persistence', p.relpersistence,
        'identity', p.relreplident, 'key', (SELECT coalesce(json_agg(a.attname), '[]')
          FROM pg_index i JOIN pg_attribute a ON a.attrelid = p.oid AND a.attnum = ANY (i.indkey)
          WHERE i.indrelid = p.oid AND i.indisvalid AND i.indimmediate
            AND CASE p.relreplident WHEN 'i' THEN i.indisreplident WHEN 'n' THEN false ELSE i.indisprimary END))
        ORDER BY p.oid), '[]')
      FROM pg_partition_tree(c.oid) tree JOIN pg_class p ON p.oid = tree.relid
      WHERE c.relkind = 'p' AND tree.isleaf AND p.oid <> c.oid) AS partitions
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
    AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('information_schema', '${OWN_PREFIX}')`;

/** The tables a selection names, in the order of their names. */
export async function readTables(wire: Wire, selection: Selection, signal?: AbortSignal): Promise<CatalogTable[]> {
  return (await readTablesWhere(wire, selection, null, signal)).filter(({ table }) => selects(selection, table));
}

/** Tables by their names, whether they are selected or not. */
export function readTablesNamed(
  wire: Wire,
  selection: Selection,
  names: readonly TableName[],
  signal?: AbortSignal,
): Promise<CatalogTable[]> {
  return readTablesWhere(wire, selection, names, signal);
}

/** One table, by its name or its OID, whether it is selected or not. */
export async function readTable(
  wire: Wire,
  selection: Selection,
  which: TableName | number,
  signal?: AbortSignal,
): Promise<CatalogTable | null> {
  return (await readTablesWhere(wire, selection, typeof which === 'string' ? [which] : which, signal))[0] ?? null;
}

async function readTablesWhere(
  wire: Wire,
  selection: Selection,
  which: readonly TableName[] | number | null,
  signal?: AbortSignal,
): Promise<CatalogTable[]> {
  const named = (names: readonly TableName[]): string =>
    names.map((name) => `to_regclass(${literal(qualifiedName(splitName(name)))})`).join(', ');
  const oids = which === null ? null : typeof which === 'number' ? String(which) : named(which);
  const alone = oids === null ? '' : ` AND c.oid IN (${oids})`;
  const [found, facts] = await Promise.all([
    ask<Omit<CatalogTable, 'table' | 'insertOnly' | 'labels'>>(wire, TABLES + alone, signal),
    readTypeFacts(wire, oids, signal),
  ]);
  return found
    .map((each) => ({
      ...each,
      key: each.key ?? (each.identity === 'f' ? [] : null),
      insertOnly: false,
      labels: Object.assign({}, ...each.columns.map(({ typeOid }) => facts.labels.get(typeOid))) as EnumLabels,
      table: tableName(each.schema, each.name),
      columns: each.columns.map((column) => ({
        ...column,
        flaw: facts.flaws.get(column.typeOid) ?? null,
        shownAs: column.asText ? undefined : facts.shownAs.get(column.typeOid),
        made: facts.made.get(column.typeOid),
        labelled: facts.labels.has(column.typeOid),
      })),
    }))
    .map((table) => (asksInsertsOnly(selection, table.table) && identityObstacle(table) !== null ? insertsOnly(table) : table))
    .toSorted((a, b) => (a.table < b.table ? -1 : 1));
}

/** The table as one of which inserts alone are tracked: its rows are told apart as those of one without a key (`keyless.ts`). */
export function insertsOnly<Table extends CatalogTable>(table: Table): Table & TrackableTable {
  return { ...table, key: [], insertOnly: true };
}

export function tableName(schema: string, name: string): TableName {
  return `${schema}.${name}` as TableName;
}

export function qualifiedName(table: { readonly schema: string; readonly name: string }): string {
  return `${identifier(table.schema)}.${identifier(table.name)}`;
}

/** A table may have 1,600; the history has two of ours. */
const MIRRORED_COLUMNS_MAX = 1598;

/** Why a table cannot be tracked without risk to the application or to the copy; null if it can. With the remedy. */
export function obstacle(table: CatalogTable): { code: string; message: string; remedy: string } | null {
  const name = qualifiedName(table);
  if (table.schema.includes('.')) {
    return { code: 'TABLE_UNNAMEABLE', message: 'its schema has a dot in its name', remedy: 'Rename the schema, or exclude the table.' };
  }
  const ours = table.columns.find(({ name: column }) => column.startsWith(`${OWN_PREFIX}_`));
  if (ours !== undefined) {
    const remedy = `Run ALTER TABLE ${name} RENAME COLUMN ${identifier(ours.name)} TO …, or exclude the table.`;
    return { code: 'TABLE_UNNAMEABLE', message: `its column ${ours.name} has a name that Foreshadow gives to its own`, remedy };
  }
  if (table.persistence === 'u') {
    const remedy = `Run ALTER TABLE ${name} SET LOGGED (it rewrites the table), or exclude it.`;
    return { code: 'TABLE_UNLOGGED', message: 'it is unlogged: its changes are in no log', remedy };
  }
  const columnsMax = MIRRORED_COLUMNS_MAX - (table.key?.length === 0 ? keylessColumns('', '').length : 0);
  if (table.columns.length > columnsMax) {
    const message = `it has ${table.columns.length} columns; a mirror, which needs some of its own, has room for ${columnsMax}`;
    return { code: 'TABLE_TOO_WIDE', message, remedy: 'Split the table, or exclude it.' };
  }
  const flawed = table.columns.filter(({ flaw }) => flaw !== null);
  if (flawed.length > 0) {
    const message = `the type of ${flawed.map(({ name: column, type, flaw }) => `${column} (${type}) cannot be carried: ${flaw}`).join('; that of ')}`;
    const remedy =
      'Change the type of the column (text holds the name of an object, and any value as it is written), or exclude the table.';
    return { code: 'TYPE_UNSUPPORTED', message, remedy };
  }
  const outside = partitionOutside(table);
  return outside ?? (table.insertOnly ? null : identityObstacle(table));
}

type Obstacle = ReturnType<typeof obstacle>;

/** Why the log does not say which row an update or a delete is about, or would make them fail. */
function identityObstacle(table: CatalogTable): Obstacle {
  const name = qualifiedName(table);
  if (table.key === null || table.key.some((column) => !table.columns.some(({ name: each }) => each === column))) {
    return { code: 'TABLE_UNIDENTIFIED', message: identityProblem(table), remedy: identityRemedy(table, name) };
  }
  const unordered = table.columns.find(({ name: column, asText }) => asText && table.key?.includes(column));
  if (unordered !== undefined) {
    const message = `its key has ${unordered.name}, whose type has no binary form`;
    return { code: 'TYPE_UNSUPPORTED', message, remedy: identityRemedy(table, name) };
  }
  return partitionObstacle(table, table.key) ?? computedObstacle(table, name);
}

function partitionOutside(table: CatalogTable): Obstacle {
  for (const partition of table.partitions) {
    const { name } = partition;
    if (partition.kind === 'f') {
      const remedy = `Detach ${name}, or exclude the table.`;
      return { code: 'TABLE_FOREIGN', message: `its partition ${name} is a foreign table: its changes are in no log`, remedy };
    }
    if (partition.persistence === 'u') {
      const remedy = `Run ALTER TABLE ${name} SET LOGGED (it rewrites the partition), or exclude the table.`;
      return { code: 'TABLE_UNLOGGED', message: `its partition ${name} is unlogged: its changes are in no log`, remedy };
    }
  }
  return null;
}

/** A partition writes to the log what its own properties say, whatever those of the table above it are. */
function partitionObstacle(table: CatalogTable, key: readonly string[]): Obstacle {
  for (const partition of table.partitions) {
    const { name } = partition;
    const logged = partition.identity === 'f' || (key.length > 0 && key.every((column) => partition.key.includes(column)));
    if (logged) continue;
    const remedy = `Run ALTER TABLE ${name} REPLICA IDENTITY ${key.length === 0 ? 'FULL' : 'DEFAULT'}, add a primary key; or ${INSERT_ONLY_REMEDY}; or exclude the table.`;
    return { code: 'TABLE_UNIDENTIFIED', message: `its partition ${name} has no usable replica identity`, remedy };
  }
  return null;
}

const INSERT_ONLY_REMEDY = 'set insertOnly: true for it under policy.perTable, where its inserts are enough';
const REFUSES_COMPUTED_IDENTITY = 18;

/** From 18 on the server refuses updates of a published table whose full row holds columns that are not published. */
function computedObstacle(table: CatalogTable, name: string): Obstacle {
  const full = table.identity === 'f' ? name : table.partitions.find(({ identity }) => identity === 'f')?.name;
  if (table.generated.length === 0 || full === undefined || table.serverVersion < REFUSES_COMPUTED_IDENTITY) return null;
  const columns = table.generated.map(identifier).join(', ');
  return {
    code: 'TABLE_UNIDENTIFIED',
    message: `updates of ${full} would fail once it is published: its replica identity is FULL, and ${columns} is computed`,
    remedy: `Run ALTER TABLE ${full} REPLICA IDENTITY DEFAULT if it has a primary key, add one if not; or ${INSERT_ONLY_REMEDY}; or exclude the table.`,
  };
}

function identityProblem(table: CatalogTable): string {
  if (table.identity === 'n') return 'its replica identity is NOTHING: updates and deletes are not in the log';
  if (table.identity === 'i') return 'the index of its replica identity is not usable';
  return 'it has no primary key (or a deferrable one) and no other replica identity';
}

function identityRemedy(table: CatalogTable, name: string): string {
  const index = `a unique index on columns that are NOT NULL, then ALTER TABLE ${name} REPLICA IDENTITY USING INDEX …`;
  const full = `run ALTER TABLE ${name} REPLICA IDENTITY FULL (updates and deletes then log the whole row; inserts cost no more)`;
  if (table.identity === 'n') {
    return `Run ALTER TABLE ${name} REPLICA IDENTITY DEFAULT if it has a primary key; or add ${index}; or ${full}; or ${INSERT_ONLY_REMEDY}; or exclude it.`;
  }
  return `Add a primary key to ${name}; or ${index}; or ${full}; or ${INSERT_ONLY_REMEDY}; or exclude it.`;
}

export type TrackableTable = CatalogTable & { readonly key: readonly string[] };

export function isTrackable(table: CatalogTable): table is TrackableTable {
  return obstacle(table) === null;
}

/** Without the DDL: what tracking and reading need. `epoch` is of the rows' content: see `watch.ts`. */
export function schemaOf(table: TrackableTable, epoch = ''): TableSchema {
  const keyless = table.key.length === 0;
  const key = keyless ? [table.columns.length] : table.key.map((name) => table.columns.findIndex((column) => column.name === name));
  const columns = table.columns.map((column) => ({
    name: column.name,
    type: column.type,
    nullable: !column.notNull,
    generated: false,
    hidden: false,
    id: column.id,
    ...(column.shownAs === undefined ? {} : { shownAs: column.shownAs }),
    ...madeOf(column, keyless, table.key.includes(column.name) && column.labelled ? epoch : null),
  }));
  return {
    table: table.table,
    columns: keyless ? [...columns, ...keylessColumns('bytea', 'bigint')] : columns,
    key,
    keyOrderShared: keyless || key.every((index) => table.columns[index]?.orderShared === true),
    ...(table.insertOnly ? { insertOnly: true } : {}),
    shape: shapeOf(table.oid, table.columns, table, epoch),
    create: [],
    finish: [],
  };
}

/**
 * What tells rows without a key apart has the OIDs of their types in it. `labels`, for a column of the key with enums in it, is the epoch: a
 * key with a label of before cannot be asked for.
 */
export function madeOf(
  { typeOid, made }: Pick<CatalogColumn, 'typeOid' | 'made'>,
  keyless: boolean,
  labels: string | null,
): Pick<ColumnSchema, 'made'> {
  const parts = [...(keyless ? [String(typeOid)] : []), ...(made === undefined ? [] : [made]), ...(labels === null ? [] : [labels])];
  return parts.length === 0 ? {} : { made: parts.join(' ') };
}

type ShapeColumn = Pick<CatalogColumn, 'name' | 'type' | 'typeOid' | 'made'> & { readonly id: number | null };

/** Names, types and identity: what makes the bytes of one row mean the same as those of another. Columns without ids equal none that have. */
export function shapeOf(
  oid: number,
  columns: readonly ShapeColumn[],
  { key, insertOnly, labels }: Pick<TrackableTable, 'key' | 'insertOnly' | 'labels'>,
  epoch: string,
): string {
  // Without a key the OIDs of the types are part of what identifies a row.
  const identity = key.length === 0 ? columns.map(({ typeOid }) => typeOid) : key;
  const shaped = columns.map(({ id, name, type, made }) => [id, name, type, ...(made === undefined ? [] : [made])]);
  const more = [...(insertOnly ? ['inserts only'] : []), ...(Object.keys(labels).length === 0 ? [] : [labels])];
  const text = JSON.stringify([oid, shaped, identity, epoch, ...more]);
  return createHash('sha256').update(text).digest('hex').slice(0, 32);
}

export function trackable(found: ReadonlyMap<TableName, TrackableTable>, table: TableName): TrackableTable {
  const one = found.get(table);
  if (one !== undefined) return one;
  throw new ForeshadowError('TABLE_MISSING', `The table ${table} is not on the primary, or cannot be tracked there`, {
    remedy: 'Run `foreshadow doctor`: it says what is wrong with the table.',
  });
}

/** What values of a relation's columns are mirrored with, where the catalog has columns of the same types; null where it has not. */
export function typesIn(
  now: CatalogTable | null | 'unseen',
  { columns }: { readonly columns: readonly { readonly name: string; readonly type: number; readonly modifier: number }[] },
): string[] | null {
  if (now === null || now === 'unseen') return null;
  const types = columns.map(
    ({ type, modifier }) => now.columns.find((column) => column.typeOid === type && column.modifier === modifier)?.type ?? null,
  );
  return types.every((type) => type !== null) ? types : null;
}

/** What values of these types are mirrored with. */
export async function readTypes(
  wire: Wire,
  columns: readonly { readonly type: number; readonly modifier: number }[],
  signal: AbortSignal,
): Promise<string[]> {
  if (columns.length === 0) return [];
  const list = columns.map(({ type, modifier }, index) => `(${index}, ${type}::oid, ${modifier})`).join(', ');
  const types = await ask<{ type: string }>(
    wire,
    `SELECT ${mirroredType('t', 'm')} AS type FROM (VALUES ${list}) v(i, t, m) ORDER BY i`,
    signal,
  );
  return types.map(({ type }) => type);
}
