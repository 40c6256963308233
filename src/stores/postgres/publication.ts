import { setTimeout as pause } from 'node:timers/promises';
import { ForeshadowError } from '../../model/errors.ts';
import { widen } from './numbering.ts';
import { codeOf, identifier, literal } from './connection.ts';
import { ask, type CatalogTable, obstacle, qualifiedName } from './describe.ts';
import { insertsName, inTransaction } from './installation.ts';
import { Visibility } from './visibility.ts';
import type { Wire } from './wire.ts';

/** Makes the publications what they should be for these tables. Returns the names of those that were not there. */
export async function ensurePublications(
  wire: Wire,
  { name, inserts }: { readonly name: string; readonly inserts: boolean },
  tables: readonly CatalogTable[],
  fresh: ReadonlySet<number>,
  signal: AbortSignal,
): Promise<string[]> {
  const made: string[] = [];
  const ensure = async (one: string, kinds: Kinds, some: readonly CatalogTable[]): Promise<void> => {
    if (await ensurePublication(wire, { name: one, kinds }, some, fresh, signal)) made.push(one);
  };
  try {
    await ensure(
      name,
      'insert, update, delete, truncate',
      tables.filter(({ insertOnly }) => !insertOnly),
    );
    if (inserts)
      await ensure(
        insertsName(name),
        'insert, truncate',
        tables.filter(({ insertOnly }) => insertOnly),
      );
    else await dropPublications(wire, [insertsName(name)]);
    return made;
  } catch (error) {
    if (!wire.broken) await dropPublications(wire, made);
    throw error;
  }
}

export async function dropPublications(wire: Wire, names: readonly string[]): Promise<void> {
  for (const name of names) await wire.query(`DROP PUBLICATION IF EXISTS ${identifier(name)}`);
}

type Kinds = 'insert, update, delete, truncate' | 'insert, truncate';

/**
 * Makes the publication (true), or makes it publish exactly these tables. Those of `fresh` (OIDs) that it has already are announced by
 * the stream anew. Takes locks that stop no reader or writer, and waits for those who wrote to an added table before.
 */
async function ensurePublication(
  wire: Wire,
  { name, kinds }: { readonly name: string; readonly kinds: Kinds },
  tables: readonly CatalogTable[],
  fresh: ReadonlySet<number>,
  signal: AbortSignal,
): Promise<boolean> {
  const wanted = new Set(tables.map(({ oid }) => oid));
  const rows = kinds.includes('update') ? 'pubupdate AND pubdelete' : 'NOT pubupdate AND NOT pubdelete';
  const [found] = await ask<{ all: boolean; root: boolean; kinds: boolean; partly: boolean; tables: { oid: number; name: string }[] }>(
    wire,
    `SELECT puballtables AS all, pubviaroot AS root, pubinsert AND ${rows} AND pubtruncate AS kinds,
      EXISTS (SELECT FROM pg_publication_rel r WHERE prpubid = p.oid
        AND (to_jsonb(r) ->> 'prqual' IS NOT NULL OR to_jsonb(r) ->> 'prattrs' IS NOT NULL)) AS partly,
      (SELECT coalesce(json_agg(json_build_object('oid', prrelid::int8, 'name', prrelid::regclass::text)), '[]')
        FROM pg_publication_rel WHERE prpubid = p.oid) AS tables
     FROM pg_publication p WHERE pubname = ${literal(name)}`,
    signal,
  );
  const list = tables.map((table) => (table.partitioned ? qualifiedName(table) : `ONLY ${qualifiedName(table)}`)).join(', ');
  const options = `publish = '${kinds}', publish_via_partition_root = true`;
  // Behind a lock that is waited for, others queue; so we do not wait long.
  const statements = [`SET LOCAL lock_timeout = '5s'`];
  if (found === undefined) {
    const of = tables.length === 0 ? '' : `FOR TABLE ${list} `;
    await inTransaction(wire, [...statements, `CREATE PUBLICATION ${identifier(name)} ${of}WITH (${options})`], signal);
    return true;
  }
  const known = new Set(found.tables.map(({ oid }) => oid));
  const stale = tables.filter(({ oid }) => fresh.has(oid) && known.has(oid));
  const same = stale.length === 0 && !found.partly && known.size === wanted.size && tables.every(({ oid }) => known.has(oid));
  const drop = (names: readonly string[]): string =>
    `ALTER PUBLICATION ${identifier(name)} DROP TABLE ${names.map((each) => `ONLY ${each}`).join(', ')}`;
  if (!found.root || !found.kinds) statements.push(`ALTER PUBLICATION ${identifier(name)} SET (${options})`);
  if (stale.length > 0 && !found.all) statements.push(drop(stale.map(qualifiedName)));
  if (!same && !found.all) {
    statements.push(
      tables.length === 0 ? drop(found.tables.map((each) => each.name)) : `ALTER PUBLICATION ${identifier(name)} SET TABLE ${list}`,
    );
  }
  if (statements.length > 1) await inTransaction(wire, statements, signal);
  const added = tables.filter(({ oid }) => fresh.has(oid) || !known.has(oid));
  if (!same) await untilWritten(wire, added, signal);
  return false;
}

