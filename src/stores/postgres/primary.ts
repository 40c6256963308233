import { setTimeout as pause } from 'node:timers/promises';
import type { Bookmark } from '../../journal/journal.ts';
import { isKeyless } from '../../model/copies.ts';
import type { TransactionId } from '../../model/change.ts';
import { type Finding, isAbort } from '../../model/errors.ts';
import type { Position } from '../../model/position.ts';
import type { DataSetSchema, TableName, TableSchema } from '../../model/schema.ts';
import { type Selection, selects } from '../../model/selection.ts';
import type { ValueCodec } from '../../model/values.ts';
import type { Retained } from '../../model/retained.ts';
import type { LoadSample } from '../../tracking/load.ts';
import type { Primary, PrimaryItem, PrimarySnapshot } from '../../tracking/primary.ts';
import { boundary } from './numbering.ts';
import { CatalogView } from './catalog-view.ts';
import { checkPrimary } from './check.ts';
import { literal } from './connection.ts';
import { readIdentity, readSizes } from './database.ts';
import { catalogTrouble } from './failure.ts';
import { type CatalogTable, isTrackable, readTables, readTypes, type TrackableTable, trackable, typesIn } from './describe.ts';
import { describeDataSet } from './describe-ddl.ts';
import { confirmedBy, dropSlot, insertLsn, insertsName, installedName, newMark, readServerState, writeMark } from './installation.ts';
import { BrokenHistory, Continuity, evidenceOf, evidenceText, unusable, witnessOf } from './history.ts';
import type { RelationMessage } from './pgoutput.ts';
import { createSlot } from './new-slot.ts';
import { gapOf, notInstalled, refuseOwner, resumeAt, type StreamStart, Unsendable } from './resume.ts';
import { keylessTuples } from './keyless.ts';
import { PostgresLoad } from './load.ts';
import { dropPublications, ensurePublications, PublicationWatch, publishedTables, releaseRefused } from './publication.ts';
import { readRetained } from './retained.ts';
import { Snapshots } from './snapshots.ts';
import { parseLsn, ReplicationStream } from './stream.ts';
import { postgresValues } from './values.ts';
import { SilenceError } from './silence.ts';
import { type Announced, type Reading, Watch } from './watch.ts';
import { Wire } from './wire.ts';

export interface PostgresPrimaryOptions {
  readonly url: string;
  readonly dataSet: string;
  readonly selection: Selection;
  /**
   * Which of these transactions the journal holds at or below a position (`Journal.contains`). Asked for those that were tracked by an
   * earlier process and are still not visible on the primary.
   */
  readonly journaled: (ids: readonly TransactionId[], upTo: Position) => Promise<ReadonlySet<TransactionId>>;
  /**
   * Ids of the journal that what is installed is for: the present one, then any it replaces. What belongs to another journal is
   * refused. None: whoever asks only looks.
   */
  readonly owners?: () => Promise<readonly string[]>;
  /** The shapes that tables have at the journal's head. None: those they are installed with. */
  readonly shapes?: () => Promise<readonly TableSchema[]>;
  /** How long the slot waits for older transactions to end. */
  readonly lockTimeoutMs?: number;
}

const LOCK_TIMEOUT_MS = 10_000;
const OBSERVE_EVERY_MS = 2000;
/** A tiny transaction of ours, so that the log passes a position and is flushed although nobody writes. */
const NUDGE = `SET synchronous_commit = local; SELECT pg_logical_emit_message(true, 'foreshadow', '')`;

/** Opens no connection yet. */
export function openPostgresPrimary(options: PostgresPrimaryOptions): Promise<Primary> {
  return Promise.resolve(new PostgresPrimary(options));
}

