import type { DdlStatement } from '../../model/schema.ts';
import { literal } from './connection.ts';
import { relationsQuery } from './ddl-tables.ts';
import { ask } from './describe.ts';
import type { Wire } from './wire.ts';

/** Columns of `member`, and all types they are made of, each with the depth at which it was met. */
function reachedTypes(oids: readonly number[]): string {
  return `RECURSIVE member AS MATERIALIZED (${relationsQuery(oids)}), reach(typ, depth) AS (
    SELECT DISTINCT a.atttypid, 0 FROM member m JOIN pg_attribute a ON a.attrelid = m.oid WHERE a.attnum > 0 AND NOT a.attisdropped
    UNION
    SELECT part.typ, r.depth + 1 FROM reach r CROSS JOIN LATERAL (
      SELECT typbasetype FROM pg_type WHERE oid = r.typ AND typbasetype <> 0
      UNION ALL SELECT typelem FROM pg_type WHERE oid = r.typ AND typelem <> 0 AND typlen = -1
      UNION ALL SELECT rngsubtype FROM pg_range WHERE rngtypid = r.typ
      UNION ALL SELECT rngtypid FROM pg_range WHERE rngmultitypid = r.typ
      UNION ALL SELECT a.atttypid FROM pg_type t JOIN pg_attribute a ON a.attrelid = t.typrelid
        WHERE t.oid = r.typ AND t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped
    ) part(typ) WHERE r.depth < 20
  )`;
}

/** What columns, defaults, constraints, indexes and triggers of the tables lean on: (catalog, object). */
const LEANED_ON = `leaned AS MATERIALIZED (
    SELECT DISTINCT d.refclassid AS catalog, d.refobjid AS object FROM pg_depend d WHERE (d.classid, d.objid) IN (
      SELECT 'pg_class'::regclass, oid FROM member
      UNION SELECT 'pg_attrdef'::regclass, a.oid FROM member m JOIN pg_attrdef a ON a.adrelid = m.oid
      UNION SELECT 'pg_constraint'::regclass, c.oid FROM member m JOIN pg_constraint c ON c.conrelid = m.oid
      UNION SELECT 'pg_class'::regclass, i.indexrelid FROM member m JOIN pg_index i ON i.indrelid = m.oid
      UNION SELECT 'pg_trigger'::regclass, t.oid FROM member m JOIN pg_trigger t ON t.tgrelid = m.oid
    )
    UNION SELECT 'pg_type'::regclass, typ FROM reach
  )`;

const NOT_OF_EXTENSION = (catalog: string, oid: string): string =>
  `NOT EXISTS (SELECT FROM pg_depend x WHERE x.classid = '${catalog}'::regclass AND x.objid = ${oid} AND x.deptype = 'e')`;

/** Schemas, extensions, collations, types, sequences and functions that the tables need before they can be made. */
export async function readBefore(wire: Wire, oids: readonly number[], signal: AbortSignal): Promise<DdlStatement[]> {
  const reached = `WITH ${reachedTypes(oids)}, ${LEANED_ON}`;
  const [extensions, collations, types, sequences, functions] = await Promise.all([
    ask<{ name: string; schema: string }>(wire, extensionQuery(reached), signal),
    ask<Collation>(wire, collationQuery(reached), signal),
    ask<TypeRow>(wire, typeQuery(reached), signal),
    ask<Sequence>(wire, sequenceQuery(oids), signal),
    ask<{ name: string; schema: string; definition: string }>(wire, functionQuery(reached), signal),
  ]);
  const tables = await ask<{ schema: string }>(
    wire,
    `WITH member AS (${relationsQuery(oids)}) SELECT DISTINCT c.relnamespace::regnamespace::text AS schema FROM member m JOIN pg_class c ON c.oid = m.oid`,
    signal,
  );
  const statements: DdlStatement[] = [];
  const add = (object: string, sql: string, mayFail = false): void => {
    statements.push({ object, sql, mayFail });
  };
  const named = [...tables, ...extensions, ...collations, ...types, ...sequences, ...functions];
  const schemas = new Set(named.map(({ schema }) => schema).filter((schema) => schema !== 'public' && schema !== 'pg_catalog'));
  for (const schema of [...schemas].toSorted()) add(`schema ${schema}`, `CREATE SCHEMA IF NOT EXISTS ${schema}`);
  for (const { name, schema } of extensions) add(`extension ${name}`, `CREATE EXTENSION IF NOT EXISTS ${name} WITH SCHEMA ${schema}`, true);
  for (const collation of collations) add(`collation ${collation.name}`, createCollation(collation));
  for (const type of types) add(`type ${type.name}`, createType(type));
  for (const sequence of sequences) if (!sequence.identity) add(`sequence ${sequence.name}`, createSequence(sequence));
  if (functions.length > 0) {
    // They may name tables that are made later.
    add('check_function_bodies', 'SET LOCAL check_function_bodies = off');
    for (const { name, definition } of functions) add(`function ${name}`, definition, true);
  }
  return statements;
}

