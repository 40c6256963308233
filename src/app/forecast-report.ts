import { ForeshadowError } from '../model/errors.ts';
import type { TableName } from '../model/schema.ts';
import { Hotspots, rankHotspots, recallAt } from '../prediction/hotspots.ts';
import type { Candidate, HotspotFilter } from '../prediction/hotspots.ts';
import { Track } from '../prediction/track.ts';
import type { Forecast } from '../prediction/track.ts';
import { type ActivitySeries, type History, type LoadSeries, slotLengths, slotStart } from '../tracking/history.ts';
import { Challengers } from './challengers.ts';
import type { Config } from './config.ts';
import { type GivenBy, GivenForecasts } from './given-forecasts.ts';
import { beyondBelief, isBelievable, mostOf, seenOf, unseenOf } from './load-outlook.ts';
import { LEARNED, REACH, SEASON, asking, teach, zoneOf } from './load-track.ts';
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
    /** What somebody else forecast of it; null: nothing is given. */
    readonly given: {
      readonly by: GivenBy;
      /** Null where it says nothing: there our own counts. */
      readonly values: readonly (number | null)[];
      /** Whether `start` goes by it where it says something; `troubles` say why not. */
      readonly counts: boolean;
    } | null;
  }[];
  /** What is wrong with forecasts that are given. */
  readonly troubles: readonly string[];
}

export interface ForecastOptions {
  readonly aheadMs: number;
  readonly by: 'rows' | 'bytes';
  readonly limit: number;
  /** By size and types the primary is asked. */
  readonly filter?: HotspotFilter;
}

const { day: DAY } = SEASON;
/** Of an hour. */
const MINUTES = 60;

/** What is to come, from the history alone, as it would have been learned while it went on. Reads the file, beside whatever writes it. */
export async function forecastReport(
  config: Config,
  options: ForecastOptions,
  progress: ProgressListener,
  signal: AbortSignal,
): Promise<ForecastReport> {
  await using history = await openHistory(config);
  const { dayMs } = config.prediction;
  const lengths = slotLengths(dayMs);
  const stepMs = lengths.hourMs;
  const untilMs = slotStart(Date.now(), stepMs);
  const range = { stepMs, fromMs: untilMs - LEARNED * stepMs, untilMs };
  const steps = Math.max(1, Math.round(options.aheadMs / stepMs));
  const zone = zoneOf(dayMs);
  const load = await history.load(range);
  return {
    from: new Date(untilMs).toISOString(),
    stepMs,
    ...hotspotsOf(await history.activity(range), steps, options, await factsOf(config, options.filter ?? {}, signal)),
    ...(await withGiven(config, history, { load, fromMs: untilMs, steps }, await loadsOf(load, { steps, zone }, progress, signal), signal)),
  };
}

type Own = Omit<ForecastReport['load'][number], 'given'>;

/** With what others forecast, and whether the live loop goes by that, which it decides for itself in the same way. */
async function withGiven(
  config: Config,
  history: History,
  { load, fromMs, steps }: { readonly load: ReadonlyMap<string, LoadSeries>; readonly fromMs: number; readonly steps: number },
  own: readonly Own[],
  signal: AbortSignal,
): Promise<Pick<ForecastReport, 'load' | 'troubles'>> {
  const { dayMs, prometheus, loadForecast: file } = config.prediction;
  const lengths = slotLengths(dayMs);
  const given = new GivenForecasts({ prometheus, file, lengths, now: Date.now });
  await given.readFile();
  await given.ask(signal);
  const sampled = new Set((await history.known()).resources);
  const troubles = [...given.troubles, ...unseenOf('the forecast that is given of', given.resources, sampled)];
  const nothing = Array.from({ length: steps }, () => null);
  const unknown = Array.from(given.resources)
    .filter((name) => !load.has(name))
    .map((resource): Own => ({ resource, basis: 'none', middle: nothing, upper: nothing, voices: [] }));
  const loads = [...own, ...unknown].map((each) => {
    const { resource } = each;
    const by = given.givenBy(resource);
    const minutes = given.slots(resource, fromMs, lengths.minuteMs, steps * MINUTES);
    if (by === null || minutes === null) return { ...each, given: null };
    const mean = load.get(resource)?.mean;
    const believed = isBelievable(minutes, mostOf(resource, mean === undefined ? undefined : seenOf(mean)));
    if (!believed) troubles.push(beyondBelief(resource));
    const counts = believed && (sampled.size === 0 || sampled.has(resource));
    return { ...each, given: { by, values: hoursOf(minutes), counts } };
  });
  return { load: loads, troubles };
}

/** Means of the minutes of each hour of which something is said. */
function hoursOf(minutes: Float64Array): (number | null)[] {
  return Array.from({ length: minutes.length / MINUTES }, (_, hour) => {
    const known = minutes.subarray(hour * MINUTES, (hour + 1) * MINUTES).filter((value) => !Number.isNaN(value));
    return rounded(known.reduce((sum, value) => sum + value, 0) / known.length);
  });
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
): Promise<Own[]> {
  await using challengers = new Challengers();
  const loads: Own[] = [];
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
