import fc from 'fast-check';
import { expect, test, vi } from 'vitest';
import { liveStand } from '../src/app/live-check.ts';
import { rollback } from '../src/capture/rollback.ts';
import { FROM_THE_START, Validation } from '../src/capture/validate.ts';
import type { CaptureRecord } from '../src/model/capture.ts';
import { ForeshadowError } from '../src/model/errors.ts';
import { ORIGIN, type Position } from '../src/model/position.ts';
import type { Progress } from '../src/model/progress.ts';
import { type Identity, type Tuple, identityOf, identityOfRow } from '../src/model/tuple.ts';
import { rowsOf } from '../src/shadowing/shadow.ts';
import type { MemoryOperation } from '../src/stores/memory/primary.ts';
import {
  ITEMS,
  MemoryWorld,
  NOTES,
  type RunningWorld,
  hex,
  item,
  itemKey,
  live,
  partOfItem,
  put,
  quiet,
  read,
  running,
  shadowed,
  tableSchema,
  tracked,
  until,
} from './memory-world.ts';

/** Rows that are held back: they wait, they go when they are called for, and whatever happens the shadow comes out right. */

/** `HELD_RUNS=2000` for a long run. */
const RUNS = Number(process.env['HELD_RUNS'] ?? 40);
const TABLES = [ITEMS, NOTES];
const HOLDING = { bytesMax: 64 << 20, patienceMs: 60_000, changed: () => undefined };

interface Act {
  readonly kind: 'write' | 'move' | 'hold' | 'flow' | 'ease' | 'capture' | 'restart' | 'crash' | 'lost' | 'park' | 'repair' | 'rollback';
  readonly operations: readonly Drawn[];
  readonly picks: readonly number[];
}

interface Drawn {
  readonly table: number;
  readonly kind: 'put' | 'patch' | 'delete' | 'move' | 'patch-move' | 'truncate';
  readonly id: number;
  readonly to: number;
  readonly value: string;
}

const drawn: fc.Arbitrary<Drawn> = fc.record({
  table: fc.nat(1),
  kind: fc.constantFrom<Drawn['kind'][]>(
    'put',
    'put',
    'put',
    'put',
    'patch',
    'patch',
    'patch',
    'delete',
    'delete',
    'move',
    'patch-move',
    'truncate',
  ),
  id: fc.nat(7),
  to: fc.nat(7),
  value: fc.string({ maxLength: 12 }),
});

const acts: fc.Arbitrary<Act[]> = fc.array(
  fc.record({
    kind: fc.constantFrom<Act['kind'][]>(
      'write',
      'write',
      'write',
      'write',
      'move',
      'move',
      'move',
      'hold',
      'flow',
      'ease',
      'capture',
      'restart',
      'crash',
      'lost',
      'park',
      'repair',
      'rollback',
    ),
    operations: fc.array(drawn, { minLength: 1, maxLength: 5 }),
    picks: fc.array(fc.nat(20), { minLength: 1, maxLength: 6 }),
  }),
  { maxLength: 40, size: 'max' },
);

/** The primary's rows after each transaction, by table: what the shadow may show. */
class Model {
  readonly #states: { readonly at: Position; readonly tables: ReadonlyMap<string, ReadonlyMap<Identity, Tuple>> }[] = [];

  note(world: MemoryWorld, at: Position): void {
    const tables = TABLES.map(
      (table) => [table, new Map(world.primary.rowsNow(table).map((row) => [identityOfRow(row, [0]), row]))] as const,
    );
    this.#states.push({ at, tables: new Map(tables) });
  }

  /** Each row of the shadow as it was at `low`, or at some moment from there to `high`. */
  check(table: string, { low, high }: Progress, rows: readonly string[]): void {
    const from = this.#states.findLastIndex(({ at }) => at <= low);
    const possible = this.#states.slice(Math.max(0, from)).filter(({ at }, index) => index === 0 || at <= high);
    const shown = new Map(rows.map((row) => [identityOfRow(Buffer.from(row, 'hex') as unknown as Tuple, [0]), row]));
    const keys = new Set([...shown.keys(), ...possible.flatMap(({ tables }) => Array.from(tables.get(table)?.keys() ?? []))]);
    for (const key of keys) {
      const allowed = possible.map(({ tables }) => tables.get(table)?.get(key)?.toString('hex'));
      expect(allowed).toContain(shown.get(key));
    }
  }
}

