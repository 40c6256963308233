import { ForeshadowError } from '../../model/errors.ts';
import type { Progress } from '../../model/progress.ts';
import { identityOf, type KeyTuple, keyTuple, type Tuple } from '../../model/tuple.ts';
import type { CaptureNumber } from '../../model/capture.ts';
import type { ApplyReport, ApplyWork, RowBatch } from '../../shadowing/shadow.ts';
import { forgetNotes, readNotes, restoreTruth } from './foreign.ts';
import { FOREIGN_LITERAL, type Layout, SINCE, UNTIL } from './layout.ts';
import { progressSql, storedProgress } from './segments.ts';
import { stageKeys, stageRows } from './staging.ts';
import { ArrivingOids } from './type-oids.ts';
import type { Wire } from './wire.ts';

interface Counts {
  inserted: number;
  updated: number;
  deleted: number;
}

/** Whether the server can return a row as it was before an UPDATE (18): one pass instead of two. */
const RETURNING_OLD_VERSION = 18;

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
    stored.set(work.table, { ...from, progress: work.progress });
    const { layout } = from;
    const step = new BatchStep(wire, layout, work.progress.capture, work.savedThrough, majorVersion >= RETURNING_OLD_VERSION);
    for await (const batch of work.rows) {
      signal.throwIfAborted();
      for (const key of await step.run(batch, counts, signal)) conflicts.push({ table: work.table, key });
    }
    await step.finish();
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

/** One batch of one table. */
class BatchStep {
  readonly #wire: Wire;
  readonly #layout: Layout;
  readonly #capture: CaptureNumber;
  readonly #savedThrough: CaptureNumber;
  readonly #returningOld: boolean;
  readonly #oids: ArrivingOids;

  constructor(wire: Wire, layout: Layout, capture: CaptureNumber, savedThrough: CaptureNumber, returningOld: boolean) {
    this.#wire = wire;
    this.#layout = layout;
    this.#capture = capture;
    this.#savedThrough = savedThrough;
    this.#returningOld = returningOld;
    this.#oids = new ArrivingOids(layout.segment.types.oids);
  }

  /** Returns the keys of foreign writes it undid. */
  async run(batch: RowBatch, counts: Counts, signal: AbortSignal): Promise<readonly KeyTuple[]> {
    if (batch.deletes.length === 0 && batch.puts.length === 0) return [];
    const { noted, standing } = await this.#undo(batch);
    if (batch.deletes.length > 0) await this.#delete(batch.deletes, counts, signal);
    if (batch.puts.length > 0) {
      if (batch.fresh && !this.#marks && noted.size === 0) await this.#copy(batch.puts, counts, signal);
      else await this.#put(batch.puts, batch.fresh, counts, signal);
    }
    const settled = await this.#settle(batch);
    return [...standing, ...settled.filter((key) => !noted.has(identityOf(key)))];
  }

  /** After the last batch. */
  async finish(): Promise<void> {
    await this.#oids.save(this.#wire);
  }

  /** An earlier capture reads this segment: keys that are new to it are marked in the history. */
  get #marks(): boolean {
    return this.#savedThrough >= this.#layout.segment.first;
  }

