import { describe, expect, test } from 'vitest';
import { Track } from '../prediction/track.ts';
import { openMemoryHistory } from '../stores/memory/history.ts';
import { type History, slotLengths } from '../tracking/history.ts';
import { LoadOutlook, type OutlookParts } from './load-outlook.ts';

const HOUR = 3_600_000;
const NOW = Date.UTC(2026, 10, 22, 12);
const lengths = slotLengths(24 * HOUR);
const signal = new AbortController().signal;

/** Ten days of a load with a daily wave between 20 and 100, and of one that is as good as even. */
async function learned(): Promise<History> {
  const history = openMemoryHistory(lengths);
  const load = Array.from({ length: 240 }, (_, hour) => {
    const atMs = NOW - (240 - hour) * HOUR;
    const wave = 60 + 40 * Math.sin(((atMs / HOUR) % 24) * (Math.PI / 12));
    return [
      { resource: 'sessions.active', atMs, value: wave },
      { resource: 'host.cpu', atMs, value: 0.3 },
      { resource: 'wal.bytes', atMs, value: 1000 + (hour % 3) },
    ];
  });
  await history.seed({ stepMs: HOUR, observed: null, activity: [], load: load.flat() });
  return history;
}

function outlookOf(history: History, over: Partial<OutlookParts> = {}): LoadOutlook {
  return new LoadOutlook({ history, lengths, ceiling: { share: 0.7, of: new Map() }, challengers: null, now: () => NOW, ...over });
}

