import { literal } from './connection.ts';

/**
 * Has a table store long values as they come. What is moved on to another table, or was superseded, is compressed already if that is of
 * any use: the server tries again with each copy, and for a value that does not shrink that takes longer than all else (of an apply of
 * 4 to 12 KB of text that pglz cannot make smaller: 70 % of the server's CPU, PostgreSQL 18.4).
 */
export function storedAsTheyCome(table: string): string {
  return `DO $do$ DECLARE changes text; BEGIN
    SELECT string_agg(format('ALTER %I SET STORAGE EXTERNAL', attname), ', ') INTO changes FROM pg_attribute
      WHERE attrelid = ${literal(table)}::regclass AND attnum > 0 AND NOT attisdropped AND attstorage IN ('x', 'm');
    IF changes IS NOT NULL THEN EXECUTE format('ALTER TABLE %s %s', ${literal(table)}::regclass, changes); END IF; END $do$`;
}