/** OIDs of the tables that publications name; none where there is no such publication. */
export async function publishedTables(wire: Wire, names: readonly string[], signal: AbortSignal): Promise<number[]> {
  const found = await ask<{ oid: number }>(
    wire,
    `SELECT prrelid::int8 AS oid FROM pg_publication_rel r JOIN pg_publication p ON p.oid = prpubid WHERE pubname IN (${names.map(literal).join(', ')})`,
    signal,
  );
  return found.map(({ oid }) => oid);
}

const WRITERS_PAUSE_MS = 50;
const WRITERS_WAIT_MS = 60_000;

/**
 * A transaction that wrote to a table before it was published is in the log in part only. Those that are open now must end before the
 * table is copied: then the copy has what the log lacks.
 */
async function untilWritten(wire: Wire, tables: readonly CatalogTable[], signal: AbortSignal): Promise<void> {
  if (tables.length === 0) return;
  const oids = tables.flatMap(({ oid, units }) => [oid, ...units.map((unit) => unit.oid)]).join(', ');
  const holders = async (): Promise<string[]> => {
    const [found] = await wire.query(
      `SELECT DISTINCT virtualtransaction FROM pg_locks WHERE locktype = 'relation' AND granted AND relation IN (${oids})
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
         AND mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')`,
      signal,
    );
    return (found?.rows ?? []).map(([transaction]) => transaction as string);
  };
  const deadline = performance.now() + WRITERS_WAIT_MS;
  let waiting = await holders();
  while (waiting.length > 0) {
    if (performance.now() > deadline) {
      const names = tables.map(({ table }) => table).join(', ');
      throw new ForeshadowError('PRIMARY_SETTING', `Transactions that wrote to ${names} before it was tracked have not ended`, {
        remedy: 'End these transactions; it is tried again.',
        retry: 'later',
      });
    }
    await pause(WRITERS_PAUSE_MS, undefined, { signal });
    const still = await holders();
    waiting = waiting.filter((transaction) => still.includes(transaction));
  }
}

/** The moment up to which the publication is known to be as we left it: a snapshot, as text. */
export async function publicationSeen(wire: Wire, signal: AbortSignal): Promise<string> {
  const [found] = await wire.query('SELECT pg_current_snapshot()::text', signal);
  return found?.rows[0]?.[0] as string;
}

interface Row {
  readonly near: string;
  readonly whole: string | null;
  readonly all: boolean;
  readonly tables: readonly { readonly oid: number; readonly xid: string; readonly partly: boolean }[];
}

/**
 * What somebody else did to the publications since `seen`, as a reason; null: nothing that matters to these tables. What they do not publish
 * never comes, and nothing in the log says so; it may have been put back since, too: so it goes by which transaction wrote the catalog's
 * rows.
 */
export async function alteration(
  wire: Wire,
  name: string,
  tables: readonly CatalogTable[],
  seen: string,
  signal: AbortSignal,
): Promise<string | null> {
  const ofInserts = tables.filter(({ insertOnly }) => insertOnly);
  const whole = tables.filter(({ insertOnly }) => !insertOnly);
  const found = await alterationOf(wire, name, whole, seen, signal);
  return found ?? (ofInserts.length === 0 ? null : alterationOf(wire, insertsName(name), ofInserts, seen, signal));
}

