import { LagCounts } from './lag-counts.ts';
import type { Policy, PolicyName } from './policies.ts';
import type { CycleOutcome, PolicyOutcome } from './simulate.ts';

/** What a policy came to over some cycles. */
export interface Score {
  readonly policy: Policy;
  readonly cycles: readonly CycleOutcome[];
  /** Rows left when the capture was due: mean of the cycles, and what 19 of 20 stay below. */
  readonly residualRows: number;
  readonly residualRowsP95: number;
  /** Rows moved, captures included, beside the rows that changed; the same of bytes. */
  readonly rowsPerDistinct: number;
  readonly bytesPerDistinct: number;
  /** Of the rows moved: the share in slots of high load. */
  readonly underLoadShare: number;
  readonly lagP50Ms: number;
  readonly lagP99Ms: number;
  readonly lagMaxMs: number;
}

/** Over the cycles due in (`afterMs`, `untilMs`]. */
export function scoreOf({ policy, cycles }: PolicyOutcome, afterMs = Number.NEGATIVE_INFINITY, untilMs = Infinity): Score {
  const counted = cycles.filter(({ dueMs }) => dueMs > afterMs && dueMs <= untilMs);
  const sum = (of: (cycle: CycleOutcome) => number): number => counted.reduce((total, cycle) => total + of(cycle), 0);
  const residuals = counted.map(({ residualRows }) => residualRows).toSorted((a, b) => a - b);
  const lag = new LagCounts();
  for (const cycle of counted) lag.merge(cycle.lag);
  const share = (part: number, whole: number): number => (whole > 0 ? part / whole : 0);
  const moved = sum(({ movedRows }) => movedRows);
  return {
    policy,
    cycles: counted,
    residualRows: share(
      sum(({ residualRows }) => residualRows),
      counted.length,
    ),
    residualRowsP95: residuals[Math.max(0, Math.ceil(residuals.length * 0.95) - 1)] ?? 0,
    rowsPerDistinct: share(
      moved,
      sum(({ distinctRows }) => distinctRows),
    ),
    bytesPerDistinct: share(
      sum(({ movedBytes }) => movedBytes),
      sum(({ distinctBytes }) => distinctBytes),
    ),
    underLoadShare: share(
      sum(({ movedUnderLoad }) => movedUnderLoad),
      moved,
    ),
    lagP50Ms: lag.quantileMs(0.5),
    lagP99Ms: lag.quantileMs(0.99),
    lagMaxMs: lag.maxMs,
  };
}

export function scoreNamed(scores: readonly Score[], name: PolicyName): Score {
  const found = scores.find(({ policy }) => policy.name === name && Object.keys(policy.settings).length === 0);
  if (found === undefined) throw new RangeError(`no policy ${name} was simulated`);
  return found;
}

/**
 * The settings of the predictive policy that move the fewest rows at a residual of at most `allowed` times the reference's; where none
 * does, those of the least residual. Ties go to what was simulated first.
 */
export function chosen(scores: readonly Score[], reference: Score, allowed: number): Score | null {
  const candidates = scores.filter(({ policy }) => policy.name === 'predictive');
  const good = candidates.filter(({ residualRows }) => residualRows <= allowed * reference.residualRows);
  const by = (of: (score: Score) => number) => (best: Score, score: Score) => (of(score) < of(best) ? score : best);
  if (good.length > 0) return good.reduce(by(({ rowsPerDistinct }) => rowsPerDistinct));
  return candidates.length === 0 ? null : candidates.reduce(by(({ residualRows }) => residualRows));
}

/** On the efficient edge: no other of these leaves as little and moves as little. Ascending by rows moved. */
export function frontier(scores: readonly Score[]): Score[] {
  const byMoves = scores.toSorted((a, b) => a.rowsPerDistinct - b.rowsPerDistinct || a.residualRows - b.residualRows);
  let least = Infinity;
  return byMoves.filter(({ residualRows }) => {
    const isBetter = residualRows < least;
    least = Math.min(least, residualRows);
    return isBetter;
  });
}

export interface Interval {
  readonly point: number;
  readonly low: number;
  readonly high: number;
}

const RESAMPLES = 2000;

/**
 * By what share the sum over one policy's cycles differs from that over another's, −0.25 being a quarter less: the point, and the middle
 * 95 % of paired bootstrap samples of the cycles (the same cycles of both, drawn with replacement).
 *
 * @param next whole numbers at random in [0, below).
 */
export function pairedDifference<Cycle>(
  ours: readonly Cycle[],
  theirs: readonly Cycle[],
  of: (cycle: Cycle) => number,
  next: (below: number) => number,
): Interval {
  const [a, b] = [ours.map(of), theirs.map(of)];
  const ratio = (indexes: Iterable<number>): number => {
    let [top, bottom] = [0, 0];
    for (const index of indexes) {
      top += a[index] as number;
      bottom += b[index] as number;
    }
    return bottom > 0 ? top / bottom - 1 : 0;
  };
  const drawn = Array.from({ length: RESAMPLES }, () => ratio(Array.from(a, () => next(a.length)))).toSorted((x, y) => x - y);
  return { point: ratio(a.keys()), low: drawn[RESAMPLES * 0.025] as number, high: drawn[RESAMPLES * 0.975 - 1] as number };
}
