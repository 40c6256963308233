import { once } from 'node:events';
import { setImmediate as otherWork, setTimeout as pause } from 'node:timers/promises';
import { afterEach, describe, expect, test, vi } from 'vitest';
import type { Journal } from '../src/journal/journal.ts';
import { captureNumber } from '../src/model/capture.ts';
import { ForeshadowError } from '../src/model/errors.ts';
import { position } from '../src/model/position.ts';
import type { TableName, TableSchema } from '../src/model/schema.ts';
import { Backlog } from '../src/shadowing/lag.ts';
import type { ApplyWork } from '../src/shadowing/shadow.ts';
import type { Primary } from '../src/tracking/primary.ts';
import {
  ITEMS,
  MemoryWorld,
  NOTES,
  type RunningWorld,
  hex,
  item,
  itemKey,
  live,
  put,
  quiet,
  read,
  running,
  shadowed,
  tableSchema,
  tracked,
  until,
} from './memory-world.ts';

/** What goes wrong around a capture, on stores in memory that are made to fail at the worst moment. */
const ONE: readonly TableSchema[] = [tableSchema(ITEMS)];
const BOTH: readonly TableSchema[] = [tableSchema(ITEMS), tableSchema(NOTES)];

/** An error that may pass. */
function unreachable(): ForeshadowError {
  return new ForeshadowError('SHADOW_UNREACHABLE', 'the shadow does not answer', { remedy: 'Wait.', retry: 'later' });
}

describe('an error that is reported although its work is durable', () => {
  test('a cut reported as failed is a cut: what it reads is saved before it is overwritten', async () => {
    const world = new MemoryWorld(ONE);
    world.primary.transaction([put(ITEMS, 1n, 'one')]);
    let onPoint: (name: string) => void = quiet;
    await running(
      world,
      async ({ orchestrator, catalog, shadow, signal }) => {
        await orchestrator.capture(quiet, signal);
        world.primary.transaction([put(ITEMS, 1n, 'two')]);
        const cut = catalog.cut.bind(catalog);
        catalog.cut = async (...cutting) => {
          await cut(...cutting);
          throw unreachable();
        };
        await expect(orchestrator.capture(quiet, signal)).rejects.toMatchObject({ code: 'SHADOW_UNREACHABLE' });
        catalog.cut = cut;
        // The row is overwritten once the next capture has begun.
        onPoint = (name) => {
          if (name === 'planned') world.primary.transaction([put(ITEMS, 1n, 'three')]);
        };
        const { record } = await orchestrator.capture(quiet, signal);
        expect(record).toMatchObject({ number: 3, verdict: 'VALID' });
        expect((await catalog.list()).map(({ state, verdict }) => `${state} ${verdict}`)).toEqual(Array(3).fill('sealed VALID'));
        expect(await read(shadow, ITEMS, captureNumber(2), signal)).toEqual(hex([item(1n, 'two')]));
        expect(await read(shadow, ITEMS, record.number, signal)).toEqual(hex([item(1n, 'three')]));
      },
      (name) => onPoint(name),
    );
  });

  test('a capture whose beginning was reported as failed holds up no later one', async () => {
    const world = new MemoryWorld(ONE);
    world.primary.transaction([put(ITEMS, 1n, 'one')]);
    await running(world, async ({ orchestrator, catalog, signal }) => {
      await orchestrator.capture(quiet, signal);
      const save = catalog.save.bind(catalog);
      catalog.save = async (record) => {
        await save(record);
        if (record.state === 'draining') throw unreachable();
      };
      await expect(orchestrator.capture(quiet, signal)).rejects.toMatchObject({ code: 'SHADOW_UNREACHABLE' });
      catalog.save = save;
      const { record } = await orchestrator.capture(quiet, signal);
      expect(record).toMatchObject({ number: 3, verdict: 'VALID' });
      expect((await catalog.list()).map(({ state }) => state)).toEqual(['sealed', 'sealed', 'sealed']);
    });
  });

  test.each<[string, (works: readonly ApplyWork[]) => boolean]>([
    ['rows', (works) => works.some(({ rows }) => !Array.isArray(rows))],
    ['a crossing', (works) => works.every(({ rows }) => Array.isArray(rows))],
  ])('%s reported as not written may be written again', async (_what, isMeant) => {
    const world = new MemoryWorld(ONE);
    world.primary.transaction([put(ITEMS, 1n, 'one'), put(ITEMS, 2n, 'one')]);
    await running(world, async ({ orchestrator, shadow, signal }) => {
      const { record: first } = await orchestrator.capture(quiet, signal);
      const apply = shadow.apply.bind(shadow);
      let failures = 0;
      shadow.apply = async (works, within) => {
        const report = await apply(works, within);
        if (failures === 0 && isMeant(works)) {
          failures++;
          throw unreachable();
        }
        return report;
      };
      world.primary.transaction([put(ITEMS, 1n, 'two'), { table: ITEMS, kind: 'delete', key: itemKey(2n) }]);
      const { record } = await orchestrator.capture(quiet, signal);
      expect(failures).toBe(1);
      expect(record).toMatchObject({ verdict: 'VALID', absent: [] });
      expect(await read(shadow, ITEMS, record.number, signal)).toEqual(hex([item(1n, 'two')]));
      expect(await read(shadow, ITEMS, first.number, signal)).toEqual(hex([item(1n, 'one'), item(2n, 'one')]));
    });
  });

  test('a table that went, reported as still there, is gone', async () => {
    const world = new MemoryWorld(BOTH);
    world.primary.transaction([put(ITEMS, 1n, 'one'), put(NOTES, 1n, 'one')]);
    await running(world, async (run) => {
      const { orchestrator, engine, shadow, signal } = run;
      await orchestrator.capture(quiet, signal);
      const retire = shadow.retire.bind(shadow);
      shadow.retire = async (...of) => {
        await retire(...of);
        throw unreachable();
      };
      world.primary.alter(NOTES, null);
      await until(() => !engine.elements.has(NOTES), signal);
      world.primary.transaction([put(ITEMS, 1n, 'two')]);
      await shadowed(world, run);
      expect(await live(run, ITEMS)).toEqual(hex(world.primary.rowsNow(ITEMS)));
    });
  });
});

