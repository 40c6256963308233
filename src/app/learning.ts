import { existsSync } from 'node:fs';
import type { Journal } from '../journal/journal.ts';
import { type ForeshadowError, messageOf } from '../model/errors.ts';
import type { TableName } from '../model/schema.ts';
import { type ActivityTotal, type History, slotLengths } from '../tracking/history.ts';
import { Recorder } from '../tracking/recorder.ts';
import type { Engine } from '../shadowing/engine.ts';
import type { Shadow } from '../shadowing/shadow.ts';
import type { Primary } from '../tracking/primary.ts';
import type { Config } from './config.ts';
import { LoadQueries } from './load-queries.ts';
import type { Log } from './local-system.ts';
import { historyPath, openHistory, openPassingHistory } from './stores.ts';

/** What is learned while the data set is followed. */
export class Learning {
  readonly recorder: Recorder;
  readonly history: History;
  readonly #queries: LoadQueries | null;
  readonly #everyMs: number;
  /** Why what is learned does not outlive the process; null: it does. */
  readonly #passing: string | null;

  constructor(recorder: Recorder, { history, passing }: Opened, queries: LoadQueries | null, everyMs: number) {
    this.recorder = recorder;
    this.history = history;
    this.#queries = queries;
    this.#everyMs = everyMs;
    this.#passing = passing;
  }

  /** Why something is not being learned; empty while everything is. */
  get troubles(): readonly string[] {
    return [...(this.#passing === null ? [] : [this.#passing]), ...this.recorder.troubles, ...(this.#queries?.troubles ?? [])];
  }

  /** How busy each resource of the primary is now, our own copying left out. */
  loadNow(): ReadonlyMap<string, number> {
    return new Map([...this.recorder.loadNow(), ...(this.#queries?.loadNow(Date.now()) ?? [])]);
  }

  async run(signal: AbortSignal): Promise<void> {
    await Promise.all([this.recorder.run(signal), this.#queries?.run(this.#everyMs, signal)]);
  }
}

/** Learns what passes the tracker from here on. What it opens is closed with `resources`. */
export async function startLearning(
  config: Config,
  stores: { readonly primary: Primary; readonly shadow: Shadow; readonly journal: Journal },
  engine: () => Engine | null,
  resources: AsyncDisposableStack,
  log: Log,
  signal: AbortSignal,
): Promise<Learning> {
  const opened = await openHistoryOr(config, log);
  const history = resources.use(opened.history);
  const known = await stores.shadow.elements();
  const { dayMs, intervalMs: everyMs, prometheus } = config.prediction;
  const keyOf = (table: TableName): readonly number[] | null => (engine()?.elements ?? known).get(table)?.schema.key ?? null;
  const copies = (): boolean => engine()?.isCopying === true;
  const lengths = slotLengths(dayMs);
  const recorder = await Recorder.open({ ...stores, history, lengths, everyMs, keyOf, copies, log }, [...known.keys()], signal);
  return new Learning(recorder, opened, prometheus === null ? null : new LoadQueries(prometheus, history, lengths, log), everyMs);
}

interface Opened {
  readonly history: History;
  readonly passing: string | null;
}

/** Where the history's file cannot be had that is said, and what is learned ends with the process. */
async function openHistoryOr(config: Config, log: Log): Promise<Opened> {
  try {
    return { history: await openHistory(config), passing: null };
  } catch (error) {
    const { remedy = 'Move the file away: learning begins anew.' } = error as Partial<ForeshadowError>;
    const what = 'what is learned ends with this process';
    log('warn', `the history cannot be opened: ${what}`, { reason: messageOf(error), remedy });
    return { history: await openPassingHistory(config), passing: `${what}: ${messageOf(error)}. ${remedy}` };
  }
}

export interface LastHour {
  /** By table; null: nothing is known. */
  readonly activity: ReadonlyMap<TableName, ActivityTotal> | null;
  /** Why something is not being learned. */
  readonly troubles: readonly string[];
}

/** What each table changed in the last hour, as far as it is written down. `running` is of this process. */
export async function lastHour(config: Config, running: Learning | null): Promise<LastHour> {
  const { minuteMs, hourMs } = slotLengths(config.prediction.dayMs);
  const range = { stepMs: minuteMs, fromMs: Date.now() - hourMs, untilMs: Date.now() + hourMs };
  try {
    if (running !== null) {
      await running.recorder.flush();
      return { activity: await running.history.totals(range), troubles: running.troubles };
    }
    if (!existsSync(historyPath(config))) return { activity: null, troubles: [] };
    await using history = await openHistory(config);
    return { activity: await history.totals(range), troubles: [] };
  } catch (error) {
    // Whatever is wrong with it, all else can be told.
    return { activity: null, troubles: [messageOf(error)] };
  }
}