/** Of what was drawn, what a primary could do. */
function operationsOf(world: MemoryWorld, drafts: readonly Drawn[]): MemoryOperation[] {
  const touched = new Set<string>();
  const standing = new Map(TABLES.map((table) => [table, new Set(world.primary.rowsNow(table).map((row) => identityOfRow(row, [0])))]));
  return drafts.flatMap((draft): MemoryOperation[] => {
    const table = TABLES[draft.table] as (typeof TABLES)[number];
    const stands = standing.get(table) as Set<Identity>;
    const [key, to] = [itemKey(BigInt(draft.id)), itemKey(BigInt(draft.to))];
    const partial = draft.kind === 'patch' || draft.kind === 'patch-move';
    const row = (id: number): Tuple =>
      partial ? partOfItem(BigInt(id), draft.value) : item(BigInt(id), draft.value, `long ${draft.value}`);
    const isThere = stands.has(identityOf(key));
    // Once in a transaction: this primary tells an insert from an update by what stood before it.
    const names = [`${table} ${draft.id}`, ...(draft.kind === 'move' || draft.kind === 'patch-move' ? [`${table} ${draft.to}`] : [])];
    if (draft.kind !== 'truncate' && names.some((name) => touched.has(name))) return [];
    for (const name of draft.kind === 'truncate' ? [] : names) touched.add(name);
    switch (draft.kind) {
      case 'truncate':
        stands.clear();
        return [{ table, kind: 'truncate' }];
      case 'put':
      case 'patch':
        if (partial && !isThere) return [];
        stands.add(identityOf(key));
        return [{ table, kind: 'put', row: row(draft.id) }];
      case 'delete':
        if (!stands.delete(identityOf(key))) return [];
        return [{ table, kind: 'delete', key }];
      default:
        if (!isThere || stands.has(identityOf(to))) return [];
        stands.delete(identityOf(key));
        stands.add(identityOf(to));
        return [{ table, kind: 'move', key, row: row(draft.to) }];
    }
  });
}

/** One world, what it went through, and what must hold of it after each step. */
class Story {
  readonly world = new MemoryWorld(
    TABLES.map((table) => tableSchema(table)),
    { validate: 'full' },
  );
  readonly #model = new Model();
  readonly #progress = new Map<string, Progress>();
  readonly #captures: { readonly number: number; readonly rows: ReadonlyMap<string, readonly string[]> }[] = [];
  #run: RunningWorld | null = null;
  #dying = false;

  constructor() {
    this.world.holding = HOLDING;
    this.world.told = ({ holding }) => holding.hold(true);
    this.#model.note(this.world, ORIGIN);
  }

  get run(): RunningWorld {
    return this.#run as RunningWorld;
  }

