import { setTimeout as sleep } from 'node:timers/promises';
import type { LocalSystem } from '../../app/local-system.ts';
import type { CaptureListing } from '../../app/operations.ts';
import { isAbort } from '../../model/errors.ts';
import { tableText } from '../table.ts';
import { cell, count, duration, keyText } from '../words.ts';
import type { Places } from './places.ts';
import type { Screen } from './screen.ts';
import { fingerprints, openShopDatabase } from './shop-database.ts';
import type { ShopDatabase } from './shop-database.ts';
import type { ShopStaff } from './shop-staff.ts';
import { SHOP_TABLES } from './shop.ts';

/** What every act of the demonstration has at hand. */
export interface Stage {
  readonly screen: Screen;
  readonly places: Places;
  readonly staff: ShopStaff;
  readonly system: LocalSystem;
  readonly signal: AbortSignal;
  /** Captures that were told of already. */
  readonly told: Set<number>;
}

const LOOK_EVERY_MS = 100;

/** Watches until there are so many sealed captures, telling what goes on. Returns them, newest last. */
export async function watchUntil(stage: Stage, captures: number): Promise<readonly CaptureListing[]> {
  const { screen, staff, system, signal, told } = stage;
  for (;;) {
    staff.check();
    const listings = await system.captures(signal);
    for (const listing of listings) {
      if (listing.verdict === null || listing.rows === null || told.has(listing.number)) continue;
      told.add(listing.number);
      const { inserted, updated, deleted } = listing.rows;
      await screen.good(`capture ${listing.number}: ${listing.verdict}; ${inserted} rows inserted, ${updated} updated, ${deleted} deleted`);
    }
    const sealed = listings.filter((listing) => listing.verdict !== null);
    if (sealed.length >= captures) return sealed;
    const status = await system.status(signal);
    const copying = status.tables.filter((table) => table.state === 'copying');
    const pending = status.tables.reduce((sum, table) => sum + table.pendingRows, 0);
    const state =
      copying.length > 0
        ? `copying ${copying.map((table) => table.table).join(', ')}`
        : `lag ${status.lagMs === null ? 'unknown' : duration(status.lagMs)}, ${count(pending, 'row')} on the way`;
    screen.live(`the shop has made ${count(staff.transactions, 'transaction')}; ${state}`);
    await sleep(LOOK_EVERY_MS, undefined, { signal });
  }
}

/** Right after a scheduled capture there is time to do something before the next one comes. */
async function afterNextCapture(stage: Stage): Promise<void> {
  const sealed = (await stage.system.captures(stage.signal)).filter((listing) => listing.verdict !== null);
  await watchUntil(stage, sealed.length + 1);
}

/** Closes the shop for a moment, captures it, and notes what the primary holds, read by an ordinary program. */
export async function captureWithWitness(stage: Stage): Promise<{ number: number; witness: Map<string, { rows: number; hash: string }> }> {
  const { screen, places, staff, system, signal } = stage;
  await screen.act('The shop closes for a moment, is captured, and somebody writes down what it holds');
  await staff.pause();
  await screen.command('capture');
  const report = await system.capture(() => undefined, signal);
  stage.told.add(report.number);
  await screen.good(
    `capture ${report.number}: ${report.verdict} in ${duration(report.elapsedMs)}: cut in ${duration(report.cutMs)}, ${count(report.residualRows, 'row')} left to move, ${count(report.coverage.rows, 'row')} compared`,
  );
  await using primary = await openShopDatabase(places.primary);
  const witness = await fingerprints(primary, SHOP_TABLES);
  const rows = [...witness.values()].reduce((sum, each) => sum + each.rows, 0);
  await screen.line(
    `  an ordinary program read ${count(rows, 'row')} of the primary and kept a fingerprint of each table; the shop opens again`,
  );
  staff.go();
  return { number: report.number, witness };
}

