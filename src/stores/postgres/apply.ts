import { ForeshadowError } from '../../model/errors.ts';
import type { Progress } from '../../model/progress.ts';
import { cellsOf, identityOf, identityOfRow, type KeyTuple, keyTuple, packTuple, type Tuple } from '../../model/tuple.ts';
import { type CaptureNumber, FOREIGN } from '../../model/capture.ts';
import { type ApplyReport, type ApplyWork, type RowBatch, RowsMissing, type StandingRows, rowsOf } from '../../shadowing/shadow.ts';
import type { RowPack } from '../../tracking/primary.ts';
import { codeOf } from './connection.ts';
import { RowEnd } from './copy-format.ts';
import { CopyPack } from './copy-pack.ts';
import { collectRows, forgetNotes, readNotes, restoreTruth } from './foreign.ts';
import { hasKey, LiveKey } from './key.ts';
import { copyInserted, packKeys } from './inserted.ts';
import { FOREIGN_LITERAL, type Layout, SINCE, UNTIL } from './layout.ts';
import { progressSql, storedProgress } from './segments.ts';
import { stageKeys, stageRows } from './staging.ts';
import { ArrivingOids } from './type-oids.ts';
import { standingRows } from './versions.ts';
import type { Wire } from './wire.ts';

interface Counts {
  inserted: number;
  updated: number;
  deleted: number;
}

/** Whether the server can return a row as it was before an UPDATE (18): one pass instead of two. */
const RETURNING_OLD_VERSION = 18;

const UNIQUE_VIOLATION = '23505';

/**
 * `Shadow.apply`, inside a write transaction. Rows are staged by COPY, then moved by statements over the whole batch. Foreign writes
 * the batch runs into are undone first; what slips in between waits for our row locks or is met by `#settle`.
 */
export async function applyWorks(wire: Wire, works: readonly ApplyWork[], majorVersion: number, signal: AbortSignal): Promise<ApplyReport> {
  const counts: Counts = { inserted: 0, updated: 0, deleted: 0 };
  const conflicts: ApplyReport['conflicts'][number][] = [];
  const stored = await storedProgress(
    wire,
    works.map((work) => work.table),
  );
  for (const work of works) {
    const from = stored.get(work.table);
    if (from === undefined) {
      throw new ForeshadowError('TABLE_MISSING', `The shadow has no table ${work.table}`, { remedy: 'Prepare the shadow for it first.' });
    }
    refuseMovingBack(work, from.progress);
    const { layout } = from;
    stored.set(work.table, { layout, state: work.state, progress: work.progress });
    const key = new LiveKey(wire, layout, from.state);
    const step = new BatchStep(wire, layout, key, work, majorVersion >= RETURNING_OLD_VERSION);
    for await (const batch of rowsOf(work, standingByKey(key, standingRows(wire, layout, work.progress.capture, signal)))) {
      signal.throwIfAborted();
      for (const conflict of await step.run(batch, counts, signal)) conflicts.push({ table: work.table, key: conflict });
    }
    await step.finish();
    if (hasKey(work.state)) await key.need();
    await wire.query(progressSql(work.table, work.state, work.progress, layout.segment.id));
  }
  return { ...counts, conflicts };
}

function refuseMovingBack(work: ApplyWork, stored: Pick<Progress, 'generation' | 'low' | 'high'>): void {
  const { progress } = work;
  const behind = progress.low < stored.low || progress.high < stored.high;
  if (progress.generation > stored.generation || (progress.generation === stored.generation && !behind)) return;
  throw new ForeshadowError(
    'FENCED',
    `Table ${work.table} of the shadow stands at ${stored.low} of generation ${stored.generation}, past ${progress.low} of generation ${progress.generation}`,
    { remedy: 'Another instance has applied these changes; start this one again.' },
  );
}

function standingByKey(key: LiveKey, standing: StandingRows): StandingRows {
  return {
    rows: async (after, limit) => {
      await key.need();
      return standing.rows(after, limit);
    },
    rowsByKey: async (keys) => {
      await key.need();
      return standing.rowsByKey(keys);
    },
  };
}

/** One batch of one table. */
class BatchStep {
  readonly #wire: Wire;
  readonly #layout: Layout;
  readonly #key: LiveKey;
  readonly #capture: CaptureNumber;
  readonly #savedThrough: CaptureNumber;
  readonly #returningOld: boolean;
  readonly #oids: ArrivingOids;