  async start(): Promise<void> {
    this.#dying = false;
    this.#run = await this.world.start((name) => {
      // What ends the engine at once, without another write.
      if (this.#dying && name === 'moved-ahead') throw new ForeshadowError('FENCED', 'died', { remedy: 'Start again.' });
    });
    await this.quiet();
  }

  async stop(): Promise<void> {
    await this.#run?.stop();
    this.#run = null;
  }

  /** Until everything is in the shadow, or held back. */
  async quiet(): Promise<void> {
    await tracked(this.world, this.run);
    await this.run.engine.caughtUp(this.run.tracker.head, this.run.signal);
  }

  async act({ kind, operations, picks }: Act): Promise<void> {
    const { engine, orchestrator, signal } = this.run;
    const { holding } = engine;
    const picked = (): number[] => picks.filter((at) => at < holding.rows.count).map((at) => holding.rows.at(at));
    if (kind === 'write') {
      this.#write(operations);
      // Now and then several come before they are looked at.
      if (operations.length > 1) await this.quiet();
    } else if (kind === 'move') {
      const rows = picked();
      await holding.move(rows, signal);
    } else if (kind === 'hold' || kind === 'flow') {
      holding.hold(kind === 'hold');
      await this.quiet();
      if (kind === 'flow') expect(holding.rows.count).toBe(0);
    } else if (kind === 'ease') holding.ease({ batchShare: picks[0] === 0 ? 0.00001 : 1, copiesYield: picks.length > 3 });
    else if (kind === 'capture') {
      const { record } = await orchestrator.capture(quiet, signal);
      expect(record).toMatchObject({ verdict: 'VALID', absent: [] });
      const rows = TABLES.map((table) => [table, hex(this.world.primary.rowsNow(table))] as const);
      this.#captures.push({ number: record.number, rows: new Map(rows) });
    } else if (kind === 'restart') {
      await this.stop();
      await this.start();
    } else if (kind === 'lost') await this.#lost(picked(), operations);
    else if (kind === 'park') {
      engine.park(true);
      const moved = holding.move(picked(), signal);
      for (const some of operations) this.#write([some]);
      await tracked(this.world, this.run);
      engine.park(false);
      await moved;
      await this.quiet();
    } else if (kind === 'repair') {
      const keys = picks.map((id) => itemKey(BigInt(id)));
      for (const table of TABLES) await engine.repair(table, keys, signal);
    } else if (kind === 'rollback') await this.#rollback(picked());
    else {
      this.#dying = true;
      const moved = await holding.move(picked(), signal).then(
        () => true,
        () => false,
      );
      await this.run.stop().catch((error: unknown) => {
        if (moved || !(error instanceof Error && error.message === 'died')) throw error;
      });
      await this.start();
    }
  }

  #write(operations: readonly Drawn[]): void {
    const some = operationsOf(this.world, operations);
    if (some.length > 0) this.#model.note(this.world, this.world.primary.transaction(some).at);
  }

  /** Rows go, and nothing is heard of it; more comes before anybody looks. */
  async #lost(rows: readonly number[], operations: readonly Drawn[]): Promise<void> {
    const { shadow, engine, signal } = this.run;
    const apply = shadow.apply.bind(shadow);
    shadow.apply = async (works, within) => {
      shadow.apply = apply;
      await apply(works, within);
      this.#write(operations);
      await tracked(this.world, this.run);
      throw new ForeshadowError('SHADOW_UNREACHABLE', 'the answer was lost', { remedy: 'Wait.', retry: 'later' });
    };
    await engine.holding.move(rows, signal);
    shadow.apply = apply;
  }

  async #rollback(rows: readonly number[]): Promise<void> {
    const { shadow, catalog, engine, signal } = this.run;
    const record = (await catalog.list()).findLast(({ state }) => state === 'sealed');
    if (record === undefined) return;
    engine.park(true);
    const moved = engine.holding.move(rows, signal);
    expect(await rollback({ shadow, catalog, engine, failpoint: quiet }, record, signal)).toMatchObject({ proved: true });
    expect(await moved).toEqual({ rows: 0, bytes: 0 });
    this.#progress.clear();
    engine.park(false);
    await this.quiet();
  }

  async check(): Promise<void> {
    for (const table of TABLES) {
      await this.run.engine.still(async (elements) => {
        const progress = elements.get(table)?.progress as Progress;
        const before = this.#progress.get(table);
        this.#progress.set(table, progress);
        expect(progress.high >= progress.low).toBe(true);
        expect(before === undefined || (progress.low >= before.low && progress.high >= before.high)).toBe(true);
        this.#model.check(table, progress, await live(this.run, table));
      });
    }
  }

  async end(): Promise<void> {
    this.run.engine.holding.hold(false);
    await this.quiet();
    for (const table of TABLES) expect(await live(this.run, table)).toEqual(hex(this.world.primary.rowsNow(table)));
    for (const { number, rows } of this.#captures) {
      for (const table of TABLES) expect(await read(this.run.shadow, table, number as never, this.run.signal)).toEqual(rows.get(table));
    }
  }
}

