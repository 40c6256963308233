import { resolve } from 'node:path';
import type { DatabaseSync, SQLInputValue, StatementSync } from 'node:sqlite';
import { Distinct } from '../../model/distinct.ts';
import { parsePosition } from '../../model/position.ts';
import type { TableName } from '../../model/schema.ts';
import {
  type ActivitySeries,
  type ActivityTotal,
  type Counted,
  HISTORY_ROWS_MAX,
  type History,
  type KeptTurn,
  type Known,
  type LoadSeries,
  type Observation,
  SKETCHES_KEPT,
  SLOTS_KEPT,
  TURNS_KEPT,
  type Seed,
  type SlotActivity,
  type SlotLengths,
  type SlotLoad,
  type SlotRange,
  checkLearned,
  coverage,
  emptySeries,
  seededSlots,
  slotStart,
  stepsOf,
  wholeLoad,
  wholeSlot,
} from '../../tracking/history.ts';
import { historyFailure, openHistoryFile } from './history-file.ts';

/** Looking for what is beyond the bounds reads an index as far as they reach. */
const PRUNE_EVERY = 30;

interface ActivityRow {
  readonly tbl: number;
  readonly start: number;
  readonly changes: number;
  readonly rows: number;
  readonly bytes: number;
}

/** Opens the history's file and makes it if it is missing. Throws HISTORY_ACCESS, VERSION_UNSUPPORTED; the file is then as it was. */
export function openSqliteHistory(given: string, lengths: SlotLengths): History {
  const path = resolve(given);
  return new SqliteHistory(path, openHistoryFile(path), lengths);
}

class SqliteHistory implements History {
  readonly #path: string;
  readonly #db: DatabaseSync;
  readonly #steps: readonly number[];
  readonly #statements = new Map<string, StatementSync>();
  #writes = 0;

  constructor(path: string, db: DatabaseSync, lengths: SlotLengths) {
    this.#path = path;
    this.#db = db;
    this.#steps = stepsOf(lengths);
  }

  async counted(): Promise<Counted | null> {
    const [row] = this.#all<{ journal: string; at: string; observed_to: number | null }>('SELECT * FROM counted');
    return row === undefined ? null : { journal: row.journal, at: parsePosition(row.at), observedToMs: row.observed_to };
  }

