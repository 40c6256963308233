import { extname } from 'node:path';
import { Worker } from 'node:worker_threads';
import { Turns } from '../model/turns.ts';
import type { Season } from '../prediction/forecasters/forecaster.ts';
import { impute, slice, toLocal } from '../prediction/series.ts';
import type { Series } from '../prediction/series.ts';
import type { Answer } from './challenger-models.ts';

export const CHALLENGERS = ['MSTL', 'Prophet', 'ARIMA'] as const;
export type ChallengerName = (typeof CHALLENGERS)[number];

export interface Question {
  readonly model: ChallengerName;
  /** Without gaps, by the local clock. */
  readonly values: Float64Array;
  readonly startMs: number;
  readonly stepMs: number;
  readonly steps: number;
  readonly season: Season;
}

export interface Reply {
  /** Null where the model has nothing to say of such a series, or failed. */
  readonly answer: Answer | null;
  readonly failure: string | null;
  /** What it took of the thread; of one that took too long, the limit. */
  readonly cpuMs: number;
}

/** What to ask of a series with gaps, by the clock of a zone. */
export function questionOf(
  model: ChallengerName,
  series: Series,
  { steps, reach, season, zone }: { readonly steps: number; readonly reach: number; readonly season: Season; readonly zone: string },
): Question {
  const recent = slice(series, Math.max(0, series.values.length - reach));
  const { values, startMs, stepMs } = impute(toLocal(recent, zone), season.day);
  return { model, values: values.slice(), startMs, stepMs, steps, season };
}

const SILENT: Reply = { answer: null, failure: null, cpuMs: 0 };

/**
 * Forecasters of kept libraries, in a thread of their own: they compute long, may trap, and print to standard output from C. Whatever
 * happens to them is a reply: a model that takes longer than its time loses the thread, and the next question starts another.
 */
export class Challengers implements AsyncDisposable {
  readonly #limitMs: number;
  readonly #turns = new Turns();
  #thread: Worker | null = null;

  constructor(limitMs = 5_000) {
    this.#limitMs = limitMs;
  }

  /** Rejects with the signal's reason only. */
  ask(question: Question, signal: AbortSignal): Promise<Reply> {
    return this.#turns.take(() => this.#ask(question, signal));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const thread = this.#thread;
    this.#thread = null;
    await thread?.terminate();
  }

  async #ask(question: Question, signal: AbortSignal): Promise<Reply> {
    signal.throwIfAborted();
    const thread = (this.#thread ??= this.#start());
    const limit = AbortSignal.any([signal, AbortSignal.timeout(this.#limitMs)]);
    const reply = await new Promise<Reply>((settle) => {
      const done = (said: Reply) => {
        thread.off('message', done).off('error', failed);
        limit.removeEventListener('abort', late);
        settle(said);
      };
      const failed = (error: Error) => done({ ...SILENT, failure: error.message });
      const late = () => done({ ...SILENT, failure: `took longer than ${this.#limitMs} ms`, cpuMs: this.#limitMs });
      thread.on('message', done).on('error', failed);
      limit.addEventListener('abort', late);
      // oxlint-disable-next-line unicorn/require-post-message-target-origin -- threads have no origins
      thread.postMessage(question);
    });
    // A thread that is still computing, or that has died, answers nobody else.
    if (reply.failure !== null) await this[Symbol.asyncDispose]();
    signal.throwIfAborted();
    return reply;
  }

  #start(): Worker {
    const name = `./challenger-thread${extname(import.meta.url)}`;
    const thread = new Worker(new URL(name, import.meta.url), { stdout: true, stderr: true });
    // What the libraries print is read and dropped: unread it would be held.
    thread.stdout.resume();
    thread.stderr.resume();
    thread.unref();
    return thread;
  }
}
