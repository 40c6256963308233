import { stat } from 'node:fs/promises';
import { messageOf } from '../model/errors.ts';
import { Pulse } from '../model/pulse.ts';
import { type SlotLengths, slotStart } from '../tracking/history.ts';
import type { PrometheusRule } from './config.ts';
import { type Point, queryRange } from './prometheus.ts';
import { readSeed } from './seed.ts';

export interface GivenParts {
  readonly prometheus: PrometheusRule | null;
  /** A file as `history --seed` takes it, of load; null: none. */
  readonly file: string | null;
  readonly lengths: SlotLengths;
  readonly now: () => number;
  readonly timeoutMs?: number;
}

/** The setting that gives a forecast. */
export type GivenBy = 'prediction.loadForecast' | 'prediction.prometheus.forecast';

/** How far ahead a Prometheus is asked: two days. */
const HOURS_ASKED = 48;
/** It is asked for a point each so many minutes, and as often. */
const MINUTES_EACH = 5;

/**
 * Forecasts of load that others made: from queries of a Prometheus, and from a file that is read again when it changes. A point counts until the
 * next, or for as long as the two nearest are apart. What cannot be had or read is told, and our own forecast counts instead.
 */
export class GivenForecasts {
  readonly #parts: GivenParts;
  readonly #queried = new Map<string, readonly Point[]>();
  #read: ReadonlyMap<string, readonly Point[]> = new Map();
  #readAt = '';
  readonly #troubles = new Map<string, string>();

  constructor(parts: GivenParts) {
    this.#parts = parts;
  }

  get troubles(): readonly string[] {
    const nowMs = this.#parts.now();
    const over = Array.from(this.#all()).flatMap(([resource, points]) => {
      const lastMs = endOf(points);
      if (lastMs > nowMs) return [];
      const when = points.length === 0 ? 'has no point from now on' : `ended at ${new Date(lastMs).toISOString()}`;
      return [`the forecast of ${resource} that is given ${when}: our own counts`];
    });
    return [...this.#troubles.values(), ...over];
  }

  /** Whose load is forecast. */
  get resources(): Iterable<string> {
    return this.#all().keys();
  }

  /** By which a resource's load is forecast; null: none is. */
  givenBy(resource: string): GivenBy | null {
    if (this.#read.has(resource)) return 'prediction.loadForecast';
    return this.#queried.has(resource) ? 'prediction.prometheus.forecast' : null;
  }

  /** What is given for each slot from a moment on; NaN where nothing is. Null: nothing is given of the resource at all. */
  slots(resource: string, fromMs: number, slotMs: number, slots: number): Float64Array | null {
    const points = this.#read.get(resource) ?? this.#queried.get(resource);
    if (points === undefined) return null;
    const holdMs = spacingOf(points);
    let next = 0;
    return Float64Array.from({ length: slots }, (_, slot) => {
      const atMs = fromMs + slot * slotMs;
      while (next < points.length && (points[next] as Point).atMs <= atMs) next++;
      const point = points[next - 1];
      return point === undefined || atMs >= point.atMs + holdMs ? Number.NaN : point.value;
    });
  }

  /** Asks and reads until `signal` aborts. */
  async run(signal: AbortSignal): Promise<void> {
    if (this.#parts.file === null && (this.#parts.prometheus?.forecast.size ?? 0) === 0) return;
    const everyMs = MINUTES_EACH * this.#parts.lengths.minuteMs;
    for (let askedMs = Number.NEGATIVE_INFINITY; !signal.aborted; ) {
      await this.readFile();
      if (performance.now() - askedMs >= everyMs) {
        askedMs = performance.now();
        await this.ask(signal);
      }
      await new Pulse().next(signal, Math.max(1000, this.#parts.lengths.minuteMs)).catch(() => undefined); // aborted: the loop ends
    }
  }

  /** Reads the file, if it is another than it was. */
  async readFile(): Promise<void> {
    const { file, lengths } = this.#parts;
    if (file === null) return;
    try {
      const { mtimeMs, size } = await stat(file);
      const at = `${mtimeMs} ${size}`;
      if (at === this.#readAt) return;
      // Points stay where they are, to the minute: not every zone's hours are those of UTC.
      const { minuteMs } = lengths;
      const { load } = await readSeed(file, { minuteMs, hourMs: minuteMs, dayMs: minuteMs });
      this.#read = new Map(
        Map.groupBy(load, ({ resource }) => resource)
          .entries()
          .map(([resource, points]) => [resource, inOrder(points)]),
      );
      this.#readAt = at;
      this.#troubles.delete('file');
    } catch (error) {
      // What was read before is of another time.
      this.#read = new Map();
      this.#readAt = '';
      this.#troubles.set('file', `prediction.loadForecast: ${messageOf(error)}: our own forecast counts`);
    }
  }

  async ask(signal: AbortSignal): Promise<void> {
    const { prometheus, lengths, now, timeoutMs } = this.#parts;
    const stepMs = MINUTES_EACH * lengths.minuteMs;
    const fromMs = slotStart(now(), stepMs);
    for (const [resource, query] of prometheus?.forecast ?? []) {
      try {
        const asking = { ...(prometheus as PrometheusRule), ...(timeoutMs === undefined ? {} : { timeoutMs }) };
        const range = { fromMs, untilMs: fromMs + HOURS_ASKED * lengths.hourMs, stepMs };
        this.#queried.set(resource, inOrder(await queryRange(asking, query, range, signal)));
        this.#troubles.delete(resource);
      } catch (error) {
        if (signal.aborted) return;
        this.#queried.delete(resource);
        this.#troubles.set(resource, `the forecast of ${resource} could not be asked: ${messageOf(error)}`);
      }
    }
  }

  #all(): ReadonlyMap<string, readonly Point[]> {
    return new Map([...this.#queried, ...this.#read]);
  }
}

/** Of what can be a load. */
function inOrder(points: readonly Point[]): Point[] {
  return points.filter(({ value }) => Number.isFinite(value) && value >= 0).toSorted((a, b) => a.atMs - b.atMs);
}

/** How far apart the two nearest points are; one alone counts for no time. */
function spacingOf(points: readonly Point[]): number {
  const gaps = points.slice(1).map(({ atMs }, index) => atMs - (points[index] as Point).atMs);
  const least = gaps.reduce((found, gap) => Math.min(found, gap), Number.POSITIVE_INFINITY);
  return Number.isFinite(least) ? least : 0;
}

function endOf(points: readonly Point[]): number {
  return (points.at(-1)?.atMs ?? Number.NEGATIVE_INFINITY) + spacingOf(points);
}
