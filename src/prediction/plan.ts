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

/** Rows whose last change before the capture is yet to come, of elements that may let them wait as long. */
export interface ComingRows {
  /** How they divide among elements: in sum 1. Each has its share in every slot. */
  readonly shares: ReadonlyMap<number, number>;
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

/** What moves of an element, or of several together: per slot, and what is left for the capture. */
interface Tally {
  readonly moved: Float64Array;
  left: number;
}

interface Job {
  readonly tally: Tally;
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
  const tallies = new Map<number, Tally>();
  const tallyOf = (element: number): Tally => {
    const tally = tallies.get(element) ?? { moved: new Float64Array(slots), left: 0 };
    tallies.set(element, tally);
    return tally;
  };
  const pools = request.coming.map((each) => ({ ...each, tally: { moved: new Float64Array(slots), left: 0 } }));
  const waiting = request.waiting.map((each, entry) => waitingJob(each, entry, slots, tallyOf(each.element)));
  const coming = pools.flatMap((each) => comingJobs(each, slots, each.tally));
  const moved = new Float64Array(slots);
  const note = ({ tally }: Job, slot: number, rows: number): void => {
    moved[slot] = (moved[slot] as number) + rows;
    tally.moved[slot] = (tally.moved[slot] as number) + rows;
  };
  if (slots > 0) fillBackwards(waiting, coming, request, note);
  const now = slots > 0 ? moveNow(waiting, request, note) : { now: new Float64Array(waiting.length), order: [], forced: 0 };
  let residual = 0;
  for (const { tally, left } of [...waiting, ...coming]) {
    if (left <= NOTHING) continue;
    residual += left;
    tally.left += left;
  }
  for (const { shares, tally } of pools) for (const [element, share] of shares) divide(tally, share, tallyOf(element));
  const byElement = new Map(Array.from(tallies, ([element, tally]) => [element, tally.moved]));
  const residualByElement = new Map(Array.from(tallies, ([element, { left }]) => [element, left]));
  return { ...now, moved, byElement, residual, residualByElement };
}

type Note = (job: Job, slot: number, rows: number) => void;

function divide(pool: Tally, share: number, own: Tally): void {
  own.left += share * pool.left;
  for (const [slot, rows] of pool.moved.entries()) if (rows > 0) own.moved[slot] = (own.moved[slot] as number) + share * rows;
}

/** Rows forced by their lag tolerance move whatever becomes of them; of others, those count that will still be clean at the capture. */
function waitingJob({ rows, clean, calm, latest }: WaitingRows, entry: number, slots: number, tally: Tally): Job {
  const chance = Math.min(1, Math.max(0, finite(clean)));
  const last = slots - 1;
  const isForced = latest < last;
  return {
    tally,
    entry,
    release: 0,
    latest: isForced ? Math.max(0, Math.floor(latest)) : last,
    clean: chance,
    calm: finite(calm),
    isForced,
    left: Math.max(0, finite(rows)) * (isForced ? 1 : chance),
  };
}

function comingJobs({ rows, patience }: ComingRows, slots: number, tally: Tally): Job[] {
  return Array.from({ length: slots }, (_, slot) => ({
    tally,
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
    new Open(coming.toSorted((a, b) => b.release - a.release || a.latest - b.latest)),
    new Open(waiting.toSorted((a, b) => a.calm - b.calm || a.latest - b.latest || a.entry - b.entry)),
  ];
  for (let slot = capacity.length - 1; slot > 0; slot--) {
    let free = Math.max(0, finite(capacity[slot])) / Math.max(1, finite(reserve));
    for (const queue of queues) {
      queue.reach(slot);
      for (let job = queue.first; job !== null && free > NOTHING; job = queue.first) {
        // What came too late for this slot came too late for all that are left.
        if (job.release > slot || job.left <= NOTHING) {
          queue.drop();
          continue;
        }
        const rows = Math.min(job.left, free);
        job.left -= rows;
        free -= rows;
        note(job, slot, rows);
      }
    }
  }
}

/** Jobs that may still be done in the slot that was reached, going back in time: the first of them in a given order is found at once (a heap). */
class Open {
  readonly #jobs: readonly Job[];
  /** Places of jobs: those that may be done latest, last. */
  readonly #ahead: number[];
  readonly #heap: number[] = [];

  constructor(jobs: readonly Job[]) {
    this.#jobs = jobs;
    this.#ahead = Array.from(jobs.keys()).toSorted((a, b) => (jobs[a] as Job).latest - (jobs[b] as Job).latest);
  }

  get first(): Job | null {
    return this.#jobs[this.#heap[0] ?? -1] ?? null;
  }

  reach(slot: number): void {
    for (let next = this.#ahead.at(-1); next !== undefined && (this.#jobs[next] as Job).latest >= slot; next = this.#ahead.at(-1)) {
      this.#ahead.pop();
      this.#add(next);
    }
  }

  drop(): void {
    const heap = this.#heap;
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return;
    let hole = 0;
    for (let below = 1; below < heap.length; below = 2 * hole + 1) {
      if (below + 1 < heap.length && (heap[below + 1] as number) < (heap[below] as number)) below++;
      if ((heap[below] as number) >= last) break;
      heap[hole] = heap[below] as number;
      hole = below;
    }
    heap[hole] = last;
  }

  #add(place: number): void {
    const heap = this.#heap;
    let hole = heap.push(place) - 1;
    for (let above = (hole - 1) >> 1; hole > 0 && (heap[above] as number) > place; above = (hole - 1) >> 1) {
      heap[hole] = heap[above] as number;
      hole = above;
    }
    heap[hole] = place;
  }
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
