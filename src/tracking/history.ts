import type { Distinct } from '../model/distinct.ts';
import type { Position } from '../model/position.ts';
import type { TableName } from '../model/schema.ts';

/**
 * What prediction learns from: activity per table and load per resource, in slots of three lengths at once: a minute, an hour and a
 * day, where a day is as long as the data set's cycle is said to be. What is added goes into the slots of all three, so they always add up.
 *
 * - Time is a label, by the primary's clock; no order is taken from it. A clock that goes back adds to slots that were there before.
 * - A slot that was not observed is a gap and never zero; a table that is idle in one that was observed has zero.
 * - Durability: what `add` resolved for survives a crash of the process; each `add` is whole or not there.
 * - Bounds: of each length the newest slots are kept, and as many rows as `HISTORY_ROWS_MAX`.
 * - Concurrency: one writer; others may read the file beside it.
 */
export interface History extends AsyncDisposable {
  /** Where counting stands; null where nothing was counted. */
  counted(): Promise<Counted | null>;

  add(observation: Observation): Promise<void>;

  /**
   * Puts in what was observed before, or elsewhere. Slots that were observed here stay as they are; the others it names become what it
   * says, so that giving it twice changes nothing. Longer slots become the sums of those in them.
   */
  seed(seed: Seed): Promise<void>;

  /** In the order of their names. */
  known(): Promise<Known>;

  /** Of every table that changed in slots that begin in [`fromMs`, `untilMs`), or of those asked for, changed or not. */
  activity(range: SlotRange, tables?: readonly TableName[]): Promise<ReadonlyMap<TableName, ActivitySeries>>;

  /** Of every resource that was sampled in that range. */
  load(range: SlotRange): Promise<ReadonlyMap<string, LoadSeries>>;

  /** What was counted in slots that begin in a range, as it is: not scaled, and without those of a time nobody knows. */
  totals(range: SlotRange): Promise<ReadonlyMap<TableName, ActivityTotal>>;

  /** Keeps what the loop did in a turn, and why: the newest `TURNS_KEPT`. */
  keepTurn(turn: KeptTurn): Promise<void>;

  /** The newest turns from a moment on, at most so many, in the order of time. */
  turns(fromMs: number, limit: number): Promise<readonly KeptTurn[]>;

  /** Keeps what was learned of rows in place of what was before. @throws RangeError for more than `LEARNED_LENGTH_MAX`. */
  keepLearned(document: string): Promise<void>;

  /** As it was kept; null: nothing was. */
  learned(): Promise<string | null>;
}

/** In words of who keeps it: a document of some hundred bytes. */
export interface KeptTurn {
  readonly atMs: number;
  readonly document: string;
}

/** As many as minutes are kept. */
export const TURNS_KEPT = 8 * 1440;

/** Characters of what was learned of rows, in words of who keeps it. */
export const LEARNED_LENGTH_MAX = 8 << 20;

/** @throws RangeError for a document that is too large to be kept. */
export function checkLearned(document: string): void {
  if (document.length > LEARNED_LENGTH_MAX)
    throw new RangeError(`what was learned takes ${document.length} characters, too many to be kept`);
}

export interface SlotLengths {
  readonly minuteMs: number;
  readonly hourMs: number;
  readonly dayMs: number;
}

/** @throws RangeError for a day that cannot be cut into 1440 minutes of whole milliseconds. */
export function slotLengths(dayMs: number): SlotLengths {
  if (!Number.isInteger(dayMs / 1440) || dayMs < 1440) throw new RangeError(`a day of ${dayMs} ms has no whole minutes`);
  return { minuteMs: dayMs / 1440, hourMs: dayMs / 24, dayMs };
}

export interface SlotRange {
  /** One of the history's three lengths. */
  readonly stepMs: number;
  /** Rounded down to a slot's beginning. */
  readonly fromMs: number;
  readonly untilMs: number;
}

/** Regular series: one number for each slot, NaN for gaps. */
export interface SlotSeries {
  readonly startMs: number;
  readonly stepMs: number;
  readonly values: Float64Array;
}

/**
 * Of a slot that was observed by half or more: what a whole slot would hold at that pace. Of one observed by less: a gap. So are the slots
 * before a table was first seen to change: it may not have been there.
 */
export interface ActivitySeries {
  readonly changes: SlotSeries;
  /** Different rows changed, each counted once in a slot of whatever length. */
  readonly distinct: SlotSeries;
  readonly bytes: SlotSeries;
}

export interface ActivityTotal {
  readonly changes: number;
  readonly bytes: number;
  /** Different rows over the whole range, by their sketches; null where one is no longer kept, or never was. */
  readonly distinct: number | null;
}

export interface LoadSeries {
  readonly mean: SlotSeries;
  readonly peak: SlotSeries;
}

export interface Known {
  /** `undated` changes are of a time nobody knows: they were made while nothing ran, on a primary that does not tell when. */
  readonly tables: readonly { readonly table: TableName; readonly undated: number }[];
  readonly resources: readonly string[];
}

