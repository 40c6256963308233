import { type History, SLOTS_KEPT, type SlotSeries, slotLengths, slotStart } from '../tracking/history.ts';
import type { Config } from './config.ts';
import { ForeshadowError } from '../model/errors.ts';
import { querySeed, readSeed } from './seed.ts';
import { openHistory } from './stores.ts';

/** What `foreshadow history --json` prints. A null is a gap: nobody looked. */
export interface HistoryReport {
  readonly stepMs: number;
  /** When the first slot begins. */
  readonly from: string;
  readonly tables: readonly {
    readonly table: string;
    readonly changes: readonly (number | null)[];
    readonly distinctRows: readonly (number | null)[];
    readonly bytes: readonly (number | null)[];
    /** Changes of a time nobody knows. */
    readonly undated: number;
  }[];
  readonly load: readonly {
    readonly resource: string;
    readonly mean: readonly (number | null)[];
    readonly peak: readonly (number | null)[];
  }[];
}

export interface SeedReport {
  readonly stepMs: number;
  readonly tables: readonly string[];
  readonly resources: readonly string[];
  readonly slots: number;
}

const STEPS = ['minute', 'hour', 'day'] as const;
export type Step = (typeof STEPS)[number];

/** The last `sinceMs` of what was learned, without the slot that is not over. Reads the file, beside whatever writes it. */
export async function historyReport(config: Config, step: Step, sinceMs: number): Promise<HistoryReport> {
  await using history = await openHistory(config);
  const stepMs = slotLengths(config.prediction.dayMs)[`${step}Ms`];
  const untilMs = slotStart(Date.now(), stepMs);
  // Further back than slots of that length are kept there is nothing to be seen.
  const reachMs = Math.min(sinceMs, (SLOTS_KEPT[STEPS.indexOf(step)] as number) * stepMs);
  const range = { stepMs, fromMs: slotStart(untilMs - reachMs, stepMs), untilMs };
  const { tables } = await history.known();
  const activity = await history.activity(
    range,
    tables.map(({ table }) => table),
  );
  return {
    stepMs,
    from: new Date(range.fromMs).toISOString(),
    tables: tables.map(({ table, undated }) => {
      const series = activity.get(table);
      const [changes, distinctRows, bytes] = [series?.changes, series?.distinct, series?.bytes].map(shown);
      return { table, changes: changes ?? [], distinctRows: distinctRows ?? [], bytes: bytes ?? [], undated };
    }),
    load: Array.from(await history.load(range), ([resource, { mean, peak }]) => ({ resource, mean: shown(mean), peak: shown(peak) })),
  };
}

/** To three digits behind the point: more would claim what was not measured. */
function shown(series: SlotSeries | undefined): (number | null)[] {
  return Array.from(series?.values ?? [], (value) => (Number.isNaN(value) ? null : Math.round(value * 1000) / 1000));
}

export async function seedFromFile(config: Config, path: string): Promise<SeedReport> {
  await using history = await openHistory(config);
  return await put(history, await readSeed(path, slotLengths(config.prediction.dayMs)));
}

/** Asks the configured Prometheus, by the hour. */
export async function seedFromQueries(config: Config, sinceMs: number, signal: AbortSignal): Promise<SeedReport> {
  const { prometheus, dayMs } = config.prediction;
  if (prometheus === null || prometheus.activity.size + prometheus.load.size === 0) {
    throw new ForeshadowError('CONFIG_INVALID', 'there is no query to seed the history by', {
      remedy: 'Write prediction.prometheus.activity, a table with its query, in the config.',
    });
  }
  await using history = await openHistory(config);
  const { hourMs: stepMs } = slotLengths(dayMs);
  const untilMs = slotStart(Date.now(), stepMs);
  return await put(history, await querySeed(prometheus, { fromMs: slotStart(untilMs - sinceMs, stepMs), untilMs, stepMs }, signal));
}

async function put(history: History, seed: Parameters<History['seed']>[0]): Promise<SeedReport> {
  await history.seed(seed);
  const tables = [...new Set(seed.activity.map(({ table }) => table))].toSorted();
  const resources = [...new Set(seed.load.map(({ resource }) => resource))].toSorted();
  return { stepMs: seed.stepMs, tables, resources, slots: seed.activity.length + seed.load.length };
}
