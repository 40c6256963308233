import { messageOf } from '../model/errors.ts';
import { headroom } from './headroom.ts';
import type { CapacityLimits, Headroom, ResourceOutlook } from './headroom.ts';
import { instructionsOf } from './instructions.ts';
import type { Instruction } from './instructions.ts';
import { plan } from './plan.ts';
import type { ComingRows, Plan, PlanSettings, WaitingRows } from './plan.ts';

/**
 * One turn of the loop: what was measured → the policy in force → headroom → plan → instructions. Pure. The policy comes first, because rows are
 * grouped by when their lag tolerance ends, and the tolerance in force is the policy's.
 */

/** How busy the primary is, as far as it decides how far the policy gives way. */
export interface Busyness {
  readonly nowMs: number;
  readonly resources: readonly ResourceOutlook[];
}

export interface Tolerance {
  /** The lag tolerance of the element's policy, and the most it may rise to under load. */
  readonly toleranceMs: number;
  readonly toleranceMaxMs: number;
}

export interface Observed extends Busyness {
  readonly dueMs: number;
  readonly slotMs: number;
  readonly limits: CapacityLimits;
  /** Names of elements by index. */
  readonly elements: readonly string[];
  /** Rows that wait, grouped under the tolerances in force. */
  readonly waiting: readonly WaitingRows[];
  /** Null: there is no forecast, and everything moves quiet-first. */
  readonly coming: readonly ComingRows[] | null;
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

/** The policy in force for a turn. */
export interface InForce {
  readonly standing: Standing;
  /** The clock went back since the turn before: nothing can be planned. */
  readonly wentBack: boolean;
  /** Per element: between that of its policy and the most it may rise to. */
  readonly toleranceMs: readonly number[];
  /** Of the usual size of a batch. */
  readonly batchShare: number;
  /** Initial copies and validation yield before shadowing does. */
  readonly copiesYield: boolean;
}

export interface Turn {
  readonly mode: 'planned' | 'quiet-first';
  /** Why it is not planned; null where it is. */
  readonly degraded: string | null;
  /** Planning went wrong, which is no more than a reason to be told. */
  readonly failed: boolean;
  readonly plan: Plan | null;
  readonly instructions: readonly Instruction[];
  readonly headroom: Headroom;
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

export function inForce(before: Standing, busyness: Busyness, elements: readonly Tolerance[]): InForce {
  const standing = standingOf(before, busyness);
  return {
    standing,
    wentBack: busyness.nowMs < before.nowMs,
    toleranceMs: elements.map((each) => toleranceOf(each, standing.ease)),
    batchShare: 1 - standing.ease * (1 - BATCH_SHARE_MIN),
    copiesYield: standing.ease > 0,
  };
}

/** Never throws: whatever is wrong with what it was given, shadowing goes on quiet-first, and the turn says why. */
export function turn({ wentBack }: InForce, observed: Observed): Turn {
  const free = headroom(observed.resources, slotsLeft(observed), observed.limits);
  const quietFirst = (degraded: string, failed = false): Turn => ({
    mode: 'quiet-first',
    degraded,
    failed,
    plan: null,
    instructions: [],
    headroom: free,
  });
  if (wentBack) return quietFirst('the clock went back: nothing is planned until the next turn');
  if (observed.coming === null) return quietFirst('there is no forecast yet: what changes so long before a capture was not seen yet');
  if (!Number.isFinite(observed.dueMs) || observed.dueMs <= observed.nowMs) return quietFirst('no capture is ahead to plan for');
  try {
    const { settings, waiting, coming } = observed;
    const planned = plan({ ...settings, capacity: free.rows, waiting, coming });
    const context = { ...observed, headroom: free, mostRows: observed.limits.most };
    return {
      mode: 'planned',
      degraded: null,
      failed: false,
      plan: planned,
      instructions: instructionsOf(planned, context),
      headroom: free,
    };
  } catch (error) {
    return quietFirst(`planning failed: ${messageOf(error)}`, true);
  }
}

/** Load above a ceiling, measured or forecast for now, raises the ease at once; only load that stayed low lowers it. */
function standingOf(before: Standing, { nowMs, resources }: Busyness): Standing {
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

function toleranceOf({ toleranceMs, toleranceMaxMs }: Tolerance, ease: number): number {
  const most = Math.max(toleranceMs, toleranceMaxMs);
  // The difference of two tolerances without end is none.
  return most === toleranceMs || ease === 0 ? toleranceMs : ease === 1 ? most : toleranceMs + (most - toleranceMs) * ease;
}

/** Up to the capture; 1 where none is ahead. */
export function slotsLeft({ nowMs, dueMs, slotMs }: Pick<Observed, 'nowMs' | 'dueMs' | 'slotMs'>): number {
  const slots = Math.ceil((dueMs - nowMs) / slotMs);
  return Number.isFinite(slots) ? Math.min(SLOTS_MAX, Math.max(1, slots)) : 1;
}
