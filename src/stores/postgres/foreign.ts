import { type CaptureNumber, FOREIGN } from '../../model/capture.ts';
import { cellsOf, type Identity, identityOf, type KeyTuple, packTuple, type Tuple } from '../../model/tuple.ts';
import type { ForeignRow } from '../../shadowing/shadow.ts';
import { FOREIGN_LITERAL, type Layout, OWN_SCHEMA, SINCE, UNTIL, WRITER } from './layout.ts';
import { sentRecord, sentRow } from './sent-record.ts';
import { stageKeys } from './staging.ts';
import { ArrivingOids, leavingOids } from './type-oids.ts';
import type { Wire } from './wire.ts';

export async function collectRows(source: AsyncIterable<readonly Tuple[]>): Promise<Tuple[]> {
  const rows: Tuple[] = [];
  for await (const some of source) rows.push(...some);
  return rows;
}

const LAYOUTS_PER_QUESTION = 500;

/** The tables among these to which somebody else has written. */
export async function notedAmong(wire: Wire, layouts: readonly Layout[]): Promise<ReadonlySet<Layout>> {
  const noted = new Set<Layout>();
  for (let at = 0; at < layouts.length; at += LAYOUTS_PER_QUESTION) {
    const some = layouts.slice(at, at + LAYOUTS_PER_QUESTION);
    const [found] = await wire.query(`SELECT ${some.map(({ notes }) => `EXISTS (SELECT FROM ${notes})`).join(', ')}`);
    for (const [index, layout] of some.entries()) if (found?.rows[0]?.[index] === 't') noted.add(layout);
  }
  return noted;
}

/** Of the staged keys: those noted by the guard, and those of them where something foreign stands. */
export async function readNotes(wire: Wire, layout: Layout): Promise<{ noted: Set<Identity>; standing: KeyTuple[] }> {
  const sql = `SELECT ${layout.keyList('f')}, ${foreignRow(layout)} OR ${savedTruth(layout)}
    FROM ${layout.notes} f JOIN ${layout.gone} g ON ${layout.sameKey('f', 'g')}`;
  const noted = new Set<Identity>();
  const standing: KeyTuple[] = [];
  for (const row of await collectRows(wire.select(sql, []))) {
    const cells = cellsOf(row);
    const key = packTuple(cells.slice(0, -1)) as KeyTuple;
    noted.add(identityOf(key));
    // A note may outlive what it speaks of: a foreign row inserted and deleted again.
    if (cells.at(-1)?.[0] === 1) standing.push(key);
  }
  return { noted, standing };
}

/** Conditions on a note `f`: somebody else's row stands at its key; the true row of its key is saved until FOREIGN. */
const foreignRow = (layout: Layout): string =>
  `EXISTS (SELECT FROM ${layout.live} t WHERE ${layout.sameKey('t', 'f')} AND t.${SINCE} = ${FOREIGN_LITERAL})`;
const savedTruth = (layout: Layout): string =>
  `EXISTS (SELECT FROM ${layout.history} h WHERE ${layout.sameKey('h', 'f')} AND h.${UNTIL} = ${FOREIGN_LITERAL})`;

/**
 * Undoes the foreign writes to the staged keys: what stands there goes, the version that was saved until FOREIGN comes back with
 * the since it had. Each statement agrees with itself whatever is committed in between: a version is taken from the history by the
 * statement that puts it back. The notes stay till `forgetNotes`: a foreign writer locks its row before its note, and so do we.
 */
export async function restoreTruth(wire: Wire, layout: Layout): Promise<void> {
  const { live, history, gone } = layout;
  await wire.query(
    `DELETE FROM ${live} t USING ${gone} g WHERE ${layout.sameKey('t', 'g')} AND t.${SINCE} = ${FOREIGN_LITERAL};
     WITH h AS (DELETE FROM ${history} h USING ${gone} g WHERE ${layout.sameKey('h', 'g')} AND h.${UNTIL} = ${FOREIGN_LITERAL}
       RETURNING ${layout.savedList('h')}, h.${SINCE})
     INSERT INTO ${live} (${layout.saved.join(', ')}, ${SINCE}) SELECT * FROM h
       ON CONFLICT (${layout.key.join(', ')}) DO UPDATE SET ${layout.overwrite(layout.saved)}`,
  );
}

/**
 * Drops the notes of staged keys where nothing foreign stands any more, and returns them. A note that somebody writes anew meanwhile has
 * another writer than the one read, and stays. With `markAt` the keys are marked as new to that capture: a row of somebody else that
 * an update met may have stood where there was none.
 */
