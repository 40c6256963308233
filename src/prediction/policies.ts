import { plan } from './plan.ts';
import type { ComingRows, PlanSettings, WaitingRows } from './plan.ts';
import type { DirtyRows } from './dirty-rows.ts';

/** The policies that a simulation compares: who decides which rows move now. */

/** What a policy sees at the beginning of a slot. Everything in it is known by then, but for `truth`. */
export interface Moment {
  readonly nowMs: number;
  /** When the next capture is due. */
  readonly dueMs: number;
  readonly slotMs: number;
  /** Slots since the last capture. */
  readonly slot: number;
  /** Rows that may move per slot: now, and as forecast up to the capture. */
  readonly capacity: Float64Array;
  /** Changes of a row are to be in the shadow after this long; Infinity: at the capture. */
  readonly toleranceMs: number;
  readonly dirty: DirtyRows;
  lastMs(row: number): number;
  /** P(no change of the row before the capture). */
  clean(row: number): number;
  /** Rows expected to see their last change before the capture, per slot; null while nothing is known. */
  readonly coming: readonly ComingRows[] | null;
  /** What will come: only for policies that say so. */
  readonly truth: { isClean(row: number): boolean; readonly coming: readonly ComingRows[]; readonly capacity: Float64Array };
}

export interface Policy {
  /** One of the design's names. */
  readonly name: PolicyName;
  /** What tells policies of one name apart. */
  readonly settings: Readonly<Record<string, number>>;
  /** Whether it moves each change as it comes, whatever the load. */
  readonly streams: boolean;
  /** The rows that move now. */
  choose(moment: Moment): readonly number[];
}

export type PolicyName =
  | 'none' // everything is left to the capture
  | 'stream-everything' // every change moves as it comes
  | 'micro-batch' // everything that is dirty moves every so often
  | 'fifo' // oldest change first
  | 'quiet-first' // longest without a change first
  | 'predictive' // by plan
  | 'perfect-forecast' // by the same plan, were every forecast right
  | 'clairvoyant'; // moves exactly the rows that do not change again, as soon as they do not

export function none(): Policy {
  return { name: 'none', settings: {}, streams: false, choose: (moment) => forcedRows(moment).slice(0, rowsNow(moment)) };
}

export function streamEverything(): Policy {
  return { name: 'stream-everything', settings: {}, streams: true, choose: () => [] };
}

export function microBatch(everySlots: number): Policy {
  return {
    name: 'micro-batch',
    settings: { everySlots },
    streams: false,
    choose: ({ slot, dirty }) => (slot % everySlots === 0 ? dirty.list() : []),
  };
}

/** @param share of the cycle, before the capture, in which it moves anything beyond what lag tolerance forces. */
export function fifo(share = 1): Policy {
  return {
    name: 'fifo',
    settings: share === 1 ? {} : { share },
    streams: false,
    choose: (moment) => inOrder(moment, share, (row) => moment.dirty.sinceMs(row)),
  };
}

export function quietFirst(share = 1): Policy {
  return {
    name: 'quiet-first',
    settings: share === 1 ? {} : { share },
    streams: false,
    choose: (moment) => inOrder(moment, share, (row) => moment.lastMs(row)),
  };
}

/** Until a first cycle has matured there is nothing to plan by: it is quiet-first until then. */
export function predictive(settings: PlanSettings): Policy {
  const cold = quietFirst();
  return {
    name: 'predictive',
    settings: { ...settings },
    streams: false,
    choose: (moment) => (moment.coming === null ? cold.choose(moment) : planned(moment, settings, moment.coming, moment.clean, moment.capacity)),
  };
}

export function perfectForecast(settings: PlanSettings = { reserve: 1, worth: 0 }): Policy {
  return {
    name: 'perfect-forecast',
    settings: { ...settings },
    streams: false,
    choose: (moment) => {
      const { isClean, coming, capacity } = moment.truth;
      return planned(moment, settings, coming, (row) => (isClean(row) ? 1 : 0), capacity);
    },
  };
}