/** Everything at or below was counted, of the journal of this id; and observed until `observedToMs`. */
export interface Counted {
  readonly journal: string;
  readonly at: Position;
  readonly observedToMs: number | null;
}

export interface Observation {
  /** Null: nothing was counted with it. */
  readonly counted: Counted | null;
  /** A stretch of time in which tracking saw everything. */
  readonly observed: { readonly fromMs: number; readonly untilMs: number } | null;
  readonly activity: readonly SlotActivity[];
  readonly load: readonly SlotLoad[];
}

/** Activity of one table within one minute. */
export interface SlotActivity {
  readonly table: TableName;
  /** Any moment in it; null: nobody knows when it was, and it is only counted in all (`Known`). */
  readonly atMs: number | null;
  readonly changes: number;
  readonly bytes: number;
  readonly rows: Distinct;
}

/** How busy a resource was on average over a stretch of time that began at `atMs`. */
export interface SlotLoad {
  readonly resource: string;
  readonly atMs: number;
  readonly lengthMs: number;
  readonly value: number;
}

export interface Seed {
  /** One of the history's three lengths. Roll-ups count the rows of its slots as different ones: nothing better is known of them. */
  readonly stepMs: number;
  /** Where every slot counts as observed; null: only those in which a table is named. */
  readonly observed: { readonly fromMs: number; readonly untilMs: number } | null;
  readonly activity: readonly SeedActivity[];
  readonly load: readonly { readonly resource: string; readonly atMs: number; readonly value: number }[];
}

export interface SeedActivity {
  readonly table: TableName;
  readonly atMs: number;
  readonly changes: number;
  readonly distinct: number;
  readonly bytes: number;
}

/** Of each length, slots kept: eight days of minutes, fourteen weeks of hours, five years of days. */
export const SLOTS_KEPT = [8 * 1440, 14 * 7 * 24, 5 * 366] as const;

/** Of each length, slots whose sketches of distinct rows are kept: two hours, eight days, two days. */
export const SKETCHES_KEPT = [120, 8 * 24, 2] as const;

/** Rows of activity kept of each length; a row takes some 40 bytes. */
export const HISTORY_ROWS_MAX = 1_000_000;

/** A longer stretch can only be a wrong clock. */
const STRETCH_DAYS_MAX = 30;

export function slotStart(atMs: number, stepMs: number): number {
  return Math.floor(atMs / stepMs) * stepMs;
}

/** How much of each slot a stretch of time covers; nothing where it is longer than any restart takes, or ends before it begins. */
export function coverage(
  { fromMs, untilMs }: { readonly fromMs: number; readonly untilMs: number },
  stepMs: number,
): [startMs: number, ms: number][] {
  const slots: [number, number][] = [];
  if (!(untilMs - fromMs <= STRETCH_DAYS_MAX * 86_400_000)) return slots;
  for (let start = slotStart(fromMs, stepMs); start < untilMs; start += stepMs) {
    slots.push([start, Math.min(untilMs, start + stepMs) - Math.max(fromMs, start)]);
  }
  return slots;
}

/** Where the slots of a seed begin that count as observed, of which no more than are kept are of use. */
export function seededSlots({ observed, stepMs, activity }: Seed, kept: number): Set<number> {
  const starts = new Set<number>(activity.map(({ atMs }) => slotStart(atMs, stepMs)));
  if (observed === null) return starts;
  for (
    let start = Math.max(slotStart(observed.fromMs, stepMs), slotStart(observed.untilMs, stepMs) - kept * stepMs);
    start < observed.untilMs;
    start += stepMs
  ) {
    starts.add(start);
  }
  return starts;
}

/** The lengths of slots, shortest first. */
export function stepsOf({ minuteMs, hourMs, dayMs }: SlotLengths): readonly [number, number, number] {
  return [minuteMs, hourMs, dayMs];
}

/** A grid of slots that are all gaps. @throws RangeError for more slots than are ever kept. */
export function emptySeries({ stepMs, fromMs, untilMs }: SlotRange): SlotSeries {
  const startMs = slotStart(fromMs, stepMs);
  const slots = Math.max(0, Math.ceil((untilMs - startMs) / stepMs));
  if (!(slots <= SLOTS_MAX)) throw new RangeError(`a range of ${slots} slots is longer than any history`);
  return { startMs, stepMs, values: new Float64Array(slots).fill(Number.NaN) };
}

const SLOTS_MAX = 4_000_000;

/** What a slot of which `observedMs` were seen would hold as a whole, by `ActivitySeries`; NaN for a gap. */
export function wholeSlot(value: number, observedMs: number, stepMs: number): number {
  const share = Math.min(1, observedMs / stepMs);
  return share < 0.5 ? Number.NaN : value / share;
}

/** The average of a slot of which `ms` were sampled, the values' sum over time being `sum`; NaN for a gap. */
export function wholeLoad(sum: number, ms: number, stepMs: number): number {
  return ms * 2 < stepMs ? Number.NaN : sum / ms;
}
