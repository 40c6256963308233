import { forcedFirst, forcedRows, ordered, RowGroups } from './choosing.ts';
import type { Waiting } from './choosing.ts';
import { plan } from './plan.ts';
import type { ComingRows, PlanSettings } from './plan.ts';

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
  readonly dirty: Waiting;
  lastMs(row: number): number;
  /** P(no change of the row before the capture). */
  clean(row: number): number;
  /** P(no change of the row soon: in half an hour, or before the capture if that is sooner). */
  calm(row: number): number;
  /** Rows expected to see their last change before the capture, per slot; null while nothing is known. */
  readonly coming: Float64Array | null;
  /** What will come: only for policies that say so. */
  readonly truth: { isClean(row: number): boolean; readonly coming: Float64Array; readonly capacity: Float64Array };
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
  return { name: 'none', settings: {}, streams: false, choose: (moment) => forcedNow(moment).slice(0, rowsNow(moment)) };
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
    choose: (moment) => (moment.coming === null ? cold.choose(moment) : planned(moment, settings, moment.coming, moment, moment.capacity)),
  };
}

export function perfectForecast(settings: PlanSettings = { reserve: 1, worth: 0 }): Policy {
  return {
    name: 'perfect-forecast',
    settings: { ...settings },
    streams: false,
    choose: (moment) => {
      const { truth } = moment;
      const known = (row: number): number => (truth.isClean(row) ? 1 : 0);
      return planned(moment, settings, truth.coming, { clean: known, calm: known }, truth.capacity);
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
      const forced = forcedNow(moment);
      const seen = new Set(forced);
      const final = moment.dirty.list().filter((row) => !seen.has(row) && moment.truth.isClean(row));
      return [...forced, ...ordered(final, (row) => moment.dirty.sinceMs(row), rowsNow(moment))].slice(0, rowsNow(moment));
    },
  };
}

/** What is worth comparing: every policy, the reactive ones in some variants, the predictive one in all these settings. */
export function everyPolicy(reserves: readonly number[], worths: readonly number[]): Policy[] {
  return [
    none(),
    streamEverything(),
    ...[3, 12].map(microBatch),
    fifo(),
    quietFirst(),
    ...[0.25, 0.5, 0.75].map(quietFirst),
    perfectForecast(),
    clairvoyant(),
    ...reserves.flatMap((reserve) => worths.map((worth) => predictive({ reserve, worth }))),
  ];
}

/**
 * The same policy, with a lag tolerance of its own that is kept whatever the capacity: as in earnest, where capacity is for what moves ahead of
 * that.
 */
export function tolerating(policy: Policy, toleranceMs: number): Policy {
  const settings = { ...policy.settings, toleranceMs };
  return {
    ...policy,
    settings,
    choose: (given) => {
      const moment = { ...given, toleranceMs };
      const least = forcedNow(moment).length;
      return policy.choose(least > rowsNow(moment) ? { ...moment, capacity: moment.capacity.with(0, least) } : moment);
    },
  };
}

/** A simulation does not tell elements apart. */
const ALL: ReadonlyMap<number, number> = new Map([[0, 1]]);

function planned(
  moment: Moment,
  settings: PlanSettings,
  comingRows: Float64Array,
  { clean, calm }: Pick<Moment, 'clean' | 'calm'>,
  capacity: Float64Array,
): readonly number[] {
  const { dirty, nowMs, slotMs, toleranceMs } = moment;
  const groups = new RowGroups({ nowMs, slotMs, slots: capacity.length, toleranceMs: () => toleranceMs });
  for (const row of dirty.list()) groups.add(row, { element: 0, sinceMs: dirty.sinceMs(row), clean: clean(row), calm: calm(row) });
  const coming: ComingRows[] = [{ shares: ALL, rows: comingRows, patience: Math.floor(toleranceMs / slotMs) }];
  const made = plan({ ...settings, capacity, waiting: groups.waiting, coming });
  return groups.chosen(made, rowsNow(moment), { sinceMs: (row) => dirty.sinceMs(row), calm });
}

function inOrder(moment: Moment, share: number, rank: (row: number) => number): readonly number[] {
  const most = rowsNow(moment);
  const forced = forcedNow(moment);
  const cycleSlots = moment.slot + moment.capacity.length;
  if (moment.capacity.length > share * cycleSlots) return forced.slice(0, most);
  return forcedFirst(moment.dirty, forced, rank, most);
}

function forcedNow({ dirty, nowMs, slotMs, toleranceMs }: Moment): number[] {
  return toleranceMs === Infinity ? [] : forcedRows(dirty, nowMs + slotMs, () => toleranceMs);
}

function rowsNow({ capacity }: Moment): number {
  return Math.floor(capacity[0] as number);
}