test('whatever waits, moves, is captured or forgotten, the shadow shows what the primary had', {
  timeout: 60_000 + 1000 * RUNS,
}, async () => {
  await fc.assert(
    fc.asyncProperty(acts, async (all) => {
      const story = new Story();
      await story.start();
      try {
        for (const act of all) {
          await story.act(act);
          await story.check();
        }
        await story.end();
      } finally {
        await story.stop().catch(() => undefined);
      }
    }),
    { numRuns: RUNS },
  );
});

/** A world of 20 items and as many notes, all in the shadow, whose changes are held back from here on. */
async function heldBack(work: (world: MemoryWorld, run: RunningWorld) => Promise<void>, more: Partial<MemoryWorld> = {}): Promise<void> {
  const world = Object.assign(new MemoryWorld(TABLES.map((table) => tableSchema(table))), { holding: HOLDING }, more);
  for (const table of TABLES) world.primary.transaction(range(1, 20).map((id) => put(table, BigInt(id), 'one')));
  await running(world, async (run) => {
    await run.orchestrator.capture(quiet, run.signal);
    run.engine.holding.hold(true);
    await work(world, run);
  });
}

function range(from: number, to: number): number[] {
  return Array.from({ length: to - from + 1 }, (_, index) => from + index);
}

/** Until all is in the shadow, or held back. */
async function gathered(world: MemoryWorld, run: RunningWorld): Promise<void> {
  await tracked(world, run);
  await run.engine.caughtUp(run.tracker.head, run.signal);
}

/** The keys of all rows that the shadow is handed from here on. */
function handed({ shadow }: RunningWorld): string[] {
  const keys: string[] = [];
  const apply = shadow.apply.bind(shadow);
  shadow.apply = (works, signal) =>
    apply(
      works.map((work) => ({
        ...work,
        async *rows(standing) {
          for await (const batch of rowsOf(work, standing)) {
            for (const key of batch.deletes) keys.push(`${work.table} ${identityOf(key)}`);
            for (const row of [...(batch.patches ?? []), ...batch.puts]) keys.push(`${work.table} ${identityOfRow(row, [0])}`);
            yield batch;
          }
        },
      })),
      signal,
    );
  return keys;
}

test('what moved early is not written again when a capture drains', async () => {
  await heldBack(async (world, run) => {
    const { rows } = run.engine.holding;
    for (const table of TABLES) world.primary.transaction(range(1, 20).map((id) => put(table, BigInt(id), 'two')));
    world.primary.transaction([{ table: ITEMS, kind: 'delete', key: itemKey(20n) }, put(NOTES, 21n, 'new')]);
    await gathered(world, run);
    expect([rows.count, run.engine.backlog.pendingRows(ITEMS)]).toEqual([41, 21]);
    const keys = handed(run);
    const early = rows.list().filter((_, index) => index % 3 === 0);
    const bytes = early.reduce((sum, row) => sum + rows.bytes(row), 0);
    expect(await run.engine.holding.move(early, run.signal)).toEqual({ rows: early.length, bytes });
    const ahead = await run.engine.still(async (elements) => Array.from(elements.values(), ({ progress: { low, high } }) => low < high));
    expect(ahead).toEqual([true, true]);
    const { record } = await run.orchestrator.capture(quiet, run.signal);
    expect(record).toMatchObject({ verdict: 'VALID', absent: [], rows: { inserted: 1, updated: 39, deleted: 1 } });
    expect([keys.length, new Set(keys).size]).toEqual([41, 41]);
    for (const table of TABLES) expect(await read(run.shadow, table, record.number, run.signal)).toEqual(hex(world.primary.rowsNow(table)));
  });
});

/** Rows with these keys go; deleted ones too. */
async function go({ engine, signal }: RunningWorld, sinceOf: readonly number[]): Promise<void> {
  const { rows } = engine.holding;
  const inOrder = rows.list().toSorted((a, b) => rows.sinceMs(a) - rows.sinceMs(b));
  await engine.holding.move(
    sinceOf.map((index) => inOrder[index] as number),
    signal,
  );
}

