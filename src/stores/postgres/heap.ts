import type { TableSchema } from '../../model/schema.ts';
import { cellsOf, packTuple, type Tuple } from '../../model/tuple.ts';
import { identifier, literal } from './connection.ts';
import { splitName } from './layout.ts';
import type { Wire } from './wire.ts';

/**
 * A table as rows lying in blocks: a row's *place* is block × 2,048 + line (a page of 32 KiB has 1,169 lines at most). The places of a
 * partitioned table's leaves are counted side by side: a range of places is that range in each of them.
 */
export interface Heap {
  /** As a FROM item called `source`. */
  readonly from: string;
  /** Every row visible now lies below it. */
  readonly end: number;
  /** Bytes kept for each place, what is kept out of line included. */
  readonly density: number;
  /** Another once the files behind the table are: rewritten (VACUUM FULL, CLUSTER, ALTER), truncated, partitions attached or detached. */
  readonly files: Buffer;
}

const LINES = 2048;

/** Null where the rows have no such order: a table of another access method. The caller's transaction has the table locked. */
export async function readHeap(wire: Wire, table: TableSchema, signal: AbortSignal): Promise<Heap | null> {
  const { schema, name } = splitName(table.table);
  const [found] = await wire.query(
    `WITH root AS (SELECT c.oid, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE n.nspname = ${literal(schema)} AND c.relname = ${literal(name)}),
     leaf AS (SELECT oid FROM root WHERE relkind = 'r' UNION SELECT t.relid FROM root, pg_partition_tree(root.oid) t WHERE t.isleaf)
     SELECT (SELECT relkind = 'p' FROM root), coalesce(bool_and(coalesce(a.amname, '') = 'heap'), true),
       coalesce(max(pg_relation_size(c.oid)), 0) / current_setting('block_size')::int,
       coalesce(sum(pg_table_size(c.oid)), 0),
       md5(coalesce(string_agg(c.oid || ' ' || pg_relation_filenode(c.oid), ',' ORDER BY c.oid), ''))
     FROM leaf JOIN pg_class c USING (oid) LEFT JOIN pg_am a ON a.oid = c.relam`,
    signal,
  );
  const [partitioned, allHeaps, blocks, bytes, files] = (found?.rows[0] ?? []) as string[];
  if (allHeaps !== 't') return null;
  const end = Number(blocks) * LINES;
  return {
    // A table's inheritance children are tables of their own; a partitioned table has its rows in partitions only.
    from: `${partitioned === 't' ? '' : 'ONLY '}${identifier(schema)}.${identifier(name)} AS source`,
    end,
    density: end === 0 ? 0 : Number(bytes) / end,
    files: Buffer.from(files as string, 'hex'),
  };
}

/** Rows with places in [from, to). */
export function lyingIn(from: number, to: number): string {
  return `source.ctid >= ${tid(from)} AND source.ctid < ${tid(to)}`;
}

function tid(place: number): string {
  return `'(${Math.floor(place / LINES)},${place % LINES})'::tid`;
}

/** As a copy's frontier. */
export function frontierAt(place: number, { files }: Heap): Tuple {
  const at = Buffer.alloc(8);
  at.writeBigInt64BE(BigInt(place));
  return packTuple([at, files]);
}

/** The place a frontier speaks of; null if that is another one by now, or it never was a place. */
export function placeAt(frontier: Tuple, { files }: Heap): number | null {
  const [at, then, ...others] = cellsOf(frontier);
  if (at?.length !== 8 || !then?.equals(files) || others.length > 0) return null;
  return Number(at.readBigInt64BE());
}
