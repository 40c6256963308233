/**
 * How well each of several voices did lately: a mean of losses that forgets. Losses count once what they were about is known, never before,
 * and each is capped, so that one disaster is remembered as a disaster and not for ever.
 */
export class Standing {
  readonly #keep: number;
  readonly #cap: number;
  readonly #of: Map<string, { sum: number; weight: number; count: number }>;

  /** @param keep how much of a loss is left after one unit of the time given to `fade`. @param cap the most one loss counts. */
  constructor(keep: number, cap: number, saved: SavedStanding = {}) {
    this.#keep = keep;
    this.#cap = cap;
    this.#of = new Map(Object.entries(saved).map(([name, [sum, weight, count]]) => [name, { sum, weight, count }]));
  }

  fade(time: number): void {
    const by = this.#keep ** Math.max(0, time);
    for (const each of this.#of.values()) {
      each.sum *= by;
      each.weight *= by;
    }
  }

  add(name: string, loss: number): void {
    if (Number.isNaN(loss)) return;
    const found = this.#of.get(name) ?? { sum: 0, weight: 0, count: 0 };
    found.sum += Math.min(this.#cap, loss);
    found.weight += 1;
    found.count += 1;
    this.#of.set(name, found);
  }

  /** The mean loss, of how many in all, and of how many that are not forgotten. Null where there were none. */
  of(name: string): { readonly loss: number; readonly count: number; readonly weight: number } | null {
    const found = this.#of.get(name);
    return found === undefined || found.weight < 1e-9 ? null : { loss: found.sum / found.weight, count: found.count, weight: found.weight };
  }

  toJSON(): SavedStanding {
    return Object.fromEntries([...this.#of].map(([name, { sum, weight, count }]) => [name, [sum, weight, count] as const]));
  }
}

export type SavedStanding = Readonly<Record<string, readonly [sum: number, weight: number, count: number]>>;
