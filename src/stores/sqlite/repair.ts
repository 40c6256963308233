import type { DatabaseSync, SQLInputValue } from 'node:sqlite';
import type { CaptureNumber } from '../../model/capture.ts';
import type { KeyTuple, Tuple } from '../../model/tuple.ts';
import { FOREIGN_SQL, type Layout, SINCE, UNTIL } from './layout.ts';
import { rowParameters, matchKey } from './versions.ts';

/** Puts a row, or nothing, in the place of one version: see `Shadow.replaceVersion`. Inside our own transaction. */
export function replaceVersion(
  db: DatabaseSync,
  layout: Layout,
  key: KeyTuple,
  version: { since: CaptureNumber; until: CaptureNumber | null },
  row: Tuple | null,
): void {
  const { live, history } = layout;
  const { since, until } = version;
  const match = matchKey(layout, key);
  const count = (table: string, where: string, values: SQLInputValue[]): number =>
    Number(
      (db.prepare(`SELECT count(*) AS n FROM ${table} WHERE ${match.sql} AND ${where}`).get(...match.values, ...values) as { n: bigint }).n,
    );
  const remove = (table: string, where: string, values: SQLInputValue[]): void => {
    db.prepare(`DELETE FROM ${table} WHERE ${match.sql} AND ${where}`).run(...match.values, ...values);
  };
  if (until !== null) {
    remove(history, `${SINCE} = ? AND ${UNTIL} = ?`, [since, until]);
    if (row !== null) insert(db, layout, row, since, BigInt(until));
    return;
  }
  // Where a foreign write stands in the row's place, the live version is the one it pushed into the history.
  const pushedAway = count(history, `${UNTIL} = ${FOREIGN_SQL}`, []) > 0 || count(live, `${SINCE} = ${FOREIGN_SQL}`, []) > 0;
  if (pushedAway) {
    remove(history, `${UNTIL} = ${FOREIGN_SQL}`, []);
    if (row !== null) insert(db, layout, row, since, BigInt(FOREIGN_SQL));
  } else {
    const missing = count(live, `${SINCE} = ?`, [since]) === 0;
    remove(live, '1', []);
    if (row !== null) insert(db, layout, row, since, null);
    // A version that was not there must be found by the diff of the capture that began it.
    if (row !== null && missing) noteInserted(db, layout, key, since);
  }
}

function insert(db: DatabaseSync, layout: Layout, row: Tuple, since: CaptureNumber, until: bigint | null): void {
  const { values, sql } = rowParameters(row);
  const names = [...layout.columns, SINCE, ...(until === null ? [] : [UNTIL])];
  const places = [...sql, '?', ...(until === null ? [] : ['?'])];
  const table = until === null ? layout.live : layout.history;
  db.prepare(`INSERT INTO ${table} (${names.join(', ')}) VALUES (${places.join(', ')})`).run(
    ...values,
    since,
    ...(until === null ? [] : [until]),
  );
}

function noteInserted(db: DatabaseSync, layout: Layout, key: KeyTuple, since: CaptureNumber): void {
  const { values, sql } = rowParameters(key);
  db.prepare(`INSERT INTO ${layout.inserted} (${SINCE}, ${layout.keys.join(', ')}) VALUES (?, ${sql.join(', ')})`).run(since, ...values);
}
