/** Something happened that others wait for. Nothing is queued: a waiter looks at the state again after each beat. */
export class Pulse {
  #waiters: Array<() => void> = [];

  beat(): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const wake of waiters) wake();
  }

  /** Resolves at the next beat, or after `timeoutMs`; rejects with the signal's reason. */
  next(signal: AbortSignal, timeoutMs?: number): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason as Error);
      let timer: NodeJS.Timeout | undefined;
      const settle = (): void => {
        clearTimeout(timer);
        signal.removeEventListener('abort', abort);
        this.#waiters = this.#waiters.filter((each) => each !== settle);
        if (signal.aborted) reject(signal.reason as Error);
        else resolve();
      };
      const abort = (): void => settle();
      this.#waiters.push(settle);
      signal.addEventListener('abort', abort, { once: true });
      if (timeoutMs !== undefined) timer = setTimeout(settle, timeoutMs);
    });
  }
}
