import { messageOf } from '../model/errors.ts';
import { headroom } from './headroom.ts';
import type { CapacityLimits, Headroom, ResourceOutlook } from './headroom.ts';
import { instructionsOf } from './instructions.ts';
import type { Instruction } from './instructions.ts';
import { plan } from './plan.ts';
import type { ComingRows, Plan, PlanSettings, WaitingRows } from './plan.ts';

/** One turn of the loop: what was observed and forecast → headroom → plan → instructions → the policy in force. Pure. */

export interface Observed {
  readonly nowMs: number;
  readonly dueMs: number;
  readonly slotMs: number;
  readonly resources: readonly ResourceOutlook[];
  readonly limits: CapacityLimits;
  /** Elements by index, with the lag tolerance of their policy and the most it may rise to under load. */
  readonly elements: readonly { readonly name: string; readonly toleranceMs: number; readonly toleranceMaxMs: number }[];
  /** Rows that wait, with when the oldest change of theirs came. */
  readonly waiting: readonly (Omit<WaitingRows, 'latest'> & { readonly sinceMs: number })[];
  /** Null: there is no forecast, and everything moves quiet-first. */
  readonly coming: readonly Omit<ComingRows, 'patience'>[] | null;
  readonly settings: PlanSettings;
  readonly clock: (atMs: number) => string;
}

/** What one turn hands on to the next. */
export interface Standing {
  /** How far the policy gives way to load: 0 not at all, 1 as far as it may. */
  readonly ease: number;
  /** Turns in a row in which load was well below every ceiling. */
  readonly quietTurns: number;
  readonly nowMs: number;
}

export interface Turn {
  readonly standing: Standing;
  readonly mode: 'planned' | 'quiet-first';
  /** Why it is not planned; null where it is. */
  readonly degraded: string | null;
  readonly plan: Plan | null;
  readonly instructions: readonly Instruction[];
  readonly headroom: Headroom;
  readonly policy: {
    /** Per element, in force now: between that of its policy and the most it may rise to. */
    readonly toleranceMs: readonly number[];
    /** Of the usual size of a batch. */
    readonly batchShare: number;
    /** Initial copies and validation yield before shadowing does. */
    readonly copiesYield: boolean;
  };
}

export const CALM_STANDING: Standing = { ease: 0, quietTurns: 0, nowMs: Number.NEGATIVE_INFINITY };

/** The policy gives way in four turns, and comes back a step at a time when load was low for three: it does not flap around the ceiling. */
const EASE_STEP = 0.25;
const QUIET_TURNS = 3;
/** Load below this share of its ceiling is low; between the two nothing moves. */
const LOW_SHARE = 0.85;
const BATCH_SHARE_MIN = 0.25;
/** No cycle is planned in more slots than this: what lies beyond is planned when it comes nearer. */
const SLOTS_MAX = 10_000;

/** Never throws: whatever is wrong with what it was given, shadowing goes on quiet-first, and the turn says why. */
export function turn(before: Standing, observed: Observed): Turn {
  const standing = standingOf(before, observed);
  const slots = slotsLeft(observed);
  const toleranceMs = observed.elements.map((each) => toleranceOf(each, standing.ease));
  const policy = { toleranceMs, batchShare: 1 - standing.ease * (1 - BATCH_SHARE_MIN), copiesYield: standing.ease > 0 };
  const free = headroom(observed.resources, slots, observed.limits);
  const quietFirst = (degraded: string): Turn => ({
    standing,
    mode: 'quiet-first',
    degraded,
    plan: null,
    instructions: [],
    headroom: free,
    policy,
  });
  if (observed.nowMs < before.nowMs) return quietFirst('the clock went back: nothing is planned until the next turn');
  if (observed.coming === null) return quietFirst('there is no forecast yet: no cycle of captures has been seen whole');
  if (!Number.isFinite(observed.dueMs) || observed.dueMs <= observed.nowMs) return quietFirst('no capture is ahead to plan for');
  try {
    const waiting = observed.waiting.map((each) => latestOf(each, observed, toleranceMs[each.element] ?? 0));
    const coming = observed.coming.map((each) => ({ ...each, patience: (toleranceMs[each.element] ?? 0) / observed.slotMs }));
    const planned = plan({ ...observed.settings, capacity: free.rows, waiting, coming });
    const context = {
      ...observed,
      waiting,
      elements: observed.elements.map(({ name }) => name),
      headroom: free,
      mostRows: observed.limits.most,
    };
    return {
      standing,
      mode: 'planned',
      degraded: null,
      plan: planned,
      instructions: instructionsOf(planned, context),
      headroom: free,
      policy,
    };
  } catch (error) {
    return quietFirst(`planning failed: ${messageOf(error)}`);
  }
}

/** Load above a ceiling, measured or forecast for now, raises the ease at once; only load that stayed low lowers it. */
function standingOf(before: Standing, { nowMs, resources }: Observed): Standing {
  const shares = resources.map(({ ceiling, measured, forecast }) => {
    const known = [measured, forecast[0] ?? Number.NaN].filter((load) => Number.isFinite(load));
    return known.length === 0 || ceiling <= 0 ? Number.NaN : Math.max(...known) / ceiling;
  });
  const known = shares.filter((share) => Number.isFinite(share));
  // Where no load is known at all, what was decided when it was stays in force.
  if (known.length === 0 && resources.length > 0) return { ...before, nowMs };
  const highest = Math.max(0, ...known);
  if (highest > 1) return { ease: Math.min(1, before.ease + EASE_STEP), quietTurns: 0, nowMs };
  if (highest >= LOW_SHARE) return { ease: before.ease, quietTurns: 0, nowMs };
  const quietTurns = before.quietTurns + 1;
  if (before.ease === 0 || quietTurns < QUIET_TURNS) return { ease: before.ease, quietTurns, nowMs };
  return { ease: Math.max(0, before.ease - EASE_STEP), quietTurns: 0, nowMs };
}

function toleranceOf({ toleranceMs, toleranceMaxMs }: Observed['elements'][number], ease: number): number {
  const most = Math.max(toleranceMs, toleranceMaxMs);
  // The difference of two tolerances without end is none.
  return most === toleranceMs || ease === 0 ? toleranceMs : ease === 1 ? most : toleranceMs + (most - toleranceMs) * ease;
}

function slotsLeft({ nowMs, dueMs, slotMs }: Observed): number {
  const slots = Math.ceil((dueMs - nowMs) / slotMs);
  return Number.isFinite(slots) ? Math.min(SLOTS_MAX, Math.max(1, slots)) : 1;
}

function latestOf({ sinceMs, ...each }: Observed['waiting'][number], { nowMs, slotMs }: Observed, toleranceMs: number): WaitingRows {
  return { ...each, latest: Math.floor((sinceMs + toleranceMs - nowMs) / slotMs) };
}
