import type { DatabaseSync } from 'node:sqlite';
import type { TableName } from '../../model/schema.ts';

/** Bytes of the pages of every table and its indexes: all pages are looked at (https://www.sqlite.org/dbstat.html). */
export function readSizes(db: DatabaseSync): ReadonlyMap<TableName, number> {
  const rows = db
    .prepare('SELECT s.tbl_name AS name, sum(d.pgsize) AS bytes FROM dbstat d JOIN sqlite_schema s ON s.name = d.name GROUP BY s.tbl_name')
    .all();
  return new Map(rows.map(({ name, bytes }) => [name as TableName, Number(bytes)]));
}
