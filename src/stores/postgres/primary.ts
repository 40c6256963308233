import type { Bookmark } from '../../journal/journal.ts';
import type { TableEvent, TrackedBatch, TransactionId } from '../../model/change.ts';
import { type Finding, ForeshadowError, isAbort } from '../../model/errors.ts';
import type { Position } from '../../model/position.ts';
import type { DataSetSchema, TableName, TableSchema } from '../../model/schema.ts';
import type { Selection } from '../../model/selection.ts';
import type { ValueCodec } from '../../model/values.ts';
import type { Retained } from '../../model/retained.ts';
import type { Primary, PrimaryItem, PrimarySnapshot } from '../../tracking/primary.ts';
import { type Announced, boundary } from './batches.ts';
import { mirroredType } from './carried-types.ts';
import { checkPrimary } from './check.ts';
import { identifier, literal } from './connection.ts';
import { ask, type CatalogTable, isTrackable, readTables, schemaOf, shapeOf } from './describe.ts';
import { describeDataSet } from './describe-ddl.ts';
import { createSlot, dropSlot, ensurePublication, installedName, newMark, readServerState, writeMark } from './installation.ts';
import { BrokenHistory, Continuity, evidenceOf, evidenceText, Recent, unusable } from './history.ts';
import type { RelationMessage } from './pgoutput.ts';
import { notInstalled, refuseOwner, resumeAt, type StreamStart } from './resume.ts';
import { keylessTuples } from './keyless.ts';
import { readRetained } from './retained.ts';
import { Snapshots } from './snapshots.ts';
import { parseLsn, ReplicationStream } from './stream.ts';
import { postgresValues } from './values.ts';
import { SilenceError } from './silence.ts';
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
  /** How long the slot waits for older transactions to end. */
  readonly lockTimeoutMs?: number;
}

const LOCK_TIMEOUT_MS = 10_000;

/** Opens no connection yet. */
export function openPostgresPrimary(options: PostgresPrimaryOptions): Promise<Primary> {
  return Promise.resolve(new PostgresPrimary(options));
}

class PostgresPrimary implements Primary {
  readonly kind = 'postgres';
  readonly values: ValueCodec = postgresValues;
  readonly #options: PostgresPrimaryOptions;
  readonly #name: string;
  readonly #snapshots: Snapshots;
  #control: Promise<Wire> | null = null;
  #stream: ReplicationStream | null = null;
  /** The server's end of the last stream. */
  #streamPid: number | null = null;
  #base: bigint | null = null;
  /** Why `install` had to make the slot anew. */
  #remade: string | null = null;
  /** The tables of the data set as last read, and the shape each was installed with. */
  #known = new Map<TableName, CatalogTable & { readonly key: readonly string[] }>();
  readonly #installed = new Map<TableName, string>();

  constructor(options: PostgresPrimaryOptions) {
    this.#options = options;
    this.#name = installedName(options.dataSet);
    this.#snapshots = new Snapshots({ url: options.url, journaled: options.journaled });
  }

