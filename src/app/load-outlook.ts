import { messageOf } from '../model/errors.ts';
import { Pulse } from '../model/pulse.ts';
import { quantile } from '../prediction/series.ts';
import { Track } from '../prediction/track.ts';
import type { Forecast } from '../prediction/track.ts';
import { type History, type SlotLengths, type SlotSeries, slotStart } from '../tracking/history.ts';
import type { CeilingRule } from './config.ts';
import type { Challengers } from './challengers.ts';
import type { GivenForecasts } from './given-forecasts.ts';
import { LEARNED, REACH, SEASON, asking, teach, zoneOf } from './load-track.ts';

const { day: DAY, week: WEEK } = SEASON;
/** How far ahead load is forecast: as far as a capture may be. */
const STEPS = WEEK;
/** After each piece of work the event loop has so many times as long to itself. */
const REST = 4;
/** A resource whose busiest hour is not so many times as busy as its usual one says nothing of when the primary is busy. */
const TELLING = 1.5;
/** A given forecast of more times what was ever seen is not believed. */
const ABSURD = 10;
/** Those that are a share of a whole: their top is known. */
const SHARES = new Set(['host.cpu', 'host.disk', 'writer']);

export interface OutlookParts {
  readonly history: History;
  readonly lengths: SlotLengths;
  readonly ceiling: CeilingRule;
  /** Null: none are asked. */
  readonly challengers: Pick<Challengers, 'ask'> | null;
  /** What others forecast. */
  readonly given?: Pick<GivenForecasts, 'slots' | 'troubles' | 'resources'>;
  /** Resources whose load is known now. */
  readonly sampled?: () => Iterable<string>;
  readonly now: () => number;
  readonly newTrack?: () => Track;
}

interface Resource {
  readonly track: Track;
  /** Hours of the day of which any was seen. */
  readonly hours: number;
  forecast: Forecast;
  most: number;
  usual: number;
}

/** The load ahead, by the hour, of every resource that is sampled: forecast anew with every hour that ends, a piece at a time. */
export class LoadOutlook {
  readonly #parts: OutlookParts;
  readonly #resources = new Map<string, Resource>();
  #reachedMs = Number.NEGATIVE_INFINITY;
  #trouble: string | null = null;
  readonly #doubted = new Set<string>();

  constructor(parts: OutlookParts) {
    this.#parts = parts;
  }

