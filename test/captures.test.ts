import { setImmediate as otherWork } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import type { CaptureNumber, CaptureRecord } from '../src/model/capture.ts';
import type { Progress } from '../src/model/progress.ts';
import type { TableName, TableSchema } from '../src/model/schema.ts';
import { rollback } from '../src/capture/rollback.ts';
import { ITEMS, MemoryWorld, NOTES, hex, item, itemKey, put, quiet, read, running, tableSchema, until } from './memory-world.ts';

const ONE_ITEMS_TABLE: readonly TableSchema[] = [tableSchema(ITEMS)];
const BOTH: readonly TableSchema[] = [tableSchema(ITEMS), tableSchema(NOTES)];

describe('captures of a primary in memory', () => {
  test('the first capture copies what was there, and what came while copying', async () => {
    const world = new MemoryWorld(ONE_ITEMS_TABLE);
    for (let id = 0n; id < 100n; id++) world.primary.transaction([{ table: ITEMS, kind: 'put', row: item(id, 'before') }]);
    await running(world, async ({ orchestrator, shadow, signal }) => {
      for (let id = 90n; id < 110n; id++) world.primary.transaction([{ table: ITEMS, kind: 'put', row: item(id, 'during') }]);
      const { record } = await orchestrator.capture(quiet, signal);
      expect(record.verdict).toBe('VALID');
      expect(await read(shadow, ITEMS, record.number, signal)).toEqual(hex(world.primary.rowsNow(ITEMS)));
    });
  });

  test('each capture keeps its own rows', async () => {
    const world = new MemoryWorld(BOTH);
    await running(world, async ({ orchestrator, shadow, signal }) => {
      const kept: Array<[CaptureNumber, string[]]> = [];
      for (let round = 0; round < 5; round++) {
        for (let id = 0n; id < 20n; id++) {
          const table = id % 3n === 0n ? NOTES : ITEMS;
          if ((Number(id) + round) % 4 === 0) world.primary.transaction([{ table, kind: 'delete', key: itemKey(id) }]);
          else world.primary.transaction([{ table, kind: 'put', row: item(id, `round ${round}`) }]);
        }
        const { record } = await orchestrator.capture(quiet, signal);
        expect(record).toMatchObject({ verdict: 'VALID', state: 'sealed' });
        kept.push([record.number, hex(world.primary.rowsNow(ITEMS))]);
      }
      for (const [number, rows] of kept) expect(await read(shadow, ITEMS, number, signal)).toEqual(rows);
    });
  });

  test('the catalog is asked and told no more often for many tables than for few', async () => {
    const callsFor = async (tables: number): Promise<number> => {
      const world = new MemoryWorld(Array.from({ length: tables }, (_, index) => tableSchema(`table ${index}` as TableName)));
      let calls = 0;
      await running(world, async ({ orchestrator, catalog, signal }) => {
        await orchestrator.capture(quiet, signal);
        const [readDocument, write] = [catalog.read.bind(catalog), catalog.write.bind(catalog)];
        catalog.read = async (name) => {
          calls++;
          return readDocument(name);
        };
        catalog.write = async (name, value) => {
          calls++;
          await write(name, value);
        };
        expect((await orchestrator.capture(quiet, signal)).record.verdict).toBe('VALID');
      });
      return calls;
    };
    expect(await callsFor(12)).toBe(await callsFor(2));
  });

  test('tables come to the position of a capture while it is written down, and none crosses before', async () => {
    const world = new MemoryWorld(BOTH);
    await running(world, async ({ orchestrator, catalog, engine, signal }) => {
      await orchestrator.capture(quiet, signal);
      const save = catalog.save.bind(catalog);
      const writing = Promise.withResolvers<CaptureRecord>();
      const written = Promise.withResolvers<void>();
      catalog.save = async (record) => {
        if (record.state === 'draining') {
          writing.resolve(record);
          await written.promise;
        }
        await save(record);
      };
      world.primary.transaction([put(ITEMS, 1n, 'one'), put(NOTES, 1n, 'one')]);
      const capture = orchestrator.capture(quiet, signal);
      const { position, number } = await writing.promise;
      const progress = (): Progress[] => Array.from(engine.elements.values(), (element) => element.progress);
      await until(() => progress().every(({ low }) => low === position), signal);
      // Time for a crossing that should not be.
      for (let turn = 0; turn < 20; turn++) await otherWork();
      expect(progress().map((each) => each.capture)).toEqual([number, number]);
      written.resolve();
      expect((await capture).record).toMatchObject({ verdict: 'VALID', rows: { inserted: 2 } });
      expect(progress().map((each) => each.capture)).toEqual([number + 1, number + 1]);
    });
  });

  test('every table stands at the one position of the capture, whatever is written while it is chosen', async () => {
    const world = new MemoryWorld(BOTH);
    /** Both tables always change in one transaction: they agree at every position. */
    const states = new Map<string, string>();
    let count = 0n;
    const write = (): void => {
      count++;
      const value = `value ${count}`;
      const { at } = world.primary.transaction([put(ITEMS, count % 7n, value), put(NOTES, count % 7n, value)]);
      states.set(at, JSON.stringify(hex(world.primary.rowsNow(ITEMS))));
    };
    write();
    await running(world, async ({ orchestrator, catalog, engine, shadow, signal }) => {
      const save = catalog.save.bind(catalog);
      // Writing the position down takes its time, and the application does not wait for it.
      catalog.save = async (record) => {
        for (let turn = 0; turn < 5; turn++) {
          write();
          await new Promise((resolve) => setTimeout(resolve, 2));
        }
        await save(record);
      };
      const writer = setInterval(write, 1);
      try {
        for (let round = 0; round < 5; round++) {
          const { record } = await orchestrator.capture(quiet, signal);
          const items = await read(shadow, ITEMS, record.number, signal);
          expect(await read(shadow, NOTES, record.number, signal)).toEqual(items);
          expect(JSON.stringify(items)).toBe(states.get(record.position as string));
          expect(engine.elements.size).toBe(2);
        }
      } finally {
        clearInterval(writer);
      }
    });
  });

  test('a transaction that snapshots do not show yet is neither lost nor reported as a difference', async () => {
    const world = new MemoryWorld(ONE_ITEMS_TABLE);
    world.primary.transaction([{ table: ITEMS, kind: 'put', row: item(1n, 'one') }]);
    await running(world, async ({ orchestrator, shadow, signal }) => {
      await orchestrator.capture(quiet, signal);
      const hidden = world.primary.transactionUnseen([{ table: ITEMS, kind: 'put', row: item(2n, 'hidden') }]);
      world.primary.transaction([{ table: ITEMS, kind: 'put', row: item(3n, 'seen') }]);
      const capturing = orchestrator.capture(quiet, signal);
      setTimeout(() => hidden.release(), 50);
      const { record, differences } = await capturing;
      expect(differences).toEqual([]);
      expect(record.verdict).toBe('VALID');
      expect(await read(shadow, ITEMS, record.number, signal)).toEqual(hex([item(1n, 'one'), item(2n, 'hidden'), item(3n, 'seen')]));
    });
  });

  test('a row altered past the guard is found, diagnosed and put right in every capture that reads it', async () => {
    const world = new MemoryWorld(ONE_ITEMS_TABLE);
    for (let id = 0n; id < 10n; id++) world.primary.transaction([{ table: ITEMS, kind: 'put', row: item(id, 'true') }]);
    await running(world, async ({ orchestrator, shadow, catalog, signal }) => {
      const { record: first } = await orchestrator.capture(quiet, signal);
      world.primary.transaction([{ table: ITEMS, kind: 'put', row: item(1n, 'newer') }]);
      await orchestrator.capture(quiet, signal);
      await shadow.replaceVersion(ITEMS, itemKey(7n), { since: first.number, until: null }, item(7n, 'altered'));
      const { record, differences, cure } = await orchestrator.capture(quiet, signal);
      expect(differences.map(({ diagnosis }) => diagnosis)).toEqual(['altered in the shadow']);
      expect(differences[0]?.key.equals(itemKey(7n))).toBe(true);
      expect(cure).toMatchObject({ action: 'repair', rows: 1 });
      expect(record.verdict).toBe('VALID');
      expect((await catalog.list()).map(({ verdict }) => verdict)).toEqual(['VALID', 'VALID', 'VALID']);
      expect(await read(shadow, ITEMS, first.number, signal)).toContain(item(7n, 'true').toString('hex'));
    });
  });

  test('a row removed past the guard, and one added, are put right', async () => {
    const world = new MemoryWorld(ONE_ITEMS_TABLE);
    for (let id = 0n; id < 10n; id++) world.primary.transaction([{ table: ITEMS, kind: 'put', row: item(id, 'true') }]);
    await running(world, async ({ orchestrator, shadow, signal }) => {
      const { record: first } = await orchestrator.capture(quiet, signal);
      await shadow.replaceVersion(ITEMS, itemKey(3n), { since: first.number, until: null }, null);
      await shadow.replaceVersion(ITEMS, itemKey(99n), { since: first.number, until: null }, item(99n, 'stray'));
      const { record, differences } = await orchestrator.capture(quiet, signal);
      expect(differences).toHaveLength(2);
      expect(record.verdict).toBe('VALID');
      expect(await read(shadow, ITEMS, first.number, signal)).toEqual(hex(world.primary.rowsNow(ITEMS)));
    });
  });

  test('a change that tracking missed is found and read again; that capture stays INVALID', async () => {
    const world = new MemoryWorld(ONE_ITEMS_TABLE);
    for (let id = 0n; id < 10n; id++) world.primary.transaction([{ table: ITEMS, kind: 'put', row: item(id, 'true') }]);
    await running(world, async ({ orchestrator, shadow, engine, tracker, signal }) => {
      const { record: first } = await orchestrator.capture(quiet, signal);
      expect(first.verdict).toBe('VALID');
      // The shadow loses a change that was applied rightly: as if tracking had never seen it.
      world.primary.transaction([{ table: ITEMS, kind: 'put', row: item(4n, 'missed') }]);
      await tracker.reached(await world.primary.now(), signal);
      await engine.caughtUp(tracker.head, signal);
      const [element] = Array.from((await shadow.elements()).values());
      const at = element?.progress.capture as CaptureNumber;
      await shadow.replaceVersion(ITEMS, itemKey(4n), { since: at, until: null }, item(4n, 'true'));
      const { record, differences } = await orchestrator.capture(quiet, signal);
      expect(record.verdict).toBe('INVALID');
      expect(differences.map(({ diagnosis }) => diagnosis)).toEqual(['applied wrong']);
      const { record: next } = await orchestrator.capture(quiet, signal);
      expect(next.verdict).toBe('VALID');
    });
  });

  test('rollback goes forward, is proved, and resume replays', async () => {
    const world = new MemoryWorld(BOTH);
    for (let id = 0n; id < 10n; id++) world.primary.transaction([{ table: ITEMS, kind: 'put', row: item(id, 'one') }]);
    await running(world, async (run) => {
      const { orchestrator, shadow, engine, catalog, tracker, signal } = run;
      const { record: first } = await orchestrator.capture(quiet, signal);
      const then = await read(shadow, ITEMS, first.number, signal);
      for (let id = 5n; id < 15n; id++) world.primary.transaction([{ table: ITEMS, kind: 'put', row: item(id, 'two') }]);
      world.primary.transaction([{ table: ITEMS, kind: 'delete', key: itemKey(0n) }]);
      const { record: second } = await orchestrator.capture(quiet, signal);
      const later = await read(shadow, ITEMS, second.number, signal);
      engine.park(true);
      const outcome = await rollback({ shadow, catalog, engine, failpoint: () => {} }, first, signal);
      expect(outcome).toMatchObject({ proved: true, rows: 11 });
      const inProgress = engine.elements.get(ITEMS)?.progress.capture as CaptureNumber;
      expect(await read(shadow, ITEMS, inProgress, signal)).toEqual(then);
      expect(await read(shadow, ITEMS, second.number, signal)).toEqual(later);
      await expect(orchestrator.capture(quiet, signal)).rejects.toMatchObject({ code: 'PARKED' });
      engine.park(false);
      await engine.caughtUp(tracker.head, signal);
      const { record: third } = await orchestrator.capture(quiet, signal);
      expect(third.verdict).toBe('VALID');
      expect(await read(shadow, ITEMS, third.number, signal)).toEqual(hex(world.primary.rowsNow(ITEMS)));
      expect(await read(shadow, ITEMS, first.number, signal)).toEqual(then);
    });
  });

  test('a truncate empties the table, and earlier captures keep it', async () => {
    const world = new MemoryWorld(ONE_ITEMS_TABLE);
    for (let id = 0n; id < 5n; id++) world.primary.transaction([{ table: ITEMS, kind: 'put', row: item(id, 'one') }]);
    await running(world, async ({ orchestrator, shadow, signal }) => {
      const { record: first } = await orchestrator.capture(quiet, signal);
      world.primary.transaction([
        { table: ITEMS, kind: 'truncate' },
        { table: ITEMS, kind: 'put', row: item(2n, 'after') },
      ]);
      const { record: second } = await orchestrator.capture(quiet, signal);
      expect(await read(shadow, ITEMS, second.number, signal)).toEqual(hex([item(2n, 'after')]));
      expect(await read(shadow, ITEMS, first.number, signal)).toHaveLength(5);
      expect(second.verdict).toBe('VALID');
    });
  });

  test('a table of a new shape is copied again; captures keep their own shape', async () => {
    const world = new MemoryWorld(BOTH);
    world.primary.transaction([{ table: ITEMS, kind: 'put', row: item(1n, 'old') }]);
    await running(world, async ({ orchestrator, shadow, signal }) => {
      const { record: first } = await orchestrator.capture(quiet, signal);
      world.primary.alter(ITEMS, tableSchema(ITEMS, 'v2'), [item(1n, 'new')]);
      world.primary.transaction([{ table: ITEMS, kind: 'put', row: item(2n, 'new') }]);
      let { record } = await orchestrator.capture(quiet, signal);
      if (record.absent.length > 0) ({ record } = await orchestrator.capture(quiet, signal));
      expect(record).toMatchObject({ verdict: 'VALID', absent: [] });
      expect(await read(shadow, ITEMS, record.number, signal)).toEqual(hex([item(1n, 'new'), item(2n, 'new')]));
      expect(await read(shadow, ITEMS, first.number, signal)).toEqual(hex([item(1n, 'old')]));
      expect((await shadow.schemaAt(ITEMS, first.number))?.shape).toBe('v1');
    });
  });

  test('a lost log is a gap, cured by comparison', async () => {
    const world = new MemoryWorld(ONE_ITEMS_TABLE);
    for (let id = 0n; id < 10n; id++) world.primary.transaction([{ table: ITEMS, kind: 'put', row: item(id, 'one') }]);
    await running(world, async ({ orchestrator, signal }) => {
      await orchestrator.capture(quiet, signal);
    });
    world.primary.transaction([
      { table: ITEMS, kind: 'put', row: item(3n, 'unheard') },
      { table: ITEMS, kind: 'delete', key: itemKey(4n) },
    ]);
    world.primary.loseLog();
    await running(world, async ({ orchestrator, shadow, engine, tracker, signal }) => {
      await tracker.reached(await world.primary.now(), signal);
      await engine.caughtUp(tracker.head, signal);
      const { record } = await orchestrator.capture(quiet, signal);
      expect(record.verdict).toBe('VALID');
      expect(await read(shadow, ITEMS, record.number, signal)).toEqual(hex(world.primary.rowsNow(ITEMS)));
    });
  });

  test('what a gap after the cut swallowed is not held against the capture', async () => {
    const world = new MemoryWorld(ONE_ITEMS_TABLE);
    for (let id = 0n; id < 10n; id++) world.primary.transaction([put(ITEMS, id, 'one')]);
    await running(world, async ({ orchestrator, catalog, shadow, signal }) => {
      await orchestrator.capture(quiet, signal);
      const seal = catalog.seal.bind(catalog);
      catalog.seal = async (...sealing) => {
        catalog.seal = seal;
        world.primary.transaction([put(ITEMS, 3n, 'unheard')]);
        world.primary.loseLog();
        await seal(...sealing);
      };
      world.primary.transaction([put(ITEMS, 3n, 'two')]);
      const { record, differences } = await orchestrator.capture(quiet, signal);
      expect({ verdict: record.verdict, differences }).toEqual({ verdict: 'INCONCLUSIVE', differences: [] });
      expect(record.coverage?.skipped).toMatchObject([{ table: ITEMS, reason: expect.stringContaining('since the capture') as string }]);
      let next = await orchestrator.capture(quiet, signal);
      while (next.record.verdict === 'INCONCLUSIVE') next = await orchestrator.capture(quiet, signal);
      expect(next.record.verdict).toBe('VALID');
      expect(await read(shadow, ITEMS, next.record.number, signal)).toEqual(hex(world.primary.rowsNow(ITEMS)));
    });
  });
});