describe('a schema that changes around a cut', () => {
  /** Has the primary answer the capture's question for its schema only when the engine has met the change. */
  async function changedOnceCrossed(change: (world: MemoryWorld) => void, isMet: (run: RunningWorld) => boolean) {
    const world = new MemoryWorld(BOTH);
    world.primary.transaction([put(ITEMS, 1n, 'old'), put(NOTES, 1n, 'note')]);
    let onPoint: (name: string) => void = quiet;
    let pinned: readonly TableSchema[] = [];
    let standing: TableSchema | null = null;
    await running(
      world,
      async (run) => {
        const { orchestrator, catalog, shadow, signal } = run;
        await orchestrator.capture(quiet, signal);
        const describeNow = world.primary.describe.bind(world.primary);
        world.primary.describe = async () => {
          world.primary.describe = describeNow;
          await until(() => isMet(run), signal);
          return describeNow();
        };
        onPoint = (name) => {
          if (name !== 'crossed') return;
          onPoint = quiet;
          change(world);
        };
        const { record } = await orchestrator.capture(quiet, signal);
        pinned = (await catalog.schema(record.number))?.tables ?? [];
        standing = await shadow.schemaAt(ITEMS, record.number);
        expect(record.verdict).toBe('INCONCLUSIVE');
        expect(record.coverage?.skipped.map(({ table }) => table)).toEqual([ITEMS]);
        expect(await read(shadow, ITEMS, record.number, signal)).toEqual(hex([item(1n, 'old')]));
      },
      (name) => onPoint(name),
    );
    return { pinned, standing: standing as TableSchema | null };
  }

  test('a capture keeps the shape its rows have, though the table has another by the time it is cut', async () => {
    const { pinned, standing } = await changedOnceCrossed(
      (world) => world.primary.alter(ITEMS, tableSchema(ITEMS, 'v2'), [item(1n, 'new')]),
      ({ engine }) => engine.elements.get(ITEMS)?.schema.shape === 'v2',
    );
    expect(pinned.find(({ table }) => table === ITEMS)?.shape).toBe('v1');
    expect(standing?.shape).toBe('v1');
  });

  test('a capture keeps a table that is dropped before it is cut', async () => {
    const { pinned } = await changedOnceCrossed(
      (world) => world.primary.alter(ITEMS, null),
      ({ engine }) => !engine.elements.has(ITEMS),
    );
    expect(pinned.map(({ table }) => table).toSorted()).toEqual([ITEMS, NOTES]);
  });

  test('a cut has the words of the capture before it, then those of the primary, also when it was killed in between', async () => {
    const world = new MemoryWorld(ONE);
    world.primary.transaction([put(ITEMS, 1n, 'one')]);
    let asked = 0;
    const describeNow = world.primary.describe.bind(world.primary);
    world.primary.describe = async () => ({
      ...(await describeNow()),
      after: [{ object: 'sequence', sql: `value ${++asked}`, mayFail: false }],
      refused: [{ table: NOTES, reason: 'it cannot be followed' }],
    });
    const worded = async ({ catalog }: RunningWorld, number: number): Promise<readonly (string | undefined)[]> => {
      const schema = await catalog.schema(captureNumber(number));
      const record = await catalog.get(captureNumber(number));
      return [schema?.after[0]?.sql, record?.absent[0]?.table];
    };
    let kill = false;
    const killing = (name: string): void => {
      if (kill && name === 'cut') throw new Error('killed');
    };
    const interrupted = async (run: RunningWorld): Promise<void> => {
      await run.orchestrator.capture(quiet, run.signal);
      const before = `value ${asked}`;
      expect(await worded(run, 1)).toEqual([before, NOTES]);
      kill = true;
      await expect(run.orchestrator.capture(quiet, run.signal)).rejects.toThrow('killed');
      expect(await worded(run, 2)).toEqual([before, undefined]);
    };
    await running(world, interrupted, killing);
    await running(world, async (run) => {
      await run.orchestrator.recover(run.signal);
      expect(await worded(run, 2)).toEqual([`value ${asked}`, NOTES]);
      expect(await run.catalog.get(captureNumber(2))).toMatchObject({ state: 'sealed', verdict: 'INCONCLUSIVE' });
    });
  });

  test('a table that appears while a capture is interrupted is in the next one', async () => {
    const world = new MemoryWorld(ONE);
    world.primary.transaction([put(ITEMS, 1n, 'one')]);
    let armed = false;
    const kill = (name: string): void => {
      if (armed && name === 'draining') throw new Error('killed');
    };
    const interrupted = async ({ orchestrator, signal }: RunningWorld): Promise<void> => {
      await orchestrator.capture(quiet, signal);
      armed = true;
      await expect(orchestrator.capture(quiet, signal)).rejects.toThrow('killed');
    };
    await running(world, interrupted, kill);
    world.primary.alter(NOTES, tableSchema(NOTES), [item(1n, 'note')]);
    await running(world, async ({ orchestrator, catalog, shadow, signal }) => {
      await orchestrator.recover(signal);
      const finished = (await catalog.list()).at(-1);
      expect(finished).toMatchObject({ number: 2, state: 'sealed' });
      expect((await catalog.schema(captureNumber(2)))?.tables.map(({ table }) => table)).toEqual([ITEMS]);
      const { record } = await orchestrator.capture(quiet, signal);
      expect(record).toMatchObject({ verdict: 'VALID', absent: [] });
      expect(await read(shadow, NOTES, record.number, signal)).toEqual(hex([item(1n, 'note')]));
    });
  });
});

