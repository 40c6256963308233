import type { DatabaseSync } from 'node:sqlite';
import { type KeyTuple, type Tuple, identityOf } from '../../model/tuple.ts';
import type { ForeignRow } from '../../shadowing/shadow.ts';
import { FOREIGN_SQL, type Layout, SINCE, UNTIL } from './layout.ts';
import { VersionReader, matchKey } from './versions.ts';

/** Rows somebody else wrote, in no particular order. One whose content is the truth after all is no foreign row. */
export function foreignRows(db: DatabaseSync, layout: Layout, limit: number): ForeignRow[] {
  const reader = new VersionReader(db, layout);
  const found = new Map<string, ForeignRow>();
  const visit = (row: Tuple): void => {
    const key = reader.keyOf(row);
    const identity = identityOf(key);
    if (found.size >= limit || found.has(identity)) return;
    const foreign = foreignRow(reader, key);
    if (!isHarmless(foreign)) found.set(identity, foreign);
  };
  reader.select((list) => `SELECT ${list} FROM ${layout.live} AS t WHERE ${SINCE} = ${FOREIGN_SQL}`, [], visit);
  reader.select((list) => `SELECT ${list} FROM ${layout.history} AS t WHERE ${UNTIL} = ${FOREIGN_SQL}`, [], visit);
  return [...found.values()];
}

function foreignRow(reader: VersionReader, key: KeyTuple): ForeignRow {
  const { layout } = reader;
  const match = matchKey(layout, key);
  const one = (sql: (list: string) => string): Tuple | null => reader.select(sql, match.values, (row) => row)[0] ?? null;
  return {
    key,
    found: one((list) => `SELECT ${list} FROM ${layout.live} AS t WHERE ${match.sql} AND ${SINCE} = ${FOREIGN_SQL}`),
    truth: one((list) => `SELECT ${list} FROM ${layout.history} AS t WHERE ${match.sql} AND ${UNTIL} = ${FOREIGN_SQL}`),
  };
}

function isHarmless(row: ForeignRow): boolean {
  return row.found !== null && row.truth !== null && row.found.equals(row.truth);
}

/** Whether any row of the segment was written by somebody else: two looks into indexes that are empty otherwise. */
export function hasForeign(db: DatabaseSync, layout: Layout): boolean {
  const sql =
    `SELECT EXISTS (SELECT 1 FROM ${layout.live} WHERE ${SINCE} = ${FOREIGN_SQL}) ` +
    `OR EXISTS (SELECT 1 FROM ${layout.history} WHERE ${UNTIL} = ${FOREIGN_SQL}) AS found`;
  return (db.prepare(sql).get() as { found: bigint }).found !== 0n;
}

/** Puts the true rows of these keys back, inside our own transaction. Returns the keys that were another's. */
export function undoForeign(db: DatabaseSync, layout: Layout, keys: readonly KeyTuple[]): KeyTuple[] {
  const reader = new VersionReader(db, layout);
  const undone: KeyTuple[] = [];
  const names = layout.columns.join(', ');
  for (const key of keys) {
    const match = matchKey(layout, key);
    const foreign = foreignRow(reader, key);
    if (foreign.found === null && foreign.truth === null) continue;
    // With a truth saved, whatever stands in its place is not ours, even if it lost its stamp.
    const stamped = foreign.truth === null ? ` AND ${SINCE} = ${FOREIGN_SQL}` : '';
    db.prepare(`DELETE FROM ${layout.live} WHERE ${match.sql}${stamped}`).run(...match.values);
    if (foreign.truth !== null) {
      const saved = `FROM ${layout.history} WHERE ${match.sql} AND ${UNTIL} = ${FOREIGN_SQL}`;
      db.prepare(`INSERT INTO ${layout.live} (${names}, ${SINCE}) SELECT ${names}, ${SINCE} ${saved} LIMIT 1`).run(...match.values);
      db.prepare(`DELETE ${saved}`).run(...match.values);
    }
    if (!isHarmless(foreign)) undone.push(key);
  }
  return undone;
}
