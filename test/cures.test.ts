import { describe, expect, test } from 'vitest';
import { type RollbackOutcome, rollback } from '../src/capture/rollback.ts';
import { type CaptureRecord, captureNumber } from '../src/model/capture.ts';
import type { TableSchema } from '../src/model/schema.ts';
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
} from './memory-world.ts';

/** Rows altered past the guard and put right, and shadows that go back, on stores in memory. */
const ONE: readonly TableSchema[] = [tableSchema(ITEMS)];
const BOTH: readonly TableSchema[] = [tableSchema(ITEMS), tableSchema(NOTES)];

/** Parks the shadow at a capture. */
function backTo({ shadow, catalog, engine, signal }: RunningWorld, record: CaptureRecord): Promise<RollbackOutcome> {
  engine.park(true);
  return rollback({ shadow, catalog, engine, failpoint: quiet }, record, signal);
}

describe('rows altered past the guard', () => {
  test('rows of different age that were removed return to exactly the captures that had them', async () => {
    const world = new MemoryWorld(ONE, { onInvalid: 'repair' });
    for (let id = 0n; id < 5n; id++) world.primary.transaction([put(ITEMS, id, 'early')]);
    await running(world, async ({ orchestrator, catalog, shadow, signal }) => {
      const { record: first } = await orchestrator.capture(quiet, signal);
      const early = await read(shadow, ITEMS, first.number, signal);
      world.primary.transaction([put(ITEMS, 50n, 'late')]);
      const { record: second } = await orchestrator.capture(quiet, signal);
      await shadow.replaceVersion(ITEMS, itemKey(3n), { since: first.number, until: null }, null);
      await shadow.replaceVersion(ITEMS, itemKey(50n), { since: second.number, until: null }, null);
      const { record, cure } = await orchestrator.capture(quiet, signal);
      expect(record.verdict).toBe('VALID');
      expect(cure).toMatchObject({ action: 'repair', rows: 2 });
      expect((await catalog.list()).map(({ verdict }) => verdict)).toEqual(['VALID', 'VALID', 'VALID']);
      expect(await read(shadow, ITEMS, first.number, signal)).toEqual(early);
      for (const at of [second, record]) {
        expect(await read(shadow, ITEMS, at.number, signal)).toEqual(hex(world.primary.rowsNow(ITEMS)));
      }
    });
  });

  test('a row put back does not overwrite what the application wrote meanwhile', async () => {
    const world = new MemoryWorld(ONE, { onInvalid: 'repair' });
    for (let id = 0n; id < 5n; id++) world.primary.transaction([put(ITEMS, id, 'one')]);
    await running(world, async (run) => {
      const { orchestrator, shadow, signal } = run;
      const { record: first } = await orchestrator.capture(quiet, signal);
      const then = await read(shadow, ITEMS, first.number, signal);
      await shadow.replaceVersion(ITEMS, itemKey(3n), { since: first.number, until: null }, null);
      const versionAt = shadow.versionAt.bind(shadow);
      shadow.versionAt = async (...asked) => {
        shadow.versionAt = versionAt;
        world.primary.transaction([put(ITEMS, 3n, 'newer')]);
        await shadowed(world, run);
        return versionAt(...asked);
      };
      const { record, cure } = await orchestrator.capture(quiet, signal);
      expect(cure).toMatchObject({ action: 'repair' });
      expect(await live(run, ITEMS)).toEqual(hex(world.primary.rowsNow(ITEMS)));
      for (const at of [first, record]) expect(await read(shadow, ITEMS, at.number, signal)).toEqual(then);
    });
  });

  test('where known-good does not read the row, the shadow goes back to it and replays', async () => {
    const world = new MemoryWorld(ONE, { onInvalid: 'rollback' });
    for (let id = 0n; id < 5n; id++) world.primary.transaction([put(ITEMS, id, 'one')]);
    await running(world, async (run) => {
      const { orchestrator, shadow, signal } = run;
      const { record: first } = await orchestrator.capture(quiet, signal);
      world.primary.transaction([put(ITEMS, 1n, 'two')]);
      await shadowed(world, run);
      const since = captureNumber(first.number + 1);
      await shadow.replaceVersion(ITEMS, itemKey(1n), { since, until: null }, item(1n, 'altered'));
      const { record, cure } = await orchestrator.capture(quiet, signal);
      expect(record.verdict).toBe('INVALID');
      expect(cure?.action).toBe('rollback');
      const { record: next } = await orchestrator.capture(quiet, signal);
      expect(next.verdict).toBe('VALID');
      expect(await read(shadow, ITEMS, next.number, signal)).toEqual(hex(world.primary.rowsNow(ITEMS)));
    });
  });
});

