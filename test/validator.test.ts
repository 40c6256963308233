import fc from 'fast-check';
import { expect, test } from 'vitest';
import { compareChunk } from '../src/capture/compare.ts';
import { FROM_THE_START, Validation } from '../src/capture/validate.ts';
import type { Tuple } from '../src/model/tuple.ts';
import { ITEMS, MemoryWorld, item, itemKey, put, quiet, running, tableSchema } from './memory-world.ts';

/**
 * Mutation of the validator: rows of the shadow are changed, removed and added past the guard, while the primary goes on being written
 * to. Exactly those rows must be reported, whichever way the two sides are paged through and however they are ordered.
 */
interface Mutation {
  readonly id: number;
  readonly kind: 'change' | 'remove' | 'add' | 'null' | 'swap';
}

const mutations: fc.Arbitrary<Mutation[]> = fc.uniqueArray(
  fc.record({
    id: fc.nat({ max: 39 }),
    kind: fc.constantFrom<Mutation['kind'][]>('change', 'remove', 'add', 'null', 'swap'),
  }),
  { selector: ({ id }) => id, maxLength: 12 },
);

function mutated({ id, kind }: Mutation): Tuple | null {
  switch (kind) {
    case 'change':
      return item(BigInt(id), 'altered');
    case 'null':
      return item(BigInt(id), null);
    case 'swap':
      return item(BigInt(id), 'long', `value ${id}`);
    case 'add':
      return item(BigInt(id), 'stray');
    case 'remove':
      return null;
  }
}

test('every altered row is found, and no other', async () => {
  await fc.assert(
    fc.asyncProperty(mutations, fc.boolean(), fc.integer({ min: 1, max: 7 }), fc.boolean(), async (all, ordered, pageRows, writing) => {
      const world = new MemoryWorld([{ ...tableSchema(ITEMS), keyOrderShared: ordered }], { validate: 'none' });
      // Even ids exist; odd ones are free for strays.
      const write = (id: number, value: string): void => {
        world.primary.transaction([{ table: ITEMS, kind: 'put', row: item(BigInt(id), value, 'long') }]);
      };
      for (let id = 0; id < 40; id += 2) write(id, `value ${id}`);
      const run = await world.start();
      try {
        const { record } = await run.orchestrator.capture(() => {}, run.signal);
        const changed = all.filter(({ id, kind }) => (id % 2 === 0) === (kind !== 'add'));
        for (const each of changed) {
          await run.shadow.replaceVersion(ITEMS, itemKey(BigInt(each.id)), { since: record.number, until: null }, mutated(each));
        }
        // Rows above 100 are the application's meanwhile: never part of the capture.
        const writer = writing ? setInterval(() => write(100 + Math.floor(Math.random() * 5), String(Math.random())), 0) : undefined;
        const stand = { at: record.number, position: record.position as NonNullable<typeof record.position> };
        const parts = { primary: world.primary, journal: world.journal, tracker: run.tracker, shadow: run.shadow };
        const validation = new Validation(
          { ...parts, page: { rows: pageRows, bytes: 1 << 20 } },
          {
            tables: [{ schema: { ...tableSchema(ITEMS), keyOrderShared: ordered }, changedKeys: null, cursor: FROM_THE_START }],
            skipped: [],
            stand: (_table, work) => work(stand),
            budgetMs: 0,
            onProgress: () => {},
          },
        );
        const { differences, coverage } = await validation.run(run.signal).finally(() => clearInterval(writer));
        const found = differences.map(({ key }) => key.toString('hex')).toSorted();
        expect(found).toEqual(changed.map(({ id }) => itemKey(BigInt(id)).toString('hex')).toSorted());
        expect(coverage.skipped).toEqual([]);
      } finally {
        await run.stop();
      }
    }),
    { numRuns: 150 },
  );
});

test.each<[string, (world: MemoryWorld) => unknown]>([
  ['its shape changed', ({ primary }) => primary.alter(ITEMS, tableSchema(ITEMS, 'v2'))],
  ['the row changed', ({ primary }) => primary.transaction([put(ITEMS, 1n, 'two')])],
])('a difference that no second fence can show leaves its table in doubt: %s', async (_reason, change) => {
  const world = new MemoryWorld([tableSchema(ITEMS)], { validate: 'none' });
  world.primary.transaction([put(ITEMS, 1n, 'one')]);
  await running(world, async ({ orchestrator, shadow, tracker, signal }) => {
    const { record } = await orchestrator.capture(quiet, signal);
    await shadow.replaceVersion(ITEMS, itemKey(1n), { since: record.number, until: null }, item(1n, 'altered'));
    const stand = { at: record.number, position: record.position as NonNullable<typeof record.position> };
    let fences = 0;
    const validation = new Validation(
      { primary: world.primary, journal: world.journal, tracker, shadow },
      {
        tables: [{ schema: tableSchema(ITEMS), changedKeys: null, cursor: FROM_THE_START }],
        skipped: [],
        stand: (_table, work) => {
          if (++fences === 2) change(world);
          return work(stand);
        },
        budgetMs: 0,
        onProgress: quiet,
      },
    );
    const { differences, coverage } = await validation.run(signal);
    expect({ differences, skipped: coverage.skipped }).toMatchObject({ differences: [], skipped: [{ table: ITEMS }] });
  });
});

test('a page that ends before the rest of the other side says nothing of it', async () => {
  const world = new MemoryWorld([tableSchema(ITEMS)], { validate: 'none' });
  for (const id of [0n, 2n, 4n, 6n]) world.primary.transaction([put(ITEMS, id, 'held')]);
  await running(world, async ({ orchestrator, shadow, tracker, signal }) => {
    const { record } = await orchestrator.capture(quiet, signal);
    for (const id of [1n, 3n, 5n]) world.primary.transaction([put(ITEMS, id, 'since')]);
    const parts = { primary: world.primary, journal: world.journal, tracker, shadow, page: { rows: 5, bytes: 1 << 20 } };
    const stand = { at: record.number, position: record.position as NonNullable<typeof record.position> };
    const first = await compareChunk(parts, tableSchema(ITEMS), stand, { kind: 'range', after: null }, signal);
    expect(first).toMatchObject({ unequal: [], inconclusive: null, unpaired: false, through: itemKey(4n) });
    const last = await compareChunk(parts, tableSchema(ITEMS), stand, { kind: 'range', after: first.through }, signal);
    expect(last).toMatchObject({ unequal: [], inconclusive: null, unpaired: false, through: null });
    expect(first.compared + last.compared).toBe(4);
  });
});
