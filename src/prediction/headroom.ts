/** Capacity that is free for shadowing, slot by slot: what the primary's load leaves below the ceiling. */

/** One resource of the primary, in any unit: CPU share, bytes a second, sessions. */
export interface ResourceOutlook {
  readonly name: string;
  /** The load that shadowing must not push the resource above. */
  readonly ceiling: number;
  /** Per slot: an upper quantile of the load forecast, our own copying left out. NaN where there is no forecast. */
  readonly forecast: ArrayLike<number>;
  /** The load now, our own copying left out; NaN if it could not be measured. */
  readonly measured: number;
  /** What copying one row in a slot adds to the load, learned from our own copying. */
  readonly costPerRow: number;
}

export interface CapacityLimits {
  /** Rows per slot that are moved however busy the primary is: what keeping the lag tolerance takes. */
  readonly least: number;
  /** Rows per slot that the two stores can move at all. */
  readonly most: number;
}

export interface Headroom {
  /** Rows per slot, the first slot being now. */
  readonly rows: Float64Array;
  /** Per slot: the resource that leaves the least, or null where nothing bounds but `most`. */
  readonly boundBy: readonly (string | null)[];
}

/** A load nobody knows, neither measured nor forecast, counts as this share of the ceiling: neither a stop nor a free road. */
const UNKNOWN_SHARE = 0.5;

/**
 * Rows per slot: for each resource (ceiling − load) / cost, the least of them, within the limits. For the slot that is now, what was
 * measured counts and the forecast does not: a forecast only ever shapes what comes later, and that is measured again when it comes.
 */
export function headroom(resources: readonly ResourceOutlook[], slots: number, limits: CapacityLimits): Headroom {
  const rows = new Float64Array(slots);
  const boundBy: (string | null)[] = [];
  for (let slot = 0; slot < slots; slot++) {
    let least = limits.most;
    let bound: string | null = null;
    for (const resource of resources) {
      const free = freeRows(resource, slot);
      if (free < least) [least, bound] = [free, resource.name];
    }
    rows[slot] = Math.max(0, Math.min(limits.most, Math.max(limits.least, least)));
    boundBy.push(bound);
  }
  return { rows, boundBy };
}

function freeRows({ ceiling, forecast, measured, costPerRow }: ResourceOutlook, slot: number): number {
  const expected = forecast[slot] ?? Number.NaN;
  const load = slot === 0 && Number.isFinite(measured) ? measured : Number.isFinite(expected) ? expected : measured;
  const free = ceiling - (Number.isFinite(load) ? load : ceiling * UNKNOWN_SHARE);
  if (free <= 0) return 0;
  return costPerRow > 0 ? free / costPerRow : Infinity;
}

/** Hours are told apart, and later days count for more: of a week of days, the newest quarter. */
const NEWEST_DAY = 0.25;
/** An upper quantile of nine in ten, were load normal around its mean. */
const UPPER_DEVIATIONS = 1.28;

/** What load is usual at an hour of the day, learned as it passes. Until an hour was seen, the mean of all hours stands for it. */
export class DailyLoad {
  readonly #mean = new Float64Array(24);
  readonly #variance = new Float64Array(24);
  readonly #seen = new Float64Array(24);

  learn(atMs: number, load: number, slotMs: number): void {
    if (!Number.isFinite(load)) return;
    const hour = hourOf(atMs);
    const seen = (this.#seen[hour] as number) + 1;
    this.#seen[hour] = seen;
    const weight = Math.max(1 / seen, NEWEST_DAY * Math.min(1, slotMs / 3_600_000));
    const off = load - (this.#mean[hour] as number);
    this.#mean[hour] = (this.#mean[hour] as number) + weight * off;
    this.#variance[hour] = (1 - weight) * ((this.#variance[hour] as number) + weight * off * off);
  }

  /** The load that nine of ten such hours stay below; NaN while nothing is known. */
  upper(atMs: number): number {
    const hours = this.#seen.reduce((sum, seen) => sum + (seen > 0 ? 1 : 0), 0);
    if (hours === 0) return Number.NaN;
    const hour = hourOf(atMs);
    if ((this.#seen[hour] as number) === 0) return this.#mean.reduce((sum, mean) => sum + mean, 0) / hours;
    return (this.#mean[hour] as number) + UPPER_DEVIATIONS * Math.sqrt(this.#variance[hour] as number);
  }
}

function hourOf(atMs: number): number {
  return ((Math.floor(atMs / 3_600_000) % 24) + 24) % 24;
}
