import { afterEach, beforeEach, expect, test } from 'vitest';
import { openMemoryHistory } from '../stores/memory/history.ts';
import { openMemoryJournal } from '../stores/memory/journal.ts';
import { ITEMS, NOTES, put, tableSchema } from '../../test/memory-world.ts';
import { MemoryPrimary } from '../stores/memory/primary.ts';
import type { Journal } from '../journal/journal.ts';
import { Distinct } from '../model/distinct.ts';
import type { Position } from '../model/position.ts';
import { type Observation, type History, slotLengths } from './history.ts';
import { Recorder } from './recorder.ts';
import { Tracker } from './tracker.ts';

const lengths = slotLengths(86_400_000);
let primary: MemoryPrimary;
let journal: Journal;
let history: History;
let logged: string[];

beforeEach(async () => {
  primary = new MemoryPrimary([tableSchema(ITEMS), tableSchema(NOTES)]);
  journal = openMemoryJournal();
  history = openMemoryHistory(lengths);
  logged = [];
  await journal.begin(await primary.install([tableSchema(ITEMS), tableSchema(NOTES)]));
});
afterEach(() => history[Symbol.asyncDispose]());

/** Tracks until what the primary holds now is in the journal, and writes down what was counted unless it is to be lost. */
async function track(work: () => void, options: { readonly dies?: boolean } = {}): Promise<Recorder> {
  const ending = new AbortController();
  const recorder = await Recorder.open(
    {
      primary,
      journal,
      history,
      lengths,
      everyMs: 60_000,
      keyOf: () => [0],
      copies: () => false,
      log: (level, message) => logged.push(`${level}: ${message}`),
    },
    [ITEMS, NOTES],
    ending.signal,
  );
  const tracker = new Tracker({ primary, journal, failpoint: () => {}, onRetry: () => {}, recorder });
  const running = tracker.run(ending.signal);
  work();
  await tracker.reached(await primary.now(), ending.signal);
  if (options.dies !== true) await recorder.flush();
  ending.abort();
  await running;
  return recorder;
}

async function counted(): Promise<unknown> {
  const totals = await history.totals({ stepMs: lengths.dayMs, fromMs: 0, untilMs: Date.now() + lengths.dayMs });
  return Object.fromEntries([...totals].map(([table, { changes, distinct }]) => [table, [changes, distinct]]));
}

test('what a process counted and did not write down is counted from the journal', async () => {
  await track(() => primary.transaction([put(ITEMS, 1n, 'a'), put(ITEMS, 2n, 'b')]));
  await track(() => primary.transactionInPieces([[put(ITEMS, 2n, 'c'), put(ITEMS, 3n, 'c')], [put(NOTES, 1n, 'd')]]), { dies: true });
  expect(await counted()).toEqual({ [ITEMS]: [2, 2] });
  await track(() => {});
  expect(await counted()).toEqual({ [ITEMS]: [4, 3], [NOTES]: [1, 1] });
  await track(() => primary.transaction([put(NOTES, 1n, 'e')]));
  expect(await counted()).toEqual({ [ITEMS]: [4, 3], [NOTES]: [2, 1] });
});

test('a history of another journal is not gone on with', async () => {
  await track(() => primary.transaction([put(ITEMS, 1n, 'a')]));
  const before = await history.counted();
  await history.add({
    counted: { journal: 'another', at: before?.at as Position, observedToMs: 1 },
    observed: null,
    activity: [],
    load: [],
  });
  await track(() => primary.transaction([put(ITEMS, 2n, 'b')]));
  expect(await counted()).toEqual({ [ITEMS]: [2, 2] });
  expect((await history.counted())?.journal).toBe(journal.id);
});

test('a history that cannot be written is told once; tracking goes on, and nothing is counted twice', async () => {
  const add = history.add.bind(history);
  history.add = () => Promise.reject(new Error('no space left'));
  const recorder = await track(() => primary.transaction([put(ITEMS, 1n, 'a')]));
  await recorder.flush();
  expect(logged.filter((line) => line.startsWith('warn'))).toEqual(['warn: activity cannot be written down']);
  expect(recorder.troubles).toEqual(['no space left']);
  history.add = add;
  await recorder.flush();
  await recorder.flush();
  expect(recorder.troubles).toEqual([]);
  expect(await counted()).toEqual({ [ITEMS]: [1, 1] });
});

test('time that was seen while the history could not be written is seen all the same', async () => {
  const observedToMs = Date.now() - 5 * lengths.minuteMs;
  const stood = { journal: journal.id, at: journal.head()?.at as Position, observedToMs };
  await history.add({ counted: stood, observed: null, activity: [], load: [] });
  const add = history.add.bind(history);
  const observed: Observation['observed'][] = [];
  history.add = (observation) => {
    observed.push(observation.observed);
    return observed.length <= 2 ? Promise.reject(new Error('no space left')) : add(observation);
  };
  const recorder = await track(() => primary.transaction([put(ITEMS, 1n, 'a')]));
  while (observed.length <= 2) await recorder.flush();
  expect(observed[2]?.fromMs).toBe(observedToMs);
});

test('a primary that cannot tell its load, and a history that cannot be read, stop nothing', async () => {
  primary.load = () => Promise.reject(new Error('who knows'));
  history.counted = () => Promise.reject(new Error('damaged'));
  const recorder = await track(() => primary.transaction([put(ITEMS, 1n, 'a')]));
  const ending = new AbortController();
  const running = recorder.run(ending.signal);
  await expect.poll(() => recorder.troubles).toContain('who knows');
  ending.abort();
  await running;
  expect(await counted()).toEqual({ [ITEMS]: [1, 1] });
});

test('where the log tells when, the time in which nothing ran is seen too; where the log was lost it is a gap', async () => {
  const { minuteMs } = lengths;
  const began = Date.now();
  const range = { stepMs: minuteMs, fromMs: began - 10 * minuteMs, untilMs: began };
  const long = { table: NOTES, atMs: began - 60 * minuteMs, changes: 1, bytes: 1, rows: new Distinct() };
  const stood = { journal: journal.id, at: journal.head()?.at as Position, observedToMs: began - 5 * minuteMs };
  await history.add({ counted: stood, observed: null, activity: [long], load: [] });
  const shown = async (): Promise<(number | null)[]> =>
    Array.from((await history.activity(range, [NOTES])).get(NOTES)?.changes.values ?? [], (value) => (Number.isNaN(value) ? null : value));
  await track(() => primary.transaction([put(ITEMS, 1n, 'a')]));
  expect((await shown()).slice(0, 4)).toEqual([null, null, null, null]);
  expect((await shown()).slice(6, 10)).toEqual([0, 0, 0, 0]);
  history = openMemoryHistory(lengths);
  await history.add({ counted: stood, observed: null, activity: [long], load: [] });
  primary.loseLog();
  await track(() => primary.transaction([put(ITEMS, 2n, 'b')]));
  expect(await shown()).toEqual(Array.from({ length: 11 }, () => null));
});
