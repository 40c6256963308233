import type { Headroom } from './headroom.ts';
import type { Plan, WaitingRows } from './plan.ts';

/** One order to the shadowing engine, with its reason in words a person understands. */
export type Instruction =
  | {
      /** Move these rows now, the calmest first, and keep the element ahead of others until then. */
      readonly kind: 'prioritise';
      readonly element: string;
      readonly rows: number;
      readonly untilMs: number;
      readonly because: string;
    }
  | {
      /** Move these rows now, oldest change first, whatever else waits. */
      readonly kind: 'force';
      readonly element: string;
      readonly rows: number;
      readonly because: string;
    }
  | {
      /** Move nothing of the element before then. */
      readonly kind: 'wait';
      readonly element: string;
      readonly untilMs: number;
      readonly because: string;
    }
  | {
      /** Move at most so many rows in a slot, of all elements, until then. */
      readonly kind: 'ease';
      readonly rowsPerSlot: number;
      readonly untilMs: number;
      readonly because: string;
    };

export interface PlanContext {
  readonly nowMs: number;
  readonly slotMs: number;
  readonly dueMs: number;
  readonly waiting: readonly WaitingRows[];
  readonly elements: readonly string[];
  readonly headroom: Headroom;
  /** Rows per slot that could move were the primary idle. */
  readonly mostRows: number;
  /** How people here read a time of day. */
  readonly clock: (atMs: number) => string;
}

/** In the order in which they are to be obeyed: ease, what is forced, what to prioritise (largest residual first), what waits. */
export function instructionsOf(plan: Plan, context: PlanContext): Instruction[] {
  const byElement = new Map<number, Shares>();
  const isForced = new Set(plan.order.slice(0, plan.forced));
  for (const [entry, { element, rows, clean }] of context.waiting.entries()) {
    const shares = byElement.get(element) ?? { waiting: 0, forced: 0, chosen: 0, clean: 0 };
    byElement.set(element, shares);
    const now = plan.now[entry] as number;
    shares.waiting += rows;
    shares.clean += rows * clean;
    if (isForced.has(entry)) shares.forced += now;
    else shares.chosen += now;
  }
  const forced: Instruction[] = [];
  const prioritised: (Instruction & { readonly left: number })[] = [];
  const waiting: Instruction[] = [];
  for (const [index, shares] of [...byElement].toSorted(([a], [b]) => a - b)) {
    const element = context.elements[index] ?? String(index);
    const left = plan.residualByElement.get(index) ?? 0;
    const slots = plan.byElement.get(index);
    if (round(shares.forced) > 0) forced.push(forceOf(element, round(shares.forced)));
    if (round(shares.chosen) > 0) prioritised.push({ ...prioritiseOf(element, shares, left, slots, context), left });
    else if (round(shares.waiting - shares.forced) > 0) waiting.push(waitOf(element, shares, slots, context));
  }
  const ranked = prioritised.toSorted((a, b) => b.left - a.left).map(({ left: _left, ...instruction }): Instruction => instruction);
  return [...easeOf(context), ...forced, ...ranked, ...waiting];
}

interface Shares {
  waiting: number;
  forced: number;
  chosen: number;
  /** Of those that wait: how many are expected to stay as they are. */
  clean: number;
}

/** Where there is room for all that waits, there is nothing to be eased. */
function easeOf({ waiting, headroom, mostRows, nowMs, slotMs, clock }: PlanContext): Instruction[] {
  const bound = headroom.boundBy[0];
  const rows = headroom.rows[0];
  if (bound === undefined || bound === null || rows === undefined || rows >= mostRows) return [];
  if (rows >= waiting.reduce((sum, each) => sum + each.rows, 0)) return [];
  let slot = 1;
  while (slot < headroom.rows.length && headroom.boundBy[slot] === bound && (headroom.rows[slot] as number) < mostRows) slot++;
  const untilMs = nowMs + slot * slotMs;
  const because = `${bound} on the primary leaves room for ${amount(rows)} of ${amount(mostRows)} rows a slot, and is not forecast to leave more before ${clock(untilMs)}`;
  return [{ kind: 'ease', rowsPerSlot: rows, untilMs, because }];
}

function forceOf(element: string, rows: number): Instruction {
  const because = `${amount(rows)} of its rows have waited as long as its lag tolerance allows, or could not all move later`;
  return { kind: 'force', element, rows, because };
}

function prioritiseOf(element: string, shares: Shares, left: number, slots: Float64Array | undefined, context: PlanContext): Instruction {
  const { nowMs, slotMs, dueMs, clock } = context;
  const idle = slots?.findIndex((rows, slot) => slot > 0 && rows <= 0) ?? 1;
  const untilMs = idle < 0 ? dueMs : Math.min(dueMs, nowMs + idle * slotMs);
  const chance = Math.round((100 * shares.clean) / shares.waiting);
  const expected = round(left) > 0 ? ` ${amount(left)} of its rows, with those yet to change, are expected to be left even so.` : '';
  const because = `later slots have no room for all ${amount(shares.waiting)} rows that wait before the capture at ${clock(dueMs)}, and ${chance} % of them are likely to stay as they are.${expected}`;
  return { kind: 'prioritise', element, rows: round(shares.chosen), untilMs, because };
}

function waitOf(element: string, shares: Shares, slots: Float64Array | undefined, context: PlanContext): Instruction {
  const { nowMs, slotMs, dueMs, clock } = context;
  const first = slots === undefined ? -1 : slots.findIndex((rows, slot) => slot > 0 && rows > 0);
  const untilMs = first < 0 ? dueMs : nowMs + first * slotMs;
  const chance = Math.round((100 * (shares.waiting - shares.clean)) / shares.waiting);
  const because =
    first < 0
      ? `its rows are so likely to change again before ${clock(dueMs)} that the capture had better move them`
      : `${chance} % of its ${amount(shares.waiting)} rows are likely to change again, and there is room for the rest after ${clock(untilMs)}`;
  return { kind: 'wait', element, untilMs, because };
}

function round(rows: number): number {
  return Math.round(rows);
}

function amount(rows: number): string {
  return round(rows).toLocaleString('en-US');
}
