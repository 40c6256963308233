import type { Conflict } from './shadow.ts';

const KEPT = 1000;

/** Foreign writes that were undone since somebody asked, the first ones by key. */
export class Conflicts {
  #kept: Conflict[] = [];

  add(conflicts: readonly Conflict[]): void {
    this.#kept.push(...conflicts.slice(0, KEPT - this.#kept.length));
  }

  take(): readonly Conflict[] {
    const kept = this.#kept;
    this.#kept = [];
    return kept;
  }
}
