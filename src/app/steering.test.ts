import { describe, expect, test } from 'vitest';
import type { TableName } from '../model/schema.ts';
import type { HeldView } from '../shadowing/held-rows.ts';
import type { KeptLearning } from './kept-learning.ts';
import { Steering, type SteeringParts, type SteeringSettings, type TurnDone } from './steering.ts';

const DAY = 86_400_000;
const ORDERS = 'orders' as TableName;
const SESSIONS = 'sessions' as TableName;
/** A midnight. */
const START = Date.UTC(2026, 10, 22);
const CYCLE_MINUTES = 60;
const SIGNAL = new AbortController().signal;

/** Rows that wait, and an engine that moves them: row 0 to 9 are sessions, changed all the time; the others orders. */
class Waiting implements HeldView {
  readonly rows = new Map<number, { since: number; last: number }>();
  held = false;

  get count(): number {
    return this.rows.size;
  }
  at(index: number): number {
    return this.list()[index] as number;
  }
  list(): number[] {
    return [...this.rows.keys()];
  }
  has(row: number): boolean {
    return this.rows.has(row);
  }
  sinceMs(row: number): number {
    return this.rows.get(row)?.since ?? Number.NaN;
  }
  lastMs(row: number): number {
    return this.rows.get(row)?.last ?? Number.NaN;
  }
  identity(row: number): number {
    return identityOf(row);
  }
  table(row: number): TableName {
    return row < 10 ? SESSIONS : ORDERS;
  }
  bytes(): number {
    return 100;
  }
}

function identityOf(row: number): number {
  return row * 7919;
}

interface Cycle {
  moved: number;
  residual: number;
}

interface Options {
  readonly settings?: Partial<SteeringSettings>;
  readonly parts?: Partial<SteeringParts>;
  readonly dayMs?: number;
}

/** An application and the loop, on a clock of their own. */
class World {
  readonly waiting = new Waiting();
  steering: Steering;
  readonly #parts: SteeringParts;
  kept: string | null = null;
  readonly logged: string[] = [];
  readonly cycles: Cycle[] = [];
  readonly done: TurnDone[] = [];
  readonly moves: number[][] = [];
  readonly slotMs: number;
  wallMs = START;
  steadyMs = START;
  load = 0.1;
  #open: Cycle = { moved: 0, residual: 0 };
  #random = 12_345;

  constructor({ settings = {}, parts = {}, dayMs = DAY }: Options = {}) {
    this.slotMs = dayMs / 1440;
    this.#parts = {
      settings: {
        policy: 'predictive',
        dayMs,
        intervalMs: this.slotMs,
        capacity: 10 / (this.slotMs / 1000),
        reserve: 1.5,
        toleranceMs: () => 45 * this.slotMs,
        toleranceMaxMs: () => 45 * this.slotMs,
        ...settings,
      },
      outlook: { ceilingOf: () => 0.7, knowsDay: (): boolean => true, upper: (_, __, ___, slots) => new Float64Array(slots).fill(0.1) },
      loadNow: () => new Map([['host.disk', this.load]]),
      due: (nowMs) => START + (Math.floor((nowMs - START) / this.cycleMs) + 1) * this.cycleMs,
      clock: { wallMs: () => this.wallMs, steadyMs: () => this.steadyMs },
      keep: async (done) => {
        this.done.push(done);
      },
      keepLearned: async (document) => {
        this.kept = document;
      },
      log: (_, message, fields) => {
        this.logged.push(`${message}: ${String(fields?.reason)}`);
      },
      ...parts,
    };
    this.steering = new Steering(this.#parts);
    this.steering.begin();
  }

