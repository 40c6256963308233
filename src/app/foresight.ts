import type { Engine } from '../shadowing/engine.ts';
import { steadyMs } from '../shadowing/held-rows.ts';
import type { HoldingParts } from '../shadowing/holding.ts';
import type { TableName } from '../model/schema.ts';
import { messageOf } from '../model/errors.ts';
import { slotLengths } from '../tracking/history.ts';
import { Challengers } from './challengers.ts';
import { type Config, type PredictionPolicy, type TableRule, ruleFor } from './config.ts';
import { DueTimes, policyOf } from './due-times.ts';
import { GivenForecasts } from './given-forecasts.ts';
import type { Learning } from './learning.ts';
import { LoadOutlook } from './load-outlook.ts';
import type { Log } from './local-system.ts';
import { keptTurn } from './plan-report.ts';
import { Steering } from './steering.ts';

/** Rows that are held back for a plan take this much memory at most; what does not fit moves. */
const HELD_BYTES_MAX = 256 << 20;
/** Slots without a turn, after which the engine moves everything as it comes. */
const PATIENCE_SLOTS = 3;
const PATIENCE_MS_MIN = 10_000;

/** What `start` looks ahead with: the load to come, the moments at which captures are due, and the loop that moves rows by both. */
export class Foresight {
  /** What moves ahead of captures. */
  readonly policy: PredictionPolicy;
  readonly outlook: LoadOutlook;
  readonly due: DueTimes;
  /** Null: everything moves as it comes. */
  readonly steering: Steering | null;
  readonly #given: GivenForecasts;
  readonly #config: Config;
  readonly #learning: Learning;
  readonly #log: Log;
  /** What cannot be kept, and why. */
  readonly #unkept = new Map<string, string>();

  /** What it opens is closed with `resources`. */
  constructor(config: Config, learning: Learning, resources: AsyncDisposableStack, log: Log) {
    const { dayMs, intervalMs, ceiling, capacity, reserve, prometheus, loadForecast: file } = config.prediction;
    const lengths = slotLengths(dayMs);
    this.policy = policyOf(config);
    this.#config = config;
    this.#learning = learning;
    this.#log = log;
    const challengers = resources.use(new Challengers());
    this.#given = new GivenForecasts({ prometheus, file, lengths, now: Date.now });
    const sampled = (): Iterable<string> => learning.loadNow().keys();
    this.outlook = new LoadOutlook({
      history: learning.history,
      lengths,
      ceiling,
      challengers,
      given: this.#given,
      sampled,
      now: Date.now,
    });
    this.due = new DueTimes(config.captures, lengths.minuteMs, (...ahead) => this.outlook.busyAhead(...ahead));
    this.steering =
      this.policy === 'stream-everything'
        ? null
        : new Steering({
            settings: {
              policy: this.policy,
              dayMs,
              intervalMs,
              capacity,
              reserve,
              toleranceMs: (table) => toleranceOf(config, table),
              toleranceMaxMs: (table) => toleranceMaxOf(config, table),
            },
            outlook: this.outlook,
            loadNow: () => learning.loadNow(),
            due: (nowMs) => this.due.next(nowMs)?.atMs ?? null,
            clock: { wallMs: Date.now, steadyMs },
            keep: (done) => this.#keep('what was decided', () => learning.history.keepTurn(keptTurn(done))),
            keepLearned: (document) => this.#keep('what was learned of rows', () => learning.history.keepLearned(document)),
            log,
          });
  }

  /** Why prediction does not do all it could; empty while it does. */
  get troubles(): readonly string[] {
    return [...this.outlook.troubles, ...(this.steering?.troubles ?? []), ...this.#unkept.values()];
  }

  /** What the engine holds rows back by; undefined: it holds none back. */
  get holding(): HoldingParts | undefined {
    const { steering } = this;
    if (steering === null) return undefined;
    return {
      bytesMax: HELD_BYTES_MAX,
      patienceMs: Math.max(PATIENCE_MS_MIN, PATIENCE_SLOTS * steering.slotMs),
      changed: (table, identity, atMs) => steering.changed(table, identity, atMs),
    };
  }

  /** A table's lag tolerance in force now. */
  lagToleranceMs(table: TableName): number {
    return this.steering?.toleranceMs(table) ?? toleranceOf(this.#config, table);
  }

  /** Looks ahead until `signal` aborts. */
  run(engine: Engine, signal: AbortSignal): Promise<unknown> {
    return Promise.all([this.outlook.run(signal), this.#given.run(signal), this.#steer(engine, signal)]);
  }

  async #steer(engine: Engine, signal: AbortSignal): Promise<void> {
    if (this.steering === null) return;
    const kept = await this.#learning.history.learned().catch((error: unknown) => {
      this.#log('warn', 'what was learned of rows cannot be read: it is learned anew', { reason: messageOf(error) });
      return null;
    });
    this.steering.begin(kept);
    await this.steering.run(engine, signal);
  }

  /** That it cannot be kept stops nothing. */
  async #keep(what: string, keep: () => Promise<void>): Promise<void> {
    try {
      await keep();
      this.#unkept.delete(what);
    } catch (error) {
      const reason = messageOf(error);
      if (!this.#unkept.has(what)) this.#log('warn', `${what} is not kept`, { reason });
      this.#unkept.set(what, `${what} is not kept: ${reason}`);
    }
  }
}

function toleranceOf({ policy }: Config, table: TableName): number {
  return ruleFor(policy, table)?.lagToleranceMs ?? policy.lagToleranceMs;
}

function toleranceMaxOf({ policy }: Config, table: TableName): number {
  const rule: TableRule | undefined = ruleFor(policy, table);
  const limitMs = rule?.lagToleranceMaxMs ?? policy.lagToleranceMaxMs;
  return limitMs ?? rule?.lagToleranceMs ?? policy.lagToleranceMs;
}
