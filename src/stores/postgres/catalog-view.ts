import type { Selection } from '../../model/selection.ts';
import { type CatalogTable, readTable, readTables } from './describe.ts';
import { Visibility } from './visibility.ts';
import { type Reading, untilSeen } from './watch.ts';
import type { Wire } from './wire.ts';

/** All tables of the selection at one moment: what was visible just before, or more. */
export interface CatalogSeen {
  readonly visible: Visibility;
  readonly tables: readonly CatalogTable[];
}

/** Before it is known what reading the whole catalog takes. */
const ALL_GUESSED_MS = 50;

/**
 * The catalog, as what the stream describes is held against it. Where many tables are described at once, as when a stream begins, they are
 * read all together, and none need be looked up by itself: what a transaction did to a table, and what was done to it before the
 * transaction could write to it, was visible before a snapshot that shows the transaction was taken.
 */
export class CatalogView {
  readonly #selection: Selection;
  #seen: { readonly visible: Visibility; readonly byOid: ReadonlyMap<number, CatalogTable> } | null = null;
  /** What was spent on single tables since, and on all of them the last time. */
  #singlesMs = 0;
  #allMs = ALL_GUESSED_MS;

  constructor(selection: Selection) {
    this.#selection = selection;
  }

  /** The server may be another, or in an earlier state. */
  forget(): void {
    this.#seen = null;
  }

  /** Looks at all of it. */
  async look(wire: Wire, signal: AbortSignal): Promise<CatalogSeen> {
    const begunMs = performance.now();
    const [[seen], tables] = await Promise.all([
      wire.query('SELECT pg_current_snapshot()::text', signal),
      readTables(wire, this.#selection, signal),
    ]);
    const visible = new Visibility(seen?.rows[0]?.[0] as string);
    this.#seen = { visible, byOid: new Map(tables.map((table) => [table.oid, table])) };
    this.#singlesMs = 0;
    this.#allMs = performance.now() - begunMs;
    return { visible, tables };
  }

  /** A table as a transaction left it, or as it is by now; 'unseen' where that is altering it still. */
  async after(wire: Wire, oid: number, within: Reading, signal: AbortSignal): Promise<CatalogTable | null | 'unseen'> {
    if (this.#standing(oid, within) === undefined && this.#singlesMs >= this.#allMs) await this.look(wire, signal);
    const standing = this.#standing(oid, within);
    if (standing !== undefined) return standing;
    const begunMs = performance.now();
    const altering = await untilSeen(wire, oid, within, signal);
    const now = altering ? 'unseen' : await readTable(wire, this.#selection, oid, signal);
    this.#singlesMs += performance.now() - begunMs;
    return now;
  }

  #standing(oid: number, { id }: Reading): CatalogTable | undefined {
    return this.#seen?.visible.includes(id) === true ? this.#seen.byOid.get(oid) : undefined;
  }
}
