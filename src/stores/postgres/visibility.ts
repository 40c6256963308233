/** Which transactions a snapshot of the server shows: `pg_current_snapshot()`. */
export class Visibility {
  readonly #max: bigint;
  readonly #running: ReadonlySet<bigint>;

  /** `xmin:xmax:xip,xip,…` */
  constructor(text: string) {
    const [, max, running] = text.split(':');
    this.#max = BigInt(max as string);
    this.#running = new Set((running ?? '').split(',').filter(Boolean).map(BigInt));
  }

  includes(transaction: bigint): boolean {
    return transaction < this.#max && !this.#running.has(transaction);
  }

  /** Whether it shows everything that another one shows. */
  covers(other: Visibility): boolean {
    if (other.#max > this.#max) return false;
    for (const id of this.#running) if (other.includes(id)) return false;
    return true;
  }
}
