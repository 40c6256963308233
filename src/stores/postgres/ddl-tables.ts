import type { DdlStatement } from '../../model/schema.ts';
import { identifier, literal } from './connection.ts';
import { ask } from './describe.ts';
import type { Wire } from './wire.ts';

/** What makes one table of the data set, its partitions with it. */
export interface TableDdl {
  readonly create: DdlStatement[];
  readonly finish: DdlStatement[];
}

interface Relation {
  readonly oid: number;
  /** The table of the data set: itself, or the one it is a partition of. */
  readonly root: number;
  readonly name: string;
  readonly level: number;
  readonly parent: string | null;
  readonly bound: string | null;
  readonly partitionBy: string | null;
  readonly options: readonly string[] | null;
  readonly identity: string;
  readonly identityIndex: string | null;
  readonly comment: string | null;
}

interface Column {
  readonly relation: number;
  readonly name: string;
  readonly type: string;
  readonly collation: string | null;
  readonly notNull: boolean;
  readonly identity: string;
  readonly generated: string;
  readonly expression: string | null;
  readonly sequence: string | null;
  readonly comment: string | null;
}

interface Attached {
  readonly relation: number;
  readonly kind: 'constraint' | 'index' | 'statistics' | 'foreign key' | 'inheritance' | 'trigger';
  readonly name: string;
  readonly definition: string;
  /** For a foreign key: whether it leads out of the data set. For a trigger: how it is enabled. */
  readonly note: string | null;
}

/** The tables of the data set and all partitions below them. */
export function relationsQuery(oids: readonly number[]): string {
  return `SELECT tree.relid::oid AS oid, r.root, tree.level FROM unnest('{${oids.join(',')}}'::oid[]) r(root)
    CROSS JOIN LATERAL (
      SELECT relid::oid AS relid, level FROM pg_partition_tree(r.root)
      UNION SELECT r.root, 0
    ) tree`;
}

export async function readTableDdl(
  wire: Wire,
  oids: readonly number[],
  signal: AbortSignal,
): Promise<{ byTable: Map<number, TableDdl>; after: DdlStatement[] }> {
  const members = `WITH member AS MATERIALIZED (${relationsQuery(oids)})`;
  const [relations, columns, attached] = await Promise.all([
    ask<Relation>(wire, relationQuery(members), signal),
    ask<Column>(wire, columnQuery(members), signal),
    ask<Attached>(wire, attachedQuery(members), signal),
  ]);
  const columnsOf = Map.groupBy(columns, ({ relation }) => relation);
  const attachedTo = Map.groupBy(attached, ({ relation }) => relation);
  const byTable = new Map<number, TableDdl>(oids.map((oid) => [oid, { create: [], finish: [] }]));
  const after: DdlStatement[] = [];
  for (const relation of relations.toSorted((a, b) => a.level - b.level || (a.name < b.name ? -1 : 1))) {
    const ddl = byTable.get(relation.root) as TableDdl;
    const own = columnsOf.get(relation.oid) ?? [];
    ddl.create.push({ object: `table ${relation.name}`, sql: createTable(relation, own), mayFail: false });
    const mine = attachedTo.get(relation.oid) ?? [];
    finishTable(ddl.finish, relation, own, mine);
    for (const each of mine) if (AFTER_TABLES.has(each.kind)) after.push(...afterTable(relation, each));
  }
  return { byTable, after };
}

/** What may speak of other tables. */
const AFTER_TABLES: ReadonlySet<Attached['kind']> = new Set(['foreign key', 'inheritance', 'trigger']);

function createTable(relation: Relation, columns: readonly Column[]): string {
  const options = relation.options === null || relation.options.length === 0 ? '' : ` WITH (${relation.options.join(', ')})`;
  const by = relation.partitionBy === null ? '' : ` PARTITION BY ${relation.partitionBy}`;
  if (relation.parent !== null) return `CREATE TABLE ${relation.name} PARTITION OF ${relation.parent} ${relation.bound}${by}${options}`;
  return `CREATE TABLE ${relation.name} (\n  ${columns.map(columnDdl).join(',\n  ')}\n)${by}${options}`;
}