/** Asks an old capture and the newest the same question. */
export async function queryOld(stage: Stage, old: number, newest: number): Promise<void> {
  const { screen } = stage;
  await screen.act('What did the shop look like then?');
  for (const capture of [old, newest]) {
    const sql = 'SELECT status, count(*) AS orders, sum(total_cents) AS cents FROM orders GROUP BY status ORDER BY status';
    await screen.command(`query ${capture} "${sql}"`);
    await screen.block(await queryText(stage, capture, sql));
  }
}

async function queryText({ system, signal }: Stage, capture: number, sql: string): Promise<string> {
  let columns: readonly string[] = [];
  const rows: string[][] = [];
  for await (const slice of system.query(capture, sql, signal)) {
    columns = slice.columns;
    rows.push(...slice.rows.map((row) => row.map(cell)));
  }
  return tableText(
    columns.map((title, index) => ({ title, right: index > 0 })),
    rows,
  );
}

export async function diffTwo({ screen, system, signal }: Stage, from: number, to: number): Promise<void> {
  await screen.act('What changed between two captures?');
  await screen.command(`diff ${from} ${to}`);
  const report = await system.diff(from, to, signal);
  const right = true;
  await screen.block(
    tableText(
      [{ title: 'table' }, { title: 'inserted', right }, { title: 'updated', right }, { title: 'deleted', right }],
      report.tables.map((each) => [each.table, String(each.inserted), String(each.updated), String(each.deleted)]),
    ),
  );
}

/** Restores the witnessed capture and holds it against what was written down then. */
export async function restoreAndProve(
  stage: Stage,
  capture: number,
  witness: ReadonlyMap<string, { rows: number; hash: string }>,
): Promise<void> {
  const { screen, places, system, signal } = stage;
  await screen.act('Bring it back');
  await screen.command(`restore ${capture} --to ${places.kind === 'sqlite' ? 'sqlite:copy.db' : 'postgres://…/copy'}`);
  const report = await system.restore(
    { capture, to: places.copy, table: null },
    (step) => screen.live(`${step.phase} ${step.table ?? ''} ${count(step.done, step.unit, step.unit)}`),
    signal,
  );
  await screen.good(
    `${count(report.rows, 'row')} of ${count(report.tables, 'table')} in ${duration(report.elapsedMs)}${report.proved ? ', adding up to the seal of the capture' : ''}`,
  );
  await using copy = await openShopDatabase(places.copy);
  const found = await fingerprints(copy, SHOP_TABLES);
  const unequal = [...witness].filter(([table, { hash }]) => found.get(table)?.hash !== hash).map(([table]) => table);
  if (unequal.length > 0) throw new Error(`the restored tables ${unequal.join(', ')} are not what the primary held at capture ${capture}`);
  await screen.good(`an ordinary program reads the copy: every table has the fingerprint the primary had at capture ${capture}`);
  await copy.script("INSERT INTO customers (name, email) VALUES ('Somebody', 'somebody@shop.example')");
  await screen.good('and the copy is a working database: a new customer gets the next number, its view still answers');
  await copy.all('SELECT * FROM revenue');
}

/** An old customer, whom the shop never changes: one version that every capture so far shares. */
const QUIET_CUSTOMER = 7;

/** Somebody writes to the shadow as to any database; the guard keeps the truth. */
export async function tamper(stage: Stage, newest: number): Promise<void> {
  const { screen, places } = stage;
  await screen.act('Somebody alters a row of the shadow');
  await afterNextCapture(stage);
  {
    await using shadow = await openShopDatabase(places.shadow);
    await shadow.all(`UPDATE customers SET name = 'Mallory' WHERE id = ?1`, [QUIET_CUSTOMER]);
  }
  await screen.line(
    `  UPDATE customers SET name = 'Mallory' WHERE id = ${QUIET_CUSTOMER}: an ordinary writer, on a row no capture has seen change`,
  );
  await showValidation(stage, null);
  const sql = `SELECT name FROM customers WHERE id = ${QUIET_CUSTOMER}`;
  await screen.command(`query ${newest} "${sql}"`);
  await screen.block(await queryText(stage, newest, sql));
  await screen.good('no capture ever holds such a write: the true row was kept before it');
  await cure(stage);
  await showValidation(stage, null);
}

