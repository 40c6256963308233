import { expect, test } from 'vitest';
import { openMemoryHistory } from '../stores/memory/history.ts';
import { type History, slotLengths } from '../tracking/history.ts';
import { parseConfig } from './config.ts';
import { Foresight } from './foresight.ts';
import type { Learning } from './learning.ts';
import type { Engine } from '../shadowing/engine.ts';

const DAY = 86_400_000;
const CONFIG = `dataSet: shop
primary: sqlite:primary.db
shadow: sqlite:shadow.db
tables: ["*"]
captures: { schedule: "0 0 * * *" }
prediction: { policy: predictive }
`;

test('a history that can be neither read nor written stops nothing, and is told of', async () => {
  const broken = (): Promise<never> => Promise.reject(new Error('disk on fire'));
  const history: History = Object.assign(openMemoryHistory(slotLengths(DAY)), { learned: broken, keepTurn: broken });
  const learning = { history, loadNow: () => new Map<string, number>() } as unknown as Learning;
  const logged: string[] = [];
  await using resources = new AsyncDisposableStack();
  const foresight = new Foresight(parseConfig(CONFIG, '/nowhere/foreshadow.yaml', {}), learning, resources, (_, message, fields) => {
    logged.push(`${message}: ${String(fields?.reason)}`);
  });
  const held: boolean[] = [];
  const ending = new AbortController();
  const holding = {
    rows: { count: 0, list: () => [] },
    hold: (on: boolean) => held.push(on),
    ease: () => {},
    move: async () => {
      // A turn is taken to its end.
      ending.abort();
      return { rows: 0, bytes: 0 };
    },
  };
  await foresight.run({ holding, parked: false, drain: null } as unknown as Engine, ending.signal);
  expect(held).toEqual([true, false]);
  expect(logged).toEqual([
    'what was learned of rows cannot be read: it is learned anew: disk on fire',
    'what was decided is not kept: disk on fire',
  ]);
  expect(foresight.troubles).toContain('what was decided is not kept: disk on fire');
});
