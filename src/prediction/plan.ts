/**
 * What moves when, up to the next capture. Slots of time, each with a capacity; rows that wait, in classes of equal prospects; rows expected
 * to come. Everything not moved when the capture is due is its residual.
 *
 * The principle: work is done as late as capacity allows, because a row that changes again has been moved for nothing. So slots are filled from
 * the last one back, each with the work that can least be done earlier: rows that are yet to come, then the hottest of those that wait.
 * What is left over for the slot that is now must move now, the coldest first. Rows that reach their lag tolerance move then, hot or not,
 * earliest deadline first. With slack nothing is left over, and everything waits and coalesces.
 */

/** Rows of one element that wait and have the same prospects. */
export interface WaitingRows {
  /** Which element, as an index into whatever list the caller keeps. */
  readonly element: number;
  readonly rows: number;
  /** P(no change before the capture), 0 to 1. */
  readonly clean: number;
  /**
   * P(no change soon), 0 to 1: what decides who goes first. A row that will change within the hour is worth waiting for, because waiting tells;
   * one that will change within the day is not, because nothing is learned of it by the time that capacity is dear.
   */
  readonly calm: number;
  /** The last slot in which they may move to keep their lag tolerance; at or beyond the last slot: the capture itself comes first. */
  readonly latest: number;
}

/** Rows of one element whose last change before the capture is yet to come. */
export interface ComingRows {
  readonly element: number;
  /** Per slot. Those that come in a slot can move from the next one on. */
  readonly rows: ArrayLike<number>;
  /** Slots that the lag tolerance lets them wait; Infinity: until the capture. */
  readonly patience: number;
}

export interface PlanSettings {
  /** How much more to expect than forecast, ≥ 1: what arrives comes in bursts, and what was moved may have to move again. */
  readonly reserve: number;
  /** Rows less likely than this to stay clean are not moved before they must be. 0 moves any, when capacity would else be lost. */
  readonly worth: number;
}

export interface PlanRequest extends PlanSettings {
  /** Rows per slot; the first is now, the last ends when the capture is due. */
  readonly capacity: ArrayLike<number>;
  readonly waiting: readonly WaitingRows[];
  readonly coming: readonly ComingRows[];
}

export interface Plan {
  /** Rows to move now, per entry of `waiting`. In sum within the capacity of now. */
  readonly now: Float64Array;
  /** In what order: entries of `waiting`, those forced by lag tolerance first. */
  readonly order: readonly number[];
  /** How many entries at the head of `order` are forced by lag tolerance. */
  readonly forced: number;
  /** Rows per slot that the plan moves, of all elements. */
  readonly moved: Float64Array;
  /** Per element: rows per slot. */
  readonly byElement: ReadonlyMap<number, Float64Array>;
  /** Rows left for the capture, under the plan's own forecast: in all, and per element. */
  readonly residual: number;
  readonly residualByElement: ReadonlyMap<number, number>;
}

/** Less than this many rows is nothing. */
const NOTHING = 1e-9;

interface Job {
  readonly element: number;
  /** Index into `waiting`, or -1: yet to come. */
  readonly entry: number;
  readonly release: number;
  readonly latest: number;
  readonly clean: number;
  readonly calm: number;
  /** Whether it has to move by its lag tolerance, before the capture. */
  readonly isForced: boolean;
  /** Rows not assigned to a slot. */
  left: number;
}

/** Deterministic: the same request gives the same plan. Numbers that are no finite number count as 0. */
export function plan(request: PlanRequest): Plan {
  const slots = request.capacity.length;
  const waiting = request.waiting.map((each, entry) => waitingJob(each, entry, slots));
  const coming = request.coming.flatMap((each) => comingJobs(each, slots));
  const byElement = new Map<number, Float64Array>();
  const moved = new Float64Array(slots);
  const note = ({ element }: Job, slot: number, rows: number): void => {
    moved[slot] = (moved[slot] as number) + rows;
    const own = byElement.get(element) ?? new Float64Array(slots);
    own[slot] = (own[slot] as number) + rows;
    byElement.set(element, own);
  };
  if (slots > 0) fillBackwards(waiting, coming, request, note);
  const now = slots > 0 ? moveNow(waiting, request, note) : { now: new Float64Array(waiting.length), order: [], forced: 0 };
  const residualByElement = new Map<number, number>();
  let residual = 0;
  for (const { element, left } of [...waiting, ...coming]) {
    if (left <= NOTHING) continue;
    residual += left;
    residualByElement.set(element, (residualByElement.get(element) ?? 0) + left);
  }
  return { ...now, moved, byElement, residual, residualByElement };
}