interface DomainCheck {
  readonly domain: string;
  readonly name: string;
  readonly definition: string;
}

/** Checks of domains that rows from before need not pass: they are made when the rows are in. */
function unvalidatedQuery(oids: readonly number[]): string {
  return `WITH ${reachedTypes(oids)} SELECT contypid::regtype::text AS domain, quote_ident(conname) AS name, pg_get_constraintdef(oid) AS definition
    FROM pg_constraint WHERE contype = 'c' AND NOT convalidated AND contypid IN (SELECT typ FROM reach) ORDER BY oid`;
}

/** Checks of domains that are not validated, sequence values and owners, then views. */
export async function readAfter(wire: Wire, oids: readonly number[], signal: AbortSignal): Promise<DdlStatement[]> {
  const [sequences, views, checks] = await Promise.all([
    ask<Sequence>(wire, sequenceQuery(oids), signal),
    ask<View>(wire, viewQuery(oids), signal),
    ask<DomainCheck>(wire, unvalidatedQuery(oids), signal),
  ]);
  const statements: DdlStatement[] = [];
  const add = (object: string, sql: string, mayFail = false): void => {
    statements.push({ object, sql, mayFail });
  };
  for (const { domain, name, definition } of checks) {
    add(`check ${name} of domain ${domain}`, `ALTER DOMAIN ${domain} ADD CONSTRAINT ${name} ${definition}`);
  }
  for (const sequence of sequences) {
    const { name, table, column } = sequence;
    if (sequence.identity) add(`sequence ${name}`, `ALTER SEQUENCE ${name} ${sequenceOptions(sequence)}`);
    else if (table !== null) add(`owner of sequence ${name}`, `ALTER SEQUENCE ${name} OWNED BY ${table}.${column}`);
    // The rows may be newer than the value read here: the next number must not be one of theirs.
    const highest = table === null || Number(sequence.increment) < 0 ? 'NULL' : `(SELECT max(${column})::bigint FROM ${table})`;
    const value = `GREATEST(${sequence.last ?? 'NULL'}::bigint, ${highest})`;
    add(`value of sequence ${name}`, `SELECT pg_catalog.setval(${literal(name)}::pg_catalog.regclass, ${value})`);
  }
  for (const view of views) {
    const kind = view.materialized ? 'materialized view' : 'view';
    const options = view.options === null || view.options.length === 0 ? '' : ` WITH (${view.options.join(', ')})`;
    add(`${kind} ${view.name}`, `CREATE ${kind.toUpperCase()} ${view.name}${options} AS ${view.definition}`, true);
    for (const index of view.indexes ?? []) add(`index of ${view.name}`, index, true);
    for (const trigger of view.triggers ?? []) add(`trigger of ${view.name}`, trigger, true);
  }
  return statements;
}

interface Collation {
  readonly name: string;
  readonly schema: string;
  readonly provider: string;
  readonly deterministic: boolean;
  readonly row: Readonly<Record<string, string | null | undefined>>;
}

function collationQuery(reached: string): string {
  return `${reached} SELECT quote_ident(n.nspname) || '.' || quote_ident(l.collname) AS name, quote_ident(n.nspname) AS schema,
      l.collprovider AS provider, l.collisdeterministic AS deterministic, to_json(l) AS row
    FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace
    WHERE n.nspname <> 'pg_catalog' AND ${NOT_OF_EXTENSION('pg_collation', 'l.oid')}
      AND l.oid IN (SELECT object FROM leaned WHERE catalog = 'pg_collation'::regclass)`;
}

/** The catalog's column for the locale was renamed from version to version. */
function createCollation({ name, provider, deterministic, row }: Collation): string {
  const icu = row['colllocale'] ?? row['colliculocale'] ?? row['collcollate'];
  const locale =
    provider === 'c'
      ? `lc_collate = ${literal(row['collcollate'] ?? 'C')}, lc_ctype = ${literal(row['collctype'] ?? 'C')}`
      : `locale = ${literal(icu ?? '')}`;
  const kind = { c: 'libc', i: 'icu', b: 'builtin' }[provider] ?? 'libc';
  const rules = row['collicurules'] === null || row['collicurules'] === undefined ? '' : `, rules = ${literal(row['collicurules'])}`;
  return `CREATE COLLATION ${name} (provider = ${kind}, ${locale}${deterministic ? '' : ', deterministic = false'}${rules})`;
}

