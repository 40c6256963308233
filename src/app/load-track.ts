import { DAY_MS } from '../prediction/series.ts';
import type { Track } from '../prediction/track.ts';
import type { SlotSeries } from '../tracking/history.ts';
import { CHALLENGERS, type ChallengerName, type Challengers, questionOf } from './challengers.ts';

const DAY = 24;
export const SEASON = { day: DAY, week: 7 * DAY };
/** Four weeks are looked back for patterns; as many again to see how well forecasts from then on held. */
export const REACH = 28 * DAY;
export const LEARNED = 2 * REACH;
/** Hours from one forecast of the past to the next: all hours of the day are met. */
const EVERY = 13;
/** Of the last so many the models of kept libraries are asked too, that compute for long: enough for those that do better to be heard. */
const CHALLENGED = 10;
/** Where an hour is shorter than this, nobody waits for them. */
const CHALLENGED_MS_MIN = 60_000;

/** By whose clock days go. A day that is not one of the wall's has no clock on it. */
export function zoneOf(dayMs: number): string {
  return dayMs === DAY_MS ? Intl.DateTimeFormat().resolvedOptions().timeZone : 'UTC';
}

/** What the models of kept libraries say of a series from its end on: each is heard where it proved better. */
export type Ask = (mean: SlotSeries) => Promise<ReadonlyMap<string, Float64Array>>;

/** A model that fails is not asked again by what this returns. `challengers`: null, none are asked. */
export function asking(
  challengers: Pick<Challengers, 'ask'> | null,
  { steps, zone }: { readonly steps: number; readonly zone: string },
  signal: AbortSignal,
): Ask {
  const failed = new Set<ChallengerName>();
  return async (mean) => {
    const said = new Map<string, Float64Array>();
    if (challengers === null || mean.stepMs < CHALLENGED_MS_MIN) return said;
    for (const model of CHALLENGERS) {
      if (failed.has(model)) continue;
      const { answer, failure } = await challengers.ask(questionOf(model, mean, { steps, reach: REACH, season: SEASON, zone }), signal);
      if (failure !== null) failed.add(model);
      if (answer !== null) said.set(model, answer.point);
    }
    return said;
  };
}

/** Goes once more through what was learned, so that what the track says next rests on errors that have matured. */
export async function teach(track: Track, mean: SlotSeries, ask: Ask, work: (turn: () => void) => Promise<void>): Promise<void> {
  const { values } = mean;
  const first = values.findIndex((value) => !Number.isNaN(value));
  const begin = first < 0 ? values.length : first + 1 + ((values.length - first - 1) % EVERY);
  for (let at = begin; at < values.length; at += EVERY) {
    const known = { ...mean, values: values.slice(0, at) };
    const said = values.length - at <= CHALLENGED * EVERY ? await ask(known) : new Map<string, Float64Array>();
    await work(() => track.turn(known, said));
  }
}