describe('the load ahead', () => {
  test('is forecast by the hour, with a bound, from what was learned', async () => {
    const outlook = outlookOf(await learned());
    expect(outlook.upper('sessions.active', NOW, 60_000, 2)).toEqual(new Float64Array(2).fill(Number.NaN));
    await outlook.refresh(signal);
    const upper = outlook.upper('sessions.active', NOW, HOUR, 24);
    // The wave is highest at 06:00 and lowest at 18:00.
    expect(upper[18]).toBeGreaterThanOrEqual(95);
    expect(upper[6]).toBeLessThan((upper[18] as number) - 30);
    // Beyond a week nothing is said.
    expect(outlook.upper('sessions.active', NOW + 8 * 24 * HOUR, HOUR, 1)).toEqual(new Float64Array(1).fill(Number.NaN));
  });

  test('ceilings are shares of all there is, or of the most that was seen, and of the even none', async () => {
    const of = new Map([
      ['wal.bytes', { load: 5000 }],
      ['sessions.active', { share: 0.5 }],
    ]);
    const plain = outlookOf(await learned());
    const own = outlookOf(await learned(), { ceiling: { share: 0.7, of } });
    await Promise.all([plain.refresh(signal), own.refresh(signal)]);
    expect(['host.cpu', 'writer', 'sessions.active', 'wal.bytes', 'unheard.of'].map((each) => plain.ceilingOf(each))).toEqual([
      0.7,
      0.7,
      expect.closeTo(70, 0) as number,
      null,
      null,
    ]);
    expect(['host.cpu', 'sessions.active', 'wal.bytes'].map((each) => own.ceilingOf(each))).toEqual([0.7, expect.closeTo(50, 0), 5000]);
  });

  test('one absurd hour raises no ceiling', async () => {
    const history = await learned();
    await history.seed({
      stepMs: HOUR,
      observed: null,
      activity: [],
      load: [{ resource: 'sessions.active', atMs: NOW - 50 * HOUR, value: 1e9 }],
    });
    const outlook = outlookOf(history);
    await outlook.refresh(signal);
    expect(outlook.ceilingOf('sessions.active')).toBeCloseTo(70, 0);
  });

  test('says which moment is quietest', async () => {
    const outlook = outlookOf(await learned());
    expect(outlook.busyAhead(NOW, HOUR, 3)).toEqual(new Float64Array(3).fill(Number.NaN));
    await outlook.refresh(signal);
    const busy = outlook.busyAhead(NOW, HOUR, 24);
    const quietest = busy.indexOf(Math.min(...busy));
    // The wave is lowest at 18:00, where the even load of the processors counts for more.
    expect(Math.abs(((NOW / HOUR + quietest) % 24) - 18)).toBeLessThanOrEqual(3);
  });

  test('knows a day when every hour of it was seen, however many days that took', async () => {
    const knows = async (hours: readonly number[]): Promise<boolean> => {
      const history = openMemoryHistory(lengths);
      const load = hours.map((ago) => ({ resource: 'host.cpu', atMs: NOW - ago * HOUR, value: 0.4 }));
      await history.seed({ stepMs: HOUR, observed: null, activity: [], load });
      const outlook = outlookOf(history);
      await outlook.refresh(signal);
      return outlook.knowsDay('host.cpu');
    };
    const all = Array.from({ length: 24 }, (_, hour) => hour + 1);
    expect(await knows(all)).toBe(true);
    expect(await knows(all.slice(1))).toBe(false);
    // Office hours, on five days.
    expect(await knows([0, 1, 2, 3, 4].flatMap((day) => all.slice(0, 8).map((ago) => ago + 24 * day)))).toBe(false);
  });

  test('names ceilings and forecasts of what nobody sees', async () => {
    const of = new Map([
      ['cpu', { share: 0.5 }],
      ['host.cpu', { share: 0.5 }],
    ]);
    const given: OutlookParts['given'] = { slots: () => null, troubles: [], resources: ['sessions', 'sessions.active'] };
    let sampled: string[] = [];
    const outlook = outlookOf(openMemoryHistory(lengths), { ceiling: { share: 0.7, of }, given, sampled: () => sampled });
    // Nothing was seen yet: that says nothing.
    expect(outlook.troubles).toEqual([]);
    sampled = ['sessions.active', 'host.cpu'];
    expect(outlook.troubles).toEqual([
      'the ceiling of cpu counts for nothing: no load of that name is seen (but host.cpu, sessions.active)',
      'the forecast that is given of sessions counts for nothing: no load of that name is seen (but host.cpu, sessions.active)',
    ]);
  });

  test('knows nothing of an empty history', async () => {
    const outlook = outlookOf(openMemoryHistory(lengths));
    await outlook.refresh(signal);
    expect([outlook.ceilingOf('sessions.active'), outlook.ceilingOf('host.cpu'), ...outlook.troubles]).toEqual([null, 0.7]);
  });

  test('a forecaster that fails is told, and tried again', async () => {
    class Failing extends Track {
      override turn(): never {
        throw new Error('of course');
      }
    }
    const ending = new AbortController();
    const newTrack = () => new Failing({ season: { day: 24, week: 168 }, steps: 24, zone: 'UTC', reach: 24 });
    const outlook = outlookOf(await learned(), { newTrack });
    const running = outlook.run(ending.signal);
    while (outlook.troubles.length === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    expect(outlook.troubles).toEqual(['load is not forecast: of course']);
    expect(outlook.upper('sessions.active', NOW, HOUR, 1)).toEqual(new Float64Array(1).fill(Number.NaN));
    ending.abort();
    await running;
  });

  test('models of kept libraries are asked from the same end on, and what fails of them is nobody’s loss', async () => {
    const asked: string[] = [];
    let longest = 0;
    const challengers: OutlookParts['challengers'] = {
      ask: async ({ model, values, steps }) => {
        asked.push(model);
        longest = Math.max(longest, values.length);
        const point = new Float64Array(steps).fill(model === 'ARIMA' ? Number.NaN : 1);
        return { answer: model === 'MSTL' ? null : { point, upper: null }, failure: model === 'Prophet' ? 'of course' : null, cpuMs: 1 };
      },
    };
    const outlook = outlookOf(await learned(), { challengers });
    await outlook.refresh(signal);
    const times = (name: string): number => asked.filter((model) => model === name).length;
    // Of three series: now, and ten times in the past. What fails is not asked again before the next hour.
    expect([times('MSTL'), times('ARIMA'), times('Prophet'), longest]).toEqual([33, 33, 3, 240]);
    expect(outlook.upper('sessions.active', NOW, HOUR, 1)[0]).toBeGreaterThan(20);
  });
});
