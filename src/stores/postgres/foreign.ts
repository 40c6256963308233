import { type CaptureNumber, FOREIGN } from '../../model/capture.ts';
import { type Cell, cellsOf, type KeyTuple, packTuple, type Tuple } from '../../model/tuple.ts';
import type { ForeignRow } from '../../shadowing/shadow.ts';
import { FOREIGN_LITERAL, type Layout, SINCE, UNTIL } from './layout.ts';
import { stageKeys } from './staging.ts';
import type { Wire } from './wire.ts';

export async function collectRows(source: AsyncIterable<readonly Tuple[]>): Promise<Tuple[]> {
  const rows: Tuple[] = [];
  for await (const some of source) rows.push(...some);
  return rows;
}

/**
 * Undoes the foreign writes to the staged keys: what stands there goes, the version that was saved until FOREIGN comes back with
 * the since it had. Returns the keys that had been written to.
 */
export async function restoreTruth(wire: Wire, layout: Layout): Promise<KeyTuple[]> {
  const { live, history, notes, gone } = layout;
  const columns = layout.columns.join(', ');
  const stands = `EXISTS (SELECT FROM ${live} t WHERE ${layout.sameKey('t', 'f')} AND t.${SINCE} = ${FOREIGN_LITERAL})
    OR EXISTS (SELECT FROM ${history} h WHERE ${layout.sameKey('h', 'f')} AND h.${UNTIL} = ${FOREIGN_LITERAL})`;
  const noted = await collectRows(
    wire.select(`DELETE FROM ${notes} f USING ${gone} g WHERE ${layout.sameKey('f', 'g')} RETURNING ${layout.keyList('f')}, ${stands}`, []),
  );
  await wire.query(
    `DELETE FROM ${live} t USING ${gone} g WHERE ${layout.sameKey('t', 'g')} AND t.${SINCE} = ${FOREIGN_LITERAL};
     INSERT INTO ${live} (${columns}, ${SINCE})
       SELECT ${layout.list('h')}, h.${SINCE} FROM ${gone} g JOIN ${history} h ON ${layout.sameKey('h', 'g')}
       WHERE h.${UNTIL} = ${FOREIGN_LITERAL};
     DELETE FROM ${history} h USING ${gone} g WHERE ${layout.sameKey('h', 'g')} AND h.${UNTIL} = ${FOREIGN_LITERAL}`,
  );
  // A note may outlive what it speaks of: a foreign row inserted and deleted again.
  return noted
    .map(cellsOf)
    .filter((cells) => cells.at(-1)?.[0] === 1)
    .map((cells) => packTuple(cells.slice(0, -1)) as KeyTuple);
}

/** `Shadow.foreignRows`. Notes of keys where nothing foreign stands any more are passed over. */
export async function readForeign(wire: Wire, layout: Layout, limit: number, signal: AbortSignal): Promise<ForeignRow[]> {
  const rows = await collectRows(
    wire.select(
      `SELECT ${layout.keyList('f')}, t.${SINCE} IS NOT NULL, ${layout.list('t')}, h.${SINCE} IS NOT NULL, ${layout.list('h')}
       FROM ${layout.notes} f
       LEFT JOIN ${layout.live} t ON ${layout.sameKey('t', 'f')} AND t.${SINCE} = ${FOREIGN_LITERAL}
       LEFT JOIN ${layout.history} h ON ${layout.sameKey('h', 'f')} AND h.${UNTIL} = ${FOREIGN_LITERAL}
       WHERE t.${SINCE} IS NOT NULL OR h.${SINCE} IS NOT NULL
       ORDER BY ${layout.keyList('f')} LIMIT ${limit}`,
      [],
      signal,
    ),
  );
  const width = layout.columns.length;
  return rows.map((row) => {
    const cells = cellsOf(row);
    const keyWidth = layout.key.length;
    return {
      key: packTuple(cells.slice(0, keyWidth)) as KeyTuple,
      found: optionalRow(cells, keyWidth, width),
      truth: optionalRow(cells, keyWidth + 1 + width, width),
    };
  });
}

/** A row of an outer join: a boolean that says whether it is there, then its cells. */
export function optionalRow(cells: readonly Cell[], at: number, width: number): Tuple | null {
  return cells[at]?.[0] === 1 ? packTuple(cells.slice(at + 1, at + 1 + width)) : null;
}

/** `Shadow.undoForeign`, inside a write transaction. */
export async function undoForeignRows(wire: Wire, layout: Layout, keys: readonly KeyTuple[]): Promise<number> {
  await stageKeys(wire, layout, keys);
  return (await restoreTruth(wire, layout)).length;
}

/** `Shadow.replaceVersion`, inside a write transaction. */
export async function replaceStoredVersion(
  wire: Wire,
  layout: Layout,
  key: KeyTuple,
  version: { since: CaptureNumber; until: CaptureNumber | null },
  row: Tuple | null,
): Promise<void> {
  const parameters = layout.keyParameters(key);
  const { live, history } = layout;
  const { since, until } = version;
  const run = async (sql: string): Promise<number> => Number((await wire.execute(sql, parameters)).split(' ').at(-1));
  const end = until ?? FOREIGN;
  const inHistory = `${layout.keyIs('h')} AND h.${SINCE} = ${since} AND h.${UNTIL} = ${end}`;
  const removedLive = until === null ? await run(`DELETE FROM ${live} t WHERE ${layout.keyIs('t')} AND t.${SINCE} = ${since}`) : 0;
  const removedSaved = await run(`DELETE FROM ${history} h WHERE ${inHistory}`);
  const mark = (at: bigint | CaptureNumber): Promise<number> =>
    run(
      `INSERT INTO ${history} (${layout.key.join(', ')}, ${SINCE}, ${UNTIL})
       SELECT ${layout.keyCasts()}, ${FOREIGN_LITERAL}, ${at}
       WHERE NOT EXISTS (SELECT FROM ${history} h WHERE ${layout.keyIs('h')} AND h.${UNTIL} = ${at})`,
    );
  // What is found by the history's `until` must go on being found: where a version begins, and where the removed one ended.
  if (since > layout.segment.first) await mark(since);
  if (until !== null) await mark(until);
  if (row === null) return;
  const values = layout.columns.map((_, index) => layout.columnCast(index, index)).join(', ');
  const rowParameters = cellsOf(row).map((cell) => ({ type: 0, value: cell ?? null }));
  let target = `${live} (${layout.columns.join(', ')}, ${SINCE}) VALUES (${values}, ${since})`;
  if (until !== null || removedSaved > 0 || (removedLive === 0 && (await foreignStands(wire, layout, parameters)))) {
    target = `${history} (${layout.columns.join(', ')}, ${SINCE}, ${UNTIL}) VALUES (${values}, ${since}, ${end})`;
  }
  await wire.execute(`INSERT INTO ${target}`, rowParameters);
}

async function foreignStands(wire: Wire, layout: Layout, parameters: Parameters<Wire['select']>[1]): Promise<boolean> {
  const sql = `SELECT FROM ${layout.live} t WHERE ${layout.keyIs('t')} AND t.${SINCE} = ${FOREIGN_LITERAL}`;
  return (await collectRows(wire.select(sql, parameters))).length > 0;
}
