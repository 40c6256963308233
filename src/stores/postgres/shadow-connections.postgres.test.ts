import { expect, test } from 'vitest';
import { createDatabase } from '../../../test/postgres.ts';
import { Readers } from './shadow-connections.ts';

test('who waited for a connection and gave up lets the next one have it', async () => {
  await using database = await createDatabase();
  await using readers = new Readers(database.url);
  const held = Array.from({ length: 4 }, () => Promise.withResolvers<void>());
  const reading = await Promise.all(
    held.map(async ({ promise }) => {
      const begun = Promise.withResolvers<void>();
      const done = readers.read(async () => {
        begun.resolve();
        await promise;
      });
      await begun.promise;
      return { done };
    }),
  );
  const stop = new AbortController();
  const abandoned = readers.read(() => Promise.resolve(), stop.signal);
  const next = readers.read(() => Promise.resolve('read'));
  stop.abort();
  held[0]?.resolve();
  await expect(abandoned).rejects.toMatchObject({ name: 'AbortError' });
  expect(await next).toBe('read');
  for (const { resolve } of held) resolve();
  await Promise.all(reading.map(({ done }) => done));
}, 15_000);
