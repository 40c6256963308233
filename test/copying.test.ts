import { setTimeout as pause } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { ITEMS, MemoryWorld, NOTES, hex, item, live, put, quiet, read, running, tableSchema, tracked, until } from './memory-world.ts';

test('changes of live tables gather while another is copied, and a capture does not wait for them', async () => {
  const world = new MemoryWorld([tableSchema(ITEMS), tableSchema(NOTES)], { drainDeadlineMs: 200 });
  world.primary.transaction([put(ITEMS, 1n, 'first'), put(NOTES, 1n, 'first')]);
  await running(world, async (run) => void (await run.orchestrator.capture(quiet, run.signal)));
  world.foldEveryMs = 60_000;
  await running(world, async (run) => {
    const held = Promise.withResolvers<void>();
    const snapshot = world.primary.snapshot.bind(world.primary);
    world.primary.snapshot = async (...of) => {
      await held.promise;
      return snapshot(...of);
    };
    let folds = 0;
    const apply = run.shadow.apply.bind(run.shadow);
    run.shadow.apply = async (works, signal) => {
      if (works.some(({ table }) => table === ITEMS)) folds++;
      return apply(works, signal);
    };
    await run.engine.resync([NOTES], run.signal);
    for (let change = 1n; change <= 5n; change++) {
      world.primary.transaction([put(ITEMS, change, 'second')]);
      await tracked(world, run);
      await pause(5);
    }
    expect(folds).toBeLessThanOrEqual(1);
    world.primary.snapshot = snapshot;
    held.resolve();
    const { record } = await run.orchestrator.capture(quiet, run.signal);
    const rows = hex([1n, 2n, 3n, 4n, 5n].map((id) => item(id, 'second')));
    expect(await read(run.shadow, ITEMS, record.number, run.signal)).toEqual(rows);
  });
});

test('chunks of a copy do not keep changes of live tables waiting', async () => {
  const world = new MemoryWorld([tableSchema(ITEMS), tableSchema(NOTES)]);
  world.primary.transaction([put(ITEMS, 1n, 'first'), put(NOTES, 1n, 'first')]);
  await running(world, async (run) => void (await run.orchestrator.capture(quiet, run.signal)));
  world.foldEveryMs = 60_000;
  await running(world, async (run) => {
    const snapshot = world.primary.snapshot.bind(world.primary);
    let chunks = 0;
    world.primary.snapshot = (...of) => {
      // The first phase of a resync has one chunk; what it looks for strays with never comes.
      return ++chunks === 1 ? snapshot(...of) : new Promise(() => {});
    };
    await run.engine.resync([NOTES], run.signal);
    await until(() => chunks === 2, run.signal);
    world.primary.transaction([put(ITEMS, 1n, 'second')]);
    await tracked(world, run);
    await until(() => !run.engine.backlog.isDirty(ITEMS), run.signal);
    expect(await live(run, ITEMS)).toEqual(hex(world.primary.rowsNow(ITEMS)));
  });
});

test('changes that were left to gather are looked at in the end, however long the round took', async () => {
  const world = new MemoryWorld([tableSchema(ITEMS), tableSchema(NOTES)]);
  world.primary.transaction([put(ITEMS, 1n, 'first'), put(NOTES, 1n, 'first')]);
  await running(world, async (run) => void (await run.orchestrator.capture(quiet, run.signal)));
  world.foldEveryMs = 200;
  await running(world, async (run) => {
    const { engine, signal } = run;
    world.primary.snapshot = () => new Promise(() => {});
    await engine.resync([NOTES], signal);
    world.primary.transaction([put(ITEMS, 1n, 'second')]);
    await tracked(world, run);
    await until(() => !engine.backlog.isDirty(ITEMS), signal);
    // The round that leaves the next change waits for its turn until it need not wait any more.
    const looking = engine.still(() => pause(world.foldEveryMs + 50));
    world.primary.transaction([put(ITEMS, 1n, 'third')]);
    await looking;
    await until(() => !engine.backlog.isDirty(ITEMS), signal);
    expect(await live(run, ITEMS)).toEqual(hex(world.primary.rowsNow(ITEMS)));
  });
});
