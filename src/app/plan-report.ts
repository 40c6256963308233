import type { Instruction } from '../prediction/instructions.ts';
import type { KeptTurn } from '../tracking/history.ts';
import type { Config, PredictionPolicy } from './config.ts';
import { policyOf } from './due-times.ts';
import type { Foresight } from './foresight.ts';
import type { TurnDone } from './steering.ts';
import { openHistory } from './stores.ts';

/** What `foreshadow plan --json` prints: what is to move until the next capture, and why. */
export interface PlanReport {
  /** Whether a `start` runs: without one nothing is planned, and all below is empty. */
  readonly running: boolean;
  readonly policy: PredictionPolicy;
  /** The last turn; null before there was one, and where everything moves as it comes. */
  readonly turn: TurnReport | null;
  readonly nextCapture: { readonly at: string; readonly because: string | null } | null;
  readonly tables: readonly {
    readonly table: string;
    readonly waitingRows: number;
    /** The lag tolerance in force: it rises under load, up to the policy's limit. */
    readonly toleranceMs: number;
  }[];
  /** Slots from the turn to the capture; null where nothing is planned. */
  readonly timeline: {
    readonly from: string;
    readonly slotMs: number;
    /** Rows that are to move in each slot, and for how many there is room. */
    readonly rows: readonly number[];
    readonly room: readonly number[];
  } | null;
  readonly load: readonly {
    readonly resource: string;
    readonly ceiling: number;
    readonly now: number | null;
    /** Of each slot of the timeline, what is exceeded one time in ten. */
    readonly upper: readonly (number | null)[];
    /** What moving a row in a slot was seen to add to it. */
    readonly costPerRow: number;
  }[];
  /** Why prediction does not do all it could. */
  readonly troubles: readonly string[];
}

/** One turn of the loop: what it did and why. */
export interface TurnReport {
  readonly at: string;
  readonly mode: 'planned' | 'quiet-first';
  /** Why it was not planned; null where it was, or where policy wants none. */
  readonly degraded: string | null;
  /** How far the policy gave way to load, 0 to 1; with that the size of batches, and whether copies and validation yield. */
  readonly ease: number;
  readonly batchShare: number;
  readonly copiesYield: boolean;
  readonly dueAt: string | null;
  readonly waitingRows: number;
  readonly waitingBytes: number;
  /** Written to the shadow by what was called for in it. */
  readonly movedRows: number;
  readonly movedBytes: number;
  /** Rows there was room for in this slot, and the resource that left no more; null: none did. */
  readonly roomRows: number;
  readonly boundBy: string | null;
  /** Rows expected to be left when the capture is due; null: nothing was planned. */
  readonly residualRows: number | null;
  readonly instructions: readonly InstructionReport[];
}

export interface InstructionReport {
  readonly kind: Instruction['kind'];
  /** Null: of all tables. */
  readonly table: string | null;
  readonly rows: number | null;
  readonly until: string | null;
  readonly because: string;
}

/** Instructions of so many tables are kept: of those that matter most. */
const INSTRUCTIONS_KEPT = 20;
/** Slots shown of a plan: a day of minutes. */
const SLOTS_SHOWN = 1440;

export function planReport(config: Config, foresight: Foresight | null): PlanReport {
  const done = foresight?.steering?.last ?? null;
  const next = foresight?.due.next(Date.now()) ?? null;
  return {
    running: foresight !== null,
    policy: foresight?.policy ?? policyOf(config),
    turn: done === null ? null : turnReport(done),
    nextCapture: next === null ? null : { at: iso(next.atMs), because: next.because },
    tables: done === null ? [] : tablesOf(done),
    timeline: done === null || foresight?.steering == null ? null : timelineOf(done, foresight.steering.slotMs),
    load: (done?.resources ?? []).map(({ name, ceiling, measured, forecast, costPerRow }) => ({
      resource: name,
      ceiling,
      now: rounded(measured),
      upper: Array.from(forecast).slice(0, SLOTS_SHOWN).map(rounded),
      costPerRow,
    })),
    troubles: foresight?.troubles ?? [],
  };
}

function tablesOf({ tables, waiting, toleranceMs }: TurnDone): PlanReport['tables'] {
  return tables.map((table, index) => ({
    table,
    waitingRows: waiting.byTable.get(table) ?? 0,
    toleranceMs: Math.round(toleranceMs[index] ?? 0),
  }));
}

function timelineOf({ turn, atMs }: TurnDone, slotMs: number): PlanReport['timeline'] {
  if (turn.plan === null) return null;
  const shown = (rows: Float64Array): number[] => Array.from(rows.subarray(0, SLOTS_SHOWN), (each) => Math.round(each * 10) / 10);
  return { from: iso(atMs), slotMs, rows: shown(turn.plan.moved), room: shown(turn.headroom.rows) };
}

function turnReport({ atMs, dueAtMs, turn, inForce, waiting, room, moved, toWall }: TurnDone): TurnReport {
  return {
    at: iso(atMs),
    mode: turn.mode,
    degraded: turn.degraded,
    ease: inForce.standing.ease,
    batchShare: inForce.batchShare,
    copiesYield: inForce.copiesYield,
    dueAt: dueAtMs === null ? null : iso(dueAtMs),
    waitingRows: waiting.rows,
    waitingBytes: waiting.bytes,
    movedRows: moved.rows,
    movedBytes: moved.bytes,
    roomRows: room,
    boundBy: turn.headroom.boundBy[0] ?? null,
    residualRows: turn.plan === null ? null : Math.round(turn.plan.residual),
    instructions: turn.instructions.slice(0, INSTRUCTIONS_KEPT).map((each) => instructionReport(each, toWall)),
  };
}

function instructionReport(instruction: Instruction, toWall: (atMs: number) => number): InstructionReport {
  const { kind, because } = instruction;
  return {
    kind,
    table: 'element' in instruction ? instruction.element : null,
    rows: 'rowsPerSlot' in instruction ? Math.floor(instruction.rowsPerSlot) : 'rows' in instruction ? instruction.rows : null,
    until: 'untilMs' in instruction ? iso(toWall(instruction.untilMs)) : null,
    because,
  };
}

export function keptTurn(done: TurnDone): KeptTurn {
  return { atMs: done.atMs, document: JSON.stringify(turnReport(done)) };
}

/** What the loop did and why, as it was kept: the newest turns from a moment on. Reads the file, beside whatever writes it. */
export async function pastTurns(config: Config, fromMs: number, limit: number): Promise<TurnReport[]> {
  await using history = await openHistory(config);
  return (await history.turns(fromMs, limit)).map(({ document }) => JSON.parse(document) as TurnReport);
}

function iso(atMs: number): string {
  return new Date(atMs).toISOString();
}

function rounded(value: number): number | null {
  return Number.isFinite(value) ? Math.round(value * 1000) / 1000 : null;
}
