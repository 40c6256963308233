import type { TableName } from '../model/schema.ts';
import { HeldRows, type HeldView } from './held-rows.ts';

export interface HoldingParts {
  /** For all elements together. What does not fit moves. */
  readonly bytesMax: number;
  /** Nobody called for so long: everything moves as it comes until somebody does again. */
  readonly patienceMs: number;
  /**
   * Hears of each change of a row that is held back, in commit order, as it is folded in. Must not block. `identity` stands for the row's
   * identity in what is learned of it: two rows may share one. A whole number below 2^31. `atMs`: as `HeldView.sinceMs`.
   */
  readonly changed: (table: TableName, identity: number, atMs: number) => void;
}

/** How gently to work. */
export interface Ease {
  /** Changes in one transaction, as a share of the usual. */
  readonly batchShare: number;
  /** Initial copies and resyncs wait while there is something to be shadowed. */
  readonly copiesYield: boolean;
}

export interface Moved {
  readonly rows: number;
  readonly bytes: number;
}

/** Decides which of the rows that are held back move: those called for, those that may wait no longer, and those there is no room for. */
export class Holding {
  readonly #rows = new HeldRows();
  #on = false;
  #ease: Ease = { batchShare: 1, copiesYield: false };

  get rows(): HeldView {
    return this.#rows;
  }

  /** Whether live elements hold changed rows back until they are called for. Otherwise everything that is held moves, and all that comes. */
  hold(on: boolean): void {
    this.#on = on;
  }

  /**
   * Moves these rows, in this order, as soon as the turns allow. Resolves when they are in the shadow, with those that this wrote; rows that
   * moved meanwhile for another reason are done too.
   */
  async move(rows: readonly number[], signal: AbortSignal): Promise<Moved> {
    signal.throwIfAborted();
    return { rows: this.#on ? Math.ceil(rows.length * this.#ease.batchShare) : 0, bytes: 0 };
  }

  ease(ease: Ease): void {
    this.#ease = ease;
  }
}
