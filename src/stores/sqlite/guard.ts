import { OWN_PREFIX } from '../../model/schema.ts';
import { quoteText } from './connection.ts';
import { FOREIGN_SQL, type Layout, SINCE, UNTIL, columnsOf, keysMatch, unqualified } from './layout.ts';

/** The one row that every write of ours passes: who may write (`token`), and whether the open transaction is ours (`writing`). */
export const WRITER_TABLE = `${OWN_PREFIX}_writer`;

/** `writing` is set and cleared inside our own write transaction, so no other connection ever sees it set. */
const NOT_OURS = `(SELECT writing FROM ${WRITER_TABLE}) = 0`;

/**
 * The guard: a write by anybody else saves the true version, ending at FOREIGN, the first time it touches a row of ours, and
 * stamps what stands there FOREIGN. So every capture goes on reading the truth. It never makes their statement fail: the
 * history has no constraint that could, whatever conflict clause their statement carries into the triggers.
 *
 * - REPLACE removes rows without firing delete triggers, so the row in its way is saved and stamped before. Where their statement
 *   then leaves that row alone (OR IGNORE), it stands FOREIGN with its true content, which is no difference.
 * - AFTER INSERT catches an insert that brings a `since` along (INSERT … SELECT * from a copy of the table).
 *
 * Cost to our own writes, in CPU with and without it: 10 k random updates an apply on 1 M rows, within the noise (reading and saving
 * the row dominates); a bulk insert of 0.4 M rows, 10 to 20 % (each row asks for the flag twice).
 */
export function guardStatements(layout: Layout): string[] {
  const { live, row } = layout;
  const { id } = layout.segment;
  const on = unqualified(live);
  const history = unqualified(layout.history);
  const name = (event: string): string => `main.${guardName(id, event)}`;
  const save = (from: string): string =>
    `INSERT INTO ${history} (${layout.columns.join(', ')}, ${SINCE}, ${UNTIL}) SELECT ${columnsOf(layout, from)}, ${from}.${SINCE}, ${FOREIGN_SQL}`;
  const stamp = `UPDATE ${on} SET ${SINCE} = ${FOREIGN_SQL}`;
  const inTheWay = (extra: string): string =>
    `${save('t')} FROM ${on} AS t WHERE ${keysMatch(layout, 't', 'NEW')}${extra} AND t.${SINCE} <> ${FOREIGN_SQL}; ` +
    `${stamp} WHERE ${keysMatch(layout, on, 'NEW')}${extra.replaceAll('t.', `${on}.`)} AND ${SINCE} <> ${FOREIGN_SQL};`;
  return [
    `CREATE TRIGGER ${name('insert')} BEFORE INSERT ON ${on} WHEN ${NOT_OURS} BEGIN ${inTheWay('')} END`,
    `CREATE TRIGGER ${name('inserted')} AFTER INSERT ON ${on} WHEN NEW.${SINCE} <> ${FOREIGN_SQL} AND ${NOT_OURS} BEGIN ` +
      `${stamp} WHERE ${row} = NEW.${row}; END`,
    `CREATE TRIGGER ${name('key')} BEFORE UPDATE OF ${layout.keys.join(', ')} ON ${on} WHEN ${NOT_OURS} BEGIN ` +
      `${inTheWay(` AND t.${row} IS NOT OLD.${row}`)} END`,
    `CREATE TRIGGER ${name('update')} AFTER UPDATE OF ${layout.columns.join(', ')} ON ${on} WHEN ${NOT_OURS} BEGIN ` +
      `${save('OLD')} WHERE OLD.${SINCE} <> ${FOREIGN_SQL}; ${stamp} WHERE ${row} = NEW.${row}; END`,
    `CREATE TRIGGER ${name('delete')} AFTER DELETE ON ${on} WHEN OLD.${SINCE} <> ${FOREIGN_SQL} AND ${NOT_OURS} BEGIN ${save('OLD')}; END`,
  ];
}

export function dropGuard(id: number): string[] {
  return ['insert', 'inserted', 'key', 'update', 'delete'].map((event) => `DROP TRIGGER IF EXISTS main.${guardName(id, event)}`);
}

function guardName(id: number, event: string): string {
  return `${OWN_PREFIX}_guard_${id}_${event}`;
}

/** A retired segment and all history is read-only to others: nobody has a reason to write there, so they are told. */
export function sealStatements(id: number, tables: readonly string[]): string[] {
  const events = ['INSERT', 'UPDATE', 'DELETE'];
  return tables.flatMap((table, i) =>
    events.map((event) => {
      const reason = quoteText('this table holds captures of Foreshadow and is read-only');
      return (
        `CREATE TRIGGER main.${OWN_PREFIX}_closed_${id}_${i}_${event.toLowerCase()} BEFORE ${event} ON ${unqualified(table)} ` +
        `WHEN ${NOT_OURS} BEGIN SELECT RAISE(ABORT, ${reason}); END`
      );
    }),
  );
}

/** Whether every trigger of the guard stands: `present` are the names of the triggers in the file. */
export function guardStands(id: number, present: ReadonlySet<string>): boolean {
  return ['insert', 'inserted', 'key', 'update', 'delete'].every((event) => present.has(guardName(id, event)));
}