test('after a restart a row may be in either state, and nothing is read from the primary again', async () => {
  const world = new MemoryWorld([tableSchema(ITEMS)]);
  world.holding = HOLDING;
  world.told = ({ holding }) => holding.hold(true);
  world.primary.transaction(range(1, 9).map((id) => put(ITEMS, BigInt(id), 'one')));
  await running(world, async (run) => {
    await run.orchestrator.capture(quiet, run.signal);
    const write = async (...operations: MemoryOperation[]): Promise<void> => {
      world.primary.transaction(operations);
      await gathered(world, run);
    };
    const patch = (id: bigint, value: string): MemoryOperation => ({ table: ITEMS, kind: 'put', row: partOfItem(id, value) });
    // The first waits. What is inserted, deleted and changed after it goes, and changes again, or does not.
    await write(put(ITEMS, 1n, 'waits'));
    await write(put(ITEMS, 30n, 'goes'));
    await write(put(ITEMS, 31n, 'goes'));
    await write({ table: ITEMS, kind: 'delete', key: itemKey(2n) });
    await write(patch(3n, 'goes'));
    await write(patch(4n, 'gone soon'));
    await write({ table: ITEMS, kind: 'delete', key: itemKey(4n) });
    await go(run, [1, 2, 3, 4, 5]);
    await write({ table: ITEMS, kind: 'delete', key: itemKey(30n) });
    await write(patch(31n, 'waits'));
    await write(put(ITEMS, 2n, 'again'));
    await write(patch(3n, 'waits'));
    expect(run.engine.holding.rows.count).toBe(5);
    expect(await live(run, ITEMS)).toEqual(
      hex([...range(5, 9).map((id) => item(BigInt(id), 'one')), item(1n, 'one'), item(3n, 'goes'), item(30n, 'goes'), item(31n, 'goes')]),
    );
  });
  // Change by change, so that the one that was deleted ahead is met without its row.
  world.told = ({ holding }) => {
    holding.hold(true);
    holding.ease({ batchShare: 0.00001, copiesYield: false });
  };
  const snapshot = vi.spyOn(world.primary, 'snapshot');
  await running(world, async (run) => {
    await gathered(world, run);
    const [progress] = await run.engine.still(async (elements) => Array.from(elements.values(), (element) => element.progress));
    expect(progress?.low).toBe(progress?.high);
    expect(await live(run, ITEMS)).toEqual(hex(world.primary.rowsNow(ITEMS)));
  });
  expect(snapshot).not.toHaveBeenCalled();
});

test('a rollback takes back what went ahead too, and what waited is held no more', async () => {
  await heldBack(async (world, run) => {
    const { engine, shadow, catalog, signal } = run;
    world.primary.transaction(range(1, 5).map((id) => put(ITEMS, BigInt(id), 'two')));
    world.primary.transaction([put(ITEMS, 30n, 'new')]);
    await gathered(world, run);
    await go(run, [2, 4, 5]);
    const record = (await catalog.list()).at(-1) as CaptureRecord;
    engine.park(true);
    expect(await rollback({ shadow, catalog, engine, failpoint: quiet }, record, signal)).toMatchObject({ proved: true });
    expect(engine.holding.rows.count).toBe(0);
    expect(await live(run, ITEMS)).toEqual(await read(shadow, ITEMS, record.number, signal));
    engine.park(false);
    await gathered(world, run);
    expect(engine.holding.rows.count).toBe(6);
    const { record: next } = await run.orchestrator.capture(quiet, signal);
    expect(next).toMatchObject({ verdict: 'VALID', absent: [] });
    expect(await read(shadow, ITEMS, next.number, signal)).toEqual(hex(world.primary.rowsNow(ITEMS)));
  });
});

test('rows go at their lag tolerance, though nobody calls for them', async () => {
  await heldBack(
    async (world, run) => {
      world.primary.transaction([put(ITEMS, 1n, 'two')]);
      await gathered(world, run);
      await until(() => run.engine.holding.rows.count === 0 && !run.engine.backlog.isDirty(ITEMS), run.signal);
      expect(await live(run, ITEMS)).toEqual(hex(world.primary.rowsNow(ITEMS)));
    },
    { lagToleranceMs: 50 },
  );
});