class PostgresPrimary implements Primary {
  readonly kind = 'postgres';
  readonly tellsShapes = true;
  readonly values: ValueCodec = postgresValues;
  readonly #options: PostgresPrimaryOptions;
  readonly #name: string;
  readonly #snapshots: Snapshots;
  #control: Promise<Wire> | null = null;
  #stream: ReplicationStream | null = null;
  readonly #unsendable: Unsendable;
  /** The server's end of the last stream. */
  #streamPid: number | null = null;
  #base: bigint | null = null;
  /** Why `install` had to make the slot anew. */
  #remade: string | null = null;
  readonly #publication: PublicationWatch;
  readonly #lockTimeoutMs: number;
  readonly #watch = new Watch();
  readonly #view: CatalogView;
  readonly #schemaOf = (table: TrackableTable): TableSchema => this.#watch.schemaOf(table);
  #watching = false;
  readonly #load = new PostgresLoad();

  constructor(options: PostgresPrimaryOptions) {
    this.#options = options;
    this.#name = installedName(options.dataSet);
    this.#publication = new PublicationWatch(this.#name);
    this.#view = new CatalogView(options.selection);
    this.#unsendable = new Unsendable(this.#name);
    this.#lockTimeoutMs = options.lockTimeoutMs ?? LOCK_TIMEOUT_MS;
    this.#snapshots = new Snapshots({ ...options, schemaOf: this.#schemaOf });
  }

  identity(signal: AbortSignal): Promise<string> {
    return this.#ask((wire) => readIdentity(wire, signal), signal);
  }

  check(signal: AbortSignal): Promise<readonly Finding[]> {
    return this.#ask((wire) => checkPrimary(wire, this.#name, this.#options, signal), signal);
  }

  describe(signal: AbortSignal): Promise<DataSetSchema> {
    return this.#ask(async (wire) => {
      await this.#beginWatch();
      const tables = await readTables(wire, this.#options.selection, signal);
      return describeDataSet(wire, tables, this.#schemaOf, signal);
    }, signal);
  }