  /** Another process takes over: of what the loop knew it has what was kept. */
  restart(kept = this.kept): this {
    this.steering = new Steering(this.#parts);
    this.steering.begin(kept);
    return this;
  }

  get cycleMs(): number {
    return CYCLE_MINUTES * this.slotMs;
  }

  get holding() {
    return {
      rows: this.waiting,
      hold: (on: boolean) => {
        this.waiting.held = on;
      },
      ease: () => {},
      move: async (rows: readonly number[]) => {
        for (const row of rows) this.waiting.rows.delete(row);
        this.moves.push([...rows]);
        this.#open.moved += rows.length;
        return { rows: rows.length, bytes: 100 * rows.length };
      },
    };
  }

  /** One slot: a turn at its beginning, the application's changes after it; the capture where it is due. */
  async slot(): Promise<TurnDone> {
    const done = await this.turn();
    for (let row = 0; row < 10; row++) if (this.#next() < 0.5) this.#change(row);
    for (let count = 0; count < 4; count++) this.#change(10 + Math.floor(this.#next() * 500));
    this.wallMs += this.slotMs;
    this.steadyMs += this.slotMs;
    if ((this.wallMs - START) % this.cycleMs === 0) {
      this.cycles.push({ moved: this.#open.moved + this.waiting.count, residual: this.waiting.count });
      this.waiting.rows.clear();
      this.#open = { moved: 0, residual: 0 };
    }
    return done;
  }

  turn(): Promise<TurnDone> {
    return this.steering.turn(this.holding, SIGNAL);
  }

  async run(cycles: number): Promise<this> {
    for (let slot = 0; slot < cycles * CYCLE_MINUTES; slot++) await this.slot();
    return this;
  }

  #change(row: number): void {
    const atMs = this.steadyMs + this.#next() * this.slotMs * 0.9;
    const since = this.waiting.rows.get(row)?.since ?? atMs;
    this.waiting.rows.set(row, { since, last: atMs });
    this.steering.changed(this.waiting.table(row), identityOf(row), atMs);
  }

  #next(): number {
    this.#random = (Math.imul(this.#random, 1_103_515_245) + 12_345) & 0x7fff_ffff;
    return this.#random / 0x7fff_ffff;
  }
}

function sum(cycles: readonly Cycle[], of: (cycle: Cycle) => number): number {
  return cycles.reduce((total, cycle) => total + of(cycle), 0);
}

describe('steering', () => {
  test('is quiet-first until a cycle was seen, and then plans', async () => {
    const { done } = await new World().run(3);
    const [first, second] = [done.slice(0, CYCLE_MINUTES), done.slice(CYCLE_MINUTES)];
    expect(new Set(first.map(({ turn }) => turn.degraded))).toEqual(
      new Set(['there is no forecast yet: what changes so long before a capture was not seen yet']),
    );
    expect(new Set(second.map(({ turn }) => turn.mode))).toEqual(new Set(['planned']));
    expect(second.some(({ turn }) => turn.instructions.length > 0)).toBe(true);
  });

  test('a process that never sees a cycle from its beginning plans that part of it which it, or one before it, saw to the end', async () => {
    const world = new World();
    for (let day = 0; day < 3; day++) {
      for (let slot = 0; slot < 20; slot++) await world.slot();
      world.restart();
      for (let slot = 20; slot < CYCLE_MINUTES; slot++) await world.slot();
      // The cycle ends with the first turn after it.
      await world.turn();
    }
    const later = world.done.filter(({ atMs }) => atMs >= START + world.cycleMs);
    const minuteOf = (atMs: number): number => (atMs / world.slotMs) % CYCLE_MINUTES;
    const planned = later.filter(({ turn }) => turn.mode === 'planned').map(({ atMs }) => minuteOf(atMs));
    expect([Math.min(...planned), planned.length]).toEqual([20, 2 * 40]);
    expect(world.logged).toEqual([]);
  });

  test('moves fewer rows than quiet-first, and leaves no more for the capture', async () => {
    const [planned, quiet] = await Promise.all([new World().run(14), new World({ settings: { policy: 'quiet-first' } }).run(14)]);
    const [ours, theirs] = [planned.cycles.slice(4), quiet.cycles.slice(4)];
    expect(sum(ours, ({ moved }) => moved)).toBeLessThan(0.85 * sum(theirs, ({ moved }) => moved));
    expect(sum(ours, ({ residual }) => residual)).toBeLessThanOrEqual(1.05 * sum(theirs, ({ residual }) => residual));
    expect(planned.steering.troubles).toEqual([]);
    expect(quiet.done.every(({ turn }) => turn.degraded === null && turn.mode === 'quiet-first')).toBe(true);
  });

  test('keeps in hand what it is told to: with more of it more moves ahead, and less is left', async () => {
    const [little, much] = await Promise.all([1, 4].map((reserve) => new World({ settings: { reserve } }).run(10)));
    const [lean, ample] = [little?.cycles.slice(4) ?? [], much?.cycles.slice(4) ?? []];
    expect(sum(ample, ({ moved }) => moved)).toBeGreaterThan(1.05 * sum(lean, ({ moved }) => moved));
    expect(sum(ample, ({ residual }) => residual)).toBeLessThan(sum(lean, ({ residual }) => residual));
  });

  test('never moves more than there is room for, and lets no row pass its lag tolerance while there is', async () => {
    const world = new World({ settings: { toleranceMs: () => 20 * 60_000, toleranceMaxMs: () => 20 * 60_000, capacity: 30 / 60 } });
    for (let slot = 0; slot < 8 * CYCLE_MINUTES; slot++) {
      const { moved, turn } = await world.slot();
      expect(moved.rows).toBeLessThanOrEqual(Math.ceil(turn.headroom.rows[0] ?? 0));
      const oldest = Math.max(0, ...world.waiting.list().map((row) => world.steadyMs - world.waiting.sinceMs(row)));
      expect(oldest).toBeLessThanOrEqual(20 * 60_000);
    }
  });

  test('decides the same for the same, and in a day of any length', async () => {
    const [once, again, short] = await Promise.all([new World().run(5), new World().run(5), new World({ dayMs: 1_440_000 }).run(5)]);
    expect(again.moves).toEqual(once.moves);
    expect(short.cycles.length).toBe(once.cycles.length);
    // Times of day begin elsewhere in a short day: how much moves is alike, and not which.
    expect(sum(short.cycles, ({ moved }) => moved)).toBeGreaterThan(0.8 * sum(once.cycles, ({ moved }) => moved));
    expect(sum(short.cycles, ({ moved }) => moved)).toBeLessThan(1.2 * sum(once.cycles, ({ moved }) => moved));
  });

  test('above the ceiling moves only what must, eases, and lets tolerance rise to its limit', async () => {
    const world = await new World({ settings: { toleranceMaxMs: () => 90 * 60_000 } }).run(3);
    world.load = 0.9;
    const busy: TurnDone[] = [];
    for (let slot = 0; slot < 10; slot++) busy.push(await world.slot());
    expect(busy.map(({ moved }) => moved.rows)).toEqual(busy.map(() => 0));
    expect(busy.at(-1)?.inForce).toMatchObject({ standing: { ease: 1 }, copiesYield: true, batchShare: 0.25 });
    expect(world.steering.toleranceMs(ORDERS)).toBe(90 * 60_000);
    expect(world.steering.copiesYield).toBe(true);
    expect(busy.at(-1)?.turn.instructions[0]).toMatchObject({ kind: 'ease' });
    world.load = 0.1;
    for (let slot = 0; slot < 20; slot++) await world.slot();
    expect(world.steering.toleranceMs(ORDERS)).toBe(45 * 60_000);
  });

  test.each([
    ['no load is known', { loadNow: () => new Map() }],
    ['load is no number', { loadNow: () => new Map([['host.disk', Number.NaN]]) }],
    [
      'load is not forecast',
      {
        outlook: {
          ceilingOf: () => 0.7,
          knowsDay: (): boolean => true,
          upper: (_: string, __: number, ___: number, slots: number) => new Float64Array(slots).fill(Number.NaN),
        },
      },
    ],
    [
      'nothing is known by which to say what is too much',
      { outlook: { ceilingOf: () => null, knowsDay: (): boolean => true, upper: () => new Float64Array(0) } },
    ],
  ])('plans on where %s', async (_, parts) => {
    const world = await new World({ parts }).run(4);
    expect(world.done.at(-1)?.turn).toMatchObject({ mode: 'planned', degraded: null });
    expect(world.steering.troubles).toEqual([]);
  });

  test('goes on quiet-first, and says so, where planning fails, and plans again when it does not', async () => {
    const world = await new World().run(3);
    // Nothing waits when a cycle begins.
    await world.slot();
    world.waiting.identity = () => {
      throw new Error('of course');
    };
    const failed: TurnDone[] = [];
    for (let slot = 0; slot < 10; slot++) failed.push(await world.slot());
    expect(new Set(failed.map(({ turn }) => turn.degraded))).toEqual(new Set(['planning failed: of course']));
    expect(failed.some(({ moved }) => moved.rows > 0)).toBe(true);
    expect(world.steering.troubles).toEqual(['rows move quiet-first: planning failed: of course']);
    world.waiting.identity = identityOf;
    expect((await world.slot()).turn.mode).toBe('planned');
    expect(world.steering.troubles).toEqual([]);
  });

  test('goes on quiet-first for a turn where the clock went back', async () => {
    const world = await new World().run(3);
    await world.slot();
    world.steadyMs -= 10 * 60_000;
    expect((await world.slot()).turn.degraded).toMatch(/the clock went back/);
    expect((await world.slot()).turn.mode).toBe('planned');
  });

  test.each([
    ['forward by a day', DAY],
    ['forward past the capture', 31 * 60_000],
    ['back by a day', -DAY],
  ])('of a cycle in which the clock on the wall was set %s what was before is not learned, and the next one is', async (_, ms) => {
    const expected = async (world: World): Promise<{ last: number; first: number; rows: number }> => {
      await world.turn();
      const { cycles = [], rows = [] } = (JSON.parse(world.kept ?? '') as KeptLearning).rows.arrivals[0] ?? {};
      return { last: cycles[0] ?? 0, first: cycles[CYCLE_MINUTES - 1] ?? 0, rows: rows.reduce((all, each) => all + each, 0) };
    };
    const world = await new World().run(4);
    const before = await expected(world);
    for (let slot = 0; slot < 30; slot++) await world.slot();
    world.wallMs += ms;
    await world.slot();
    while (world.wallMs % world.cycleMs !== 0) await world.slot();
    // Of what came after it there is no doubt.
    const after = await expected(world);
    expect(after).toMatchObject({ last: before.last + 1, first: before.first });
    await world.run(1);
    const next = await expected(world);
    expect(next).toMatchObject({ last: before.last + 2, first: before.first + 1 });
    for (const { rows } of [after, next]) expect(rows).toBeGreaterThan(0.9 * before.rows);
    expect((await world.slot()).turn.mode).toBe('planned');
  });

  test('a capture by hand ends no cycle: what waited is gone, and as much is to come before the one that is due as ever', async () => {
    const [world, other] = [await new World().run(6), await new World().run(6)];
    for (let slot = 0; slot < 30; slot++) await Promise.all([world.slot(), other.slot()]);
    world.waiting.rows.clear();
    const { turn, waiting } = await world.slot();
    const { turn: ahead } = await other.slot();
    expect([turn.mode, waiting.rows]).toEqual(['planned', 0]);
    const [ours, theirs] = [turn, ahead].map(({ plan }) => plan?.residual ?? Number.NaN) as [number, number];
    expect(ours).toBeGreaterThan(5);
    expect(ours).toBeLessThanOrEqual(theirs);
    for (let slot = 31; slot < CYCLE_MINUTES; slot++) await Promise.all([world.slot(), other.slot()]);
    expect(world.cycles.at(-1)?.residual).toBeLessThanOrEqual(1.2 * (other.cycles.at(-1)?.residual ?? Number.NaN));
    await Promise.all([world.turn(), other.turn()]);
    expect(world.kept).toBe(other.kept);
  });

  test('is quiet-first until every hour of a day of load was seen, unless it is far below its ceiling', async () => {
    const upper = (_: string, __: number, ___: number, slots: number): Float64Array => new Float64Array(slots).fill(0.1);
    const world = await new World({ parts: { outlook: { ceilingOf: () => 0.7, knowsDay: () => false, upper } } }).run(3);
    expect((await world.slot()).turn).toMatchObject({
      mode: 'quiet-first',
      degraded: expect.stringMatching(/host\.disk has not been seen/),
    });
    expect(world.steering.troubles).toEqual([]);
    // Around a tenth of its ceiling it does not plan in one turn and move everything in the next.
    world.load = 0.06;
    expect((await world.slot()).turn.mode).toBe('quiet-first');
    world.load = 0.01;
    expect((await world.slot()).turn.mode).toBe('planned');
    world.load = 0.06;
    expect((await world.slot()).turn.mode).toBe('planned');
  });

  test('a load that is seen no more is not taken for none', async () => {
    let seen = true;
    const loads = new Map([['host.disk', 0.9]]);
    const upper = (_: string, __: number, ___: number, slots: number): Float64Array => new Float64Array(slots).fill(Number.NaN);
    const outlook = { ceilingOf: () => 0.7, knowsDay: (): boolean => true, upper };
    const world = new World({ parts: { outlook, loadNow: () => (seen ? loads : new Map()) }, settings: { policy: 'quiet-first' } });
    for (let slot = 0; slot < 6; slot++) await world.slot();
    expect(world.done.at(-1)).toMatchObject({ room: 0, inForce: { standing: { ease: 1 } } });
    seen = false;
    const blind: TurnDone[] = [];
    for (let slot = 0; slot < 6; slot++) blind.push(await world.slot());
    // Half the ceiling stands for it, and half of the 10 rows there would be room for.
    expect(new Set(blind.map(({ room }) => room))).toEqual(new Set([5]));
    expect(blind.at(-1)?.inForce.standing.ease).toBe(1);
    expect(blind.at(-1)?.resources).toMatchObject([{ name: 'host.disk', measured: Number.NaN }]);
  });

  test('a turn that comes late has the room of those it missed', async () => {
    const world = new World({ settings: { policy: 'quiet-first', capacity: 2 / 60 } });
    for (let slot = 0; slot < 20; slot++) await world.slot();
    world.wallMs += 4 * world.slotMs;
    world.steadyMs += 4 * world.slotMs;
    expect([(await world.slot()).moved.rows, (await world.slot()).moved.rows]).toEqual([10, 2]);
  });

  test('plans nothing where no capture is ahead', async () => {
    const world = await new World({ parts: { due: () => null } }).run(2);
    expect(world.done.at(-1)?.turn).toMatchObject({ mode: 'quiet-first', degraded: 'no capture is ahead to plan for' });
    expect(world.moves.some((rows) => rows.length > 0)).toBe(true);
  });

  test('begun anew it plans at once, and moves what it would have moved had it never stopped but for what it knew of single rows', async () => {
    // What moving costs a resource is learned anew too: here there is none.
    const parts = { loadNow: () => new Map<string, number>() };
    const worlds = await Promise.all(Array.from({ length: 3 }, () => new World({ parts }).run(10)));
    const [never, kept, forgot] = worlds as [World, World, World];
    // The turn in which the cycle ends: of the next nothing has changed yet.
    for (const world of worlds) await world.turn();
    kept.restart();
    forgot.restart(null);
    const [theirs, ours, none] = [await never.turn(), await kept.turn(), await forgot.turn()].map(({ turn }) => turn);
    expect(ours).toMatchObject({ mode: 'planned', plan: theirs?.plan, headroom: theirs?.headroom, instructions: theirs?.instructions });
    expect(none?.mode).toBe('quiet-first');
    await Promise.all(worlds.map((world) => world.run(1)));
    const movedIn = ({ cycles }: World): number => cycles.at(-1)?.moved ?? Number.NaN;
    expect(movedIn(kept)).toBeLessThan(1.1 * movedIn(never));
    expect(movedIn(forgot)).toBeGreaterThan(1.5 * movedIn(never));
    expect(kept.cycles.at(-1)?.residual).toBeLessThan(1.3 * (never.cycles.at(-1)?.residual ?? Number.NaN));
    expect([kept.logged, kept.steering.troubles]).toEqual([[], []]);
  });

  const unreadable: [string, (kept: string) => string, RegExp][] = [
    ['it is damaged', (kept) => kept.slice(0, -9), /JSON/],
    ['it is of another format', (kept) => kept.replace('"format":1', '"format":2'), /it has format 2, and this version knows 1/],
    ['a slot had another length', (kept) => kept.replace('"slotMs":60000', '"slotMs":30000'), /learned in slots of 30000 ms/],
    ['a day had another length', (kept) => kept.replace('"dayMs":86400000', '"dayMs":1440000'), /a day of 1440000 ms/],
    ['a number is none', (kept) => kept.replace(/"rows":\[[^,]*,/, '"rows":[null,'), /it has null for a number/],
    ['it names no tables', (kept) => kept.replace('"orders"', '7'), /elements that are no tables/],
    ['it is nothing', () => 'null', /null/],
  ];
  test.each(unreadable)('learns anew, and says so, where of what was kept %s', async (_, damage, reason) => {
    const world = await new World().run(3);
    const whole = world.kept ?? '';
    expect(damage(whole)).not.toBe(whole);
    world.restart(damage(whole));
    expect(world.logged).toEqual([expect.stringMatching(/^what was learned of rows is of no use: it is learned anew: /)]);
    expect(world.logged[0]).toMatch(reason);
    expect((await world.slot()).turn).toMatchObject({
      mode: 'quiet-first',
      degraded: expect.stringMatching(/what changes so long before a capture/),
    });
    await world.run(2);
    expect((await world.slot()).turn.mode).toBe('planned');
  });

  test('a day of another length is written down and taken up as one of 24 hours is', async () => {
    const world = await new World({ dayMs: 1_440_000 }).run(5);
    await world.restart().slot();
    expect([world.logged, world.done.at(-1)?.turn.mode]).toEqual([[], 'planned']);
  });

  test('holds rows back while it runs, and takes no turn while everything moves for a capture', async () => {
    const world = new World();
    const ending = new AbortController();
    const engine = { holding: world.holding, parked: false, drain: {} as unknown };
    const running = world.steering.run(engine, ending.signal);
    expect(world.waiting.held).toBe(true);
    ending.abort();
    await running;
    expect([world.done.length, world.waiting.held]).toEqual([0, false]);
    // A turn that was begun is taken to its end.
    const again = new AbortController();
    const taken = world.steering.run({ ...engine, drain: null }, again.signal);
    again.abort();
    await taken;
    expect(world.done.length).toBe(1);
  });
});