/** No policy can leave less: whatever will not change again moves at once, nothing else does unless its lag tolerance forces it. */
export function clairvoyant(): Policy {
  return {
    name: 'clairvoyant',
    settings: {},
    streams: false,
    choose: (moment) => {
      const forced = forcedRows(moment);
      const seen = new Set(forced);
      const final = moment.dirty.list().filter((row) => !seen.has(row) && moment.truth.isClean(row));
      return [...forced, ...ordered(final, (row) => moment.dirty.sinceMs(row), rowsNow(moment))].slice(0, rowsNow(moment));
    },
  };
}

/** Classes in which a plan puts rows: finer than this, chances of staying clean mean nothing. */
const CLEAN_CLASSES = 64;

function planned(
  moment: Moment,
  settings: PlanSettings,
  coming: readonly ComingRows[],
  clean: (row: number) => number,
  capacity: Float64Array,
): readonly number[] {
  const { dirty, nowMs, slotMs, toleranceMs } = moment;
  const slots = capacity.length;
  const classes = new Map<number, { rows: number[]; sum: number; latest: number }>();
  const chances = new Map<number, number>();
  for (const row of dirty.list()) {
    const chance = clean(row);
    chances.set(row, chance);
    const latest = Math.min(slots - 1, Math.max(0, Math.floor((dirty.sinceMs(row) + toleranceMs - nowMs) / slotMs)));
    const key = latest * (CLEAN_CLASSES + 1) + Math.round(chance * CLEAN_CLASSES);
    const known = classes.get(key);
    if (known === undefined) classes.set(key, { rows: [row], sum: chance, latest });
    else {
      known.rows.push(row);
      known.sum += chance;
    }
  }
  const groups = [...classes.values()];
  const waiting: WaitingRows[] = groups.map(({ rows, sum, latest }) => ({ element: 0, rows: rows.length, clean: sum / rows.length, latest }));
  const { now, order, forced } = plan({ ...settings, capacity, waiting, coming });
  const most = rowsNow(moment);
  const chosen: number[] = [];
  for (const [place, entry] of order.entries()) {
    const { rows } = groups[entry] as { rows: number[] };
    const count = Math.min(Math.round(now[entry] as number), most - chosen.length);
    const rank = place < forced ? (row: number) => dirty.sinceMs(row) : (row: number) => -(chances.get(row) as number);
    for (const row of ordered(rows, rank, count)) chosen.push(row);
  }
  return chosen;
}

function inOrder(moment: Moment, share: number, rank: (row: number) => number): readonly number[] {
  const most = rowsNow(moment);
  const forced = forcedRows(moment);
  const cycleSlots = moment.slot + moment.capacity.length;
  if (moment.capacity.length > share * cycleSlots) return forced.slice(0, most);
  if (forced.length === 0) return ordered(moment.dirty.list(), rank, most);
  const seen = new Set(forced);
  return [...forced, ...ordered(moment.dirty.list().filter((row) => !seen.has(row)), rank, most)].slice(0, most);
}

/** Rows that would pass their lag tolerance before the next slot begins, earliest first. */
function forcedRows({ dirty, nowMs, slotMs, toleranceMs }: Moment): number[] {
  if (toleranceMs === Infinity) return [];
  const forced = dirty.list().filter((row) => dirty.sinceMs(row) + toleranceMs < nowMs + slotMs);
  return ordered(forced, (row) => dirty.sinceMs(row), forced.length);
}

function rowsNow({ capacity }: Moment): number {
  return Math.floor(capacity[0] as number);
}

/** The `count` rows of the lowest rank, lowest first; rows of one rank by number. */
function ordered(rows: readonly number[], rank: (row: number) => number, count: number): number[] {
  if (count <= 0) return [];
  const ranked = rows.map((row) => ({ row, rank: rank(row) }));
  ranked.sort((a, b) => a.rank - b.rank || a.row - b.row);
  return ranked.slice(0, count).map(({ row }) => row);
}