describe('going back', () => {
  test('a table dropped since comes back with its rows', async () => {
    const world = new MemoryWorld(BOTH);
    world.primary.transaction([put(ITEMS, 1n, 'one'), put(NOTES, 1n, 'note')]);
    await running(world, async (run) => {
      const { orchestrator, engine, shadow, signal } = run;
      const { record: first } = await orchestrator.capture(quiet, signal);
      world.primary.alter(NOTES, null);
      await shadowed(world, run);
      const { record: without } = await orchestrator.capture(quiet, signal);
      expect(engine.elements.has(NOTES)).toBe(false);
      expect(await backTo(run, first)).toMatchObject({ proved: true, untouched: [] });
      expect(await live(run, NOTES)).toEqual(hex([item(1n, 'note')]));
      expect(await live(run, ITEMS)).toEqual(hex([item(1n, 'one')]));
      expect(await shadow.schemaAt(NOTES, without.number)).toBeNull();
      // Followed again, it is dropped again.
      engine.park(false);
      await shadowed(world, run);
      expect(engine.elements.has(NOTES)).toBe(false);
    });
  });

  test('a table of another shape has the shape and the rows of the capture again', async () => {
    const world = new MemoryWorld(ONE);
    world.primary.transaction([put(ITEMS, 1n, 'old'), put(ITEMS, 2n, 'old')]);
    await running(world, async (run) => {
      const { orchestrator, engine, shadow, signal } = run;
      const { record: first } = await orchestrator.capture(quiet, signal);
      world.primary.alter(ITEMS, tableSchema(ITEMS, 'v2'), [item(1n, 'new')]);
      await shadowed(world, run);
      const { record: second } = await orchestrator.capture(quiet, signal);
      expect(await backTo(run, first)).toMatchObject({ proved: true, untouched: [] });
      expect(engine.elements.get(ITEMS)?.schema.shape).toBe('v1');
      expect(await live(run, ITEMS)).toEqual(hex([item(1n, 'old'), item(2n, 'old')]));
      expect(await read(shadow, ITEMS, second.number, signal)).toEqual(hex([item(1n, 'new')]));
      engine.park(false);
      await shadowed(world, run);
      const { record: third } = await orchestrator.capture(quiet, signal);
      expect(third).toMatchObject({ verdict: 'VALID', absent: [] });
      expect(engine.elements.get(ITEMS)?.schema.shape).toBe('v2');
      expect(await read(shadow, ITEMS, third.number, signal)).toEqual(hex([item(1n, 'new')]));
    });
  });

  test('a table that the capture does not have is left as it stands, and named', async () => {
    const world = new MemoryWorld(ONE);
    world.primary.transaction([put(ITEMS, 1n, 'one')]);
    await running(world, async ({ orchestrator, signal }) => {
      await orchestrator.capture(quiet, signal);
    });
    world.primary.alter(NOTES, tableSchema(NOTES), [item(1n, 'note')]);
    await running(world, async (run) => {
      await run.orchestrator.capture(quiet, run.signal);
      const [first] = await run.catalog.list();
      expect(await backTo(run, first as CaptureRecord)).toMatchObject({ proved: true, untouched: [NOTES] });
      expect(await live(run, NOTES)).toEqual(hex([item(1n, 'note')]));
    });
  });

  test('a gap met before a restart is met again by the replay', async () => {
    const world = new MemoryWorld(ONE);
    for (let id = 0n; id < 10n; id++) world.primary.transaction([put(ITEMS, id, 'one')]);
    await running(world, async ({ orchestrator, signal }) => {
      await orchestrator.capture(quiet, signal);
    });
    world.primary.transaction([put(ITEMS, 3n, 'unheard')]);
    world.primary.loseLog();
    await running(world, async (run) => {
      await shadowed(world, run);
      // Not validated: known-good stays the first, and the journal is kept from there.
      const unproved = () => run.orchestrator.captureNow(quiet, run.signal, { validate: false });
      await run.orchestrator.exclusively(unproved);
      expect(await live(run, ITEMS)).toEqual(hex(world.primary.rowsNow(ITEMS)));
    });
    await running(world, async (run) => {
      const [first] = await run.catalog.list();
      await backTo(run, first as CaptureRecord);
      expect(await live(run, ITEMS)).not.toEqual(hex(world.primary.rowsNow(ITEMS)));
      run.engine.park(false);
      await shadowed(world, run);
      expect(await live(run, ITEMS)).toEqual(hex(world.primary.rowsNow(ITEMS)));
    });
  });
});