  install(tables: readonly TableSchema[], signal: AbortSignal): Promise<Bookmark> {
    return this.#ask(async (wire) => {
      const found = await this.#readTables(wire, signal);
      // What is published already stays so: a table may have another name by now.
      const published = new Set(await publishedTables(wire, [this.#name, insertsName(this.#name)], signal));
      const byName = new Map(found.map((each) => [each.table, each]));
      const named = new Map(tables.map(({ table }) => [trackable(byName, table).oid, table]));
      const catalog = found.filter(({ oid }) => named.has(oid) || published.has(oid));
      refuseOwner({ name: this.#name, owners: (await this.#options.owners?.()) ?? [] }, await readServerState(wire, this.#name, signal));
      // The publication comes first: a slot made before it would look for it in a past where it did not exist.
      let made: string[] = [];
      // Tracked before they are published: nothing of what is published is passed over.
      const added = this.#watch.add(tables);
      try {
        const newcomers = new Set([...named].flatMap(([oid, table]) => (added.includes(table) ? [oid] : [])));
        this.#publication.extending(newcomers);
        const whole = await this.#isWhole(wire, found, signal);
        const fresh = this.#options.shapes === undefined ? new Set<number>() : newcomers;
        made = await ensurePublications(wire, this.#installation, catalog, fresh, signal);
        if (whole) await this.#publication.extended(wire, signal);
        return await this.#installSlot(wire, signal);
      } catch (error) {
        this.#watch.remove(added);
        if (!wire.broken) await dropPublications(wire, made);
        throw error;
      }
    }, signal);
  }

  installed(signal: AbortSignal): Promise<boolean> {
    return this.#ask(async (wire) => {
      const state = await readServerState(wire, this.#name, signal);
      return state.publication && state.slot !== null && state.slot.lost === null;
    }, signal);
  }

  uninstall(signal: AbortSignal): Promise<void> {
    return this.#ask(async (wire) => {
      await this.#stream?.close();
      await dropSlot(wire, this.#name, this.#streamPid, signal);
      await dropPublications(wire, [this.#name, insertsName(this.#name)]);
    }, signal);
  }

  async *changes(from: Bookmark, signal: AbortSignal): AsyncGenerator<PrimaryItem> {
    if (this.#stream !== null) throw new Error('changes of one primary can be read once at a time');
    for (let broken = this.#unsendable.take(); ; ) {
      const start = await this.#ask((control) => this.#begin(control, from, broken, signal), signal);
      if (start.gap !== null) {
        this.#snapshots.forget();
        this.#watch.forget();
        yield { kind: 'batch', batch: gapOf(this.#watch.tables, from.at, start.after, start.gap), evidence: evidenceText(start.evidence) };
      }
      try {
        yield* this.#follow(start, signal);
        return;
      } catch (error) {
        if (!(error instanceof BrokenHistory)) throw error;
        broken = error.message;
      }
    }
  }

  /** Throws BrokenHistory before its first batch, or never. */
  async *#follow(start: StreamStart, signal: AbortSignal): AsyncGenerator<PrimaryItem> {
    const wire = await Wire.open(this.#options.url, { side: 'primary', purpose: 'tracking', replication: true, watched: true }, signal);
    this.#streamPid = wire.processId;
    const closing = (): void => void this.#stream?.close();
    let witness = start.evidence.witness;
    let continuity: Continuity | null = null;
    const stop = new AbortController();
    let observing: Promise<unknown> = Promise.resolve();
    try {
      this.#stream = await ReplicationStream.start(
        wire,
        {
          slot: this.#name,
          publications: this.#installation.inserts ? [this.#name, insertsName(this.#name)] : [this.#name],
          numbering: start.numbering,
          after: start.after,
          onTransaction: (ref) => this.#snapshots.streamed(ref),
          onRepeated: (ref) => continuity?.repeated(ref),
          due: (commitLsn) => this.#watch.due(commitLsn, this.#isTracked),
          announce: (relation, within) => this.#announce(relation, within, signal),
        },
        signal,
      );
      signal.addEventListener('abort', closing, { once: true });
      const confirmed = await this.#ask((control) => confirmedBy(control, this.#name, wire.processId, signal), signal);
      const slotAt = boundary(confirmed, start.numbering.base);
      if (slotAt > start.after) throw new BrokenHistory('the replication slot was advanced by another reader');
      observing = this.#observeAlways(AbortSignal.any([signal, stop.signal]));
      continuity = new Continuity(slotAt, start.evidence.witness);
      for await (const item of this.#stream.items()) {
        if (item.kind !== 'batch') {
          yield item;
          continue;
        }
        if (continuity?.broken === true) {
          // What came in pieces is of the history that is not ours.
          const ids = [...item.batch.adopts.map((each) => each.transaction.id), ...this.#stream.inPieces];
          for (const transaction of ids) yield { kind: 'rolled-back', transaction, part: null };
          throw new BrokenHistory('the primary was put back to an earlier state, and written to since');
        }
        continuity = null;
        if (item.last !== null) witness = witnessOf(item.last);
        const evidence = evidenceText({ ...start.evidence, witness, published: this.#publication.seen });
        yield { kind: 'batch', batch: item.batch, evidence };
      }
    } catch (error) {
      if (signal.aborted || isAbort(error)) return;
      if (error instanceof BrokenHistory) throw error;
      // The others lead the same way, and some may have nobody who notices.
      if (error instanceof SilenceError) this.#snapshots.abandon(error);
      throw this.#unsendable.meet(error, this.#options.url) ?? wire.failure(error);
    } finally {
      signal.removeEventListener('abort', closing);
      stop.abort();
      await observing;
      const stream = this.#stream;
      this.#stream = null;
      await (stream ?? wire).close();
    }
  }

  acknowledge(upTo: Position): Promise<void> {
    this.#stream?.acknowledge(upTo);
    return Promise.resolve();
  }

  now(signal: AbortSignal): Promise<Position> {
    return this.#ask(async (wire) => {
      // The log is on its way while the catalog is looked at.
      const at = await this.#stand(wire, signal);
      return (await this.#observe(wire, signal)) ?? at;
    }, signal);
  }

  retained(signal: AbortSignal): Promise<Retained | null> {
    return this.#ask((wire) => readRetained(wire, this.#name, signal), signal);
  }

  sizes(signal: AbortSignal): Promise<ReadonlyMap<TableName, number>> {
    return this.#ask((wire) => readSizes(wire, signal), signal);
  }

  load(signal: AbortSignal): Promise<LoadSample> {
    return this.#ask((wire) => this.#load.sample(wire, signal), signal);
  }

  async snapshot(covering: Position, signal: AbortSignal, of?: readonly TableName[]): Promise<PrimarySnapshot> {
    const base = await this.#ask((wire) => this.#baseOf(wire, signal), signal);
    const snapshot = await this.#snapshots.take(covering, base, signal, of);
    this.#stream?.want(snapshot.end);
    await this.#ask((wire) => wire.query(NUDGE, signal), signal);
    return snapshot;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stream?.close();
    await this.#snapshots.close();
    const control = this.#control;
    this.#control = null;
    // A connection that was never made needs no closing; its failure was reported to whoever asked for it.
    const wire = await control?.catch(() => null);
    await wire?.close();
  }

  /** Where the log stands. It is soon past it, whoever writes or does not. */
  async #stand(wire: Wire, signal: AbortSignal): Promise<Position> {
    const base = await this.#baseOf(wire, signal);
    const published = `EXISTS (SELECT FROM pg_publication WHERE pubname = ${literal(this.#name)})`;
    const [read] = await wire.query(`SELECT pg_current_wal_insert_lsn()::text, ${published}; ${NUDGE}`, signal);
    if (read?.rows[0]?.[1] !== 't') throw notInstalled(this.#options.url);
    const at = boundary(parseLsn(read.rows[0][0] as string), base);
    this.#stream?.want(at);
    return at;
  }

  async #baseOf(wire: Wire, signal: AbortSignal): Promise<bigint> {
    this.#base ??= (await readServerState(wire, this.#name, signal)).mark?.base ?? 0n;
    return this.#base;
  }

  async #readTables(wire: Wire, signal: AbortSignal): Promise<TrackableTable[]> {
    return (await readTables(wire, this.#options.selection, signal)).filter((table) => isTrackable(table));
  }

  readonly #isTracked = (table: CatalogTable): table is TrackableTable =>
    selects(this.#options.selection, table.table) && isTrackable(table);

  /** What the rows of the log have for shapes is known to those who keep them. */
  async #beginWatch(): Promise<void> {
    if (this.#watching) return;
    if (this.#options.shapes !== undefined) this.#watch.begin(await this.#options.shapes());
    this.#watching = true;
  }

  /** Now and again, at most a hundredth of the time. A failure ends the stream with it, which is begun anew. */
  async #observeAlways(signal: AbortSignal): Promise<void> {
    try {
      for (let tookMs = 0; ; ) {
        await pause(Math.max(OBSERVE_EVERY_MS, 100 * tookMs), undefined, { signal });
        const begunMs = performance.now();
        await this.#ask((wire) => this.#observe(wire, signal), signal);
        tookMs = performance.now() - begunMs;
      }
    } catch (error) {
      if (!signal.aborted) this.#stream?.fail(catalogTrouble(error));
    }
  }

  /**
   * Looks at the catalog: what the log will not tell, or tells with the next change only, takes its place in the stream, before the
   * position that is returned. Null: there was nothing.
   */
  async #observe(wire: Wire, signal: AbortSignal): Promise<Position | null> {
    const { visible, tables } = await this.#view.look(wire, signal);
    await releaseRefused(wire, this.#name, tables, signal);
    if (!(await this.#isWhole(wire, tables.filter(this.#isTracked), signal))) return null;
    if (!this.#watch.differs(tables, this.#isTracked)) return null;
    const end = await insertLsn(wire, signal);
    this.#watch.observe(visible, end, tables);
    // Its place is before the next transaction, which must be in the log before that is asked for its end.
    await wire.query(NUDGE, signal);
    return this.#stand(wire, signal);
  }

  async #installSlot(wire: Wire, signal: AbortSignal): Promise<Bookmark> {
    let state = await readServerState(wire, this.#name, signal);
    const owners = (await this.#options.owners?.()) ?? [];
    const owner = owners[0] ?? null;
    if (state.mark === null || state.mark.owner !== owner) {
      const { marks, base } = state.mark ?? { marks: [newMark()], base: this.#base ?? 0n };
      await writeMark(wire, this.#name, { marks, base, owner });
      state = await readServerState(wire, this.#name, signal);
    }
    this.#remade = state.slot === null ? 'the replication slot is gone: somebody dropped it' : unusable(state.slot);
    if (this.#remade !== null) await dropSlot(wire, this.#name, this.#streamPid, signal);
    const lsn = this.#remade === null && state.slot !== null ? state.slot.confirmed : await this.#createSlot(wire, signal);
    this.#base = state.mark?.base ?? 0n;
    return { at: boundary(lsn, this.#base), evidence: evidenceText(evidenceOf(state, state.mark?.marks.at(-1) ?? '', this.#base)) };
  }

  async #createSlot(wire: Wire, signal: AbortSignal): Promise<bigint> {
    const { lsn, before } = await createSlot(wire, this.#options.url, this.#name, this.#lockTimeoutMs, signal);
    this.#snapshots.mustCover(before);
    return lsn;
  }

  async #begin(wire: Wire, from: Bookmark, broken: string | null, signal: AbortSignal): Promise<StreamStart> {
    this.#watching = false;
    this.#view.forget();
    await this.#beginWatch();
    const tables = await this.#readTables(wire, signal);
    if (this.#options.shapes === undefined) this.#watch.add(tables.map(this.#schemaOf));
    const parts = {
      url: this.#options.url,
      ...this.#installation,
      tables,
      owners: (await this.#options.owners?.()) ?? [],
      createSlot: (on: Wire, within: AbortSignal) => this.#createSlot(on, within),
      ownPid: this.#streamPid,
      remade: this.#remade,
      standing: this.#publication.standing(this.#tracked(tables)),
    };
    const start = await resumeAt(wire, parts, from, broken, signal);
    this.#base = start.numbering.base;
    this.#publication.begin(start.evidence.published);
    return start;
  }

  get #installation(): { readonly name: string; readonly inserts: boolean } {
    return { name: this.#name, inserts: this.#options.selection.insertOnly !== undefined };
  }

  #tracked(tables: readonly TrackableTable[]): readonly TrackableTable[] {
    return tables.filter((table) => this.#watch.tracks(table));
  }

  /** Whether nobody else has altered the publication since tracking began. Where somebody has, the stream ends, to be begun anew. */
  async #isWhole(wire: Wire, tables: readonly TrackableTable[], signal: AbortSignal): Promise<boolean> {
    if (this.#stream === null) return true;
    const altered = await this.#publication.alteration(wire, this.#tracked(tables), signal);
    if (altered !== null) this.#stream?.fail(altered);
    return altered === null;
  }

  /** What a relation of the stream is to us: its shape there may be older or newer than the table's is now. */
  async #announce(relation: RelationMessage, within: Reading, signal: AbortSignal): Promise<Announced> {
    const unknown = { tracked: null, changed: null, undo: () => {} };
    if (!this.#watch.knows(relation)) return unknown;
    const wire = await this.#wire(signal);
    const now = await this.#view.after(wire, relation.id, within, signal);
    const types = typesIn(now, relation) ?? (await readTypes(wire, relation.columns, signal));
    const shown = now === 'unseen' || (now !== null && isTrackable(now)) ? now : null;
    const found = this.#watch.announce(relation, types, shown, within.id);
    if (found === null) return unknown;
    const { schema, noticed, undo } = found;
    const columns = relation.columns.map(({ type }, index) => ({ type: types[index] ?? '', typeOid: type }));
    const complete = isKeyless(schema) ? keylessTuples(columns) : null;
    return { tracked: { table: schema.table, key: schema.key, complete }, changed: noticed, undo };
  }

  async #wire(signal: AbortSignal): Promise<Wire> {
    const standing = await this.#control?.catch(() => null);
    if (standing !== undefined && standing !== null && !standing.broken) return standing;
    this.#control = Wire.open(this.#options.url, { side: 'primary', purpose: 'control', watched: true }, signal);
    return this.#control;
  }

  /** Questions on the control connection. */
  async #ask<Result>(work: (wire: Wire) => Promise<Result>, signal: AbortSignal): Promise<Result> {
    const wire = await this.#wire(signal);
    try {
      return await work(wire);
    } catch (error) {
      signal.throwIfAborted();
      throw wire.failure(error);
    }
  }
}
