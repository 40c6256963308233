import { ForeshadowError } from '../model/errors.ts';

const FIRST_MS = 250;
const LONGEST_MS = 15_000;

/** Who failed in a way that may pass, and when each may be tried again: later each time. By the monotonic clock. */
export class Rest<Key> {
  readonly #resting = new Map<Key, { readonly untilMs: number; readonly waitMs: number }>();
  #lookedMs = 0;

  /** Runs `work`. Where it fails in a way that may pass, these rest, which is told, and null is returned. */
  async attempt<T>(
    keys: readonly Key[],
    work: () => Promise<T>,
    tell: (key: Key, error: ForeshadowError, waitMs: number) => void,
    signal: AbortSignal,
  ): Promise<T | null> {
    try {
      return await work();
    } catch (error) {
      if (signal.aborted || !(error instanceof ForeshadowError && error.retry === 'later')) throw error;
      for (const key of keys) tell(key, error, this.#failed(key));
      return null;
    }
  }

  /** Returns how long it rests. */
  #failed(key: Key): number {
    const waitMs = Math.min((this.#resting.get(key)?.waitMs ?? FIRST_MS / 2) * 2, LONGEST_MS);
    this.#resting.set(key, { untilMs: performance.now() + waitMs, waitMs });
    return waitMs;
  }

  succeeded(key: Key): void {
    this.#resting.delete(key);
  }

  has(key: Key): boolean {
    const rest = this.#resting.get(key);
    return rest !== undefined && rest.untilMs > performance.now();
  }

  /** Whoever has rested by now is tried next, or is not to be tried at all as things stand. */
  look(): void {
    this.#lookedMs = performance.now();
  }

  /** Milliseconds until the first may be tried again that rested still when it was last looked; undefined if none did. */
  get nextTryMs(): number | undefined {
    let first = Number.POSITIVE_INFINITY;
    for (const { untilMs } of this.#resting.values()) if (untilMs > this.#lookedMs) first = Math.min(first, untilMs);
    return Number.isFinite(first) ? Math.max(1, first - performance.now()) : undefined;
  }
}
