import { createHash } from 'node:crypto';
import type { TableSchema } from '../../model/schema.ts';
import type { CatalogTable, StorageUnit, TrackableTable } from './describe.ts';
import { schemaOf } from './describe.ts';

/** By what a table and its rows are recognised: kept with the schema, over restarts. */
export interface Lineage {
  readonly oid: number;
  readonly lastColumn: number;
  /** Another wherever rows were rewritten: part of the shape. */
  readonly epoch: string;
  readonly units: readonly Omit<StorageUnit, 'empty'>[];
  /** It is not certain which columns these are: rows that the log brought so are not to be taken for those that the catalog shows. */
  readonly guessed?: true;
}

/** Rows may differ from what they were although the log has no change of them. */
export function isRewritten(before: Lineage, now: CatalogTable): boolean {
  if (before.guessed === true) return true;
  const present = new Map(now.units.map((unit) => [unit.oid, unit]));
  const known = new Set(before.units.map(({ oid }) => oid));
  const unitsChanged = before.units.some(({ oid, file, columns, attached }) => {
    const unit = present.get(oid);
    return unit === undefined || unit.attached !== attached || (unit.file !== file && unit.columns !== columns);
  });
  return unitsChanged || now.units.some(({ oid, empty }) => !known.has(oid) && !empty);
}

export function epochOf(table: CatalogTable): string {
  const text = JSON.stringify(table.units.map(({ oid, file, columns, attached }) => [oid, file, columns, attached]));
  return createHash('sha256').update(text).digest('hex').slice(0, 12);
}

export function withLineage(table: TrackableTable, epoch: string): TableSchema {
  const units = table.units.map(({ oid, file, columns, attached }) => ({ oid, file, columns, attached }));
  return { ...schemaOf(table, epoch), lineage: textOf({ oid: table.oid, lastColumn: table.lastColumn, epoch, units }) };
}

export function textOf(lineage: Lineage): string {
  return JSON.stringify(lineage);
}

export function lineageOf({ lineage }: TableSchema): Lineage | null {
  return lineage === undefined ? null : (JSON.parse(lineage) as Lineage);
}
