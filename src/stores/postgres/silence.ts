/** A server that owed an answer was silent for too long: the way to it may be cut without anybody being told. */
export class SilenceError extends Error {
  override readonly name = 'SilenceError';
}

interface Sides {
  /** Whether the server owes an answer. */
  readonly owed: () => boolean;
  /** Whether we do not listen: then it is not the server that is silent. */
  readonly deaf: () => boolean;
  readonly giveUp: (error: SilenceError) => void;
}

/** Gives a connection up when nothing was heard for `limitMs` (null: never) while an answer is owed. */
export class Silence {
  readonly #limitMs: number | null;
  readonly #sides: Sides;
  #heardAtMs = performance.now();
  #timer: NodeJS.Timeout | null = null;

  constructor(limitMs: number | null, sides: Sides) {
    this.#limitMs = limitMs;
    this.#sides = sides;
  }

  heard(): void {
    this.#heardAtMs = performance.now();
  }

  /** To be called when something is asked. */
  watch(): void {
    const limitMs = this.#limitMs;
    if (limitMs === null || this.#timer !== null) return;
    const look = (): void => {
      this.#timer = null;
      const { owed, deaf, giveUp } = this.#sides;
      if (!owed()) return;
      if (deaf()) this.heard();
      if (performance.now() - this.#heardAtMs < limitMs) this.watch();
      else giveUp(new SilenceError(`the server has not answered for ${Math.round(limitMs / 1000)} s`));
    };
    this.#timer = setTimeout(look, Math.max(1, limitMs - (performance.now() - this.#heardAtMs))).unref();
  }
}