/** Appends wait until there is room: returns what makes it. */
function withoutRoom(journal: Journal): () => void {
  const append = journal.append.bind(journal);
  const room = Promise.withResolvers<void>();
  journal.append = async (batch, evidence) => {
    await room.promise;
    return append(batch, evidence);
  };
  return room.resolve;
}

describe('one table in trouble', () => {
  test('it is tried less and less often, however busy the primary is', async () => {
    const world = new MemoryWorld(ONE);
    world.primary.transaction([put(ITEMS, 1n, 'one')]);
    await running(world, async (run) => {
      await run.orchestrator.capture(quiet, run.signal);
      let tries = 0;
      run.shadow.apply = async () => {
        tries++;
        throw unreachable();
      };
      for (let round = 0; round < 200; round++) {
        world.primary.transaction([put(ITEMS, 1n, `round ${round}`)]);
        await tracked(world, run);
        for (let turn = 0; turn < 5; turn++) await otherWork();
      }
      expect(tries).toBeGreaterThan(0);
      // A wait doubles each time: even a run of many minutes has fewer.
      expect(tries).toBeLessThan(20);
    });
  });

  test('of a journal that does not come to where the primary stands a capture has what there is, and says so', async () => {
    const world = new MemoryWorld(BOTH, { drainDeadlineMs: 100, validate: 'none' });
    world.primary.transaction([put(ITEMS, 1n, 'one')]);
    await running(world, async ({ orchestrator, shadow, signal }) => {
      await orchestrator.capture(quiet, signal);
      const room = withoutRoom(world.journal);
      world.primary.transaction([put(ITEMS, 1n, 'two')]);
      const { record } = await orchestrator.capture(quiet, signal);
      room();
      expect(record.note).toBe('tracking did not come to where the primary stood before the drain deadline');
      expect(await read(shadow, ITEMS, record.number, signal)).toEqual(hex([item(1n, 'one')]));
      const { record: next } = await orchestrator.capture(quiet, signal);
      expect(next.note).toBe('not compared with the primary: captures.validate is none');
      expect(await read(shadow, ITEMS, next.number, signal)).toEqual(hex([item(1n, 'two')]));
    });
  });

  test('nor is what cannot be compared in time, because changes do not come, said to be anything but that', async () => {
    const world = new MemoryWorld(BOTH, { drainDeadlineMs: 100 });
    world.primary.transaction([put(ITEMS, 1n, 'one')]);
    await running(world, async ({ orchestrator, signal }) => {
      await orchestrator.capture(quiet, signal);
      const room = withoutRoom(world.journal);
      world.primary.transaction([put(ITEMS, 1n, 'two')]);
      // Two minutes, shortened.
      const timeout = AbortSignal.timeout.bind(AbortSignal);
      const shortened = vi.spyOn(AbortSignal, 'timeout').mockImplementation((ms) => timeout(Math.min(ms, 100)));
      try {
        const { record } = await orchestrator.capture(quiet, signal);
        expect(record.verdict).toBe('INCONCLUSIVE');
        expect(record.note).toMatch(
          /^tracking did not come to .*; not compared with the primary: rows of \w+ could not be compared .* within/,
        );
      } finally {
        shortened.mockRestore();
        room();
      }
    });
  });

  test('it holds up neither the others nor a capture', async () => {
    const world = new MemoryWorld(BOTH, { drainDeadlineMs: 1_000 });
    world.primary.transaction([put(ITEMS, 1n, 'one'), put(NOTES, 1n, 'one')]);
    await running(world, async (run) => {
      const { orchestrator, shadow, signal } = run;
      await orchestrator.capture(quiet, signal);
      const apply = shadow.apply.bind(shadow);
      shadow.apply = async (works, within) => {
        if (works.some(({ table }) => table === ITEMS)) throw unreachable();
        return apply(works, within);
      };
      // It has waited longest, so its turn comes first.
      world.primary.transaction([put(ITEMS, 1n, 'two')]);
      await tracked(world, run);
      world.primary.transaction([put(NOTES, 1n, 'two')]);
      const { record } = await orchestrator.capture(quiet, signal);
      expect(record.absent.map(({ table }) => table)).toEqual([ITEMS]);
      expect(await read(shadow, NOTES, record.number, signal)).toEqual(hex([item(1n, 'two')]));
      shadow.apply = apply;
      await shadowed(world, run);
      expect(await live(run, ITEMS)).toEqual(hex([item(1n, 'two')]));
    });
  });

  test.each(['unreachable', 'broken'])('what is %s for one of those that are written together holds up none of the others', async (how) => {
    const world = new MemoryWorld(BOTH, { drainDeadlineMs: 1_000 });
    world.primary.transaction([put(ITEMS, 1n, 'one'), put(NOTES, 1n, 'one')]);
    await running(world, async (run) => {
      const { orchestrator, shadow, signal } = run;
      await orchestrator.capture(quiet, signal);
      const apply = shadow.apply.bind(shadow);
      const together: number[] = [];
      shadow.apply = async (works, within) => {
        const written = works.filter(({ rows }) => typeof rows === 'function');
        together.push(written.length);
        if (written.some(({ table }) => table === ITEMS)) throw how === 'unreachable' ? unreachable() : new Error('broken');
        return apply(works, within);
      };
      world.primary.transaction([put(ITEMS, 1n, 'two'), put(NOTES, 1n, 'two')]);
      const { record } = await orchestrator.capture(quiet, signal);
      expect(Math.max(...together)).toBe(2);
      expect(record.absent.map(({ table }) => table)).toEqual([ITEMS]);
      expect(await read(shadow, NOTES, record.number, signal)).toEqual(hex([item(1n, 'two')]));
      shadow.apply = apply;
    });
  });

  test('a budget that suffices for one table serves another each time', async () => {
    // Gone with the first page that is compared.
    const world = new MemoryWorld(BOTH, { rollingBudgetMs: 1e-6 });
    world.primary.transaction([put(ITEMS, 1n, 'one'), put(NOTES, 1n, 'one')]);
    await running(world, async ({ orchestrator, shadow, signal }) => {
      const { record: first } = await orchestrator.capture(quiet, signal);
      const compared = new Set<string | null>();
      for (let round = 0; round < BOTH.length; round++) {
        await orchestrator.capture((phase, table) => phase === 'validating' && compared.add(table), signal);
        expect(compared.size).toBe(round + 1);
      }
      await shadow.replaceVersion(NOTES, itemKey(1n), { since: first.number, until: null }, item(1n, 'altered'));
      const found: TableName[] = [];
      for (const _ of BOTH) {
        const { differences } = await orchestrator.capture(quiet, signal);
        found.push(...differences.map(({ schema }) => schema.table));
      }
      expect(found).toEqual([NOTES]);
    });
  });
});

