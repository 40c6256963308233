import { type CaptureNumber, FOREIGN } from '../../model/capture.ts';
import type { Progress } from '../../model/progress.ts';
import type { Rows } from '../../model/rows.ts';
import { cellsOf, type Identity, identityOf, identityOfRow, type KeyTuple, keyTuple, type Tuple } from '../../model/tuple.ts';
import { type ApplyWork, type RowBatch, RowsMissing } from '../../shadowing/shadow.ts';
import type { RowPack } from '../../tracking/primary.ts';
import { codeOf } from './connection.ts';
import { RowEnd } from './copy-format.ts';
import { CopyPack } from './copy-pack.ts';
import { collectRows, forgetNotes, readNotes, restoreTruth } from './foreign.ts';
import { copyInserted, packKeys } from './inserted.ts';
import type { LiveKey } from './key.ts';
import { FOREIGN_LITERAL, type Layout, SINCE, UNTIL } from './layout.ts';
import { byAbsentColumns, type RowSource, sourceOfKeys, sourceOfRows, stageKeys } from './staging.ts';
import { ArrivingOids } from './type-oids.ts';
import type { Parameter, Wire } from './wire.ts';

export interface Counts {
  inserted: number;
  updated: number;
  deleted: number;
}

const UNIQUE_VIOLATION = '23505';

type WrittenFor = Pick<Progress, 'capture'> & Pick<ApplyWork, 'savedThrough'>;

/** A batch that was written, and the keys among it that were noted before. */
interface Unsettled {
  readonly batch: RowBatch;
  readonly noted: ReadonlySet<Identity>;
}

/** Batches that come to more rows are settled at once: no more are kept for it. */
const UNSETTLED_ROWS_MAX = 5_000;

/** The batches of one table. */
export class BatchStep {
  readonly layout: Layout;
  readonly #wire: Wire;
  readonly #key: LiveKey;
  readonly #capture: CaptureNumber;
  readonly #savedThrough: CaptureNumber;
  readonly #returningOld: boolean;
  readonly #oids: ArrivingOids;
  /** Somebody else has written to the table: as of the beginning of the batch. */
  #noted: boolean;
  #batches = 0;
  #unsettled: Unsettled[] = [];
  #unsettledRows = 0;

  constructor(
    wire: Wire,
    layout: Layout,
    key: LiveKey,
    { capture, savedThrough }: WrittenFor,
    { returningOld, noted }: { readonly returningOld: boolean; readonly noted: boolean },
  ) {
    this.#wire = wire;
    this.layout = layout;
    this.#key = key;
    this.#capture = capture;
    this.#savedThrough = savedThrough;
    this.#returningOld = returningOld;
    this.#noted = noted;
    this.#oids = new ArrivingOids(layout.segment.types.oids);
  }

