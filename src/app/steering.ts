import { availableParallelism } from 'node:os';
import { setImmediate as otherWork } from 'node:timers/promises';
import { messageOf } from '../model/errors.ts';
import { Pulse } from '../model/pulse.ts';
import type { TableName } from '../model/schema.ts';
import { RowGroups, forcedFirst, forcedRows } from '../prediction/choosing.ts';
import type { ResourceOutlook } from '../prediction/headroom.ts';
import { MoveCost, MoveRate } from '../prediction/move-costs.ts';
import type { ComingRows, PlanSettings } from '../prediction/plan.ts';
import { RowLearning } from '../prediction/row-learning.ts';
import { DAY_MS } from '../prediction/series.ts';
import { CALM_STANDING, type InForce, type Observed, type Standing, type Turn, inForce, slotsLeft, turn } from '../prediction/step.ts';
import type { HeldView } from '../shadowing/held-rows.ts';
import type { Holding } from '../shadowing/holding.ts';
import { type LearnedIn, learningDocument, readLearning } from './kept-learning.ts';
import type { LoadOutlook } from './load-outlook.ts';
import type { Log } from './local-system.ts';

export interface SteeringSettings {
  readonly policy: 'predictive' | 'quiet-first';
  readonly dayMs: number;
  readonly intervalMs: number;
  /** Rows a second; null: what the stores were seen to move. */
  readonly capacity: number | null;
  /** What the plan keeps in hand: `PlanSettings`. */
  readonly reserve: number;
  readonly toleranceMs: (table: TableName) => number;
  /** The most it may rise to under load. */
  readonly toleranceMaxMs: (table: TableName) => number;
}

export interface SteeringParts {
  readonly settings: SteeringSettings;
  readonly outlook: Pick<LoadOutlook, 'ceilingOf' | 'upper' | 'knowsDay'>;
  /** How busy each resource is now, our own copying left out. */
  readonly loadNow: () => ReadonlyMap<string, number>;
  /** When the next capture is due, by the clock on the wall; null: none is. */
  readonly due: (nowMs: number) => number | null;
  /** `steadyMs` never steps, and is what rows that wait are dated by. */
  readonly clock: { readonly wallMs: () => number; readonly steadyMs: () => number };
  /** Keeps what was done, and why. */
  readonly keep: (done: TurnDone) => Promise<void>;
  /** Keeps what was learned of rows by the end of a cycle, for `begin`. */
  readonly keepLearned: (document: string) => Promise<void>;
  readonly log: Log;
}

/** What the loop asks of the engine. */
export interface Steered {
  readonly holding: Pick<Holding, 'rows' | 'hold' | 'move' | 'ease'>;
  /** Nothing is moved ahead while it is parked, or everything moves for a capture. */
  readonly parked: boolean;
  readonly drain: unknown;
}

/** One turn, with what came of it. Times in `turn` and `inForce` are of days of 24 hours by the steady clock: `toWall` tells which moment is meant. */
export interface TurnDone {
  readonly atMs: number;
  /** When the capture it was planned for is due; null: none is. */
  readonly dueAtMs: number | null;
  readonly turn: Turn;
  readonly inForce: InForce;
  readonly resources: readonly ResourceOutlook[];
  readonly tables: readonly TableName[];
  /** Of each of them: the lag tolerance in force, on the wall. */
  readonly toleranceMs: readonly number[];
  readonly waiting: { readonly rows: number; readonly bytes: number; readonly byTable: ReadonlyMap<TableName, number> };
  /** Rows that could move in this turn. */
  readonly room: number;
  readonly moved: { readonly rows: number; readonly bytes: number };
  readonly toWall: (atMs: number) => number;
}

/** Nothing is learned of what lies further from a capture than two days. */
const CYCLE_SLOTS = 2 * 1440;
const MINUTE_MS = 60_000;
/** Rows that are looked at before others have their turn: some milliseconds. */
const ROWS_AT_ONCE = 2000;
/** Room of slots that a late turn missed is made use of up to so many. */
const LATE_SLOTS_MAX = 10;
/** A load below this share of its ceiling does not have to be forecast for anything to be planned; one that was above, below half of it. */
const FAR_SHARE = 0.1;
const CPU = 'host.cpu';