async function alterationOf(
  wire: Wire,
  name: string,
  tables: readonly CatalogTable[],
  seen: string,
  signal: AbortSignal,
): Promise<string | null> {
  const [found] = await ask<Row>(
    wire,
    `SELECT pg_snapshot_xmax(pg_current_snapshot())::text AS near, p.xmin::text AS whole, puballtables AS all,
      (SELECT coalesce(json_agg(json_build_object('oid', prrelid::int8, 'xid', r.xmin::text,
         'partly', to_jsonb(r) ->> 'prqual' IS NOT NULL OR to_jsonb(r) ->> 'prattrs' IS NOT NULL)), '[]')
       FROM pg_publication_rel r WHERE prpubid = p.oid) AS tables
     FROM pg_publication p WHERE pubname = ${literal(name)}`,
    signal,
  );
  if (found === undefined) return 'the publication is gone';
  const visibility = new Visibility(seen);
  const isNew = (xid: string): boolean => {
    const id = widen(Number(xid), BigInt(found.near));
    return id <= BigInt(found.near) && !visibility.includes(id);
  };
  if (found.whole !== null && isNew(found.whole)) return 'the publication was altered, or made anew, by somebody';
  if (found.all) return null;
  const published = new Map(found.tables.map((table) => [table.oid, table]));
  for (const { oid, table } of tables) {
    const entry = published.get(oid);
    if (entry === undefined) return `somebody took ${table} out of the publication`;
    if (entry.partly) return `somebody had the publication leave out rows or columns of ${table}`;
    if (isNew(entry.xid)) return `somebody altered what the publication has of ${table}`;
  }
  return null;
}

/** Keeps an eye on the publications while tracking runs. */
export class PublicationWatch {
  readonly #name: string;
  #seen: string | null = null;
  /** Tables (OIDs) that we published ourselves since. */
  #newcomers: ReadonlySet<number> = new Set();

  constructor(name: string) {
    this.#name = name;
  }

  /** Goes into the evidence; null: tracking has not begun. */
  get seen(): string | null {
    return this.#seen;
  }

  begin(seen: string | null): void {
    this.#seen = seen;
    this.#newcomers = new Set();
  }

  /** Of tables that are tracked, those that must have been published since the publication was last looked at. */
  standing<Table extends CatalogTable>(tables: readonly Table[]): readonly Table[] {
    return tables.filter(({ oid }) => !this.#newcomers.has(oid));
  }

  /** Why what is tracked has a hole since tracking began: `alteration`. */
  async alteration(wire: Wire, tables: readonly CatalogTable[], signal: AbortSignal): Promise<ForeshadowError | null> {
    if (this.#seen === null) return null;
    const reason = await alteration(wire, this.#name, this.standing(tables), this.#seen, signal);
    if (reason === null) return null;
    return new ForeshadowError('PRIMARY_SETTING', `Not everything of the primary was tracked: ${reason}`, {
      remedy: 'Leave the publication alone. It is put right now, and every table is resynced by comparison.',
      retry: 'later',
    });
  }

  /** We are about to publish these tables. */
  extending(newcomers: Iterable<number>): void {
    this.#newcomers = new Set([...this.#newcomers, ...newcomers]);
  }

  /** We have, and nobody else had altered anything before. */
  async extended(wire: Wire, signal: AbortSignal): Promise<void> {
    if (this.#seen !== null) this.begin(await publicationSeen(wire, signal));
  }
}

/** A lock that somebody holds, or a publication that an administrator made for us: both may be other the next time. */
const PASSED_OVER = new Set(['55P03', '42501']);

/**
 * Takes tables of which no updates can be followed, or no longer, out of the publication that has those: one that lost its key while it was
 * published has its updates refused by the server for as long as it is.
 */
export async function releaseRefused(wire: Wire, name: string, tables: readonly CatalogTable[], signal: AbortSignal): Promise<void> {
  const refused = tables.filter((table) => table.insertOnly || obstacle(table) !== null);
  if (refused.length === 0) return;
  const published = new Set(await publishedTables(wire, [name], signal));
  const list = refused.filter(({ oid }) => published.has(oid)).map((table) => `ONLY ${qualifiedName(table)}`);
  if (list.length === 0) return;
  try {
    const drop = `ALTER PUBLICATION ${identifier(name)} DROP TABLE ${list.join(', ')}`;
    await inTransaction(wire, [`SET LOCAL lock_timeout = '5s'`, drop], signal);
  } catch (error) {
    if (!PASSED_OVER.has(codeOf(error))) throw error;
  }
}
