import type { Wire } from './wire.ts';

/**
 * Which types can be carried to another server, and as what. Values travel in the binary form of their type, which the stream, a
 * snapshot and COPY have in common. A type without one (aclitem, seg) travels as text, and is mirrored as a column of type text: the
 * stream sends it so of its own accord.
 */

/**
 * SQL: the type a column is mirrored with, as DDL writes it. Of a domain it is what the domain is made of: a mirror checks nothing, and
 * operators of enums and ranges are not found for domains over them.
 */
export const mirroredType = (type: string, modifier: string): string =>
  `(SELECT CASE WHEN base.typsend = 0 THEN 'text' ELSE format_type(base.oid, made.modifier) END
    FROM (
      WITH RECURSIVE based(type, modifier, depth) AS (
        SELECT ${type}, ${modifier}, 0
        UNION ALL SELECT d.typbasetype, d.typtypmod, depth + 1 FROM based
        CROSS JOIN LATERAL (SELECT typbasetype, typtypmod FROM pg_type WHERE oid = based.type AND typtype = 'd' OFFSET 0) d
      ) SELECT type, (SELECT max(modifier) FROM based) AS modifier FROM based ORDER BY depth DESC LIMIT 1
    ) made CROSS JOIN LATERAL (SELECT oid, typsend FROM pg_type WHERE oid = made.type OFFSET 0) base)`;

/** What only the server itself can write: the input functions of these refuse every value. */
const SERVERS_OWN = [
  'pg_node_tree',
  'pg_ndistinct',
  'pg_dependencies',
  'pg_mcv_list',
  'pg_brin_bloom_summary',
  'pg_brin_minmax_multi_summary',
];

/** The types that columns of users' tables have; with a table's OID, that table's alone. */
const typesOf = (tables: string | null): string =>
  `SELECT DISTINCT atttypid AS root, atttypid AS typ FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.relkind IN ('r', 'p') AND c.oid >= 16384 AND attnum > 0 AND NOT attisdropped${tables === null ? '' : ` AND c.oid IN (${tables})`}`;

/** What each of them is made of, to the last part. */
const reached = (types: string): string => `WITH RECURSIVE reach(root, typ) AS (
    ${types}
    UNION
    SELECT r.root, part.typ FROM reach r CROSS JOIN LATERAL (
      SELECT typbasetype FROM pg_type WHERE oid = r.typ AND typbasetype <> 0
      UNION ALL SELECT typelem FROM pg_type WHERE oid = r.typ AND typelem <> 0 AND typlen = -1
      UNION ALL SELECT rngsubtype FROM pg_range WHERE rngtypid = r.typ OR rngmultitypid = r.typ
      UNION ALL SELECT a.atttypid FROM pg_type t JOIN pg_attribute a ON a.attrelid = t.typrelid
        WHERE t.oid = r.typ AND t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped
    ) part(typ)
  )`;

/** What is wrong with any of that. */
const flawsQuery = (tables: string | null): string => `
  ${reached(typesOf(tables))}
  SELECT r.root, min(flaw) FROM reach r JOIN pg_type t ON t.oid = r.typ JOIN pg_type whole ON whole.oid = r.root
    LEFT JOIN pg_class row ON row.oid = t.typrelid
  CROSS JOIN LATERAL (SELECT CASE
    WHEN t.typnamespace = 'pg_catalog'::regnamespace AND t.typname ~ '^reg' AND t.typtype = 'b' AND t.typelem = 0
      THEN 'a ' || t.typname || ' is the number of an object of this server, which means another or none elsewhere'
    WHEN t.typnamespace = 'pg_catalog'::regnamespace AND t.typname IN ('${SERVERS_OWN.join("', '")}')
      THEN 'values of ' || t.typname || ' are written by the server alone'
    WHEN t.typtype = 'c' AND row.relkind <> 'c'
      THEN 'it is made of the rows of ' || t.oid::regtype || ', which has another shape in a mirror'
    WHEN t.typsend = 0 AND whole.typsend <> 0
      THEN 'it is made of ' || t.oid::regtype || ', which has no binary form: the change stream would break off at its values'
    END) f(flaw)
  WHERE flaw IS NOT NULL GROUP BY r.root`;

