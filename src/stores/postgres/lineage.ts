import { createHash } from 'node:crypto';
import type { TableSchema } from '../../model/schema.ts';
import type { EnumLabels } from './carried-types.ts';
import { type CatalogTable, schemaOf, type StorageUnit, type TrackableTable } from './describe.ts';

/** By what a table and its rows are recognised: kept with the schema, over restarts. */
export interface Lineage {
  readonly oid: number;
  readonly lastColumn: number;
  /** Another wherever rows were rewritten: part of the shape. */
  readonly epoch: string;
  readonly units: readonly Omit<StorageUnit, 'empty'>[];
  readonly parts: Parts;
  /** It is not certain which columns these are: rows that the log brought so are not to be taken for those that the catalog shows. */
  readonly guessed?: true;
}

/** What the types of its columns are made of, where users may alter that in place. */
export interface Parts {
  /** `CatalogColumn.made`, by the column's number. */
  readonly made: Readonly<Record<string, string>>;
  readonly labels: EnumLabels;
  /** Numbers of the columns with enums in them. */
  readonly labelled: readonly number[];
}

export const NO_PARTS: Parts = { made: {}, labels: {}, labelled: [] };

/** Rows may differ from what they were although the log has no change of them. */
export function isRewritten(before: Lineage, now: CatalogTable): boolean {
  if (before.guessed === true || isAltered(before.parts, now)) return true;
  const present = new Map(now.units.map((unit) => [unit.oid, unit]));
  const known = new Set(before.units.map(({ oid }) => oid));
  const unitsChanged = before.units.some(({ oid, file, columns, attached }) => {
    const unit = present.get(oid);
    return unit === undefined || unit.attached !== attached || (unit.file !== file && unit.columns !== columns);
  });
  return unitsChanged || now.units.some(({ oid, empty }) => !known.has(oid) && !empty);
}

/** An attribute of a composite came or went, or a label of an enum has another name: so standing rows read otherwise than they did. */
function isAltered({ made, labels }: Parts, now: CatalogTable): boolean {
  const relabelled = Object.entries(labels).some(([oid, label]) => (now.labels[oid] ?? label) !== label);
  return relabelled || now.columns.some((column) => made[column.id] !== undefined && made[column.id] !== column.made);
}

export function partsOf({ columns, labels }: Pick<CatalogTable, 'columns' | 'labels'>): Parts {
  const made = Object.fromEntries(columns.flatMap((column) => (column.made === undefined ? [] : [[column.id, column.made]])));
  return { made, labels, labelled: columns.flatMap(({ id, labelled }) => (labelled ? [id] : [])) };
}

export function epochOf(table: CatalogTable): string {
  const text = JSON.stringify([table.units.map(({ oid, file, columns, attached }) => [oid, file, columns, attached]), partsOf(table)]);
  return createHash('sha256').update(text).digest('hex').slice(0, 12);
}

export function withLineage(table: TrackableTable, epoch: string): TableSchema {
  const units = table.units.map(({ oid, file, columns, attached }) => ({ oid, file, columns, attached }));
  return {
    ...schemaOf(table, epoch),
    lineage: textOf({ oid: table.oid, lastColumn: table.lastColumn, epoch, units, parts: partsOf(table) }),
  };
}

export function textOf(lineage: Lineage): string {
  return JSON.stringify(lineage);
}

export function lineageOf({ lineage }: TableSchema): Lineage | null {
  return lineage === undefined ? null : (JSON.parse(lineage) as Lineage);
}
