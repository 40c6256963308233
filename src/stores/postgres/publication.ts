import { ForeshadowError } from '../../model/errors.ts';
import { widen } from './numbering.ts';
import { codeOf, identifier, literal } from './connection.ts';
import { ask, type CatalogTable, obstacle, qualifiedName } from './describe.ts';
import { inTransaction, publishedTables } from './installation.ts';
import { Visibility } from './visibility.ts';
import type { Wire } from './wire.ts';

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
 * What somebody else did to the publication since `seen`, as a reason; null: nothing that matters to these tables. What it does not publish
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

/** Keeps an eye on the publication while tracking runs. */
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

  /** We have published these tables. `whole`: nobody else had altered anything before. */
  async extended(wire: Wire, newcomers: Iterable<number>, whole: boolean, signal: AbortSignal): Promise<void> {
    this.#newcomers = new Set([...this.#newcomers, ...newcomers]);
    if (whole && this.#seen !== null) this.begin(await publicationSeen(wire, signal));
  }
}

/** A lock that somebody holds, or a publication that an administrator made for us: both may be other the next time. */
const PASSED_OVER = new Set(['55P03', '42501']);

/**
 * Takes tables that can no longer be followed out of the publication: one that lost its key while it was published has its updates refused by
 * the server for as long as it is.
 */
export async function releaseRefused(wire: Wire, name: string, tables: readonly CatalogTable[], signal: AbortSignal): Promise<void> {
  const refused = tables.filter((table) => obstacle(table) !== null);
  if (refused.length === 0) return;
  const published = new Set(await publishedTables(wire, name, signal));
  const list = refused.filter(({ oid }) => published.has(oid)).map((table) => `ONLY ${qualifiedName(table)}`);
  if (list.length === 0) return;
  try {
    const drop = `ALTER PUBLICATION ${identifier(name)} DROP TABLE ${list.join(', ')}`;
    await inTransaction(wire, [`SET LOCAL lock_timeout = '5s'`, drop], signal);
  } catch (error) {
    if (!PASSED_OVER.has(codeOf(error))) throw error;
  }
}
