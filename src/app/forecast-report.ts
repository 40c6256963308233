import { ForeshadowError } from '../model/errors.ts';
import type { TableName } from '../model/schema.ts';
import { Hotspots, rankHotspots, recallAt } from '../prediction/hotspots.ts';
import type { Candidate, HotspotFilter } from '../prediction/hotspots.ts';
import { DAY_MS } from '../prediction/series.ts';
import { Track } from '../prediction/track.ts';
import type { Forecast } from '../prediction/track.ts';
import { type ActivitySeries, type LoadSeries, slotLengths, slotStart } from '../tracking/history.ts';
import { Challengers } from './challengers.ts';
import type { Config } from './config.ts';
import { LEARNED, REACH, SEASON, asking, teach } from './load-track.ts';
import type { ProgressListener } from './operations.ts';
import { openHistory, openPrimary } from './stores.ts';

/** What `foreshadow forecast --json` prints. Numbers are null where nothing was ever observed. */
export interface ForecastReport {
  /** When the first slot ahead begins, and how long each is. */
  readonly from: string;
  readonly stepMs: number;
  readonly hotspots: readonly {
    readonly rank: number;
    readonly table: string;
    readonly distinctRows: number;
    readonly bytes: number;
    /** Of what is expected of all tables considered. */
    readonly share: number;
  }[];
  /** How many of the hottest tables earlier forecasts of the same length named, on average; null where none has been put to the test. */
  readonly held: { readonly recall: number; readonly of: number; readonly forecasts: number } | null;
  readonly load: readonly {
    readonly resource: string;
    readonly basis: Forecast['basis'];
    readonly middle: readonly (number | null)[];
    /** What is exceeded one time in ten. */
    readonly upper: readonly (number | null)[];
    /** Those that count most, and how far each was off lately, as a multiple of the day's own variation. */
    readonly voices: readonly { readonly name: string; readonly error: number | null }[];
  }[];
}

export interface ForecastOptions {
  readonly aheadMs: number;
  readonly by: 'rows' | 'bytes';
  readonly limit: number;
  /** By size and types the primary is asked. */
  readonly filter?: HotspotFilter;
}

const { day: DAY } = SEASON;

/** What is to come, from the history alone, as it would have been learned while it went on. Reads the file, beside whatever writes it. */
export async function forecastReport(
  config: Config,
  options: ForecastOptions,
  progress: ProgressListener,
  signal: AbortSignal,
): Promise<ForecastReport> {
  await using history = await openHistory(config);
  const { dayMs } = config.prediction;
  const stepMs = slotLengths(dayMs).hourMs;
  const untilMs = slotStart(Date.now(), stepMs);
  const range = { stepMs, fromMs: untilMs - LEARNED * stepMs, untilMs };
  const steps = Math.max(1, Math.round(options.aheadMs / stepMs));
  const zone = zoneOf(dayMs);
  const load = await history.load(range);
  return {
    from: new Date(untilMs).toISOString(),
    stepMs,
    ...hotspotsOf(await history.activity(range), steps, options, await factsOf(config, options.filter ?? {}, signal)),
    load: await loadsOf(load, { steps, zone }, progress, signal),
  };
}

/** By whose clock days go. A day that is not one of the wall's has no clock on it. */
export function zoneOf(dayMs: number): string {
  return dayMs === DAY_MS ? Intl.DateTimeFormat().resolvedOptions().timeZone : 'UTC';
}

type Facts = ReadonlyMap<TableName, Pick<Candidate, 'sizeBytes' | 'columnTypes'>>;

/** What a filter speaks of; nothing where it speaks of names alone. */
async function factsOf(config: Config, filter: HotspotFilter, signal: AbortSignal): Promise<Facts> {
  const bySize = filter.sizeBytesMin !== undefined || filter.sizeBytesMax !== undefined;
  if (!bySize && filter.withoutTypes === undefined) return new Map();
  await using primary = await openPrimary(config, async () => new Set());
  const { tables } = await primary.describe(signal);
  const types = new Set(tables.flatMap(({ columns }) => columns.map(({ type }) => bareType(type))));
  const unknown = filter.withoutTypes?.find((type) => !types.has(type));
  if (unknown !== undefined) {
    throw new ForeshadowError('USAGE', `no table of the data set has a column of the type ${unknown}`, {
      remedy: `Name types as the primary does: ${Array.from(types).toSorted().join(', ')}.`,
    });
  }
  const sizes = bySize ? await primary.sizes(signal) : new Map<TableName, number>();
  return new Map(
    tables.map(({ table, columns }) => [
      table,
      { sizeBytes: sizes.get(table) ?? null, columnTypes: columns.map(({ type }) => bareType(type)) },
    ]),
  );
}