type Note = (job: Job, slot: number, rows: number) => void;

/** Rows forced by their lag tolerance move whatever becomes of them; of others, those count that will still be clean at the capture. */
function waitingJob({ element, rows, clean, calm, latest }: WaitingRows, entry: number, slots: number): Job {
  const chance = Math.min(1, Math.max(0, finite(clean)));
  const last = slots - 1;
  const isForced = latest < last;
  return {
    element,
    entry,
    release: 0,
    latest: isForced ? Math.max(0, Math.floor(latest)) : last,
    clean: chance,
    calm: finite(calm),
    isForced,
    left: Math.max(0, finite(rows)) * (isForced ? 1 : chance),
  };
}

function comingJobs({ element, rows, patience }: ComingRows, slots: number): Job[] {
  return Array.from({ length: slots }, (_, slot) => ({
    element,
    entry: -1,
    release: slot + 1,
    latest: Math.min(slots - 1, slot + 1 + Math.max(0, Math.floor(patience))),
    clean: 1,
    calm: 0,
    isForced: false,
    left: Math.max(0, finite(rows[slot])),
  })).filter(({ left }) => left > NOTHING);
}

/** From the last slot to the one after now. Rows yet to come are filled latest first: they have the least choice. */
function fillBackwards(waiting: readonly Job[], coming: readonly Job[], { capacity, reserve }: PlanRequest, note: Note): void {
  const queues = [
    coming.toSorted((a, b) => b.release - a.release || a.latest - b.latest),
    waiting.toSorted((a, b) => a.calm - b.calm || a.latest - b.latest || a.entry - b.entry),
  ].map((jobs) => ({ jobs, begin: 0 }));
  for (let slot = capacity.length - 1; slot > 0; slot--) {
    let free = Math.max(0, finite(capacity[slot])) / Math.max(1, finite(reserve));
    for (const queue of queues) {
      // What lies before `begin` is done, or came too late for every slot that is left.
      while (isOver(queue.jobs[queue.begin], slot)) queue.begin++;
      for (let index = queue.begin; index < queue.jobs.length && free > NOTHING; index++) {
        const job = queue.jobs[index] as Job;
        if (job.latest < slot || job.left <= NOTHING) continue;
        const rows = Math.min(job.left, free);
        job.left -= rows;
        free -= rows;
        note(job, slot, rows);
      }
    }
  }
}

function isOver(job: Job | undefined, slot: number): boolean {
  return job !== undefined && (job.left <= NOTHING || job.release > slot);
}

/** What could not be put off: first what its lag tolerance forces, by deadline, then the coldest. */
function moveNow(
  waiting: readonly Job[],
  { capacity, worth, waiting: given }: PlanRequest,
  note: Note,
): Pick<Plan, 'now' | 'order' | 'forced'> {
  const now = new Float64Array(waiting.length);
  const left = waiting.filter((job) => job.left > NOTHING);
  const forced = left.filter(({ isForced }) => isForced).toSorted((a, b) => a.latest - b.latest || b.calm - a.calm || a.entry - b.entry);
  const coldest = left
    .filter(({ isForced, clean }) => !isForced && clean >= Math.max(NOTHING, worth))
    .toSorted((a, b) => b.calm - a.calm || a.entry - b.entry);
  const order: number[] = [];
  let free = Math.max(0, finite(capacity[0]));
  for (const job of [...forced, ...coldest]) {
    if (free <= NOTHING) break;
    // The work was counted in rows that stay clean: to move those, all that look like them have to move.
    const weight = job.isForced ? 1 : job.clean;
    const rows = Math.min(free, job.left / weight, Math.max(0, finite(given[job.entry]?.rows)));
    now[job.entry] = rows;
    job.left -= rows * weight;
    free -= rows;
    note(job, 0, rows);
    order.push(job.entry);
  }
  return { now, order, forced: order.filter((entry) => (waiting[entry] as Job).isForced).length };
}

function finite(value: number | undefined): number {
  return value !== undefined && Number.isFinite(value) ? value : 0;
}
