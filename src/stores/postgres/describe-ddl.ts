import type { DataSetSchema, DdlStatement, TableSchema } from '../../model/schema.ts';
import { readAfter, readBefore } from './ddl-objects.ts';
import { readTableDdl } from './ddl-tables.ts';
import { type CatalogTable, isTrackable, obstacle, type TrackableTable } from './describe.ts';
import { readIndexes } from './secondary-indexes.ts';
import type { Wire } from './wire.ts';

/**
 * The tables with the statements that rebuild them in an empty database. Names come with their schemas, since the session's search path
 * is `pg_catalog` alone. Owners, privileges and row security belong to a server's users and are left out.
 */
export async function describeDataSet(
  wire: Wire,
  all: readonly CatalogTable[],
  schemaOf: (table: TrackableTable) => TableSchema,
  signal: AbortSignal,
): Promise<DataSetSchema> {
  const tables = all.filter(isTrackable);
  const refused = all.flatMap((each) => {
    const found = obstacle(each);
    return found === null ? [] : [{ table: each.table, reason: `it cannot be followed: ${found.message}. ${found.remedy}` }];
  });
  if (tables.length === 0) return { tables: [], before: [], after: [], refused };
  const oids = tables.map(({ oid }) => oid);
  const [ddl, indexes, before, after] = await Promise.all([
    readTableDdl(wire, oids, signal),
    readIndexes(wire, oids, signal),
    readBefore(wire, oids, signal),
    readAfter(wire, oids, signal),
  ]);
  const of = (kind: string): DdlStatement[] => ddl.after.filter(({ object }) => object.startsWith(`${kind} `));
  return {
    tables: tables.map((table) => ({ ...schemaOf(table), ...ddl.byTable.get(table.oid), ...indexes.get(table.oid) })),
    before,
    after: [...of('inheritance'), ...of('foreign key'), ...after, ...of('trigger')],
    refused,
  };
}