  constructor(wire: Wire, layout: Layout, key: LiveKey, { progress, savedThrough }: ApplyWork, returningOld: boolean) {
    this.#wire = wire;
    this.#layout = layout;
    this.#key = key;
    this.#capture = progress.capture;
    this.#savedThrough = savedThrough;
    this.#returningOld = returningOld;
    this.#oids = new ArrivingOids(layout.segment.types.oids);
  }

  /** Returns the keys of foreign writes it undid. */
  async run(batch: RowBatch, counts: Counts, signal: AbortSignal): Promise<readonly KeyTuple[]> {
    if (batch.pack) {
      if (await this.#copyPack(batch.pack, counts, signal)) return [];
      return this.run({ ...batch, puts: [...batch.puts, ...batch.pack.tuples()], pack: null }, counts, signal);
    }
    if (!this.#key.stands && !(batch.fresh && batch.deletes.length === 0 && !(await this.#hasNotes()))) await this.#key.need();
    const patches = batch.patches ?? [];
    const written = [...patches, ...batch.puts];
    if (batch.deletes.length === 0 && written.length === 0) return [];
    const { noted, standing } = await this.#undo(batch.deletes, written);
    if (batch.deletes.length > 0) await this.#delete(batch.deletes, counts, signal);
    if (patches.length > 0) await this.#patch(patches, counts, signal);
    if (batch.puts.length > 0) {
      const copied = batch.fresh && noted.size === 0 && (await this.#copy(batch.puts, counts, signal));
      if (!copied) await this.#put(batch.fresh ? this.#newest(batch.puts) : batch.puts, counts, signal);
    }
    const settled = await this.#settle(batch.deletes, written);
    return [...standing, ...settled.filter((key) => !noted.has(identityOf(key)))];
  }

  /** After the last batch. */
  async finish(): Promise<void> {
    await this.#oids.save(this.#wire);
  }

  /** An earlier capture reads this segment: keys that are new to it are marked in the history. */
  get #marks(): boolean {
    return this.#savedThrough >= this.#layout.segment.stored.began;
  }

  async #hasNotes(): Promise<boolean> {
    const [found] = await this.#wire.query(`SELECT EXISTS (SELECT FROM ${this.#layout.notes})`);
    return found?.rows[0]?.[0] === 't';
  }

  async #undo(deletes: readonly KeyTuple[], written: readonly Tuple[]): Promise<Awaited<ReturnType<typeof readNotes>>> {
    if (!(await this.#hasNotes())) return { noted: new Set(), standing: [] };
    await stageKeys(this.#wire, this.#layout, [...deletes, ...this.#keysOf(written)]);
    const notes = await readNotes(this.#wire, this.#layout);
    if (notes.standing.length > 0) await restoreTruth(this.#wire, this.#layout);
    return notes;
  }

  /**
   * Foreign writes that were committed after `#undo` looked and before our statements met their rows: those rows are ours by now, and
   * the versions the guard saved until FOREIGN end at this capture. What was committed later than our statements stays foreign.
   */
  async #settle(deletes: readonly KeyTuple[], written: readonly Tuple[]): Promise<KeyTuple[]> {
    if (!(await this.#hasNotes())) return [];
    const layout = this.#layout;
    const settled: KeyTuple[] = [];
    const ours = `EXISTS (SELECT FROM ${layout.live} t WHERE ${layout.sameKey('t', 'h')} AND t.${SINCE} <> ${FOREIGN_LITERAL})`;
    for (const [keys, condition, markAt] of [
      [deletes, 'true', null],
      [[...this.#keysOf(written)], ours, this.#marks ? this.#capture : null],
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
    const layout = this.#layout;
    const truth = `h.${UNTIL} = ${FOREIGN_LITERAL} AND ${condition} AND EXISTS (SELECT FROM ${layout.gone} g WHERE ${layout.sameKey('g', 'h')})`;
    await this.#wire.query(
      `DELETE FROM ${layout.history} h WHERE ${truth} AND (h.${SINCE} > ${this.#savedThrough} OR EXISTS (
         SELECT FROM ${layout.history} x WHERE ${layout.sameKey('x', 'h')} AND x.${SINCE} = h.${SINCE} AND x.${UNTIL} = ${this.#capture}));
       UPDATE ${layout.history} h SET ${UNTIL} = ${this.#capture} WHERE ${truth}`,
    );
  }

  #newest(puts: readonly Tuple[]): readonly Tuple[] {
    return Array.from(new Map(puts.map((row) => [identityOfRow(row, this.#layout.segment.schema.key), row])).values());
  }

  *#keysOf(puts: readonly Tuple[]): Iterable<KeyTuple> {
    for (const row of puts) yield keyTuple(row, this.#layout.segment.schema.key);
  }

  /** Straight into the live table: with the column of ours at the end of each row. False: a key was taken, and nothing is in. */
  #copy(puts: readonly Tuple[], counts: Counts, signal: AbortSignal): Promise<boolean> {
    return this.#unlessTaken(counts, async () => {
      const inserted = await this.#wire.copyRowsIn(this.#copyIntoLive, this.#oids.takeAll(puts), signal, new RowEnd(this.#capture));
      if (this.#marks) await this.#mark(puts, signal);
      return inserted;
    });
  }

  async #mark(inserts: readonly Tuple[], signal: AbortSignal): Promise<void> {
    const { history, key, segment } = this.#layout;
    const { packed } = segment.types;
    if (packed === null) {
      const marked = `COPY ${history} (${key.join(', ')}, ${SINCE}, ${UNTIL}) FROM STDIN (FORMAT binary)`;
      await this.#wire.copyRowsIn(marked, this.#keysOf(inserts), signal, new RowEnd(FOREIGN, this.#capture));
    } else {
      const pack = packKeys(inserts, segment.schema.key, packed);
      await this.#wire.copyRowsIn(copyInserted(this.#layout, packed), [pack], signal, new RowEnd(this.#capture));
    }
  }

  /** As it came, where there is nothing to be seen to row by row. False: nothing is in. */
  async #copyPack(pack: RowPack, counts: Counts, signal: AbortSignal): Promise<boolean> {
    const asItIs = pack instanceof CopyPack && pack.capture === this.#capture && !this.#marks && this.#oids.none;
    if (!asItIs || (await this.#hasNotes())) return false;
    return this.#unlessTaken(counts, () => this.#wire.copyMessagesIn(this.#copyIntoLive, pack.messages, signal));
  }

  get #copyIntoLive(): string {
    return `COPY ${this.#layout.live} (${this.#layout.columns.join(', ')}, ${SINCE}) FROM STDIN (FORMAT binary)`;
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
  async #patch(patches: readonly Tuple[], counts: Counts, signal: AbortSignal): Promise<void> {
    const layout = this.#layout;
    for (const [absent, rows] of byAbsentColumns(patches)) {
      await stageRows(this.#wire, layout, this.#oids.takeAll(rows), signal);
      const free = `NOT EXISTS (SELECT FROM ${layout.live} t WHERE ${layout.sameKey('t', 's')} AND t.${SINCE} <> ${FOREIGN_LITERAL})`;
      const missing = await collectRows(this.#wire.select(`SELECT ${layout.keyList('s')} FROM ${layout.stage} s WHERE ${free}`, []));
      if (missing.length > 0) throw new RowsMissing(layout.segment.table, missing as KeyTuple[]);
      const present = layout.columns.filter((_, index) => !absent.has(index));
      counts.updated += await this.#update(present, signal);
    }
  }

  async #delete(keys: readonly KeyTuple[], counts: Counts, signal: AbortSignal): Promise<void> {
    const layout = this.#layout;
    await stageKeys(this.#wire, layout, keys);
    const [found] = await this.#wire.query(
      `WITH d AS (DELETE FROM ${layout.live} t USING (SELECT * FROM ${layout.gone} ORDER BY ${layout.key.join(', ')} OFFSET 0) s
         WHERE ${layout.sameKey('t', 's')} RETURNING ${layout.savedList('t')}, t.${SINCE}),
       h AS (INSERT INTO ${layout.intoHistory} SELECT d.*, ${this.#capture} FROM d WHERE d.${SINCE} <= ${this.#savedThrough})
       SELECT count(*) FROM d`,
      signal,
    );
    counts.deleted += Number(found?.rows[0]?.[0]);
  }

  async #put(puts: readonly Tuple[], counts: Counts, signal: AbortSignal): Promise<void> {
    const layout = this.#layout;
    await stageRows(this.#wire, layout, this.#oids.takeAll(puts), signal);
    const updated = await this.#update(layout.columns, signal);
    counts.updated += updated;
    if (updated < puts.length) counts.inserted += await this.#insert(signal);
  }

  /** From the stage, these columns. Rows whose image is the same already are left alone: no write, no version. */
  async #update(columns: readonly string[], signal: AbortSignal): Promise<number> {
    const layout = this.#layout;
    const change = {
      set: [...columns.map((name) => `${name} = s.${name}`), `${SINCE} = ${this.#capture}`].join(', '),
      from: `(SELECT * FROM ${layout.stage} ORDER BY ${layout.key.join(', ')} OFFSET 0) s`,
      where: `${layout.sameKey('t', 's')} AND (t.${SINCE} = ${FOREIGN_LITERAL} OR ${layout.differs('t', 's', columns)})`,
    };
    return this.#returningOld ? this.#updateReturning(change, signal) : this.#updateInTwoSteps(change, signal);
  }

  async #updateReturning({ set, from, where }: StagedChange, signal: AbortSignal): Promise<number> {
    const layout = this.#layout;
    const [found] = await this.#wire.query(
      `WITH u AS (UPDATE ${layout.live} t SET ${set} FROM ${from} WHERE ${where} RETURNING ${layout.savedList('old')}, old.${SINCE}),
       h AS (INSERT INTO ${layout.intoHistory} SELECT u.*, ${this.#capture} FROM u WHERE u.${SINCE} <= ${this.#savedThrough})
       SELECT count(*) FROM u`,
      signal,
    );
    return Number(found?.rows[0]?.[0]);
  }

  async #updateInTwoSteps({ set, from, where }: StagedChange, signal: AbortSignal): Promise<number> {
    const layout = this.#layout;
    const results = await this.#wire.query(
      `INSERT INTO ${layout.intoHistory} SELECT ${layout.savedList('t')}, t.${SINCE}, ${this.#capture} FROM ${from} JOIN ${layout.live} t ON ${where}
         WHERE t.${SINCE} <= ${this.#savedThrough};
       UPDATE ${layout.live} t SET ${set} FROM ${from} WHERE ${where}`,
      signal,
    );
    return Number(results[1]?.tag.split(' ').at(-1));
  }

  async #insert(signal: AbortSignal): Promise<number> {
    const layout = this.#layout;
    const columns = layout.columns.join(', ');
    const key = layout.key.join(', ');
    // What is in the way is a foreign row that was committed a moment ago; ours wins.
    const insert = `INSERT INTO ${layout.live} AS i (${columns}, ${SINCE})
      SELECT ${layout.list('s')}, ${this.#capture} FROM (SELECT * FROM ${layout.stage} ORDER BY ${key} OFFSET 0) s
      WHERE NOT EXISTS (SELECT FROM ${layout.live} t WHERE ${layout.sameKey('t', 's')} AND t.${SINCE} <> ${FOREIGN_LITERAL})
      ON CONFLICT (${key}) DO UPDATE SET ${layout.overwrite(layout.columns)}`;
    const marked = `WITH i AS (${insert} RETURNING ${layout.keyList('i')}),
      h AS (INSERT INTO ${layout.history} (${key}, ${SINCE}, ${UNTIL}) SELECT i.*, ${FOREIGN_LITERAL}, ${this.#capture} FROM i)
      SELECT count(*) FROM i`;
    const [result] = await this.#wire.query(this.#marks ? marked : insert, signal);
    return Number(this.#marks ? result?.rows[0]?.[0] : result?.tag.split(' ').at(-1));
  }
}

/** The parts of an UPDATE of the live table `t` from the stage `s`. */
interface StagedChange {
  readonly set: string;
  readonly from: string;
  readonly where: string;
}

/** Rows by which columns are absent, with NULL in their place. */
function byAbsentColumns(rows: readonly Tuple[]): Iterable<[ReadonlySet<number>, Tuple[]]> {
  const groups = new Map<string, [ReadonlySet<number>, Tuple[]]>();
  for (const row of rows) {
    const cells = cellsOf(row);
    const absent = cells.flatMap((cell, index) => (cell === undefined ? [index] : []));
    const name = absent.join(' ');
    let group = groups.get(name);
    if (group === undefined) {
      group = [new Set(absent), []];
      groups.set(name, group);
    }
    group[1].push(packTuple(cells.map((cell) => cell ?? null)));
  }
  return groups.values();
}