test('everything moves as it comes once nobody decides any more', async () => {
  await heldBack(
    async (world, run) => {
      world.primary.transaction([put(ITEMS, 1n, 'two')]);
      await gathered(world, run);
      await until(() => !run.engine.backlog.isDirty(ITEMS), run.signal);
      world.primary.transaction([put(ITEMS, 1n, 'three')]);
      await shadowed(world, run);
      expect(await live(run, ITEMS)).toEqual(hex(world.primary.rowsNow(ITEMS)));
      run.engine.holding.hold(true);
      expect(run.engine.holding.isOn).toBe(true);
    },
    { holding: { ...HOLDING, patienceMs: 50 } },
  );
});

test('over the bound the largest table makes room, and the others go on waiting', async () => {
  await heldBack(
    async (world, run) => {
      const { rows } = run.engine.holding;
      world.primary.transaction([put(NOTES, 1n, 'small')]);
      await gathered(world, run);
      for (const round of range(1, 5)) {
        world.primary.transaction(range(1, 20).map((id) => put(ITEMS, BigInt(id), `${round}`.padEnd(1000, '.'))));
        await gathered(world, run);
      }
      await until(() => !run.engine.backlog.isDirty(ITEMS), run.signal);
      expect(rows.list().map((row) => rows.table(row))).toEqual([NOTES]);
      expect(await live(run, ITEMS)).toEqual(hex(world.primary.rowsNow(ITEMS)));
    },
    { holding: { ...HOLDING, bytesMax: 20_000 } },
  );
});

test('the largest makes room at once, though its turn was before it was known that there is none', async () => {
  await heldBack(
    async (world, run) => {
      const { rows } = run.engine.holding;
      world.primary.transaction(range(1, 15).map((id) => put(NOTES, BigInt(id), 'large'.padEnd(1000, '.'))));
      await gathered(world, run);
      expect(rows.count).toBe(15);
      world.primary.transaction(range(1, 5).map((id) => put(ITEMS, BigInt(id), 'small'.padEnd(1000, '.'))));
      await gathered(world, run);
      await until(() => !run.engine.backlog.isDirty(NOTES), run.signal);
      expect(new Set(rows.list().map((row) => rows.table(row)))).toEqual(new Set([ITEMS]));
    },
    { holding: { ...HOLDING, bytesMax: 40_000 } },
  );
});

test('a transaction too large to be held goes as a whole, and what was held before it first', async () => {
  await heldBack(async (world, run) => {
    run.engine.holding.ease({ batchShare: 0.00001, copiesYield: false });
    world.primary.transaction([put(ITEMS, 1n, 'two')]);
    await gathered(world, run);
    expect(run.engine.holding.rows.count).toBe(1);
    world.primary.transactionInPieces([[put(ITEMS, 2n, 'two'), put(ITEMS, 3n, 'two')], [put(ITEMS, 4n, 'two')], [put(NOTES, 1n, 'two')]]);
    await gathered(world, run);
    await until(() => !run.engine.backlog.isDirty(ITEMS), run.signal);
    expect(await live(run, ITEMS)).toEqual(hex(world.primary.rowsNow(ITEMS)));
    expect(run.engine.holding.rows.list().map((row) => run.engine.holding.rows.table(row))).toEqual([NOTES]);
  });
});

test('a live validation takes rows that went ahead for what they are, also where the primary does not show them yet', async () => {
  await heldBack(async (world, run) => {
    world.primary.transaction([put(ITEMS, 1n, 'two')]);
    const hidden = world.primary.transactionUnseen([put(ITEMS, 2n, 'two'), put(ITEMS, 30n, 'new')]);
    await gathered(world, run);
    const { rows } = run.engine.holding;
    const [, ...later] = rows.list().toSorted((a, b) => rows.sinceMs(a) - rows.sinceMs(b) || a - b);
    await run.engine.holding.move(later, run.signal);
    const validation = new Validation(
      { primary: world.primary, journal: world.journal, tracker: run.tracker, shadow: run.shadow },
      {
        tables: [{ schema: tableSchema(ITEMS), changedKeys: null, cursor: FROM_THE_START }],
        skipped: [],
        stand: (table, work) => run.engine.still(() => work(liveStand(run, table))),
        budgetMs: 0,
        onProgress: quiet,
      },
    );
    const outcome = validation.run(run.signal);
    setTimeout(() => hidden.release(), 20);
    expect(await outcome).toMatchObject({ differences: [], more: 0, coverage: { skipped: [] } });
  });
});