  async add({ counted, observed, activity, load }: Observation): Promise<void> {
    this.#write(() => {
      if (counted !== null) {
        this.#run('INSERT OR REPLACE INTO counted VALUES (1, ?, ?, ?)', counted.journal, counted.at, counted.observedToMs);
      }
      for (const stepMs of this.#steps) {
        for (const [start, ms] of observed === null ? [] : coverage(observed, stepMs)) {
          this.#run(
            `INSERT INTO slots VALUES (?, ?, ?, 0)
            ON CONFLICT DO UPDATE SET observed_ms = observed_ms + excluded.observed_ms`,
            stepMs,
            start,
            ms,
          );
        }
      }
      for (const each of activity) this.#addActivity(each);
      for (const each of load) this.#addLoad(each);
      this.#prune();
    });
  }

  async seed(seed: Seed): Promise<void> {
    const { stepMs, activity, load } = seed;
    const level = this.#levelOf(stepMs);
    this.#write(() => {
      const touched = new Set<number>();
      for (const start of seededSlots(seed, SLOTS_KEPT[level] as number)) {
        const [slot] = this.#all<{ seeded: number }>(
          `INSERT INTO slots VALUES (?1, ?2, ?1, 1)
           ON CONFLICT DO UPDATE SET observed_ms = ?1, seeded = 1 WHERE seeded OR observed_ms = 0 RETURNING seeded`,
          stepMs,
          start,
        );
        if (slot !== undefined) touched.add(start);
      }
      for (const { table, atMs, changes, distinct, bytes } of activity) {
        const start = slotStart(atMs, stepMs);
        if (!touched.has(start)) continue;
        const id = this.#tableId(table, start, 0);
        this.#run('INSERT OR REPLACE INTO activity VALUES (?, ?, ?, ?, ?, ?)', stepMs, start, id, changes, distinct, bytes);
      }
      for (const { resource, atMs, value } of load) {
        const start = slotStart(atMs, stepMs);
        this.#run(
          `INSERT INTO load VALUES (?1, ?2, ?3, ?4 * ?1, ?1, ?4, 1)
          ON CONFLICT DO UPDATE SET sum = excluded.sum, ms = excluded.ms, peak = excluded.peak WHERE seeded`,
          stepMs,
          start,
          this.#resourceId(resource),
          value,
        );
        touched.add(start);
      }
      this.#rollUp(level, touched);
      this.#prune();
    });
  }

  async known(): Promise<Known> {
    const tables = this.#all<{ table: TableName; undated: number }>('SELECT name AS "table", undated FROM tables ORDER BY name');
    const resources = this.#all<{ name: string }>('SELECT name FROM resources ORDER BY name').map(({ name }) => name);
    return { tables: tables.map(({ table, undated }) => ({ table, undated })), resources };
  }

  async activity(range: SlotRange, asked?: readonly TableName[]): Promise<ReadonlyMap<TableName, ActivitySeries>> {
    this.#levelOf(range.stepMs);
    const grid = emptySeries(range);
    const untilMs = grid.startMs + grid.stepMs * grid.values.length;
    const observed = this.#all<{ start: number; ms: number }>(
      'SELECT start, observed_ms AS ms FROM slots WHERE step = ? AND start >= ? AND start < ?',
      range.stepMs,
      grid.startMs,
      untilMs,
    );
    const tables = new Map(
      this.#all<{ id: number; name: TableName; since: number | null }>('SELECT id, name, since FROM tables').map((each) => [each.id, each]),
    );
    const found = new Map<TableName, ActivitySeries>();
    const seriesOf = ({ name, since }: { name: TableName; since: number | null }): ActivitySeries => {
      const standing = found.get(name);
      if (standing !== undefined) return standing;
      const series = { changes: emptySeries(range), distinct: emptySeries(range), bytes: emptySeries(range) };
      for (const { start, ms } of observed) {
        if (since === null || start < slotStart(since, range.stepMs)) continue;
        const at = (start - grid.startMs) / grid.stepMs;
        for (const { values } of Object.values(series)) values[at] = wholeSlot(0, ms, grid.stepMs);
      }
      found.set(name, series);
      return series;
    };
    const observedMs = new Map(observed.map(({ start, ms }) => [start, ms]));
    const wanted = asked === undefined ? null : new Set(asked);
    for (const table of tables.values()) if (wanted?.has(table.name) === true) seriesOf(table);
    const rows = this.#each<ActivityRow>(
      'SELECT tbl, start, changes, rows, bytes FROM activity WHERE step = ? AND start >= ? AND start < ?',
      range.stepMs,
      grid.startMs,
      untilMs,
    );
    for (const { tbl, start, changes, rows: distinct, bytes } of rows) {
      const table = tables.get(tbl);
      if (table === undefined || wanted?.has(table.name) === false) continue;
      const series = seriesOf(table);
      const at = (start - grid.startMs) / grid.stepMs;
      const ms = observedMs.get(start) ?? 0;
      series.changes.values[at] = wholeSlot(changes, ms, grid.stepMs);
      series.distinct.values[at] = wholeSlot(distinct, ms, grid.stepMs);
      series.bytes.values[at] = wholeSlot(bytes, ms, grid.stepMs);
    }
    return found;
  }

  async load(range: SlotRange): Promise<ReadonlyMap<string, LoadSeries>> {
    this.#levelOf(range.stepMs);
    const { startMs, values: grid } = emptySeries(range);
    const rows = this.#each<{ name: string; start: number; sum: number; ms: number; peak: number }>(
      'SELECT name, start, sum, ms, peak FROM load JOIN resources ON id = resource WHERE step = ? AND start >= ? AND start < ?',
      range.stepMs,
      startMs,
      startMs + range.stepMs * grid.length,
    );
    const found = new Map<string, LoadSeries>();
    for (const { name, start, sum, ms, peak } of rows) {
      const series = found.get(name) ?? { mean: emptySeries(range), peak: emptySeries(range) };
      found.set(name, series);
      const at = (start - startMs) / range.stepMs;
      series.mean.values[at] = wholeLoad(sum, ms, range.stepMs);
      series.peak.values[at] = ms * 2 < range.stepMs ? Number.NaN : peak;
    }
    return found;
  }

  async totals({ stepMs, fromMs, untilMs }: SlotRange): Promise<ReadonlyMap<TableName, ActivityTotal>> {
    this.#levelOf(stepMs);
    const found = new Map<TableName, ActivityTotal>();
    const unions = new Map<TableName, Distinct>();
    const rows = this.#each<{ name: TableName; changes: number; bytes: number; sketch: Uint8Array | null }>(
      `SELECT name, changes, a.bytes, s.bytes AS sketch FROM activity a JOIN tables ON tables.id = a.tbl
       LEFT JOIN sketches s ON s.step = a.step AND s.start = a.start AND s.tbl = a.tbl
       WHERE a.step = ? AND a.start >= ? AND a.start < ?`,
      stepMs,
      slotStart(fromMs, stepMs),
      untilMs,
    );
    for (const { name, changes, bytes, sketch } of rows) {
      const before = found.get(name) ?? { changes: 0, bytes: 0, distinct: 0 };
      const union = unions.get(name) ?? new Distinct();
      unions.set(name, union);
      if (sketch !== null) union.merge(Distinct.read(sketch));
      const distinct = sketch === null || before.distinct === null ? null : union.count;
      found.set(name, { changes: before.changes + changes, bytes: before.bytes + bytes, distinct });
    }
    return found;
  }

  async keepTurn({ atMs, document }: KeptTurn): Promise<void> {
    this.#write(() => {
      this.#run('INSERT OR REPLACE INTO turns VALUES (?, ?)', atMs, document);
      this.#run('DELETE FROM turns WHERE at <= (SELECT at FROM turns ORDER BY at DESC LIMIT 1 OFFSET ?)', TURNS_KEPT);
    });
  }

  async turns(fromMs: number, limit: number): Promise<readonly KeptTurn[]> {
    const sql = 'SELECT at AS atMs, document FROM turns WHERE at >= ? ORDER BY at DESC LIMIT ?';
    return this.#all<KeptTurn>(sql, fromMs, limit).toReversed();
  }

  async keepLearned(document: string): Promise<void> {
    checkLearned(document);
    this.#write(() => this.#run('INSERT OR REPLACE INTO learned VALUES (1, ?)', document));
  }

  async learned(): Promise<string | null> {
    return this.#all<{ document: string }>('SELECT document FROM learned')[0]?.document ?? null;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#db.isOpen) this.#db.close();
    await Promise.resolve();
  }

  #levelOf(stepMs: number): number {
    const level = this.#steps.indexOf(stepMs);
    if (level < 0) throw new RangeError(`the history has no slots of ${stepMs} ms`);
    return level;
  }

  #addActivity({ table, atMs, changes, bytes, rows }: SlotActivity): void {
    const id = this.#tableId(table, atMs, changes);
    if (atMs === null) return;
    for (const stepMs of this.#steps) {
      const start = slotStart(atMs, stepMs);
      const [before] = this.#all<{ rows: number; sketch: Uint8Array | null }>(
        `SELECT rows, bytes AS sketch FROM (SELECT rows FROM activity WHERE step = ?1 AND start = ?2 AND tbl = ?3)
         LEFT JOIN (SELECT bytes FROM sketches WHERE step = ?1 AND start = ?2 AND tbl = ?3)`,
        stepMs,
        start,
        id,
      );
      let union: Distinct | null = rows;
      if (before !== undefined) {
        union = before.sketch === null ? null : Distinct.read(before.sketch);
        union?.merge(rows);
      }
      const count = union?.count ?? (before?.rows ?? 0) + rows.count;
      this.#run(
        `INSERT INTO activity VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE
        SET changes = changes + excluded.changes, rows = excluded.rows, bytes = bytes + excluded.bytes`,
        stepMs,
        start,
        id,
        changes,
        count,
        bytes,
      );
      if (union !== null) this.#run('INSERT OR REPLACE INTO sketches VALUES (?, ?, ?, ?)', stepMs, start, id, union.bytes());
    }
  }

  #addLoad({ resource, atMs, lengthMs, value }: SlotLoad): void {
    const id = this.#resourceId(resource);
    for (const stepMs of this.#steps) {
      this.#run(
        `INSERT INTO load VALUES (?, ?, ?, ?, ?, ?, 0) ON CONFLICT DO UPDATE
        SET sum = sum + excluded.sum, ms = ms + excluded.ms, peak = max(peak, excluded.peak)`,
        stepMs,
        slotStart(atMs, stepMs),
        id,
        value * lengthMs,
        lengthMs,
        value,
      );
    }
  }

  /** Longer slots become the sums of the shorter ones in them. */
  #rollUp(level: number, touched: ReadonlySet<number>): void {
    const stepMs = this.#steps[level] as number;
    const longerMs = this.#steps[level + 1];
    if (longerMs === undefined) return;
    const longer = new Set(Array.from(touched, (start) => slotStart(start, longerMs)));
    for (const start of longer) {
      for (const from of ['slots', 'activity', 'sketches', 'load'])
        this.#run(`DELETE FROM ${from} WHERE step = ? AND start = ?`, longerMs, start);
      const within = 'WHERE step = ?3 AND start >= ?2 AND start < ?2 + ?1';
      this.#run(`INSERT INTO slots SELECT ?1, ?2, sum(observed_ms), 1 FROM slots ${within} HAVING count(*) > 0`, longerMs, start, stepMs);
      this.#run(
        `INSERT INTO activity SELECT ?1, ?2, tbl, sum(changes), sum(rows), sum(bytes) FROM activity ${within} GROUP BY tbl`,
        longerMs,
        start,
        stepMs,
      );
      this.#run(
        `INSERT INTO load SELECT ?1, ?2, resource, sum(sum), sum(ms), max(peak), max(seeded) FROM load ${within} GROUP BY resource`,
        longerMs,
        start,
        stepMs,
      );
    }
    this.#rollUp(level + 1, longer);
  }

  /** By how many there are and not by how old they are: a clock that is wrong for a while costs few slots. */
  #prune(): void {
    if (this.#writes++ % PRUNE_EVERY !== 0) return;
    for (const [level, stepMs] of this.#steps.entries()) {
      this.#forget(stepMs, this.#beyond('slots', stepMs, SLOTS_KEPT[level] as number), ['slots', 'activity', 'sketches']);
      this.#forget(stepMs, this.#beyond('activity', stepMs, HISTORY_ROWS_MAX), ['slots', 'activity', 'sketches']);
      this.#forget(stepMs, this.#beyond('slots', stepMs, SKETCHES_KEPT[level] as number), ['sketches']);
      this.#forget(stepMs, this.#beyond('load', stepMs, HISTORY_ROWS_MAX / 10), ['load']);
    }
  }

  /** Where the newest rows that are kept end; null where there are no more than those. */
  #beyond(from: 'slots' | 'activity' | 'load', stepMs: number, kept: number): number | null {
    const sql = `SELECT start FROM ${from} WHERE step = ? ORDER BY start DESC LIMIT 1 OFFSET ?`;
    return this.#all<{ start: number }>(sql, stepMs, kept)[0]?.start ?? null;
  }

  #forget(stepMs: number, through: number | null, from: readonly string[]): void {
    if (through === null) return;
    for (const each of from) this.#run(`DELETE FROM ${each} WHERE step = ? AND start <= ?`, stepMs, through);
  }

  #tableId(table: TableName, atMs: number | null, changes: number): number {
    const [row] = this.#all<{ id: number }>(
      `INSERT INTO tables (name, since, undated) VALUES (?, ?, ?) ON CONFLICT DO UPDATE
       SET since = min(coalesce(since, excluded.since), coalesce(excluded.since, since)), undated = undated + excluded.undated RETURNING id`,
      table,
      atMs,
      atMs === null ? changes : 0,
    );
    return (row as { id: number }).id;
  }

  #resourceId(resource: string): number {
    const [row] = this.#all<{ id: number }>(
      'INSERT INTO resources (name) VALUES (?) ON CONFLICT DO UPDATE SET name = name RETURNING id',
      resource,
    );
    return (row as { id: number }).id;
  }

  #write(work: () => void): void {
    try {
      this.#db.exec('BEGIN IMMEDIATE');
      work();
      this.#db.exec('COMMIT');
    } catch (error) {
      if (this.#db.isOpen && this.#db.isTransaction) this.#db.exec('ROLLBACK');
      throw historyFailure(this.#path, 'written', error);
    }
  }

  #run(sql: string, ...values: SQLInputValue[]): void {
    this.#statement(sql).run(...values);
  }

  #all<Row>(sql: string, ...values: SQLInputValue[]): Row[] {
    return [...this.#each<Row>(sql, ...values)];
  }

  *#each<Row>(sql: string, ...values: SQLInputValue[]): Generator<Row> {
    try {
      for (const row of this.#statement(sql).iterate(...values)) yield row as Row;
    } catch (error) {
      throw historyFailure(this.#path, 'read', error);
    }
  }

  #statement(sql: string): StatementSync {
    let statement = this.#statements.get(sql);
    if (statement === undefined) {
      statement = this.#db.prepare(sql);
      this.#statements.set(sql, statement);
    }
    return statement;
  }
}