describe('lag', () => {
  afterEach(() => {
    vi.useRealTimers();
  });

  test('is the age of the oldest change that waits, whichever process heard of it', async () => {
    const hourMs = 3_600_000;
    const world = new MemoryWorld(ONE);
    await running(world, async (run) => {
      await run.orchestrator.capture(quiet, run.signal);
      run.engine.park(true);
      await run.catalog.write('parked', { at: 1 });
      vi.useFakeTimers({ toFake: ['Date'], now: Date.now() - hourMs });
      world.primary.transaction([put(ITEMS, 1n, 'long ago')]);
      vi.useRealTimers();
      world.primary.transaction([put(ITEMS, 2n, 'just now')]);
      await tracked(world, run);
    });
    await running(world, async ({ engine }) => {
      expect(engine.backlog.lagMs(ITEMS)).toBeGreaterThanOrEqual(hourMs);
      expect(engine.backlog.pendingRows(ITEMS)).toBe(2);
      expect(engine.backlog.lagMs(NOTES)).toBe(0);
    });
  });

  test('is not understated while a fold has taken only a part of what waits', () => {
    const backlog = new Backlog();
    const [before, middle, end] = [position(1n), position(2n), position(3n)];
    const changes = new Map([[ITEMS, 1]]);
    backlog.add({ after: before, through: middle, changes, events: [], adopted: [], blocks: [] });
    backlog.add({ after: middle, through: end, changes, events: [], adopted: [], blocks: [] });
    const sinceMs = backlog.waitingSinceMs(ITEMS);
    backlog.applied(ITEMS, middle, 1);
    expect(backlog.waitingSinceMs(ITEMS)).toBe(sinceMs);
    backlog.applied(ITEMS, end, 1);
    expect(backlog.waitingSinceMs(ITEMS)).toBeNull();
  });
});

