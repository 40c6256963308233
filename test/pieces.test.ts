import { expect, test } from 'vitest';
import { tailLines } from '../src/app/reports.ts';
import { ForeshadowError } from '../src/model/errors.ts';
import type { Tracked } from '../src/tracking/tracker.ts';
import {
  ITEMS,
  MemoryWorld,
  NOTES,
  type RunningWorld,
  hex,
  item,
  put,
  quiet,
  read,
  running,
  tableSchema,
  tracked,
} from './memory-world.ts';

/** A huge transaction comes in several pieces, which a batch adopts at its end: it counts as one, or not at all. */
const PIECES = [[put(ITEMS, 1n, 'two')], [put(ITEMS, 2n, 'two'), put(NOTES, 1n, 'two')], [put(NOTES, 2n, 'two')]];

async function inPieces(work: (world: MemoryWorld, run: RunningWorld, heard: readonly Tracked[]) => Promise<void>): Promise<void> {
  const world = new MemoryWorld([tableSchema(ITEMS), tableSchema(NOTES)]);
  world.primary.transaction([put(ITEMS, 1n, 'one'), put(NOTES, 1n, 'one')]);
  await running(world, async (run) => {
    await run.orchestrator.capture(quiet, run.signal);
    const heard: Tracked[] = [];
    run.tracker.onTracked((each) => heard.push(each));
    await work(world, run, heard);
    const { record } = await run.orchestrator.capture(quiet, run.signal);
    expect(record).toMatchObject({ verdict: 'VALID', absent: [], rows: { inserted: 2, updated: 2, deleted: 0 } });
    for (const table of [ITEMS, NOTES]) {
      const rows = hex([item(1n, 'two'), item(2n, 'two')]);
      expect(await read(run.shadow, table, record.number, run.signal)).toEqual(rows);
    }
  });
}

/** What `tail` says of it. */
async function told({ journal }: MemoryWorld, { engine, shadow, signal }: RunningWorld, heard: readonly Tracked[]): Promise<string[]> {
  const lines: string[] = [];
  for (const each of heard) {
    const all = tailLines(each, journal, (table) => engine.elements.get(table)?.schema, shadow.values, signal);
    for await (const { table, kind, row } of all) lines.push(`${table} ${kind} ${String(row?.['id'])}`);
  }
  return lines.toSorted();
}

test('no table of a huge transaction is missed by the engine or the tail, whichever piece it came in', async () => {
  await inPieces(async (world, run, heard) => {
    const pieces: number[] = [];
    const spool = world.journal.spool.bind(world.journal);
    world.journal.spool = async (piece) => {
      pieces.push(piece.blocks.length);
      await spool(piece);
    };
    world.primary.transactionInPieces(PIECES);
    await tracked(world, run);
    expect(pieces).toEqual([1, 2, 1]);
    expect(heard.map(({ changes }) => Object.fromEntries(changes))).toEqual([{ [ITEMS]: 2, [NOTES]: 2 }]);
    expect(await told(world, run, heard)).toEqual(['items insert 2', 'items update 1', 'notes insert 2', 'notes update 1']);
  });
});

test('a connection that breaks between the pieces loses none of them and repeats none', async () => {
  await inPieces(async (world, run, heard) => {
    const spool = world.journal.spool.bind(world.journal);
    let pieces = 0;
    world.journal.spool = async (piece) => {
      if (++pieces === 2) {
        throw new ForeshadowError('PRIMARY_UNREACHABLE', 'the primary does not answer', { remedy: 'Wait.', retry: 'later' });
      }
      await spool(piece);
    };
    world.primary.transactionInPieces(PIECES);
    await tracked(world, run);
    expect(pieces).toBe(2 + PIECES.length);
    expect(await told(world, run, heard)).toEqual(['items insert 2', 'items update 1', 'notes insert 2', 'notes update 1']);
    expect(heard.map(({ changes }) => Object.fromEntries(changes))).toEqual([{ [ITEMS]: 2, [NOTES]: 2 }]);
  });
});

test('transactions before and after a huge one keep their order', async () => {
  await inPieces(async (world, run, heard) => {
    // All of them wait when tracking gets its turn.
    world.primary.transaction([put(ITEMS, 1n, 'before'), put(NOTES, 2n, 'before')]);
    world.primary.transactionInPieces([[put(ITEMS, 1n, 'amid')], [put(NOTES, 2n, 'amid')]]);
    world.primary.transaction(PIECES.flat());
    await tracked(world, run);
    expect(heard.map(({ changes }) => Object.fromEntries(changes))).toEqual([
      { [ITEMS]: 1, [NOTES]: 1 },
      { [ITEMS]: 1, [NOTES]: 1 },
      { [ITEMS]: 2, [NOTES]: 2 },
    ]);
  });
});