interface TypeRow {
  readonly name: string;
  readonly schema: string;
  readonly kind: string;
  readonly labels: readonly string[] | null;
  readonly base: string | null;
  readonly collation: string | null;
  readonly notNull: boolean;
  readonly fallback: string | null;
  readonly checks: readonly string[] | null;
  readonly attributes: readonly string[] | null;
  readonly range: string | null;
}

/** Deepest first: a type stands after those it is made of. */
function typeQuery(reached: string): string {
  return `${reached} SELECT t.oid::regtype::text AS name, quote_ident(n.nspname) AS schema, t.typtype AS kind,
      (SELECT json_agg(enumlabel ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = t.oid) AS labels,
      CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) END AS base,
      (SELECT quote_ident(ln.nspname) || '.' || quote_ident(l.collname) FROM pg_collation l JOIN pg_namespace ln ON ln.oid = l.collnamespace
        JOIN pg_type b ON b.oid = t.typbasetype WHERE l.oid = t.typcollation AND t.typcollation <> b.typcollation) AS collation,
      t.typnotnull AS "notNull", t.typdefault AS fallback,
      (SELECT json_agg('CONSTRAINT ' || quote_ident(conname) || ' ' || pg_get_constraintdef(oid) ORDER BY oid)
        FROM pg_constraint WHERE contypid = t.oid AND contype = 'c' AND convalidated) AS checks,
      (SELECT json_agg(quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum)
        FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) AS attributes,
      (SELECT format_type(g.rngsubtype, NULL)
        || ', SUBTYPE_OPCLASS = ' || quote_ident(kn.nspname) || '.' || quote_ident(k.opcname)
        || coalesce(', COLLATION = ' || quote_ident(ln.nspname) || '.' || quote_ident(l.collname), '')
        || coalesce(', SUBTYPE_DIFF = ' || nullif(g.rngsubdiff::oid, 0)::regproc::text, '')
        || ', MULTIRANGE_TYPE_NAME = ' || g.rngmultitypid::regtype::text
        FROM pg_range g JOIN pg_opclass k ON k.oid = g.rngsubopc JOIN pg_namespace kn ON kn.oid = k.opcnamespace
        LEFT JOIN pg_collation l ON l.oid = g.rngcollation LEFT JOIN pg_namespace ln ON ln.oid = l.collnamespace
        WHERE g.rngtypid = t.oid) AS range
    FROM (SELECT typ, max(depth) AS depth FROM reach GROUP BY typ) r
    JOIN pg_type t ON t.oid = r.typ JOIN pg_namespace n ON n.oid = t.typnamespace
    LEFT JOIN pg_class c ON c.oid = t.typrelid
    WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND (t.typtype IN ('e', 'd', 'r') OR t.typtype = 'c' AND c.relkind = 'c')
      AND ${NOT_OF_EXTENSION('pg_type', 't.oid')}
    ORDER BY r.depth DESC, t.oid`;
}

function createType(type: TypeRow): string {
  if (type.kind === 'e') return `CREATE TYPE ${type.name} AS ENUM (${(type.labels ?? []).map(literal).join(', ')})`;
  if (type.kind === 'c') return `CREATE TYPE ${type.name} AS (${(type.attributes ?? []).join(', ')})`;
  if (type.kind === 'r') return `CREATE TYPE ${type.name} AS RANGE (SUBTYPE = ${type.range})`;
  const parts = [`CREATE DOMAIN ${type.name} AS ${type.base}`];
  if (type.collation !== null) parts.push(`COLLATE ${type.collation}`);
  if (type.fallback !== null) parts.push(`DEFAULT ${type.fallback}`);
  if (type.notNull) parts.push('NOT NULL');
  return [...parts, ...(type.checks ?? [])].join(' ');
}

interface Sequence {
  readonly name: string;
  readonly schema: string;
  /** Made with an identity column. */
  readonly identity: boolean;
  readonly table: string | null;
  readonly column: string | null;
  readonly type: string;
  readonly start: string;
  readonly increment: string;
  readonly min: string;
  readonly max: string;
  readonly cache: string;
  readonly cycle: boolean;
  readonly last: string | null;
}