test('while it is parked the engine does not look again and again for a table that rested', async () => {
  const world = new MemoryWorld(ONE);
  world.primary.transaction([put(ITEMS, 1n, 'one')]);
  await running(world, async (run) => {
    const { engine, orchestrator, shadow, signal } = run;
    await orchestrator.capture(quiet, signal);
    const apply = shadow.apply.bind(shadow);
    const failed = Promise.withResolvers<void>();
    shadow.apply = async () => {
      failed.resolve();
      throw unreachable();
    };
    world.primary.transaction([put(ITEMS, 1n, 'two')]);
    await tracked(world, run);
    await failed.promise;
    engine.park(true);
    shadow.apply = apply;
    let rounds = 0;
    const caughtUp = engine.caughtUp(run.tracker.head, signal, () => rounds++);
    // Its first rest takes a quarter of a second.
    await pause(500);
    expect(rounds).toBeLessThan(50);
    engine.park(false);
    await caughtUp;
  });
});

test('stopping amid a capture leaves no rejection that nobody handles', async () => {
  const world = new MemoryWorld(ONE);
  world.primary.transaction([put(ITEMS, 1n, 'one')]);
  const unhandled: unknown[] = [];
  const note = (reason: unknown): number => unhandled.push(reason);
  process.on('unhandledRejection', note);
  try {
    const run = await world.start();
    let asked = false;
    // The primary gives up on its answer only after the drain has.
    (world.primary as Primary).describe = async (signal) => {
      asked = true;
      if (!signal.aborted) await once(signal, 'abort');
      await otherWork();
      throw signal.reason;
    };
    const apply = run.shadow.apply.bind(run.shadow);
    run.shadow.apply = async (works, signal) => {
      if (run.engine.drain === null) return apply(works, signal);
      if (!signal.aborted) await once(signal, 'abort');
      throw signal.reason;
    };
    world.primary.transaction([put(ITEMS, 1n, 'two')]);
    const capturing = run.orchestrator.capture(quiet, run.signal);
    const refused = expect(capturing).rejects.toMatchObject({ name: 'AbortError' });
    await until(() => asked, run.signal);
    await run.stop();
    await refused;
    for (let turn = 0; turn < 5; turn++) await otherWork();
    expect(unhandled).toEqual([]);
  } finally {
    process.off('unhandledRejection', note);
  }
});
