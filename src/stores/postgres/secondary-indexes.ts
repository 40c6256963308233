import type { IndexSchema } from '../../model/schema.ts';
import { relationsQuery } from './ddl-tables.ts';
import { ask } from './describe.ts';
import type { Wire } from './wire.ts';

interface CatalogIndex {
  readonly root: number;
  readonly name: string;
  /** Of which table; null: of the root. */
  readonly partition: string | null;
  readonly text: string;
  /** What `text` begins with, up to USING. */
  readonly head: string;
  readonly nullsNotDistinct: boolean;
  readonly wholeRow: boolean;
}

/** All indexes of tables but the one of the key, those behind unique and exclusion constraints among them. By the tables' OIDs. */
export async function readIndexes(
  wire: Wire,
  oids: readonly number[],
  signal: AbortSignal,
): Promise<Map<number, { readonly indexes: readonly IndexSchema[] }>> {
  const found = Map.groupBy(await ask<CatalogIndex>(wire, indexQuery(oids), signal), ({ root }) => root);
  return new Map(Array.from(found, ([root, indexes]) => [root, { indexes: indexes.map(indexOf) }]));
}

function indexOf({ name, partition, text, head, nullsNotDistinct, wholeRow }: CatalogIndex): IndexSchema {
  if (!text.startsWith(head)) return { name, definition: text, flaw: 'the way the primary writes it is not understood' };
  const definition = text.slice(head.length);
  if (partition !== null) return { name, definition, flaw: `it is of the partition ${partition} alone` };
  if (wholeRow) return { name, definition, flaw: 'its expression takes the row as a whole, and a mirrored row has a column of ours' };
  return { name, definition: nullsNotDistinct ? withoutNullTreatment(definition) : definition, flaw: null };
}

/** NULLS NOT DISTINCT belongs to uniqueness, and follows the lists of columns. */
function withoutNullTreatment(definition: string): string {
  let end = listEnd(definition, definition.indexOf('('));
  if (definition.startsWith(' INCLUDE (', end)) end = listEnd(definition, end + ' INCLUDE '.length);
  return definition.slice(0, end) + definition.slice(end).replace(/^ NULLS NOT DISTINCT/, '');
}

/** Where the parenthesis that opens at `start` is closed, past it. Quotes are doubled within quotes, so each pair may be passed over. */
function listEnd(text: string, start: number): number {
  let depth = 0;
  let quote = '';
  for (let at = start; at < text.length; at++) {
    const char = text[at] as string;
    if (quote !== '') quote = char === quote ? '' : quote;
    else if (char === "'" || char === '"') quote = char;
    else if (char === '(') depth++;
    else if (char === ')' && --depth === 0) return at + 1;
  }
  return text.length;
}

function indexQuery(oids: readonly number[]): string {
  return `WITH member AS MATERIALIZED (${relationsQuery(oids)})
    SELECT m.root::int8 AS root, x.relname AS name, CASE WHEN m.oid <> m.root THEN c.oid::regclass::text END AS partition,
      pg_get_indexdef(x.oid) AS text,
      format('CREATE %sINDEX %I ON %s%I.%I USING ', CASE WHEN i.indisunique THEN 'UNIQUE ' END, x.relname,
        CASE WHEN c.relkind = 'p' THEN 'ONLY ' END, n.nspname, c.relname) AS head,
      coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::bool, false) AS "nullsNotDistinct",
      concat(i.indexprs::text, i.indpred::text) LIKE '%:varattno 0 %' AS "wholeRow"
    FROM member m JOIN pg_index i ON i.indrelid = m.oid JOIN pg_class x ON x.oid = i.indexrelid
    JOIN pg_class c ON c.oid = m.oid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE i.indisvalid AND i.indislive AND NOT CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END
      AND (m.oid = m.root OR NOT i.indisprimary AND NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = x.oid))
    ORDER BY m.root, x.relname`;
}
