import { setTimeout as sleep } from 'node:timers/promises';
import { join } from 'node:path';
import { parseConfig } from '../src/app/config.ts';
import type { LocalSystem } from '../src/app/local-system.ts';
import type { CaptureReport } from '../src/app/operations.ts';
import { openSystem } from '../src/app/system.ts';
import { type Cost, startMeter } from './measuring.ts';
import { say } from './recording.ts';

export interface SystemPlaces {
  readonly directory: string;
  readonly primary: string;
  readonly shadow: string;
  readonly tables: readonly string[];
  readonly validate?: 'none' | 'changed' | 'full';
  /** When captures are taken by themselves: a cron pattern. */
  readonly schedule?: string;
  /** Whether the shadow has the primary's secondary indexes. */
  readonly mirrorIndexes?: boolean;
  /** Settings of `prediction`, as they stand in a config. */
  readonly prediction?: Readonly<Record<string, unknown>>;
}

/** The config as a user would write it, as text. */
export function configText({ primary, shadow, tables, validate, schedule, mirrorIndexes, prediction }: SystemPlaces): string {
  return [
    'dataSet: bench',
    `primary: ${JSON.stringify(primary)}`,
    `shadow: ${JSON.stringify(shadow)}`,
    `tables: ${JSON.stringify(tables)}`,
    ...(mirrorIndexes === true ? ['policy: { indexes: mirror }'] : []),
    `captures: { validate: ${validate ?? 'changed'}${schedule === undefined ? '' : `, schedule: ${JSON.stringify(schedule)}`} }`,
    ...(prediction === undefined ? [] : [`prediction: ${JSON.stringify(prediction)}`]),
    '',
  ].join('\n');
}

/** The public system over a config, as the commands open it. Warnings and errors are shown. */
export function openBenchSystem(places: SystemPlaces): Promise<LocalSystem> {
  const config = parseConfig(configText(places), join(places.directory, 'foreshadow.yaml'), {});
  return openSystem(config, {
    log: (level, message, fields) => {
      if (level === 'warn' || level === 'error') say(`${level}: ${message} ${JSON.stringify(fields ?? {})}`);
    },
  });
}

export const FOREVER = new AbortController().signal;

export interface MeasuredCapture {
  /** From the call to the cut being durable: asking the primary, tracking, draining and the cut itself. */
  readonly untilCut: Cost;
  readonly report: CaptureReport;
}

/** Takes a capture. Describing is announced in the moment after the cut is durable, and is where the clock stops. */
export async function measureCapture(system: LocalSystem, meter = startMeter()): Promise<MeasuredCapture> {
  let untilCut: Cost | null = null;
  const report = await system.capture(({ phase }) => {
    if (phase === 'describing') untilCut ??= meter();
  }, FOREVER);
  if (untilCut === null) throw new Error(`capture ${report.number} never said that it was cut`);
  return { untilCut, report };
}

/** Resolves when nothing has waited for the shadow for half a second. */
export async function caughtUp(system: LocalSystem): Promise<void> {
  let quietSinceMs: number | null = null;
  for (;;) {
    const { tables } = await system.status(FOREVER);
    const halted = tables.find(({ state }) => state === 'halted');
    if (halted !== undefined) throw new Error(`${halted.table} was halted: ${halted.reason}`);
    const quiet = tables.every(({ state, lagMs, pendingRows }) => state === 'live' && lagMs === 0 && pendingRows === 0);
    if (!quiet) quietSinceMs = null;
    else if (quietSinceMs === null) quietSinceMs = performance.now();
    else if (performance.now() - quietSinceMs > 500) return;
    await sleep(25);
  }
}
