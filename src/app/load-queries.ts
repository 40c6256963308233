import { messageOf } from '../model/errors.ts';
import { Pulse } from '../model/pulse.ts';
import { type History, type SlotLengths, slotStart } from '../tracking/history.ts';
import type { PrometheusRule } from './config.ts';
import type { Log } from './local-system.ts';
import { type Point, queryRange } from './prometheus.ts';

/** When it begins, it asks for what was while nothing ran too: for so many minutes at most. */
const MINUTES_FIRST = 1440;
/** Later minutes are asked for again: what is measured may arrive late. */
const MINUTES_AGAIN = 5;

/** Collects what a Prometheus knows of the primary's load. Resources bear the names of the queries, behind `prometheus.`. */
export class LoadQueries {
  readonly #rule: PrometheusRule;
  readonly #history: History;
  readonly #lengths: SlotLengths;
  readonly #log: Log;
  readonly #reachedMs = new Map<string, number>();
  readonly #newest = new Map<string, Point>();
  readonly #troubles = new Map<string, string>();

  constructor(rule: PrometheusRule, history: History, lengths: SlotLengths, log: Log) {
    this.#rule = rule;
    this.#history = history;
    this.#lengths = lengths;
    this.#log = log;
  }

  get troubles(): readonly string[] {
    const byReason = Map.groupBy(this.#troubles, ([, reason]) => reason);
    return Array.from(byReason, ([reason, names]) => `load of ${names.map(([name]) => resourceOf(name)).join(', ')}: ${reason}`);
  }

  /** How busy each resource is now, as far as that is not too long ago. */
  loadNow(nowMs: number): ReadonlyMap<string, number> {
    const sinceMs = nowMs - MINUTES_AGAIN * this.#lengths.minuteMs;
    return new Map(Array.from(this.#newest).flatMap(([name, { atMs, value }]) => (atMs < sinceMs ? [] : [[resourceOf(name), value]])));
  }

  /** Asks every `everyMs` until `signal` aborts. What fails is told once, and asked again; it stops nothing. */
  async run(everyMs: number, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      // One that is not answered keeps nobody waiting.
      await Promise.all(Array.from(this.#rule.load, ([name, query]) => this.#collect(name, query, signal)));
      await new Pulse().next(signal, Math.max(everyMs, this.#lengths.minuteMs)).catch(() => undefined); // aborted: the loop ends
    }
  }

  async #collect(name: string, query: string, signal: AbortSignal): Promise<void> {
    const { minuteMs: stepMs } = this.#lengths;
    // Whole minutes only.
    const untilMs = slotStart(Date.now(), stepMs);
    const fromMs = Math.max(untilMs - MINUTES_FIRST * stepMs, (this.#reachedMs.get(name) ?? 0) - MINUTES_AGAIN * stepMs);
    if (signal.aborted || fromMs >= untilMs) return;
    try {
      const points = await queryRange(this.#rule, query, { fromMs, untilMs, stepMs }, signal);
      const load = points.map(({ atMs, value }) => ({ resource: resourceOf(name), atMs, value }));
      await this.#history.seed({ stepMs, observed: null, activity: [], load });
      const newest = points.at(-1);
      if (newest !== undefined) this.#newest.set(name, newest);
      this.#reachedMs.set(name, untilMs);
      this.#troubles.delete(name);
    } catch (error) {
      if (signal.aborted) return;
      if (!this.#troubles.has(name)) this.#log('warn', 'a query of load failed', { query: name, reason: messageOf(error) });
      this.#troubles.set(name, messageOf(error));
    }
  }
}

function resourceOf(name: string): string {
  return `prometheus.${name}`;
}