function columnDdl(column: Column): string {
  const parts = [identifier(column.name), column.type];
  if (column.collation !== null) parts.push(`COLLATE ${column.collation}`);
  if (column.identity !== '') {
    const name = column.sequence === null ? '' : ` (SEQUENCE NAME ${column.sequence})`;
    parts.push(`GENERATED ${column.identity === 'a' ? 'ALWAYS' : 'BY DEFAULT'} AS IDENTITY${name}`);
  } else if (column.generated !== '') {
    parts.push(`GENERATED ALWAYS AS (${column.expression}) ${column.generated === 'v' ? 'VIRTUAL' : 'STORED'}`);
  } else if (column.expression !== null) parts.push(`DEFAULT ${column.expression}`);
  if (column.notNull) parts.push('NOT NULL');
  return parts.join(' ');
}

function finishTable(finish: DdlStatement[], relation: Relation, columns: readonly Column[], attached: readonly Attached[]): void {
  const add = (object: string, sql: string, mayFail = false): void => {
    finish.push({ object, sql, mayFail });
  };
  for (const each of attached) {
    // An index of a partitioned table is written with ONLY, to be attached to by others; here it is to make them.
    if (each.kind === 'index') add(`index ${each.name}`, each.definition.replace(/ ON ONLY /, ' ON '));
    else if (each.kind === 'constraint') {
      add(
        `constraint ${each.name} of ${relation.name}`,
        `ALTER TABLE ${relation.name} ADD CONSTRAINT ${identifier(each.name)} ${each.definition}`,
      );
    } else if (each.kind === 'statistics') add(`statistics ${each.name}`, each.definition, true);
  }
  if (relation.identity === 'f') add(`replica identity of ${relation.name}`, `ALTER TABLE ${relation.name} REPLICA IDENTITY FULL`);
  if (relation.identity === 'i' && relation.identityIndex !== null) {
    const sql = `ALTER TABLE ${relation.name} REPLICA IDENTITY USING INDEX ${identifier(relation.identityIndex)}`;
    add(`replica identity of ${relation.name}`, sql);
  }
  if (relation.comment !== null) add(`comment on ${relation.name}`, `COMMENT ON TABLE ${relation.name} IS ${literal(relation.comment)}`);
  for (const column of columns) {
    if (column.comment === null) continue;
    const name = `${relation.name}.${identifier(column.name)}`;
    add(`comment on ${name}`, `COMMENT ON COLUMN ${name} IS ${literal(column.comment)}`);
  }
}

function afterTable(relation: Relation, each: Attached): DdlStatement[] {
  const object = `${each.kind} ${each.name} of ${relation.name}`;
  if (each.kind === 'foreign key') {
    const sql = `ALTER TABLE ${relation.name} ADD CONSTRAINT ${identifier(each.name)} ${each.definition}`;
    return [{ object, sql, mayFail: each.note === 'outside' }];
  }
  if (each.kind === 'inheritance') return [{ object, sql: `ALTER TABLE ${relation.name} INHERIT ${each.definition}`, mayFail: true }];
  const made: DdlStatement[] = [{ object, sql: each.definition, mayFail: true }];
  const state = { D: 'DISABLE', R: 'ENABLE REPLICA', A: 'ENABLE ALWAYS' }[each.note ?? ''];
  if (state !== undefined) {
    made.push({ object, sql: `ALTER TABLE ${relation.name} ${state} TRIGGER ${identifier(each.name)}`, mayFail: true });
  }
  return made;
}