  async #hasNotes(): Promise<boolean> {
    const [found] = await this.#wire.query(`SELECT EXISTS (SELECT FROM ${this.#layout.notes})`);
    return found?.rows[0]?.[0] === 't';
  }

  async #undo(batch: RowBatch): Promise<Awaited<ReturnType<typeof readNotes>>> {
    if (!(await this.#hasNotes())) return { noted: new Set(), standing: [] };
    await stageKeys(this.#wire, this.#layout, [...batch.deletes, ...this.#keysOf(batch.puts)]);
    const notes = await readNotes(this.#wire, this.#layout);
    if (notes.standing.length > 0) await restoreTruth(this.#wire, this.#layout);
    return notes;
  }

  /**
   * Foreign writes that were committed after `#undo` looked and before our statements met their rows: those rows are ours by now, and
   * the versions the guard saved until FOREIGN end at this capture. What was committed later than our statements stays foreign.
   */
  async #settle(batch: RowBatch): Promise<KeyTuple[]> {
    if (!(await this.#hasNotes())) return [];
    const layout = this.#layout;
    const settled: KeyTuple[] = [];
    const ours = `EXISTS (SELECT FROM ${layout.live} t WHERE ${layout.sameKey('t', 'h')} AND t.${SINCE} <> ${FOREIGN_LITERAL})`;
    for (const [keys, condition, markAt] of [
      [batch.deletes, 'true', null],
      [[...this.#keysOf(batch.puts)], ours, this.#marks ? this.#capture : null],
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

  *#keysOf(puts: readonly Tuple[]): Iterable<KeyTuple> {
    for (const row of puts) yield keyTuple(row, this.#layout.segment.schema.key);
  }

  /** Straight into the live table: with the column of ours at the end of each row. */
  async #copy(puts: readonly Tuple[], counts: Counts, signal: AbortSignal): Promise<void> {
    const { live, columns } = this.#layout;
    const rows = withSince(this.#oids.takeAll(puts), this.#capture);
    counts.inserted += await this.#wire.copyRowsIn(
      `COPY ${live} (${columns.join(', ')}, ${SINCE}) FROM STDIN (FORMAT binary)`,
      rows,
      signal,
    );
  }

  async #delete(keys: readonly KeyTuple[], counts: Counts, signal: AbortSignal): Promise<void> {
    const layout = this.#layout;
    await stageKeys(this.#wire, layout, keys);
    const [found] = await this.#wire.query(
      `WITH d AS (DELETE FROM ${layout.live} t USING (SELECT * FROM ${layout.gone} ORDER BY ${layout.key.join(', ')} OFFSET 0) s
         WHERE ${layout.sameKey('t', 's')} RETURNING ${layout.list('t')}, t.${SINCE}),
       h AS (INSERT INTO ${layout.history} SELECT d.*, ${this.#capture} FROM d WHERE d.${SINCE} <= ${this.#savedThrough})
       SELECT count(*) FROM d`,
      signal,
    );
    counts.deleted += Number(found?.rows[0]?.[0]);
  }

  async #put(puts: readonly Tuple[], fresh: boolean, counts: Counts, signal: AbortSignal): Promise<void> {
    const layout = this.#layout;
    await stageRows(this.#wire, layout, this.#oids.takeAll(puts), signal);
    let found = 0;
    if (!fresh) {
      const updated = this.#returningOld ? await this.#updateReturning(signal) : await this.#updateInTwoSteps(signal);
      counts.updated += updated;
      found = updated;
    }
    if (found < puts.length) counts.inserted += await this.#insert(signal);
  }

  /** Rows whose image is the same already are left alone: no write, no version. */
  get #toUpdate(): { set: string; from: string; where: string } {
    const layout = this.#layout;
    return {
      set: [...layout.columns.map((name) => `${name} = s.${name}`), `${SINCE} = ${this.#capture}`].join(', '),
      from: `(SELECT * FROM ${layout.stage} ORDER BY ${layout.key.join(', ')} OFFSET 0) s`,
      where: `${layout.sameKey('t', 's')} AND (t.${SINCE} = ${FOREIGN_LITERAL} OR ${layout.differs('t', 's')})`,
    };
  }

  async #updateReturning(signal: AbortSignal): Promise<number> {
    const layout = this.#layout;
    const { set, from, where } = this.#toUpdate;
    const [found] = await this.#wire.query(
      `WITH u AS (UPDATE ${layout.live} t SET ${set} FROM ${from} WHERE ${where} RETURNING ${layout.list('old')}, old.${SINCE}),
       h AS (INSERT INTO ${layout.history} SELECT u.*, ${this.#capture} FROM u WHERE u.${SINCE} <= ${this.#savedThrough})
       SELECT count(*) FROM u`,
      signal,
    );
    return Number(found?.rows[0]?.[0]);
  }

  async #updateInTwoSteps(signal: AbortSignal): Promise<number> {
    const layout = this.#layout;
    const { set, from, where } = this.#toUpdate;
    const results = await this.#wire.query(
      `INSERT INTO ${layout.history} SELECT ${layout.list('t')}, t.${SINCE}, ${this.#capture} FROM ${from} JOIN ${layout.live} t ON ${where}
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
      ON CONFLICT (${key}) DO UPDATE SET ${layout.overwrite}`;
    const marked = `WITH i AS (${insert} RETURNING ${layout.keyList('i')}),
      h AS (INSERT INTO ${layout.history} (${key}, ${SINCE}, ${UNTIL}) SELECT i.*, ${FOREIGN_LITERAL}, ${this.#capture} FROM i)
      SELECT count(*) FROM i`;
    const [result] = await this.#wire.query(this.#marks ? marked : insert, signal);
    return Number(this.#marks ? result?.rows[0]?.[0] : result?.tag.split(' ').at(-1));
  }
}

/** Rows with one more column at the end: the capture they are written for. */
function* withSince(rows: Iterable<Tuple>, capture: CaptureNumber): Iterable<Tuple> {
  for (const row of rows) {
    const longer = Buffer.allocUnsafe(row.length + 12);
    longer.writeInt16BE(row.readInt16BE(0) + 1, 0);
    row.copy(longer, 2, 2);
    longer.writeInt32BE(8, row.length);
    longer.writeBigInt64BE(BigInt(capture), row.length + 4);
    yield longer as Tuple;
  }
}
