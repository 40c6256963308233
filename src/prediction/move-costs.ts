/** What is learned of our own moving: what a row costs the primary, and how fast rows move. */

/** What is left of the weight of what was seen, a slot later. */
const KEEP = 0.995;
/** What was assumed weighs as much as so many slots in which as much moved as could. */
const PRIOR_SLOTS = 10;

/**
 * What moving one row in a slot adds to a resource's load: how much the load of a slot differed from the one before, beside how many rows more or
 * fewer moved. Until enough was seen, as assumed: that all that could move in a slot would take the load of an idle primary to its ceiling.
 */
export class MoveCost {
  #before: { readonly load: number; readonly rows: number } | null = null;
  #products = 0;
  #squares = 0;

  /** The load of a slot in which so many rows moved. */
  learn(load: number, rows: number): void {
    const before = this.#before;
    this.#before = Number.isFinite(load) ? { load, rows } : null;
    if (before === null || this.#before === null) return;
    const more = rows - before.rows;
    this.#products = KEEP * this.#products + (load - before.load) * more;
    this.#squares = KEEP * this.#squares + more * more;
  }

  perRow(ceiling: number, most: number): number {
    const weight = PRIOR_SLOTS * most * most;
    const cost = (this.#products + (ceiling / most) * weight) / (this.#squares + weight);
    // That moving made a primary less busy was chance.
    return Number.isFinite(cost) ? Math.max(0, cost) : 0;
  }
}

/** Before any move was seen. */
const ASSUMED_PER_MS = 1;
/** Small moves say more of the way there and back. */
const TELLING_ROWS = 100;
const FADE = 0.8;
/** Of the time, moving may take so much. */
const TIME_SHARE = 0.5;

/** How many rows the two stores can move. */
export class MoveRate {
  #rows = 0;
  #ms = 0;

  learn(rows: number, ms: number): void {
    if (rows < TELLING_ROWS || !(ms > 0)) return;
    this.#rows = FADE * this.#rows + rows;
    this.#ms = FADE * this.#ms + ms;
  }

  /** In a slot of this length; never so few that moving them would say nothing. */
  most(slotMs: number): number {
    const perMs = this.#ms === 0 ? ASSUMED_PER_MS : this.#rows / this.#ms;
    return Math.max(TELLING_ROWS, perMs * slotMs * TIME_SHARE);
  }
}