function relationQuery(members: string): string {
  return `${members} SELECT c.oid::int8 AS oid, m.root::int8 AS root, m.level, c.oid::regclass::text AS name,
      (SELECT i.inhparent::regclass::text FROM pg_inherits i WHERE c.relispartition AND i.inhrelid = c.oid) AS parent,
      pg_get_expr(c.relpartbound, c.oid) AS bound, CASE WHEN c.relkind = 'p' THEN pg_get_partkeydef(c.oid) END AS "partitionBy",
      to_json(c.reloptions) AS options, c.relreplident AS identity,
      (SELECT x.relname FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = c.oid AND i.indisreplident) AS "identityIndex",
      obj_description(c.oid, 'pg_class') AS comment
    FROM member m JOIN pg_class c ON c.oid = m.oid`;
}

function columnQuery(members: string): string {
  return `${members} SELECT a.attrelid::int8 AS relation, a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type,
      CASE WHEN a.attcollation <> t.typcollation THEN quote_ident(ln.nspname) || '.' || quote_ident(l.collname) END AS collation,
      a.attnotnull AS "notNull", a.attidentity AS identity, a.attgenerated AS generated, pg_get_expr(d.adbin, d.adrelid) AS expression,
      CASE WHEN a.attidentity <> '' THEN pg_get_serial_sequence(a.attrelid::regclass::text, a.attname) END AS sequence,
      col_description(a.attrelid, a.attnum) AS comment
    FROM member m JOIN pg_attribute a ON a.attrelid = m.oid JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    LEFT JOIN pg_collation l ON l.oid = a.attcollation LEFT JOIN pg_namespace ln ON ln.oid = l.collnamespace
    WHERE a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum`;
}

/**
 * What partitions get from the table above them is made with it and left out here. NOT NULL is with the columns, and the triggers behind
 * foreign keys and deferrable constraints are with these.
 */
function attachedQuery(members: string): string {
  return `${members} SELECT c.conrelid::int8 AS relation, CASE c.contype WHEN 'f' THEN 'foreign key' ELSE 'constraint' END AS kind,
      c.conname::text AS name, pg_get_constraintdef(c.oid) AS definition,
      CASE WHEN c.contype = 'f' AND c.confrelid NOT IN (SELECT oid FROM member) THEN 'outside' END AS note,
      CASE c.contype WHEN 'c' THEN 3 WHEN 'f' THEN 5 ELSE 2 END AS rank
    FROM member m JOIN pg_constraint c ON c.conrelid = m.oid
    WHERE c.contype IN ('c', 'p', 'u', 'x', 'f') AND c.conparentid = 0
      AND (c.conislocal OR NOT (SELECT relispartition FROM pg_class WHERE oid = c.conrelid))
    UNION ALL
    SELECT h.inhrelid::int8, 'inheritance', h.inhparent::regclass::text, h.inhparent::regclass::text, NULL, 5
    FROM member m JOIN pg_inherits h ON h.inhrelid = m.oid JOIN pg_class c ON c.oid = m.oid
    WHERE NOT c.relispartition AND h.inhparent IN (SELECT oid FROM member)
    UNION ALL
    SELECT i.indrelid::int8, 'index', i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid), NULL, 1
    FROM member m JOIN pg_index i ON i.indrelid = m.oid
    WHERE i.indislive AND NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = i.indexrelid)
      AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid AND c.contype IN ('p', 'u', 'x'))
    UNION ALL
    SELECT s.stxrelid::int8, 'statistics', quote_ident(s.stxname), pg_get_statisticsobjdef(s.oid), NULL, 4
    FROM member m JOIN pg_statistic_ext s ON s.stxrelid = m.oid
    UNION ALL
    SELECT g.tgrelid::int8, 'trigger', g.tgname::text, pg_get_triggerdef(g.oid), g.tgenabled::text, 6
    FROM member m JOIN pg_trigger g ON g.tgrelid = m.oid WHERE NOT g.tgisinternal AND g.tgparentid = 0
    ORDER BY relation, rank, name`;
}
