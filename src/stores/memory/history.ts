import { Distinct } from '../../model/distinct.ts';
import type { TableName } from '../../model/schema.ts';
import {
  type ActivitySeries,
  type ActivityTotal,
  type Counted,
  type History,
  type KeptTurn,
  type Known,
  type LoadSeries,
  type Observation,
  SKETCHES_KEPT,
  SLOTS_KEPT,
  TURNS_KEPT,
  type Seed,
  type SlotLengths,
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

interface Cell {
  changes: number;
  bytes: number;
  distinct: number;
  rows: Distinct | null;
}

interface LoadCell {
  sum: number;
  ms: number;
  peak: number;
  seeded: boolean;
}

interface Slot {
  observedMs: number;
  seeded: boolean;
  readonly tables: Map<TableName, Cell>;
  readonly load: Map<string, LoadCell>;
}

/** Where the history's file cannot be had, this one goes on; it ends with the process. */
export function openMemoryHistory(lengths: SlotLengths): History {
  return new MemoryHistory(lengths);
}

class MemoryHistory implements History {
  readonly #steps: readonly number[];
  /** By where they begin, of each length. */
  readonly #levels: readonly Map<number, Slot>[];
  readonly #tables = new Map<TableName, { sinceMs: number; undated: number }>();
  readonly #resources = new Set<string>();
  #counted: Counted | null = null;
  #turns: KeptTurn[] = [];
  #learned: string | null = null;

  constructor(lengths: SlotLengths) {
    this.#steps = stepsOf(lengths);
    this.#levels = this.#steps.map(() => new Map());
  }

  async counted(): Promise<Counted | null> {
    return this.#counted;
  }

  async add({ counted, observed, activity, load }: Observation): Promise<void> {
    this.#counted = counted ?? this.#counted;
    for (const { table, atMs, changes } of activity) this.#meet(table, atMs, changes);
    for (const { resource } of load) this.#resources.add(resource);
    for (const [level, stepMs] of this.#steps.entries()) {
      for (const [start, ms] of observed === null ? [] : coverage(observed, stepMs)) this.#slot(level, start).observedMs += ms;
      for (const { table, atMs, changes, bytes, rows } of activity) {
        if (atMs === null) continue;
        const { tables } = this.#slot(level, slotStart(atMs, stepMs));
        const before = tables.get(table);
        const cell = before ?? { changes: 0, bytes: 0, distinct: 0, rows: new Distinct() };
        cell.changes += changes;
        cell.bytes += bytes;
        cell.rows?.merge(rows);
        cell.distinct = cell.rows?.count ?? cell.distinct + rows.count;
        tables.set(table, cell);
      }
      for (const { resource, atMs, lengthMs, value } of load) {
        const slot = this.#slot(level, slotStart(atMs, stepMs));
        const before = slot.load.get(resource) ?? { sum: 0, ms: 0, peak: value, seeded: false };
        const peak = Math.max(before.peak, value);
        slot.load.set(resource, { ...before, sum: before.sum + value * lengthMs, ms: before.ms + lengthMs, peak });
      }
    }
    this.#prune();
  }

  async seed(seed: Seed): Promise<void> {
    const { stepMs, activity, load } = seed;
    const level = this.#steps.indexOf(stepMs);
    if (level < 0) throw new RangeError(`the history has no slots of ${stepMs} ms`);
    const touched = new Set<number>();
    for (const start of seededSlots(seed, SLOTS_KEPT[level] as number)) {
      const slot = this.#slot(level, start);
      if (slot.observedMs > 0 && !slot.seeded) continue;
      slot.seeded = true;
      slot.observedMs = stepMs;
      touched.add(start);
    }
    for (const { table, atMs, changes, distinct, bytes } of activity) {
      const start = slotStart(atMs, stepMs);
      if (!touched.has(start)) continue;
      this.#meet(table, start, 0);
      this.#slot(level, start).tables.set(table, { changes, bytes, distinct, rows: null });
    }
    for (const { resource, atMs, value } of load) {
      const start = slotStart(atMs, stepMs);
      const slot = this.#slot(level, start);
      this.#resources.add(resource);
      if (slot.load.get(resource)?.seeded === false) continue;
      slot.load.set(resource, { sum: value * stepMs, ms: stepMs, peak: value, seeded: true });
      touched.add(start);
    }
    this.#rollUp(level, touched);
    this.#prune();
  }

  async known(): Promise<Known> {
    const tables = [...this.#tables].map(([table, { undated }]) => ({ table, undated }));
    return { tables: tables.toSorted((a, b) => (a.table < b.table ? -1 : 1)), resources: [...this.#resources].toSorted() };
  }

  async activity(range: SlotRange, tables?: readonly TableName[]): Promise<ReadonlyMap<TableName, ActivitySeries>> {
    const level = this.#level(range);
    const found = new Map<TableName, ActivitySeries>();
    for (const table of tables ?? this.#tables.keys()) {
      const series = { changes: emptySeries(range), distinct: emptySeries(range), bytes: emptySeries(range) };
      const { startMs, stepMs, values } = series.changes;
      let changed = false;
      for (let at = 0; at < values.length; at++) {
        const slot = level.get(startMs + at * stepMs);
        if (slot === undefined || !(startMs + at * stepMs >= slotStart(this.#tables.get(table)?.sinceMs ?? Number.NaN, stepMs))) continue;
        const cell = slot.tables.get(table);
        changed ||= cell !== undefined;
        for (const kind of ['changes', 'distinct', 'bytes'] as const) {
          series[kind].values[at] = wholeSlot(cell?.[kind] ?? 0, slot.observedMs, stepMs);
        }
      }
      if (changed || tables !== undefined) found.set(table, series);
    }
    return found;
  }

  async load(range: SlotRange): Promise<ReadonlyMap<string, LoadSeries>> {
    const level = this.#level(range);
    const found = new Map<string, LoadSeries>();
    for (const [start, { load }] of level) {
      for (const [resource, { sum, ms, peak }] of load) {
        const series = found.get(resource) ?? { mean: emptySeries(range), peak: emptySeries(range) };
        const { startMs, stepMs, values } = series.mean;
        const at = (start - startMs) / stepMs;
        if (at < 0 || at >= values.length) continue;
        found.set(resource, series);
        series.mean.values[at] = wholeLoad(sum, ms, stepMs);
        series.peak.values[at] = ms * 2 < stepMs ? Number.NaN : peak;
      }
    }
    return found;
  }

  async totals(range: SlotRange): Promise<ReadonlyMap<TableName, ActivityTotal>> {
    const found = new Map<TableName, ActivityTotal>();
    const unions = new Map<TableName, Distinct>();
    const from = slotStart(range.fromMs, range.stepMs);
    for (const [start, { tables }] of this.#level(range)) {
      if (start < from || start >= range.untilMs) continue;
      for (const [table, { changes, bytes, rows }] of tables) {
        const before = found.get(table) ?? { changes: 0, bytes: 0, distinct: 0 };
        const union = unions.get(table) ?? new Distinct();
        unions.set(table, union);
        if (rows !== null) union.merge(rows);
        const distinct = rows === null || before.distinct === null ? null : union.count;
        found.set(table, { changes: before.changes + changes, bytes: before.bytes + bytes, distinct });
      }
    }
    return found;
  }

  async keepTurn(turn: KeptTurn): Promise<void> {
    const isNewest = turn.atMs > (this.#turns.at(-1)?.atMs ?? Number.NEGATIVE_INFINITY);
    if (!isNewest) this.#turns = this.#turns.filter(({ atMs }) => atMs !== turn.atMs);
    this.#turns.push(turn);
    if (!isNewest) this.#turns.sort((a, b) => a.atMs - b.atMs);
    if (this.#turns.length > TURNS_KEPT) this.#turns.shift();
  }

  async turns(fromMs: number, limit: number): Promise<readonly KeptTurn[]> {
    return this.#turns.filter(({ atMs }) => atMs >= fromMs).slice(-limit);
  }

  async keepLearned(document: string): Promise<void> {
    checkLearned(document);
    this.#learned = document;
  }

  async learned(): Promise<string | null> {
    return this.#learned;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.resolve();
  }

  #meet(table: TableName, atMs: number | null, changes: number): void {
    const known = this.#tables.get(table) ?? { sinceMs: Number.POSITIVE_INFINITY, undated: 0 };
    if (atMs === null) known.undated += changes;
    else known.sinceMs = Math.min(known.sinceMs, atMs);
    this.#tables.set(table, known);
  }

  #level({ stepMs }: SlotRange): Map<number, Slot> {
    const level = this.#levels[this.#steps.indexOf(stepMs)];
    if (level === undefined) throw new RangeError(`the history has no slots of ${stepMs} ms`);
    return level;
  }

  #slot(level: number, start: number): Slot {
    const slots = this.#levels[level] as Map<number, Slot>;
    const slot = slots.get(start) ?? { observedMs: 0, seeded: false, tables: new Map(), load: new Map() };
    slots.set(start, slot);
    return slot;
  }

  /** Longer slots become the sums of the shorter ones in them. */
  #rollUp(level: number, touched: ReadonlySet<number>): void {
    const stepMs = this.#steps[level] as number;
    const longerMs = this.#steps[level + 1];
    if (longerMs === undefined) return;
    const longer = new Set([...touched].map((start) => slotStart(start, longerMs)));
    for (const start of longer) {
      const sum: Slot = { observedMs: 0, seeded: true, tables: new Map(), load: new Map() };
      for (let at = start; at < start + longerMs; at += stepMs) {
        const slot = this.#levels[level]?.get(at);
        if (slot !== undefined) addSlot(sum, slot);
      }
      this.#levels[level + 1]?.set(start, sum);
    }
    this.#rollUp(level + 1, longer);
  }

  #prune(): void {
    for (const [level, slots] of this.#levels.entries()) {
      const newest = [...slots.keys()].toSorted((a, b) => b - a);
      for (const start of newest.slice(SLOTS_KEPT[level])) slots.delete(start);
      for (const start of newest.slice(SKETCHES_KEPT[level])) for (const cell of slots.get(start)?.tables.values() ?? []) cell.rows = null;
    }
  }
}

function addSlot(sum: Slot, slot: Slot): void {
  sum.observedMs += slot.observedMs;
  for (const [table, { changes, bytes, distinct }] of slot.tables) {
    const cell = sum.tables.get(table) ?? { changes: 0, bytes: 0, distinct: 0, rows: null };
    sum.tables.set(table, { changes: cell.changes + changes, bytes: cell.bytes + bytes, distinct: cell.distinct + distinct, rows: null });
  }
  for (const [resource, cell] of slot.load) {
    const before = sum.load.get(resource);
    const peak = Math.max(before?.peak ?? cell.peak, cell.peak);
    const seeded = cell.seeded || before?.seeded === true;
    sum.load.set(resource, { sum: (before?.sum ?? 0) + cell.sum, ms: (before?.ms ?? 0) + cell.ms, peak, seeded });
  }
}