  /** Returns the keys of foreign writes it undid. */
  async run(batch: RowBatch, counts: Counts, signal: AbortSignal): Promise<readonly KeyTuple[]> {
    if (this.#batches++ > 0) this.#noted = await this.#hasNotes();
    return this.#run(batch, counts, signal);
  }

  async #run(batch: RowBatch, counts: Counts, signal: AbortSignal): Promise<readonly KeyTuple[]> {
    if (batch.pack) {
      if (await this.#copyPack(batch.pack, counts, signal)) return [];
      return this.#run({ ...batch, puts: [...batch.puts, ...batch.pack.rows()], pack: null }, counts, signal);
    }
    if (!this.#key.stands && (this.#noted || !batch.fresh || batch.deletes.length > 0)) await this.#key.need();
    const patches = batch.patches ?? [];
    const rows = batch.deletes.length + patches.length + batch.puts.length;
    if (rows === 0) return [];
    const { noted, standing } = await this.#undo(batch);
    if (batch.deletes.length > 0) await this.#delete(batch.deletes, counts, signal);
    if (patches.length > 0) await this.#patch(patches, counts, signal);
    if (batch.puts.length > 0) {
      const copied = batch.fresh && noted.size === 0 && (await this.#copy(batch.puts, counts, signal));
      if (!copied) await this.#put(batch.fresh ? this.#newest(batch.puts) : batch.puts, counts, signal);
    }
    this.#unsettled.push({ batch, noted });
    this.#unsettledRows += rows;
    if (this.#unsettledRows <= UNSETTLED_ROWS_MAX) return standing;
    return [...standing, ...((await this.#hasNotes()) ? await this.settle() : this.#forget())];
  }

  get wrote(): boolean {
    return this.#batches > 0;
  }

  /** Whether what was written is still to be held against what others may have written meanwhile: `settle`, where the table has notes. */
  get isUnsettled(): boolean {
    return this.#unsettled.length > 0;
  }

  #forget(): readonly KeyTuple[] {
    this.#unsettled = [];
    this.#unsettledRows = 0;
    return [];
  }

  /**
   * Foreign writes that were committed after `#undo` looked and before our statements met their rows: those rows are ours by now, and
   * the versions the guard saved until FOREIGN end at this capture. What was committed later than our statements stays foreign. Returns
   * the keys of those.
   */
  async settle(): Promise<readonly KeyTuple[]> {
    const settled: KeyTuple[] = [];
    for (const { batch, noted } of this.#unsettled) {
      settled.push(...(await this.#settle(batch)).filter((key) => !noted.has(identityOf(key))));
    }
    this.#forget();
    return settled;
  }

  /** After the last batch. */
  async finish(): Promise<void> {
    await this.#oids.save(this.#wire);
  }

  /** An earlier capture reads this segment: keys that are new to it are marked in the history. */
  get #marks(): boolean {
    return this.#savedThrough >= this.layout.segment.stored.began;
  }

  async #hasNotes(): Promise<boolean> {
    const [found] = await this.#wire.query(`SELECT EXISTS (SELECT FROM ${this.layout.notes})`);
    return found?.rows[0]?.[0] === 't';
  }

  async #undo(batch: RowBatch): Promise<Awaited<ReturnType<typeof readNotes>>> {
    if (!this.#noted) return { noted: new Set(), standing: [] };
    await stageKeys(this.#wire, this.layout, [...batch.deletes, ...this.#keysWritten(batch)]);
    const notes = await readNotes(this.#wire, this.layout);
    if (notes.standing.length > 0) await restoreTruth(this.#wire, this.layout);
    return notes;
  }

  async #settle(batch: RowBatch): Promise<KeyTuple[]> {
    const layout = this.layout;
    const settled: KeyTuple[] = [];
    const ours = `EXISTS (SELECT FROM ${layout.live} t WHERE ${layout.sameKey('t', 'h')} AND t.${SINCE} <> ${FOREIGN_LITERAL})`;
    for (const [keys, condition, markAt] of [
      [batch.deletes, 'true', null],
      [this.#keysWritten(batch), ours, this.#marks ? this.#capture : null],
    ] as const) {
      if (keys.length === 0) continue;
      await stageKeys(this.#wire, layout, keys);
      await this.#endSavedTruth(condition);
      settled.push(...(await forgetNotes(this.#wire, layout, markAt)));
    }
    return settled;
  }

  /** The true version was saved for a capture that reads it; otherwise, or where the statement before saved the same one, it goes. */
  async #endSavedTruth(condition: string): Promise<void> {
    const layout = this.layout;
    const truth = `h.${UNTIL} = ${FOREIGN_LITERAL} AND ${condition} AND EXISTS (SELECT FROM ${layout.gone} g WHERE ${layout.sameKey('g', 'h')})`;
    await this.#wire.query(
      `DELETE FROM ${layout.history} h WHERE ${truth} AND (h.${SINCE} > ${this.#savedThrough} OR EXISTS (
         SELECT FROM ${layout.history} x WHERE ${layout.sameKey('x', 'h')} AND x.${SINCE} = h.${SINCE} AND x.${UNTIL} = ${this.#capture}));
       UPDATE ${layout.history} h SET ${UNTIL} = ${this.#capture} WHERE ${truth}`,
    );
  }

  #newest(puts: Rows): Rows {
    return Array.from(new Map(Array.from(puts, (row) => [identityOfRow(row, this.layout.segment.schema.key), row])).values());
  }

  #keysOf(rows: Rows): KeyTuple[] {
    return Array.from(rows, (row) => keyTuple(row, this.layout.segment.schema.key));
  }

  #keysWritten({ patches, puts }: RowBatch): KeyTuple[] {
    return [...this.#keysOf(patches ?? []), ...this.#keysOf(puts)];
  }

  /** Straight into the live table: with the column of ours at the end of each row. False: a key was taken, and nothing is in. */
  #copy(puts: Rows, counts: Counts, signal: AbortSignal): Promise<boolean> {
    return this.#unlessTaken(counts, () => this.insertAll(puts, signal));
  }

  /** Rows that must all be new; fails where a key is taken. Foreign writes are not looked for. */
  async insertAll(puts: RowBatch['puts'], signal: AbortSignal): Promise<number> {
    const inserted = await this.#wire.copyRowsIn(this.#copyIntoLive, 'rows', this.#oids.takeAll(puts), signal, new RowEnd(this.#capture));
    if (this.#marks) await this.#mark(puts, signal);
    return inserted;
  }

  async #mark(inserts: Rows, signal: AbortSignal): Promise<void> {
    const { history, key, segment } = this.layout;
    const { packed } = segment.types;
    if (packed === null) {
      const marked = `COPY ${history} (${key.join(', ')}, ${SINCE}, ${UNTIL}) FROM STDIN (FORMAT binary)`;
      await this.#wire.copyRowsIn(marked, 'rows', this.#keysOf(inserts), signal, new RowEnd(FOREIGN, this.#capture));
    } else {
      const pack = packKeys(inserts, segment.schema.key, packed);
      await this.#wire.copyRowsIn(copyInserted(this.layout, packed), 'rows', [pack], signal, new RowEnd(this.#capture));
    }
  }

  /** As it came, where there is nothing to be seen to row by row. False: nothing is in. */
  async #copyPack(pack: RowPack, counts: Counts, signal: AbortSignal): Promise<boolean> {
    const asItIs = pack instanceof CopyPack && pack.capture === this.#capture && !this.#marks && this.#oids.none;
    if (!asItIs || this.#noted) return false;
    return this.#unlessTaken(counts, () => this.#wire.copyMessagesIn(this.#copyIntoLive, pack.messages, signal));
  }

  get #copyIntoLive(): string {
    return `COPY ${this.layout.live} (${this.layout.columns.join(', ')}, ${SINCE}) FROM STDIN (FORMAT binary)`;
  }

  async #unlessTaken(counts: Counts, insert: () => Promise<number>): Promise<boolean> {
    if (!this.#key.stands) {
      counts.inserted += await insert();
      return true;
    }
    await this.#wire.query('SAVEPOINT fresh');
    try {
      const inserted = await insert();
      await this.#wire.query('RELEASE fresh');
      counts.inserted += inserted;
      return true;
    } catch (error) {
      if (this.#wire.broken || codeOf(error) !== UNIQUE_VIOLATION) throw error;
      await this.#wire.query('ROLLBACK TO fresh');
      return false;
    }
  }

  /** Columns that a patch leaves out are neither read nor written: what is stored out of line stays where it is. */
  async #patch(patches: Rows, counts: Counts, signal: AbortSignal): Promise<void> {
    const layout = this.layout;
    for (const [absent, rows] of byAbsentColumns(patches)) {
      const source = await sourceOfRows(this.#wire, layout, 'patches', this.#oids.takeAll(rows), signal);
      const free = `NOT EXISTS (SELECT FROM ${layout.live} t WHERE ${layout.sameKey('t', 's')} AND t.${SINCE} <> ${FOREIGN_LITERAL})`;
      const sought = `SELECT ${layout.keyList('s')} FROM (SELECT * FROM ${source.from}) s WHERE ${free}`;
      const missing = await collectRows(this.#wire.select(sought, source.parameters));
      if (missing.length > 0) throw new RowsMissing(layout.segment.table, missing as KeyTuple[]);
      const present = layout.columns.filter((_, index) => !absent.has(index));
      counts.updated += await this.#update(source, present, signal);
    }
  }

  async #delete(keys: Rows<KeyTuple>, counts: Counts, signal: AbortSignal): Promise<void> {
    const layout = this.layout;
    const source = await sourceOfKeys(this.#wire, layout, keys, signal);
    counts.deleted += await this.#counted(
      `WITH d AS (DELETE FROM ${layout.live} t USING (SELECT * FROM ${source.from} ORDER BY ${layout.key.join(', ')} OFFSET 0) s
         WHERE ${layout.sameKey('t', 's')} RETURNING ${layout.savedList('t')}, t.${SINCE}),
       h AS (INSERT INTO ${layout.intoHistory} SELECT d.*, ${this.#capture} FROM d WHERE d.${SINCE} <= ${this.#savedThrough})
       SELECT count(*) FROM d`,
      source.parameters,
      signal,
    );
  }

  async #counted(sql: string, parameters: readonly Parameter[], signal: AbortSignal): Promise<number> {
    const [row] = await collectRows(this.#wire.select(sql, parameters, signal));
    return Number(cellsOf(row as Tuple)[0]?.readBigInt64BE());
  }

  async #put(puts: Rows, counts: Counts, signal: AbortSignal): Promise<void> {
    const layout = this.layout;
    const source = await sourceOfRows(this.#wire, layout, 'rows', this.#oids.takeAll(puts), signal);
    const updated = await this.#update(source, layout.columns, signal);
    counts.updated += updated;
    if (updated < puts.length) counts.inserted += await this.#insert(source, signal);
  }

  /** From the source, these columns. Rows whose image is the same already are left alone: no write, no version. */
  async #update(source: RowSource, columns: readonly string[], signal: AbortSignal): Promise<number> {
    const layout = this.layout;
    const set = [...columns.map((name) => `${name} = s.${name}`), `${SINCE} = ${this.#capture}`].join(', ');
    const from = `(SELECT * FROM ${source.from} ORDER BY ${layout.key.join(', ')} OFFSET 0) s`;
    const where = `${layout.sameKey('t', 's')} AND (t.${SINCE} = ${FOREIGN_LITERAL} OR ${layout.differs('t', 's', columns)})`;
    if (this.#returningOld) {
      return this.#counted(
        `WITH u AS (UPDATE ${layout.live} t SET ${set} FROM ${from} WHERE ${where} RETURNING ${layout.savedList('old')}, old.${SINCE}),
         h AS (INSERT INTO ${layout.intoHistory} SELECT u.*, ${this.#capture} FROM u WHERE u.${SINCE} <= ${this.#savedThrough})
         SELECT count(*) FROM u`,
        source.parameters,
        signal,
      );
    }
    await this.#wire.execute(
      `INSERT INTO ${layout.intoHistory} SELECT ${layout.savedList('t')}, t.${SINCE}, ${this.#capture} FROM ${from} JOIN ${layout.live} t ON ${where}
         WHERE t.${SINCE} <= ${this.#savedThrough}`,
      source.parameters,
      signal,
    );
    const updated = await this.#wire.execute(`UPDATE ${layout.live} t SET ${set} FROM ${from} WHERE ${where}`, source.parameters, signal);
    return Number(updated.split(' ').at(-1));
  }

  async #insert(source: RowSource, signal: AbortSignal): Promise<number> {
    const layout = this.layout;
    const columns = layout.columns.join(', ');
    const key = layout.key.join(', ');
    // What is in the way is a foreign row that was committed a moment ago; ours wins.
    const insert = `INSERT INTO ${layout.live} AS i (${columns}, ${SINCE})
      SELECT ${layout.list('s')}, ${this.#capture} FROM (SELECT * FROM ${source.from} ORDER BY ${key} OFFSET 0) s
      WHERE NOT EXISTS (SELECT FROM ${layout.live} t WHERE ${layout.sameKey('t', 's')} AND t.${SINCE} <> ${FOREIGN_LITERAL})
      ON CONFLICT (${key}) DO UPDATE SET ${layout.overwrite(layout.columns)}`;
    if (!this.#marks) return Number((await this.#wire.execute(insert, source.parameters, signal)).split(' ').at(-1));
    return this.#counted(
      `WITH i AS (${insert} RETURNING ${layout.keyList('i')}),
      h AS (INSERT INTO ${layout.history} (${key}, ${SINCE}, ${UNTIL}) SELECT i.*, ${FOREIGN_LITERAL}, ${this.#capture} FROM i)
      SELECT count(*) FROM i`,
      source.parameters,
      signal,
    );
  }
}
