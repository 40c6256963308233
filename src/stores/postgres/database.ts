import type { TableName } from '../../model/schema.ts';
import type { Wire } from './wire.ts';

/** Names the database for good. */
export async function readIdentity(wire: Wire, signal: AbortSignal): Promise<string> {
  const [found] = await wire.query(
    `SELECT 'postgres:' || (pg_control_system()).system_identifier || ':' || oid FROM pg_database WHERE datname = current_database()`,
    signal,
  );
  return found?.rows[0]?.[0] as string;
}

/** Bytes of every table with its indexes and what is stored out of line; of a partitioned one those of all its partitions. */
export async function readSizes(wire: Wire, signal: AbortSignal): Promise<ReadonlyMap<TableName, number>> {
  const [found] = await wire.query(
    `SELECT n.nspname || '.' || c.relname, CASE c.relkind
       WHEN 'p' THEN (SELECT coalesce(sum(pg_total_relation_size(relid)), 0)::bigint FROM pg_partition_tree(c.oid))
       ELSE pg_total_relation_size(c.oid) END
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p') AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'`,
    signal,
  );
  // One that was dropped meanwhile has no size.
  return new Map((found?.rows ?? []).map(([table, bytes]) => [table as TableName, Number(bytes ?? 0)]));
}
