/**
 * How busy a primary is at one moment, as far as it can tell. What our own work adds is left out by the store where the server tells it
 * apart; where it does not, the reading says so (`includesOurs`), and is not learned from while we copy.
 */
export interface LoadSample {
  /** By the primary's clock, in milliseconds of UTC. */
  readonly atMs: number;
  readonly readings: readonly LoadReading[];
}

export type LoadReading = {
  /** `sessions.active`, `wal.bytes`, `host.cpu`: see docs/reference/load.md. */
  readonly resource: string;
  readonly includesOurs: boolean;
} & (
  | { readonly kind: 'gauge'; readonly value: number }
  /** Only ever grows, until it begins anew: then `epoch` is another, or it is less than before. */
  | { readonly kind: 'counter'; readonly total: bigint; readonly epoch: string /** What one a second counts as. */; readonly unit: number }
);

export interface Rate {
  readonly resource: string;
  readonly value: number;
}

/**
 * What two samples, `elapsedMs` apart by a clock that does not jump, say of the time between them: the rate of each counter, and each gauge
 * as it is now. A counter that began anew meanwhile says nothing, and neither does what is no finite number from 0 on. Readings that include
 * our own work are left out unless `idle` says that we did none.
 */
export function ratesBetween(before: LoadSample, now: LoadSample, elapsedMs: number, idle: boolean): Rate[] {
  const earlier = new Map(before.readings.map((reading) => [reading.resource, reading]));
  return now.readings.flatMap((reading): Rate[] => {
    if (reading.includesOurs && !idle) return [];
    const { resource } = reading;
    const value = reading.kind === 'gauge' ? reading.value : rate(earlier.get(resource), reading, elapsedMs);
    return Number.isFinite(value) && value >= 0 ? [{ resource, value }] : [];
  });
}

function rate(before: LoadReading | undefined, now: LoadReading & { readonly kind: 'counter' }, elapsedMs: number): number {
  if (before?.kind !== 'counter' || before.epoch !== now.epoch || now.total < before.total || !(elapsedMs > 0)) return Number.NaN;
  return (Number(now.total - before.total) / elapsedMs) * 1000 * now.unit;
}

/** Sums up what several processes of ours used, each of which may end: what it had used by then still counts. */
export class OwnUse {
  readonly #last = new Map<string, bigint>();
  #total = 0n;

  /** Takes the present totals of those that live, and returns the sum over all there were. One seen first begins at 0. */
  of(totals: ReadonlyMap<string, bigint>): bigint {
    for (const [each, total] of totals) {
      const before = this.#last.get(each) ?? 0n;
      // Another process of that number.
      this.#total += total >= before ? total - before : total;
    }
    this.#last.clear();
    for (const [each, total] of totals) this.#last.set(each, total);
    return this.#total;
  }
}