/** Those that a column owns, and those that a default takes numbers from. */
function sequenceQuery(oids: readonly number[]): string {
  return `WITH member AS MATERIALIZED (${relationsQuery(oids)}) SELECT c.oid::regclass::text AS name, quote_ident(n.nspname) AS schema, coalesce(o.deptype = 'i', false) AS identity,
      o.refobjid::regclass::text AS table, quote_ident(a.attname) AS column, format_type(s.seqtypid, NULL) AS type, s.seqstart::text AS start,
      s.seqincrement::text AS increment, s.seqmin::text AS min, s.seqmax::text AS max, s.seqcache::text AS cache, s.seqcycle AS cycle,
      CASE WHEN has_sequence_privilege(c.oid, 'SELECT, USAGE') THEN pg_sequence_last_value(c.oid)::text END AS last
    FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_depend o ON o.classid = 'pg_class'::regclass AND o.objid = c.oid AND o.refclassid = 'pg_class'::regclass
      AND o.deptype IN ('a', 'i') AND o.refobjid IN (SELECT oid FROM member)
    LEFT JOIN pg_attribute a ON a.attrelid = o.refobjid AND a.attnum = o.refobjsubid
    WHERE o.objid IS NOT NULL OR EXISTS (SELECT FROM pg_depend d JOIN pg_attrdef f ON f.oid = d.objid JOIN member m ON m.oid = f.adrelid
      WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid)
    ORDER BY 1`;
}

function createSequence(sequence: Sequence): string {
  return `CREATE SEQUENCE ${sequence.name} AS ${sequence.type} ${sequenceOptions(sequence)}`;
}

function sequenceOptions({ start, increment, min, max, cache, cycle }: Sequence): string {
  return `INCREMENT BY ${increment} MINVALUE ${min} MAXVALUE ${max} START WITH ${start} CACHE ${cache} ${cycle ? 'CYCLE' : 'NO CYCLE'}`;
}

function extensionQuery(reached: string): string {
  return `${reached} SELECT quote_ident(e.extname) AS name, quote_ident(n.nspname) AS schema
    FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
    WHERE e.extname <> 'plpgsql' AND EXISTS (SELECT FROM pg_depend m JOIN leaned l ON l.catalog = m.classid AND l.object = m.objid
      WHERE m.refclassid = 'pg_extension'::regclass AND m.refobjid = e.oid AND m.deptype = 'e')
    ORDER BY e.oid`;
}

function functionQuery(reached: string): string {
  return `${reached} SELECT p.oid::regprocedure::text AS name, quote_ident(n.nspname) AS schema, pg_get_functiondef(p.oid) AS definition
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND p.prokind IN ('f', 'p') AND ${NOT_OF_EXTENSION('pg_proc', 'p.oid')}
      AND p.oid IN (SELECT object FROM leaned WHERE catalog = 'pg_proc'::regclass)
    ORDER BY p.oid`;
}

interface View {
  readonly name: string;
  readonly materialized: boolean;
  readonly options: readonly string[] | null;
  readonly definition: string;
  readonly indexes: readonly string[] | null;
  readonly triggers: readonly string[] | null;
}

/** Views that read the tables, directly or through others; those read by others first. */
function viewQuery(oids: readonly number[]): string {
  return `WITH RECURSIVE member AS MATERIALIZED (${relationsQuery(oids)}), reads AS MATERIALIZED (
      SELECT DISTINCT r.ev_class AS view, d.refobjid AS source FROM pg_rewrite r
      JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class
    ), above(view, depth) AS (
      SELECT view, 1 FROM reads WHERE source IN (SELECT oid FROM member)
      UNION SELECT r.view, a.depth + 1 FROM above a JOIN reads r ON r.source = a.view WHERE a.depth < 50
    )
    SELECT c.oid::regclass::text AS name, c.relkind = 'm' AS materialized, to_json(c.reloptions) AS options,
      rtrim(pg_get_viewdef(c.oid), ';') AS definition,
      (SELECT json_agg(pg_get_indexdef(indexrelid) ORDER BY indexrelid) FROM pg_index WHERE indrelid = c.oid) AS indexes,
      (SELECT json_agg(pg_get_triggerdef(oid) ORDER BY tgname) FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal) AS triggers
    FROM (SELECT view, max(depth) AS depth FROM above GROUP BY view) v JOIN pg_class c ON c.oid = v.view
    WHERE c.relkind IN ('v', 'm') AND ${NOT_OF_EXTENSION('pg_class', 'c.oid')}
    ORDER BY v.depth, name`;
}