/**
 * The live loop: each slot it looks at what waits, how busy the primary is and is forecast to be, and decides what moves now. What it decides by
 * is pure (`prediction/`); whatever is wrong there, rows move quiet-first and the reason is told. Nothing here can stop shadowing: the engine
 * moves rows that may wait no longer by itself, and all as they come when nobody calls.
 */
export class Steering {
  readonly #parts: SteeringParts;
  /** Made where it is needed: it takes some memory. */
  #learning: RowLearning | null = null;
  /** A day of whatever length is one of 24 hours in here. */
  readonly #scale: number;
  /** In such time. */
  readonly #slotMs: number;
  readonly #tables: TableName[] = [];
  readonly #places = new Map<TableName, number>();
  readonly #costs = new Map<string, MoveCost>();
  readonly #rate = new MoveRate();
  /** Resources not far below their ceiling: it takes more to be so than to stay so. */
  readonly #near = new Set<string>();
  #standing: Standing = CALM_STANDING;
  #last: TurnDone | null = null;
  #trouble: string | null = null;
  /** Capacity of slots past that was less than a whole row. */
  #spare = 0;
  #roomAtMs = Number.POSITIVE_INFINITY;
  #cpu = { usedMs: 0, atMs: 0 };

  constructor(parts: SteeringParts) {
    const { dayMs, intervalMs } = parts.settings;
    this.#parts = parts;
    this.#scale = DAY_MS / dayMs;
    this.#slotMs = MINUTE_MS * Math.max(1, Math.round((intervalMs * this.#scale) / MINUTE_MS));
  }

  /** How long a slot is, on the wall. */
  get slotMs(): number {
    return this.#slotMs / this.#scale;
  }

  /** The last turn; null before there was one. */
  get last(): TurnDone | null {
    return this.#last;
  }

  /** Rows expected to be left when the next capture is due; null where nothing is planned. */
  get residualRows(): number | null {
    const residual = this.#last?.turn.plan?.residual;
    return residual === undefined ? null : Math.round(residual);
  }

  get troubles(): readonly string[] {
    return this.#trouble === null ? [] : [`rows move quiet-first: ${this.#trouble}`];
  }

  /** Whether initial copies, and what validation does beyond what changed, yield to the primary's load. */
  get copiesYield(): boolean {
    return this.#last?.inForce.copiesYield ?? false;
  }

  /** A table's lag tolerance now: it rises under load, up to its limit. */
  toleranceMs(table: TableName): number {
    const { toleranceMs } = this.#parts.settings;
    return this.#last?.toleranceMs[this.#places.get(table) ?? -1] ?? toleranceMs(table);
  }

