import { ForeshadowError, isAbort, messageOf } from '../model/errors.ts';
import { Pulse } from '../model/pulse.ts';
import type { Primary } from '../tracking/primary.ts';
import type { Retained } from '../model/retained.ts';
import type { Log } from './local-system.ts';
import type { RetainedReport } from './operations.ts';

const SAMPLE_EVERY_MS = 10_000;
/** Growth is told over this long. */
const SPAN_MS = 300_000;
/** Growth from two looks alone, where nothing has run. */
const GLANCE_MS = 1000;
/** Less time left than this is worth a line of the log, once. */
const SCARCE_SECONDS = 3600;

interface Sample {
  readonly atMs: number;
  readonly retained: Retained;
}

/** Looks now and then at what the primary keeps for us, and knows how fast it grows. */
export class RetainedWatch {
  #samples: Sample[] = [];
  #warned = false;

  /** The last look, and the growth over the last minutes; null: nothing is kept, or nobody has looked yet. */
  get report(): RetainedReport | null {
    const last = this.#samples.at(-1);
    const first = this.#samples.find(({ retained }) => retained.slot === last?.retained.slot && retained.bytes !== null);
    return last === undefined ? null : reportOf(first ?? last, last);
  }

  add(retained: Retained | null): void {
    const atMs = performance.now();
    if (retained === null) this.#samples = [];
    else {
      const last = this.#samples.at(-1);
      // However often it is asked: a sample a second at most, and the first stays.
      const crowded = this.#samples.length > 1 && last !== undefined && atMs - last.atMs < GLANCE_MS;
      const kept = this.#samples.filter((sample) => atMs - sample.atMs <= SPAN_MS && !(crowded && sample === last));
      this.#samples = [...kept, { atMs, retained }];
    }
  }

  /** A fresh look, given up after `patienceMs`: then the last one stands. */
  async look(primary: Primary, patienceMs: number, signal: AbortSignal): Promise<void> {
    const patience = AbortSignal.timeout(patienceMs);
    try {
      this.add(await primary.retained(AbortSignal.any([signal, patience])));
    } catch (error) {
      signal.throwIfAborted();
      // The tracker meets the same trouble, and tells it.
      if (!patience.aborted && !(error instanceof ForeshadowError)) throw error;
    }
  }

  /** Looks every few seconds until `signal` aborts. A primary that cannot be asked is the tracker's trouble, and is told by it. */
  async run(primary: Primary, log: Log, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        this.add(await primary.retained(signal));
        this.#warn(log);
      } catch (error) {
        if (signal.aborted || isAbort(error)) return;
        if (!(error instanceof ForeshadowError)) throw error;
        log('debug', 'the primary could not be asked what it keeps', { reason: messageOf(error) });
      }
      await new Pulse().next(signal, SAMPLE_EVERY_MS).catch(() => undefined); // aborted: the loop ends
    }
  }

  #warn(log: Log): void {
    const { report } = this;
    const scarce = report !== null && isScarce(report);
    if (scarce && !this.#warned) {
      const { slot, bytes, walStatus, secondsLeft, heldBy } = report;
      log('warn', 'the primary may soon give up the slot, which means a resync by comparison', {
        slot,
        bytes,
        walStatus,
        secondsLeft,
        heldBy,
      });
    }
    this.#warned = scarce;
  }
}

export function isScarce({ walStatus, secondsLeft }: RetainedReport): boolean {
  return walStatus === 'unreserved' || walStatus === 'lost' || (secondsLeft !== null && secondsLeft < SCARCE_SECONDS);
}

/** Where nothing runs: two looks, a second apart. */
export async function glanceAtRetained(primary: Primary, signal: AbortSignal): Promise<RetainedReport | null> {
  const watch = new RetainedWatch();
  watch.add(await primary.retained(signal));
  if (watch.report === null) return null;
  await new Pulse().next(signal, GLANCE_MS);
  watch.add(await primary.retained(signal));
  return watch.report;
}

function reportOf(first: Sample, last: Sample): RetainedReport {
  const seconds = (last.atMs - first.atMs) / 1000;
  const [before, now] = [first.retained.bytes, last.retained.bytes];
  const growth = seconds <= 0 || before === null || now === null ? null : Math.round((now - before) / seconds);
  const { leftBytes } = last.retained;
  const secondsLeft = growth === null || growth <= 0 || leftBytes === null ? null : Math.floor(leftBytes / growth);
  return { ...last.retained, growthBytesPerSecond: growth, secondsLeft };
}