/** Past the guard, as a superuser or a bad disk would: the captures themselves are hit, and their seals tell. */
export async function tamperPastGuard(stage: Stage): Promise<void> {
  const { screen, places, system, signal } = stage;
  await screen.act('Now past the guard, as bad memory or a superuser would');
  await afterNextCapture(stage);
  const captures = await system.captures(signal);
  const oldest = captures[0]?.number ?? 1;
  {
    await using shadow = await openShopDatabase(places.shadow);
    await updateUnguarded(shadow, `UPDATE customers SET name = 'Oscar' WHERE id = ${QUIET_CUSTOMER + 1}`);
  }
  await screen.line(
    `  row ${QUIET_CUSTOMER + 1} of customers now says Oscar, in a version that ${count(captures.length, 'capture')} share`,
  );
  await showValidation(stage, oldest);
  await showValidation(stage, null);
  await cure(stage);
  await showValidation(stage, oldest);
}

async function updateUnguarded(shadow: ShopDatabase, sql: string): Promise<void> {
  if (shadow.kind === 'postgres') {
    await shadow.script(`BEGIN; SET LOCAL session_replication_role = replica; ${sql}; COMMIT`);
    return;
  }
  // Takes the table's triggers away, whatever they are, and puts them back as they were.
  const triggers = await shadow.all("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'customers'");
  const drop = triggers.map(({ name }) => `DROP TRIGGER "${String(name)}";`).join('\n');
  const create = triggers.map((trigger) => `${String(trigger['sql'])};`).join('\n');
  await shadow.script(`BEGIN IMMEDIATE; ${drop} ${sql}; ${create} COMMIT`);
}

async function showValidation({ screen, system, signal }: Stage, capture: number | null): Promise<void> {
  await screen.command(capture === null ? 'validate' : `validate ${capture}`);
  const report = await system.validate(
    capture,
    (step) => screen.live(`${step.phase} ${step.table ?? ''} ${count(step.done, step.unit, step.unit)}`),
    signal,
  );
  const compared = `${count(report.coverage.rows, 'row')} in ${duration(report.elapsedMs)}`;
  if (report.verdict === 'VALID') await screen.good(`VALID: ${compared}`);
  else await screen.bad(`${report.verdict}: ${compared}`);
  if (report.verdict === 'INVALID' && report.differences.length === 0) await screen.line('    the rows do not add up to the seal any more');
  for (const each of report.differences.slice(0, 5)) await screen.line(`    ${each.table} ${keyText(each.key)}: ${each.diagnosis}`);
}

async function cure({ screen, system, signal, told }: Stage): Promise<void> {
  const known = (await system.captures(signal)).at(-1)?.number ?? 0;
  await screen.command('capture');
  const report = await system.capture(() => undefined, signal);
  told.add(report.number);
  for (const { table, key } of report.conflicts)
    await screen.good(`capture ${report.number} undid a foreign write: ${table} ${keyText(key)}`);
  if (report.cure !== null) await screen.good(`capture ${report.number} cured it (${report.cure.action}): ${report.cure.note}`);
  // The schedule goes on meanwhile: a capture of its own may have come first, and has then done the cure.
  for (const { number, note } of await system.captures(signal)) {
    if (number > known && number !== report.number && note !== null)
      await screen.good(`capture ${number}, which was due just before, cured it: ${note}`);
  }
  await screen.good(`capture ${report.number}: ${report.verdict}`);
}

/** Runs the system's loops beside the story; the story fails if they do. */
export function runBeside(system: LocalSystem, signal: AbortSignal, fail: (error: unknown) => void): Promise<void> {
  return system.run(signal).catch((error: unknown) => {
    if (!signal.aborted || !(isAbort(error) || error === signal.reason)) fail(error);
  });
}