  /** A change of a row, as the engine tells of it. */
  changed(table: TableName, identity: number, atMs: number): void {
    if (this.#learning === null) return;
    const element = this.#placeOf(table);
    this.#learning.changed(rowOf(element, identity), element, atMs * this.#scale);
  }

  /**
   * Before rows are held back: what comes from here on is learned from, where policy wants that.
   *
   * @param kept what an earlier process learned of rows (`keepLearned`); null: nothing. What cannot be read is of no more use than that.
   */
  begin(kept: string | null = null): void {
    if (this.#parts.settings.policy !== 'predictive' || this.#learning !== null) return;
    try {
      this.#learning = this.#newLearning(kept);
    } catch (error) {
      this.#parts.log('warn', 'what was learned of rows is of no use: it is learned anew', { reason: messageOf(error) });
      this.#learning = this.#newLearning(null);
    }
  }

  /** Throws for what is of no use. */
  #newLearning(kept: string | null): RowLearning {
    const learning = new RowLearning(this.#slotMs, CYCLE_SLOTS, this.#parts.clock.steadyMs() * this.#scale);
    if (kept === null) return learning;
    const { tables, rows } = readLearning(kept, this.#learnedIn);
    const elements = rows.elements.map(([element, changed]) => [this.#placeOf(tables[element] as TableName), changed] as const);
    learning.resume({ ...rows, elements });
    return learning;
  }

  /** Takes a turn each slot until `signal` aborts; then everything moves as it comes again. */
  async run(engine: Steered, signal: AbortSignal): Promise<void> {
    const { holding } = engine;
    const { clock, log } = this.#parts;
    this.begin();
    holding.hold(true);
    try {
      while (!signal.aborted) {
        const begunMs = clock.steadyMs();
        if (!engine.parked && engine.drain === null) {
          await this.turn(holding, signal).catch((error: unknown) => {
            if (signal.aborted) return;
            log('warn', 'a turn of the plan failed', { reason: messageOf(error) });
            this.#trouble = messageOf(error);
          });
        }
        const waitMs = Math.max(1, begunMs + this.slotMs - clock.steadyMs());
        await new Pulse().next(signal, waitMs).catch(() => undefined); // aborted: the loop ends
      }
    } finally {
      holding.hold(false);
    }
  }

  /** One turn. Rejects only where the engine does. */
  async turn(holding: Steered['holding'], signal: AbortSignal): Promise<TurnDone> {
    const { clock, due, keep } = this.#parts;
    const [atMs, steadyMs] = [clock.wallMs(), clock.steadyMs()];
    const nowMs = steadyMs * this.#scale;
    const toWall = (ms: number): number => atMs + (ms - nowMs) / this.#scale;
    await this.#cycle(atMs, nowMs);
    const dueAtMs = due(atMs);
    const dueMs = dueAtMs === null ? Number.NaN : nowMs + (dueAtMs - atMs) * this.#scale;
    const when = { nowMs, dueMs, slotMs: this.#slotMs };
    const resources = this.#resources(atMs, slotsLeft(when));
    const waiting = this.#waiting(holding.rows);
    const policy = inForce(
      this.#standing,
      { nowMs, resources },
      this.#tables.map((table) => this.#tolerance(table)),
    );
    this.#standing = policy.standing;
    const clockText = (ms: number): string => this.#clockText(toWall(ms));
    const settings: PlanSettings = { reserve: this.#parts.settings.reserve, worth: 0 };
    const observed = { ...when, resources, elements: this.#tables.slice(), settings, clock: clockText };
    const { rows, room, turn: taken } = await this.#decide(holding.rows, policy, observed, dueAtMs);
    holding.ease({ batchShare: policy.batchShare, copiesYield: policy.copiesYield });
    const begunMs = clock.steadyMs();
    const moved = await holding.move(rows, signal);
    this.#rate.learn(moved.rows, clock.steadyMs() - begunMs);
    const toleranceMs = policy.toleranceMs.map((each) => each / this.#scale);
    this.#last = {
      atMs,
      dueAtMs,
      turn: taken,
      inForce: policy,
      resources,
      tables: observed.elements,
      toleranceMs,
      waiting,
      room,
      moved,
      toWall,
    };
    await keep(this.#last);
    return this.#last;
  }

  /** The rows that move now. Whatever goes wrong: quiet-first, and the turn says why. */
  async #decide(
    held: HeldView,
    policy: InForce,
    when: Omit<Observed, 'limits' | 'waiting' | 'coming'>,
    dueAtMs: number | null,
  ): Promise<{ readonly rows: readonly number[]; readonly room: number; readonly turn: Turn }> {
    const { nowMs, slotMs } = when;
    const sinceMs = (row: number): number => held.sinceMs(row) * this.#scale;
    const toleranceOf = (row: number): number => policy.toleranceMs[this.#placeOf(held.table(row))] ?? 0;
    const forced = forcedRows({ list: () => held.list(), sinceMs }, nowMs + slotMs, toleranceOf);
    const most = this.#most;
    const limits = { least: Math.min(most, forced.length), most };
    let taken = turn(policy, { ...when, limits, waiting: [], coming: dueAtMs === null ? [] : null });
    const room = this.#wholeRows(taken.headroom.rows[0] ?? 0, nowMs);
    const learning = this.#learning;
    if (learning === null) taken = { ...taken, degraded: null };
    this.#trouble = null;
    if (learning !== null && dueAtMs !== null) {
      try {
        learning.look(nowMs);
        const coming = this.#coming(learning, policy, when, dueAtMs);
        const unseen = when.resources.find((each) => this.#isNear(each) && !this.#parts.outlook.knowsDay(each.name));
        if (coming !== null && unseen !== undefined) {
          taken = { ...taken, degraded: `${unseen.name} has not been seen for a whole day: nobody knows when there will be room` };
        } else if (coming !== null) {
          const groups = await this.#grouped(learning, held, policy, when);
          taken = turn(policy, { ...when, limits, waiting: groups.waiting, coming });
          const calm = (row: number): number => learning.calm(rowOf(this.#placeOf(held.table(row)), held.identity(row)), nowMs, when.dueMs);
          if (taken.plan !== null) return { rows: groups.chosen(taken.plan, room, { sinceMs, calm }), room, turn: taken };
        }
      } catch (error) {
        const degraded = `planning failed: ${messageOf(error)}`;
        taken = { ...taken, mode: 'quiet-first', plan: null, instructions: [], degraded, failed: true };
      }
      if (taken.failed) this.#trouble = taken.degraded;
    }
    const waiting = { list: () => held.list(), sinceMs };
    return { rows: forcedFirst(waiting, forced, (row) => held.lastMs(row), room), room, turn: taken };
  }

  /** Rows that wait in groups of equal prospects: looked at a part at a time, because there may be a million of them. */
  async #grouped(
    learning: RowLearning,
    held: HeldView,
    policy: InForce,
    when: Pick<Observed, 'nowMs' | 'dueMs' | 'slotMs'>,
  ): Promise<RowGroups> {
    const groups = new RowGroups({ ...when, slots: slotsLeft(when), toleranceMs: (element) => policy.toleranceMs[element] ?? 0 });
    for (const [index, row] of held.list().entries()) {
      if (index % ROWS_AT_ONCE === ROWS_AT_ONCE - 1) await otherWork();
      if (!held.has(row)) continue;
      const element = this.#placeOf(held.table(row));
      const chances = learning.chances(rowOf(element, held.identity(row)), when.nowMs, when.dueMs);
      groups.add(row, { element, sinceMs: held.sinceMs(row) * this.#scale, ...chances });
    }
    return groups;
  }

  /** Those of elements of one lag tolerance are planned together: there may be thousands. */
  #coming(
    learning: RowLearning,
    policy: InForce,
    when: Pick<Observed, 'nowMs' | 'dueMs' | 'slotMs'>,
    dueAtMs: number,
  ): ComingRows[] | null {
    const rows = learning.coming(dueAtMs * this.#scale, slotsLeft(when));
    if (rows === null) return null;
    const patienceOf = ([element]: readonly [number, number]): number => Math.floor((policy.toleranceMs[element] ?? 0) / when.slotMs);
    return Array.from(Map.groupBy(learning.shares, patienceOf)).flatMap(([patience, own]) => {
      const whole = own.reduce((sum, [, share]) => sum + share, 0);
      return whole === 0
        ? []
        : { shares: new Map(own.map(([element, share]) => [element, share / whole])), rows: rows.map((each) => each * whole), patience };
    });
  }

  /** Where the capture that was ahead has come due, a cycle has ended. */
  async #cycle(atMs: number, nowMs: number): Promise<void> {
    const [learning, last] = [this.#learning, this.#last];
    if (learning === null || last === null) return;
    // A clock on the wall that was set passes over captures, or has them come again.
    if (Math.abs(atMs - last.toWall(nowMs)) > this.slotMs) return learning.seenFrom(nowMs);
    const { dueAtMs } = last;
    if (dueAtMs === null || dueAtMs > atMs) return;
    const learned = learning.due(nowMs - (atMs - dueAtMs) * this.#scale, dueAtMs * this.#scale);
    if (learned) await this.#parts.keepLearned(learningDocument(this.#learnedIn, { tables: this.#tables, rows: learning.learned }));
  }

  get #learnedIn(): LearnedIn {
    return { dayMs: this.#parts.settings.dayMs, slotMs: this.slotMs };
  }

  /** Every resource that says when the primary is busy, with its load now and ahead; learns what our last move did to it. */
  #resources(atMs: number, slots: number): ResourceOutlook[] {
    const { outlook, loadNow } = this.#parts;
    const most = this.#most;
    const ownShare = this.#ownCpuShare();
    const rows = this.#last?.moved.rows ?? 0;
    const outlooks: ResourceOutlook[] = [];
    const seen = loadNow();
    // A primary too busy to say how busy it is must not look idle: what was seen once counts on, though nobody knows it now.
    for (const name of new Set([...this.#costs.keys(), ...seen.keys()])) {
      const measured = seen.get(name) ?? Number.NaN;
      const cost = this.#costs.get(name) ?? new MoveCost();
      this.#costs.set(name, cost);
      cost.learn(name === CPU ? measured + ownShare : measured, rows);
      const ceiling = outlook.ceilingOf(name);
      if (ceiling === null) continue;
      const forecast = outlook.upper(name, atMs, this.slotMs, slots);
      outlooks.push({ name, ceiling, forecast, measured, costPerRow: cost.perRow(ceiling, most) });
    }
    return outlooks;
  }

  #isNear({ name, measured, ceiling }: ResourceOutlook): boolean {
    const isNear = !(measured <= (this.#near.has(name) ? FAR_SHARE / 2 : FAR_SHARE) * ceiling);
    if (isNear) this.#near.add(name);
    else this.#near.delete(name);
    return isNear;
  }

  /** Rows that can move in a slot, however idle the primary is. */
  get #most(): number {
    return Math.min(this.#rate.most(this.slotMs), (this.#parts.settings.capacity ?? Infinity) * (this.slotMs / 1000));
  }

  /** Of all processors, what this process used since it was last asked. */
  #ownCpuShare(): number {
    const { user, system } = process.cpuUsage();
    const [usedMs, atMs] = [(user + system) / 1000, performance.now()];
    const share = (usedMs - this.#cpu.usedMs) / ((atMs - this.#cpu.atMs) * availableParallelism());
    this.#cpu = { usedMs, atMs };
    return Number.isFinite(share) ? share : 0;
  }

  /** A turn that comes late has the room of the slots it missed too, as far as they are not long past. */
  #wholeRows(rows: number, nowMs: number): number {
    const slots = Math.min(LATE_SLOTS_MAX, Math.max(1, (nowMs - this.#roomAtMs) / this.#slotMs));
    this.#roomAtMs = nowMs;
    this.#spare = Math.min(this.#spare, 1) + rows * slots;
    const whole = Math.floor(this.#spare + 1e-6);
    this.#spare = Math.max(0, this.#spare - whole);
    return whole;
  }

  #waiting(held: HeldView): TurnDone['waiting'] {
    const byTable = new Map<TableName, number>();
    let bytes = 0;
    for (let index = 0; index < held.count; index++) {
      const row = held.at(index);
      const table = held.table(row);
      this.#placeOf(table);
      byTable.set(table, (byTable.get(table) ?? 0) + 1);
      bytes += held.bytes(row);
    }
    return { rows: held.count, bytes, byTable };
  }

  #tolerance(table: TableName): { readonly toleranceMs: number; readonly toleranceMaxMs: number } {
    const { toleranceMs, toleranceMaxMs } = this.#parts.settings;
    return { toleranceMs: toleranceMs(table) * this.#scale, toleranceMaxMs: toleranceMaxMs(table) * this.#scale };
  }

  #placeOf(table: TableName): number {
    let place = this.#places.get(table);
    if (place === undefined) {
      place = this.#tables.push(table) - 1;
      this.#places.set(table, place);
    }
    return place;
  }

  /** The time of day as people here read it; to the second where a minute is not one of the wall's. */
  #clockText(atMs: number): string {
    const at = new Date(atMs);
    const parts = [at.getHours(), at.getMinutes(), ...(this.#scale === 1 ? [] : [at.getSeconds()])];
    return parts.map((part) => String(part).padStart(2, '0')).join(':');
  }
}

/** One number for a row of any table. */
function rowOf(element: number, identity: number): number {
  return (identity ^ Math.imul(element, 0x9e3779b1)) & 0x7fff_ffff;
}