  /** Why load is not forecast. */
  get troubles(): readonly string[] {
    const own = this.#trouble === null ? [] : [`load is not forecast: ${this.#trouble}`];
    const doubted = Array.from(this.#doubted, beyondBelief);
    return [...own, ...(this.#parts.given?.troubles ?? []), ...doubted, ...this.#unseen()];
  }

  /** The load that shadowing must not push a resource above; null where nothing is known by which to say what is too much. */
  ceilingOf(resource: string): number | null {
    const { of, share } = this.#parts.ceiling;
    const own = of.get(resource);
    if (own !== undefined && 'load' in own) return own.load;
    const top = this.#topOf(resource);
    return top === null ? null : top * (own?.share ?? share);
  }

  /** Whether every hour of a day was seen, so that what is forecast is more than that all goes on as it does. */
  knowsDay(resource: string): boolean {
    const given = this.#parts.given?.slots(resource, this.#parts.now(), 1, 1)?.[0];
    return (this.#resources.get(resource)?.hours ?? 0) >= DAY || Number.isFinite(given);
  }

  /** What is exceeded one time in ten in each slot from a moment on; NaN beyond what is forecast. */
  upper(resource: string, fromMs: number, slotMs: number, slots: number): Float64Array {
    return this.#slots(resource, 'upper', fromMs, slotMs, slots);
  }

  /** How busy the primary is expected to be, as a share of the ceiling it is nearest to; NaN where nobody knows. */
  busyAhead(fromMs: number, slotMs: number, slots: number): Float64Array {
    const busy = new Float64Array(slots).fill(Number.NaN);
    for (const resource of this.#resources.keys()) {
      const ceiling = this.ceilingOf(resource);
      if (ceiling === null) continue;
      for (const [slot, load] of this.#slots(resource, 'expected', fromMs, slotMs, slots).entries()) {
        const share = load / ceiling;
        if (!((busy[slot] as number) >= share) && Number.isFinite(share)) busy[slot] = share;
      }
    }
    return busy;
  }

  /** Forecasts until `signal` aborts. Whatever fails is told, and tried again with the next hour. */
  async run(signal: AbortSignal): Promise<void> {
    const { hourMs } = this.#parts.lengths;
    while (!signal.aborted) {
      try {
        await this.refresh(signal);
        this.#trouble = null;
      } catch (error) {
        if (signal.aborted) return;
        this.#trouble = messageOf(error);
      }
      const nowMs = this.#parts.now();
      // A moment after the hour: what belongs to it is written down by then.
      const waitMs = Math.min(hourMs, slotStart(nowMs, hourMs) + hourMs + hourMs / 60 - nowMs);
      await new Pulse().next(signal, Math.max(1, waitMs)).catch(() => undefined); // aborted: the loop ends
    }
  }

  /** Forecasts from the last hour that ended on; nothing where that was done. */
  async refresh(signal: AbortSignal): Promise<void> {
    const { history, lengths, now } = this.#parts;
    const { hourMs } = lengths;
    const untilMs = slotStart(now(), hourMs);
    if (untilMs === this.#reachedMs) return;
    const load = await history.load({ stepMs: hourMs, fromMs: untilMs - LEARNED * hourMs, untilMs });
    for (const [name, { mean }] of load) await this.#refresh(name, mean, signal);
    this.#reachedMs = untilMs;
  }

  async #refresh(name: string, mean: SlotSeries, signal: AbortSignal): Promise<void> {
    const known = this.#resources.get(name);
    const zone = zoneOf(this.#parts.lengths.dayMs);
    const track = known?.track ?? this.#parts.newTrack?.() ?? new Track({ season: SEASON, steps: STEPS, zone, reach: REACH });
    const ask = asking(this.#parts.challengers, { steps: STEPS, zone }, signal);
    if (known === undefined) await teach(track, mean, ask, (turn) => rested(turn, signal));
    const said = await ask(mean);
    const forecast = await rested(() => track.turn(mean, said), signal);
    const seen = seenOf(mean);
    const first = mean.values.length - REACH;
    const hours = new Set(
      Array.from(mean.values, (value, hour) => (Number.isNaN(value) || hour < first ? -1 : hour % DAY)).filter((hour) => hour >= 0),
    ).size;
    this.#resources.set(name, { track, hours, forecast, most: mostOf(name, seen), usual: quantile(seen, 0.5) });
  }

  /** What is said of resources that nobody sees here, by a slip of the pen or because the primary does not tell, protects nothing. */
  #unseen(): string[] {
    const { ceiling, given, sampled } = this.#parts;
    const seen = new Set([...this.#resources.keys(), ...(sampled?.() ?? [])]);
    return [
      ...unseenOf('the ceiling of', ceiling.of.keys(), seen),
      ...unseenOf('the forecast that is given of', given?.resources ?? [], seen),
    ];
  }

  /** Of resources whose top is known 1, of others the most that was seen; null where that says nothing of when the primary is busy. */
  #topOf(resource: string): number | null {
    if (SHARES.has(resource)) return 1;
    const known = this.#resources.get(resource);
    return known === undefined || !(known.most > TELLING * known.usual) ? null : known.most;
  }

  #slots(resource: string, which: 'upper' | 'expected', fromMs: number, slotMs: number, slots: number): Float64Array {
    const forecast = this.#resources.get(resource)?.forecast;
    const own = Float64Array.from({ length: slots }, (_, slot) => {
      if (forecast === undefined) return Number.NaN;
      const step = Math.floor((fromMs + slot * slotMs - forecast.startMs) / forecast.stepMs);
      return forecast[which][step] ?? Number.NaN;
    });
    const given = this.#parts.given?.slots(resource, fromMs, slotMs, slots) ?? null;
    if (given === null || !this.#believes(resource, given)) return own;
    return given.map((load, slot) => (Number.isNaN(load) ? (own[slot] as number) : load));
  }

  #believes(resource: string, given: Float64Array): boolean {
    const believes = isBelievable(given, this.#resources.get(resource)?.most ?? mostOf(resource));
    if (believes) this.#doubted.delete(resource);
    else this.#doubted.add(resource);
    return believes;
  }
}

/** The loads that were seen of late, ascending. */
export function seenOf({ values }: SlotSeries): Float64Array {
  return values
    .subarray(-REACH)
    .filter((value) => !Number.isNaN(value))
    .toSorted();
}

/** Of ascending loads; the highest in a hundred are passed over, and the highest at least: one that was a mistake must not stand for weeks. */
export function mostOf(resource: string, seen: Float64Array = new Float64Array(0)): number {
  if (SHARES.has(resource)) return 1;
  return seen.at(-1 - Math.ceil(seen.length / 100)) ?? seen.at(-1) ?? Number.NaN;
}

/** A forecast of many times what was ever seen is a mistake of somebody's, in a unit perhaps. */
export function isBelievable(given: Float64Array, most: number): boolean {
  return !given.some((load) => load > ABSURD * most);
}

export function beyondBelief(resource: string): string {
  return `the forecast of ${resource} that is given is beyond all belief: our own counts`;
}

/** Names of resources that are none of those seen; nothing while none is seen at all. */
export function unseenOf(of: string, names: Iterable<string>, seen: ReadonlySet<string>): string[] {
  if (seen.size === 0) return [];
  return Array.from(names)
    .filter((name) => !seen.has(name))
    .map((name) => `${of} ${name} counts for nothing: no load of that name is seen (but ${Array.from(seen).toSorted().join(', ')})`);
}

/** Does a piece of work, and leaves the event loop to others for as long as that took several times over. */
async function rested<T>(work: () => T, signal: AbortSignal): Promise<T> {
  const begunMs = performance.now();
  const done = work();
  await new Pulse().next(signal, Math.max(1, REST * (performance.now() - begunMs)));
  return done;
}