  identity(signal: AbortSignal): Promise<string> {
    return this.#ask(async (wire) => {
      const [found] = await wire.query(
        `SELECT 'postgres:' || (pg_control_system()).system_identifier || ':' || oid FROM pg_database WHERE datname = current_database()`,
        signal,
      );
      return found?.rows[0]?.[0] as string;
    }, signal);
  }

  check(signal: AbortSignal): Promise<readonly Finding[]> {
    return this.#ask((wire) => checkPrimary(wire, this.#name, this.#options, signal), signal);
  }

  describe(signal: AbortSignal): Promise<DataSetSchema> {
    return this.#ask(async (wire) => {
      const tables = await this.#readTables(wire, signal);
      return describeDataSet(wire, tables, signal);
    }, signal);
  }

  install(tables: readonly TableSchema[], signal: AbortSignal): Promise<Bookmark> {
    return this.#ask(async (wire) => {
      await this.#readTables(wire, signal);
      const catalog = tables.map(({ table }) => this.#trackable(table));
      refuseOwner({ name: this.#name, owners: await this.#owners() }, await readServerState(wire, this.#name, signal));
      // The publication comes first: a slot made before it would look for it in a past where it did not exist.
      const made = await ensurePublication(wire, this.#name, catalog, signal);
      try {
        return await this.#installSlot(wire, tables, signal);
      } catch (error) {
        if (made && !wire.broken) await wire.query(`DROP PUBLICATION ${identifier(this.#name)}`);
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
      await wire.query(`DROP PUBLICATION IF EXISTS ${identifier(this.#name)}`, signal);
    }, signal);
  }

  async *changes(from: Bookmark, signal: AbortSignal): AsyncGenerator<PrimaryItem> {
    if (this.#stream !== null) throw new Error('changes of one primary can be read once at a time');
    for (let broken: string | null = null; ; ) {
      const start = await this.#ask((control) => this.#begin(control, from, broken, signal), signal);
      if (start.gap !== null) {
        this.#snapshots.forget();
        yield { kind: 'batch', batch: this.#gap(from.at, start.after, start.gap), evidence: evidenceText(start.evidence) };
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
    const recent = new Recent(start.evidence.witness);
    let continuity: Continuity | null = null;
    try {
      this.#stream = await ReplicationStream.start(
        wire,
        {
          slot: this.#name,
          publication: this.#name,
          numbering: start.numbering,
          after: start.after,
          onTransaction: (ref) => {
            recent.add(ref);
            this.#snapshots.streamed(ref);
          },
          onRepeated: (ref) => continuity?.repeated(ref),
          announce: (relation) => this.#announce(relation, signal),
        },
        signal,
      );
      signal.addEventListener('abort', closing, { once: true });
      const confirmed = await this.#ask((control) => this.#confirmed(control, wire.processId, signal), signal);
      const slotAt = boundary(confirmed, start.numbering.base);
      if (slotAt > start.after) throw new BrokenHistory('the replication slot was advanced by another reader');
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
        yield { ...item, evidence: evidenceText({ ...start.evidence, witness: recent.witness(item.batch) }) };
      }
    } catch (error) {
      if (signal.aborted || isAbort(error)) return;
      if (error instanceof BrokenHistory) throw error;
      // The others lead the same way, and some may have nobody who notices.
      if (error instanceof SilenceError) this.#snapshots.abandon(error);
      throw wire.failure(error);
    } finally {
      signal.removeEventListener('abort', closing);
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
      const base = await this.#baseOf(wire, signal);
      const published = `EXISTS (SELECT FROM pg_publication WHERE pubname = ${literal(this.#name)})`;
      const [read] = await wire.query(`SELECT pg_current_wal_insert_lsn()::text, ${published}`, signal);
      if (read?.rows[0]?.[1] !== 't') throw notInstalled(this.#options.url);
      const at = boundary(parseLsn(read.rows[0][0] as string), base);
      await this.#nudge(wire, at);
      return at;
    }, signal);
  }

  retained(signal: AbortSignal): Promise<Retained | null> {
    return this.#ask((wire) => readRetained(wire, this.#name, signal), signal);
  }

  async snapshot(covering: Position, signal: AbortSignal, of?: TableName): Promise<PrimarySnapshot> {
    const base = await this.#ask((wire) => this.#baseOf(wire, signal), signal);
    const snapshot = await this.#snapshots.take(covering, base, signal, of);
    await this.#ask((wire) => this.#nudge(wire, snapshot.end), signal);
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

  /** A tiny transaction of ours, so that the log passes a position and is flushed although nobody writes. */
  async #nudge(wire: Wire, at: Position): Promise<void> {
    this.#stream?.want(at);
    await wire.query(`SET synchronous_commit = local; SELECT pg_logical_emit_message(true, 'foreshadow', '')`);
  }

  async #baseOf(wire: Wire, signal: AbortSignal): Promise<bigint> {
    this.#base ??= (await readServerState(wire, this.#name, signal)).mark?.base ?? 0n;
    return this.#base;
  }

  async #readTables(wire: Wire, signal: AbortSignal): Promise<(CatalogTable & { readonly key: readonly string[] })[]> {
    const tables = (await readTables(wire, this.#options.selection, signal)).filter((table) => isTrackable(table));
    this.#known = new Map(tables.map((table) => [table.table, table]));
    return tables;
  }

  #trackable(table: TableName): CatalogTable & { readonly key: readonly string[] } {
    const found = this.#known.get(table);
    if (found !== undefined) return found;
    throw new ForeshadowError('TABLE_MISSING', `The table ${table} is not on the primary, or cannot be tracked there`, {
      remedy: 'Run `foreshadow doctor`: it says what is wrong with the table.',
    });
  }

  async #installSlot(wire: Wire, tables: readonly TableSchema[], signal: AbortSignal): Promise<Bookmark> {
    let state = await readServerState(wire, this.#name, signal);
    const owners = await this.#owners();
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
    this.#installed.clear();
    for (const { table, shape } of tables) this.#installed.set(table, shape);
    return { at: boundary(lsn, this.#base), evidence: evidenceText(evidenceOf(state, state.mark?.marks.at(-1) ?? '', this.#base)) };
  }

  #createSlot(wire: Wire, signal: AbortSignal): Promise<bigint> {
    return createSlot(wire, this.#name, this.#options.lockTimeoutMs ?? LOCK_TIMEOUT_MS, signal);
  }

  async #owners(): Promise<readonly string[]> {
    return (await this.#options.owners?.()) ?? [];
  }

  async #begin(wire: Wire, from: Bookmark, broken: string | null, signal: AbortSignal): Promise<StreamStart> {
    const tables = await this.#readTables(wire, signal);
    for (const table of tables) if (!this.#installed.has(table.table)) this.#installed.set(table.table, schemaOf(table).shape);
    const parts = {
      url: this.#options.url,
      name: this.#name,
      tables,
      owners: await this.#owners(),
      lockTimeoutMs: this.#options.lockTimeoutMs ?? LOCK_TIMEOUT_MS,
      ownPid: this.#streamPid,
      remade: this.#remade,
    };
    const start = await resumeAt(wire, parts, from, broken, signal);
    this.#base = start.numbering.base;
    return start;
  }

  /** Where the slot stands now that it is ours alone: somebody may have moved it since we last looked. */
  async #confirmed(wire: Wire, reader: number, signal: AbortSignal): Promise<bigint> {
    const [found] = await wire.query(
      `SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = ${literal(this.#name)} AND active_pid = ${reader}`,
      signal,
    );
    const lsn = found?.rows[0]?.[0];
    if (typeof lsn !== 'string') throw new Error('the connection was closed by the server');
    return parseLsn(lsn);
  }

  #gap(after: Position, through: Position, reason: string): TrackedBatch {
    const events: TableEvent[] = Array.from(this.#installed.keys(), (table) => ({ kind: 'gap', table, at: through, reason }));
    return { after, through, blocks: [], adopts: [], events };
  }

  /** What a relation of the stream is to us: its shape there may be older or newer than the table's is now. */
  async #announce(relation: RelationMessage, signal: AbortSignal): Promise<Announced> {
    const table = `${relation.schema}.${relation.name}` as TableName;
    const expected = this.#installed.get(table);
    const undo = (): void => void (expected !== undefined && this.#installed.set(table, expected));
    if (expected === undefined) return { tracked: null, changed: null, undo };
    const wire = await this.#wire(signal);
    let known = this.#known.get(table);
    if (known === undefined || !sameColumns(relation, known)) {
      await this.#readTables(wire, signal);
      known = this.#known.get(table);
    }
    const types = known !== undefined && sameColumns(relation, known) ? known.columns : await this.#typesOf(wire, relation, signal);
    const flagged = relation.columns.filter(({ key }) => key).map(({ name }) => name);
    // The stream says which columns are the key, not in which order.
    const full = relation.identity === 'f';
    const ordered = known !== undefined && (full || sameNames(known.key, flagged)) ? known.key : full ? [] : flagged;
    const shape = shapeOf(types, ordered);
    this.#installed.set(table, shape);
    const changed = shape === expected ? null : 'its columns, their types or its key changed';
    const width = relation.columns.length;
    if (full && ordered.length === 0) {
      return { tracked: { table, key: [width], complete: keylessTuples(types) }, changed, undo };
    }
    const key = ordered.map((name) => relation.columns.findIndex((column) => column.name === name));
    return { tracked: { table, key: key.includes(-1) ? [] : key, complete: null }, changed, undo };
  }

  async #typesOf(wire: Wire, relation: RelationMessage, signal: AbortSignal): Promise<{ name: string; type: string; typeOid: number }[]> {
    const list = relation.columns.map(({ type, modifier }, index) => `(${index}, ${type}::oid, ${modifier})`).join(', ');
    const types = await ask<{ type: string }>(
      wire,
      `SELECT ${mirroredType('t', 'm')} AS type FROM (VALUES ${list}) v(i, t, m) ORDER BY i`,
      signal,
    );
    return relation.columns.map(({ name, type }, index) => ({ name, type: types[index]?.type ?? '', typeOid: type }));
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

function sameColumns(relation: RelationMessage, known: CatalogTable): boolean {
  if (relation.columns.length !== known.columns.length) return false;
  return relation.columns.every(({ name, type, modifier }, index) => {
    const column = known.columns[index];
    return column?.name === name && column.typeOid === type && column.modifier === modifier;
  });
}

function sameNames(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((name) => b.includes(name));
}
