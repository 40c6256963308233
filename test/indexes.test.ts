import { afterEach, expect, test } from 'vitest';
import { ForeshadowError } from '../src/model/errors.ts';
import { IndexMirror } from '../src/shadowing/indexes.ts';
import { ITEMS, MemoryWorld, tableSchema } from './memory-world.ts';

const { signal } = new AbortController();
const world = new MemoryWorld([tableSchema(ITEMS)]);
const running = world.start();

afterEach(async () => (await running).stop());

test('a store that mirrors no indexes refuses by name, where policy asks for any', async () => {
  const { engine, shadow } = await running;
  const mirror = (mirrorsAny: boolean): IndexMirror =>
    new IndexMirror({
      primary: world.primary,
      shadow,
      engine,
      mirrorsAny,
      mirrorsIndexes: () => mirrorsAny,
      report: () => Promise.reject(new Error('there is nothing to report')),
      failpoint: () => {},
      log: () => {},
    });
  expect(await mirror(false).bring(signal)).toBe(true);
  await mirror(false).run(signal);
  const refused = mirror(true).run(signal);
  await expect(refused).rejects.toThrow('into a memory shadow');
  await expect(refused).rejects.toSatisfy((error) => error instanceof ForeshadowError && error.code === 'NOT_BUILT');
});