export async function forgetNotes(wire: Wire, layout: Layout, markAt: CaptureNumber | null): Promise<KeyTuple[]> {
  const { notes, gone, history } = layout;
  const forgotten = `DELETE FROM ${notes} n USING ${notes} f JOIN ${gone} g ON ${layout.sameKey('f', 'g')}
    WHERE ${layout.sameKey('n', 'f')} AND n.${WRITER} = f.${WRITER} AND NOT ${foreignRow(layout)} AND NOT ${savedTruth(layout)}
    RETURNING ${layout.keyList('n')}`;
  const marked = `WITH n AS (${forgotten}), m AS (INSERT INTO ${history} (${layout.key.join(', ')}, ${SINCE}, ${UNTIL})
    SELECT n.*, ${FOREIGN_LITERAL}, ${markAt} FROM n) SELECT * FROM n`;
  const sql = markAt === null ? forgotten : marked;
  return (await collectRows(wire.select(sql, []))) as KeyTuple[];
}

/** `Shadow.foreignRows`. Notes of keys where nothing foreign stands any more are passed over. */
export async function readForeign(wire: Wire, layout: Layout, limit: number, signal: AbortSignal): Promise<ForeignRow[]> {
  const rows = await collectRows(
    wire.select(
      `SELECT ${layout.keyList('f')}, CASE WHEN t.${SINCE} IS NOT NULL THEN ${sentRecord(layout, 't')} END,
         CASE WHEN h.${SINCE} IS NOT NULL THEN ${sentRecord(layout, 'h')} END
       FROM ${layout.notes} f
       LEFT JOIN ${layout.live} t ON ${layout.sameKey('t', 'f')} AND t.${SINCE} = ${FOREIGN_LITERAL}
       LEFT JOIN ${layout.history} h ON ${layout.sameKey('h', 'f')} AND h.${UNTIL} = ${FOREIGN_LITERAL}
       WHERE t.${SINCE} IS NOT NULL OR h.${SINCE} IS NOT NULL
       ORDER BY ${layout.keyList('f')} LIMIT ${limit}`,
      [],
      signal,
    ),
  );
  const leave = await leavingOids(wire, layout.segment.types.oids);
  return rows.map((row) => {
    const cells = cellsOf(row);
    const keyWidth = layout.key.length;
    return {
      key: packTuple(cells.slice(0, keyWidth)) as KeyTuple,
      found: sentRow(cells[keyWidth], leave),
      truth: sentRow(cells[keyWidth + 1], leave),
    };
  });
}

/** `Shadow.searchForeign`: a row inserted past the guard bears the mark by its column's default, but nobody noted it. Reads the table. */
export async function noteForeign(wire: Wire, layout: Layout): Promise<void> {
  await wire.query(`INSERT INTO ${layout.notes} SELECT ${layout.keyList('t')}, pg_current_xact_id() FROM ${layout.live} t
    WHERE t.${SINCE} = ${FOREIGN_LITERAL} ON CONFLICT DO NOTHING`);
}

/** `Shadow.undoForeign`, inside a write transaction. */
export async function undoForeignRows(wire: Wire, layout: Layout, keys: readonly KeyTuple[]): Promise<number> {
  await stageKeys(wire, layout, keys);
  const { standing } = await readNotes(wire, layout);
  await restoreTruth(wire, layout);
  await forgetNotes(wire, layout, null);
  return standing.length;
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
  const newest = Math.max(version.since, version.until ?? 0);
  await wire.query(`UPDATE ${OWN_SCHEMA}.progress SET written = greatest(written, ${newest}) WHERE segment = ${layout.segment.id}`);
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
  if (since > layout.segment.stored.began) await mark(since);
  if (until !== null) await mark(until);
  if (row === null) return;
  const values = layout.columns.map((_, index) => layout.columnCast(index, index)).join(', ');
  const arriving = new ArrivingOids(layout.segment.types.oids);
  const rowParameters = cellsOf(arriving.take(row)).map((cell) => ({ type: 0, value: cell ?? null }));
  let target = `${live} (${layout.columns.join(', ')}, ${SINCE}) VALUES (${values}, ${since})`;
  if (until !== null || removedSaved > 0 || (removedLive === 0 && (await foreignStands(wire, layout, parameters)))) {
    target = `${history} (${layout.columns.join(', ')}, ${SINCE}, ${UNTIL}) VALUES (${values}, ${since}, ${end})`;
  }
  await wire.execute(`INSERT INTO ${target}`, rowParameters);
  await arriving.save(wire);
}

async function foreignStands(wire: Wire, layout: Layout, parameters: Parameters<Wire['select']>[1]): Promise<boolean> {
  const sql = `SELECT FROM ${layout.live} t WHERE ${layout.keyIs('t')} AND t.${SINCE} = ${FOREIGN_LITERAL}`;
  return (await collectRows(wire.select(sql, parameters))).length > 0;
}
