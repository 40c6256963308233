import type { DataSetSchema } from '../../model/schema.ts';
import { type CatalogTable, schemaOf } from './describe.ts';
import type { Wire } from './wire.ts';

export async function describeDataSet(
  _wire: Wire,
  tables: readonly (CatalogTable & { readonly key: readonly string[] })[],
  _signal: AbortSignal,
): Promise<DataSetSchema> {
  return { tables: tables.map(schemaOf), before: [], after: [] };
}