/** Users' types whose values have the bytes of a type of the server's: enums, which are sent as text, and arrays of domains. */
const shownQuery = (tables: string | null): string => `
  WITH RECURSIVE based(root, typ, brackets) AS (
    SELECT root, typ, '' FROM (${typesOf(tables)} AND atttypid >= 12000) types
    UNION ALL
    SELECT b.root, next.typ, b.brackets || next.brackets FROM based b JOIN pg_type t ON t.oid = b.typ CROSS JOIN LATERAL (
      SELECT t.typbasetype AS typ, '' AS brackets WHERE t.typtype = 'd'
      UNION ALL SELECT t.typelem, '[]' WHERE t.typcategory = 'A' AND t.typelem <> 0 AND t.typlen = -1
    ) next
  )
  SELECT b.root, CASE WHEN t.typtype = 'e' OR p.proname IN ('textsend', 'citextsend') THEN 'text' ELSE t.oid::regtype::text END || b.brackets
  FROM based b JOIN pg_type t ON t.oid = b.typ JOIN pg_proc p ON p.oid = t.typsend
  WHERE t.typtype <> 'd' AND NOT (t.typcategory = 'A' AND t.typlen = -1) AND (t.oid < 16384 OR t.typtype = 'e' OR p.proname = 'citextsend')`;

/** What users may alter in place, unseen in the log: the attributes of composites, and the labels of enums, which are told apart by their OIDs. */
const makeupQuery = (tables: string | null): string => `
  ${reached(`${typesOf(tables)} AND atttypid >= 16384`)}
  SELECT whole.root,
    (SELECT md5(string_agg(concat_ws(' ', t.oid, a.attnum, a.atttypid, a.atttypmod), ',' ORDER BY t.oid, a.attnum))
      FROM reach r JOIN pg_type t ON t.oid = r.typ AND t.typtype = 'c' JOIN pg_attribute a ON a.attrelid = t.typrelid
      WHERE r.root = whole.root AND a.attnum > 0 AND NOT a.attisdropped),
    (SELECT json_object_agg(e.oid, e.enumlabel ORDER BY e.oid) FROM reach r JOIN pg_enum e ON e.enumtypid = r.typ WHERE r.root = whole.root)
  FROM (SELECT DISTINCT root FROM reach) whole`;

/** The labels of enums by their OIDs. */
export type EnumLabels = Readonly<Record<string, string>>;

export interface TypeFacts {
  /** By the type's OID: why its values cannot be carried. */
  readonly flaws: ReadonlyMap<number, string>;
  /** By the type's OID: the type of the server's that shows its values. */
  readonly shownAs: ReadonlyMap<number, string>;
  /** By the type's OID: a digest of the attributes of its composites. */
  readonly made: ReadonlyMap<number, string>;
  readonly labels: ReadonlyMap<number, EnumLabels>;
}

/** `tables`: expressions for their OIDs; null: of all. */
export async function readTypeFacts(wire: Wire, tables: string | null, signal?: AbortSignal): Promise<TypeFacts> {
  const [flaws, shown, makeup] = await wire.query(`${flawsQuery(tables)}; ${shownQuery(tables)}; ${makeupQuery(tables)}`, signal);
  const texts = (found: typeof flaws, column: number): Map<number, string> =>
    new Map(
      (found?.rows ?? []).flatMap((row) => {
        const text = row[column];
        return typeof text === 'string' ? [[Number(row[0]), text] as const] : [];
      }),
    );
  const labels = new Map(Array.from(texts(makeup, 2), ([oid, json]) => [oid, JSON.parse(json) as EnumLabels]));
  return { flaws: texts(flaws, 1), shownAs: texts(shown, 1), made: texts(makeup, 1), labels };
}