test('more than is folded at once is looked at to its end though nothing more comes', async () => {
  await heldBack(async (world, run) => {
    const { engine } = run;
    engine.park(true);
    for (const id of range(1, 5)) world.primary.transaction([put(ITEMS, BigInt(id), 'two')]);
    await tracked(world, run);
    engine.holding.ease({ batchShare: 0.00001, copiesYield: false });
    engine.park(false);
    await engine.caughtUp(run.tracker.head, run.signal);
    expect(engine.holding.rows.count).toBe(5);
  });
});

test('a row that went ahead without an answer, and is deleted before that is known, is deleted', async () => {
  await heldBack(async (world, run) => {
    const { engine, shadow } = run;
    world.primary.transaction([put(ITEMS, 1n, 'waits')]);
    world.primary.transaction([put(ITEMS, 30n, 'goes')]);
    world.primary.transaction([put(ITEMS, 31n, 'goes too')]);
    await gathered(world, run);
    await go(run, [1]);
    const apply = shadow.apply.bind(shadow);
    shadow.apply = async (works, within) => {
      await apply(works, within);
      shadow.apply = apply;
      // Neither low nor high is other than before.
      world.primary.transaction([{ table: ITEMS, kind: 'delete', key: itemKey(31n) }]);
      await tracked(world, run);
      throw new ForeshadowError('SHADOW_UNREACHABLE', 'the answer was lost', { remedy: 'Wait.', retry: 'later' });
    };
    await go(run, [1]);
    engine.holding.hold(false);
    await gathered(world, run);
    expect(await live(run, ITEMS)).toEqual(hex(world.primary.rowsNow(ITEMS)));
  });
});

test('nobody who has stopped deciding leaves the engine working gently', async () => {
  await heldBack(
    async (_world, { engine: { holding }, signal }) => {
      holding.ease({ batchShare: 0.25, copiesYield: true });
      const usual = 4 * holding.changesMax;
      expect(holding.copiesYield).toBe(true);
      await until(() => !holding.isOn, signal);
      expect([holding.changesMax, holding.copiesYield]).toEqual([usual, false]);
    },
    { holding: { ...HOLDING, patienceMs: 50 } },
  );
});

test('who calls does not wait for a table that cannot move, and others go', async () => {
  await heldBack(async (world, run) => {
    const { rows } = run.engine.holding;
    const apply = run.shadow.apply.bind(run.shadow);
    run.shadow.apply = async (works, within) => {
      if (works.some(({ table }) => table === NOTES)) {
        throw new ForeshadowError('SHADOW_ACCESS', 'somebody has the table locked', { remedy: 'Wait.', retry: 'later' });
      }
      return apply(works, within);
    };
    world.primary.transaction([put(NOTES, 1n, 'two'), put(ITEMS, 1n, 'two')]);
    await gathered(world, run);
    expect(await run.engine.holding.move(rows.list(), run.signal)).toMatchObject({ rows: 1 });
    expect(rows.list().map((row) => rows.table(row))).toEqual([NOTES]);
    run.shadow.apply = apply;
    expect(await run.engine.holding.move(rows.list(), run.signal)).toMatchObject({ rows: 1 });
    expect(await live(run, NOTES)).toEqual(hex(world.primary.rowsNow(NOTES)));
  });
});

test('everything moves too where patience ends while it is being looked at', async () => {
  const holding = { ...HOLDING, changed: (): unknown => (holding.patienceMs = 0) };
  await heldBack(
    async (world, run) => {
      world.primary.transaction([put(ITEMS, 1n, 'two')]);
      await tracked(world, run);
      await until(() => !run.engine.backlog.isDirty(ITEMS), run.signal);
      expect(await live(run, ITEMS)).toEqual(hex(world.primary.rowsNow(ITEMS)));
    },
    { holding },
  );
});
