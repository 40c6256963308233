/** How long changes waited, in steps of 5 %: enough to tell quantiles by, and of one size for any number of them. */
const STEP = Math.log(1.05);
const STEPS = 512;

export class LagCounts {
  readonly #counts = new Float64Array(STEPS);
  #maxMs = 0;

  add(lagMs: number): void {
    const lag = Math.max(0, lagMs);
    const step = Math.min(STEPS - 1, Math.ceil(Math.log1p(lag) / STEP));
    this.#counts[step] = (this.#counts[step] as number) + 1;
    this.#maxMs = Math.max(this.#maxMs, lag);
  }

  merge(other: LagCounts): void {
    for (let step = 0; step < STEPS; step++) this.#counts[step] = (this.#counts[step] as number) + (other.#counts[step] as number);
    this.#maxMs = Math.max(this.#maxMs, other.#maxMs);
  }

  get maxMs(): number {
    return this.#maxMs;
  }

  /** Nearest rank; 0 where nothing was counted. */
  quantileMs(share: number): number {
    const total = this.#counts.reduce((sum, count) => sum + count, 0);
    let seen = 0;
    for (let step = 0; step < STEPS; step++) {
      seen += this.#counts[step] as number;
      if (seen > 0 && seen >= share * total) return Math.min(this.#maxMs, Math.expm1(step * STEP));
    }
    return 0;
  }
}