/** `varchar` of `VARCHAR(20)`. */
export function bareType(type: string): string {
  return type.replace(/\s*\([^)]*\)/, '').toLowerCase();
}

function hotspotsOf(
  activity: ReadonlyMap<string, ActivitySeries>,
  period: number,
  { by, limit, filter = {} }: ForecastOptions,
  facts: Facts,
): Pick<ForecastReport, 'hotspots' | 'held'> {
  const known = [...activity];
  const [rows, bytes] = [new Hotspots({ period, day: DAY }), new Hotspots({ period, day: DAY })];
  const series = known.map(([, each]) => each);
  const first = Math.min(...series.map(({ changes }) => changes.values.findIndex((value) => !Number.isNaN(value))).filter((at) => at >= 0));
  const length = series[0]?.changes.values.length ?? 0;
  const ranked = by === 'rows' ? rows : bytes;
  const valuesOf = (each: ActivitySeries) => (by === 'rows' ? each.distinct : each.bytes).values;
  const recalls: number[] = [];
  for (let step = first; step < length; step++) {
    if ((step - first) % period === 0 && step > first && step + period <= length) {
      recalls.push(
        recallAt(
          limit,
          ranked.forecast(),
          series.map((each) => sumOf(valuesOf(each), step, period)),
        ),
      );
    }
    rows.advance(series.map(({ distinct }) => distinct.values[step] as number));
    bytes.advance(series.map((each) => each.bytes.values[step] as number));
  }
  const [expectedRows, expectedBytes] = [rows.forecast(), bytes.forecast()];
  const candidates = known.map(([table], index): Candidate => {
    const expected = { expectedRows: expectedRows[index] ?? 0, expectedBytes: expectedBytes[index] ?? 0 };
    const { sizeBytes, columnTypes } = facts.get(table as TableName) ?? { sizeBytes: null, columnTypes: [] };
    return { table: table as TableName, sizeBytes, columnTypes, ...expected };
  });
  const tested = recalls.filter((value) => !Number.isNaN(value));
  return {
    hotspots: rankHotspots(candidates, by, limit, filter).map((each) => ({
      rank: each.rank,
      table: each.table,
      distinctRows: Math.round(each.expectedRows),
      bytes: Math.round(each.expectedBytes),
      share: rounded(each.share) ?? 0,
    })),
    held:
      tested.length === 0
        ? null
        : { recall: rounded(tested.reduce((sum, value) => sum + value, 0) / tested.length) ?? 0, of: limit, forecasts: tested.length },
  };
}

function sumOf(values: Float64Array, from: number, count: number): number {
  let sum = 0;
  for (let step = from; step < from + count; step++) sum += Number.isNaN(values[step]) ? 0 : (values[step] as number);
  return sum;
}

async function loadsOf(
  load: ReadonlyMap<string, LoadSeries>,
  ahead: { readonly steps: number; readonly zone: string },
  progress: ProgressListener,
  signal: AbortSignal,
): Promise<ForecastReport['load']> {
  await using challengers = new Challengers();
  const loads: ForecastReport['load'][number][] = [];
  for (const [resource, { mean }] of load) {
    progress({ phase: 'forecasting load', table: null, done: loads.length, total: load.size, unit: 'resources' });
    const track = new Track({ season: SEASON, reach: REACH, ...ahead });
    const ask = asking(challengers, ahead, signal);
    await teach(track, mean, ask, async (turn) => turn());
    const forecast = track.turn(mean, await ask(mean));
    loads.push({
      resource,
      basis: forecast.basis,
      middle: Array.from(forecast.point, rounded),
      upper: Array.from(forecast.upper, rounded),
      voices: forecast.voices.map((name) => ({ name, error: rounded(track.errorOf(name, 0) ?? Number.NaN) })),
    });
  }
  return loads;
}

/** To three digits behind the point: more would claim what is not known. */
function rounded(value: number): number | null {
  return Number.isFinite(value) ? Math.round(value * 1000) / 1000 : null;
}
