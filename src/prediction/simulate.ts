import { Arrivals } from './arrivals.ts';
import { DirtyRows } from './dirty-rows.ts';
import { DailyLoad, headroom } from './headroom.ts';
import { LagCounts } from './lag-counts.ts';
import type { Moment, Policy } from './policies.ts';
import { quantile } from './series.ts';
import { Survival } from './survival.ts';
import { slotsOf } from './trace.ts';
import type { Trace } from './trace.ts';

export interface SimulationOptions {
  /** Length of a slot: decisions are taken at its beginning. */
  readonly slotMs: number;
  readonly captureEveryMs: number;
  /** Rows that may move in a slot of no load. */
  readonly capacityRows: number;
  /** Infinity: none before the capture. */
  readonly toleranceMs: number;
  /** Per slot of the trace: the primary's load as a share of what it can bear, 0 to 1. Null: taken from the changes of the trace. */
  readonly load: Float64Array | null;
  /** Above this share, load is high. */
  readonly ceiling: number;
  /** Whether load takes from the capacity: what is left of a slot's is `capacityRows` · (1 − load), a tenth at the least. */
  readonly headroom: boolean;
}

/** What one policy did in one cycle, the capture at its end included. */
export interface CycleOutcome {
  readonly dueMs: number;
  /** Rows that changed: what had to move at the least. */
  readonly distinctRows: number;
  readonly distinctBytes: number;
  /** Rows that moved, each as often as it did, those the capture moved included. */
  readonly movedRows: number;
  readonly movedBytes: number;
  /** Of those: what was left when the capture was due. */
  readonly residualRows: number;
  readonly residualBytes: number;
  /** Of those moved before the capture: in slots of high load. */
  readonly movedUnderLoad: number;
  /** Ages of changes when they reached the shadow. */
  readonly lag: LagCounts;
}

export interface PolicyOutcome {
  readonly policy: Policy;
  readonly cycles: readonly CycleOutcome[];
}

/** The last of whole cycles ends with the trace. */
export async function simulate(
  trace: Trace,
  policies: readonly Policy[],
  options: SimulationOptions,
  pause: (doneShare: number) => Promise<void> = () => Promise.resolve(),
): Promise<PolicyOutcome[]> {
  const walk = new Walk(trace, policies, options);
  while (walk.step()) if (walk.due) await pause(walk.share);
  return walk.outcomes;
}

/** Of the rows that changed in the cycle, so many are looked at per slot to learn survival from. */
const SAMPLED_PER_SLOT = 32;
const SAMPLES_HELD = 1 << 15;
const SLOTS_HELD = 1 << 18;
/** Load leaves this share of the capacity, however high it is. */
const LEAST_SHARE = 0.1;
/** How far ahead a row is asked to be calm, to be moved before others. */
const SOON_MS = 30 * 60_000;

/** One policy under way. */
interface Run {
  readonly policy: Policy;
  readonly dirty: DirtyRows;
  readonly cycles: CycleOutcome[];
  open: { movedRows: number; movedBytes: number; movedUnderLoad: number; lag: LagCounts };
}

/** All policies walk the trace side by side: what is learned of the data does not depend on who moves what, and is learned once. */
class Walk {
  readonly #trace: Trace;
  readonly #options: SimulationOptions;
  readonly #cycleSlots: number;
  readonly #startMs: number;
  readonly #firstOf: Int32Array;
  readonly #load: Float64Array;
  readonly #runs: readonly Run[];
  readonly #survival: Survival;
  readonly #arrivals: Arrivals;
  readonly #usualLoad = new DailyLoad();
  /** Rows changed since the last capture. */
  readonly #changed: DirtyRows;
  readonly #lastMs: Float64Array;
  /** When a row sees its last change of this cycle, and per slot how many do: what nobody knows beforehand. */
  readonly #finalMs: Float64Array;
  #finals = new Float64Array(0);
  readonly #clean: PerRow;
  readonly #calm: PerRow;
  /** Capacity of slots past that was less than a whole row. */
  #spare = 0;
  #slot = 0;

  constructor(trace: Trace, policies: readonly Policy[], options: SimulationOptions) {
    const rows = trace.rowElement.length;
    const { startMs, firstOf } = slotsOf(trace, options.slotMs);
    this.#trace = trace;
    this.#options = options;
    this.#cycleSlots = Math.max(1, Math.round(options.captureEveryMs / options.slotMs));
    this.#startMs = startMs;
    this.#firstOf = firstOf;
    this.#load = options.load ?? loadOf(firstOf);
    this.#runs = policies.map((policy) => ({ policy, dirty: new DirtyRows(rows), cycles: [], open: nothingMoved() }));
    this.#survival = new Survival({ slots: Math.min(SLOTS_HELD, rows), samples: SAMPLES_HELD });
    this.#arrivals = new Arrivals(this.#cycleSlots);
    this.#changed = new DirtyRows(rows);
    this.#lastMs = new Float64Array(rows).fill(Number.NaN);
    this.#finalMs = new Float64Array(rows);
    this.#clean = new PerRow(rows);
    this.#calm = new PerRow(rows);
  }

  get outcomes(): PolicyOutcome[] {
    return this.#runs.map(({ policy, cycles }) => ({ policy, cycles }));
  }

  /** Whether a capture was just taken. */
  get due(): boolean {
    return this.#slot % this.#cycleSlots === 0;
  }

  get share(): number {
    return this.#slot / Math.max(1, this.#firstOf.length - 1);
  }

  /** One slot. False where no whole cycle is left. */
  step(): boolean {
    const inCycle = this.#slot % this.#cycleSlots;
    if (inCycle === 0 && this.#slot + this.#cycleSlots >= this.#firstOf.length) return false;
    const nowMs = this.#startMs + this.#slot * this.#options.slotMs;
    const dueMs = nowMs + (this.#cycleSlots - inCycle) * this.#options.slotMs;
    if (inCycle === 0) this.#lookAhead();
    this.#learn(nowMs);
    this.#decide(nowMs, dueMs, inCycle);
    this.#happen();
    this.#slot++;
    if (inCycle === this.#cycleSlots - 1) this.#capture(dueMs);
    return true;
  }

  /** The truth of the cycle that begins, for the policies that are given it. */
  #lookAhead(): void {
    this.#finals = new Float64Array(this.#cycleSlots);
    const seen = new Set<number>();
    for (let ahead = this.#cycleSlots - 1; ahead >= 0; ahead--) {
      const slot = this.#slot + ahead;
      for (let change = (this.#firstOf[slot + 1] as number) - 1; change >= (this.#firstOf[slot] as number); change--) {
        const row = this.#trace.row[change] as number;
        if (seen.has(row)) continue;
        seen.add(row);
        this.#finalMs[row] = this.#trace.atMs[change] as number;
        this.#finals[ahead] = (this.#finals[ahead] as number) + 1;
      }
    }
  }

  #learn(nowMs: number): void {
    this.#survival.mature(nowMs);
    const count = this.#changed.count;
    const every = Math.max(1, Math.ceil(count / SAMPLED_PER_SLOT));
    for (let index = this.#slot % every; index < count; index += every) this.#survival.sample(this.#changed.at(index), nowMs);
  }

  #decide(nowMs: number, dueMs: number, inCycle: number): void {
    const { slotMs, toleranceMs, headroom: bounded } = this.#options;
    const left = this.#cycleSlots - inCycle;
    const capacity = bounded ? this.#capacityAhead(nowMs, left, false) : this.#fullCapacity(left);
    this.#spare += capacity[0] as number;
    capacity[0] = Math.floor(this.#spare);
    this.#spare -= capacity[0];
    const moment: Omit<Moment, 'dirty'> = {
      nowMs,
      dueMs,
      slotMs,
      slot: inCycle,
      capacity,
      toleranceMs,
      lastMs: (row) => this.#lastMs[row] as number,
      clean: (row) => this.#clean.of(row, this.#slot, () => this.#survival.clean(row, nowMs, dueMs - nowMs)),
      calm: (row) => this.#calm.of(row, this.#slot, () => this.#survival.clean(row, nowMs, Math.min(SOON_MS, dueMs - nowMs))),
      coming: this.#arrivals.expected(dueMs, left),
      truth: {
        isClean: (row) => (this.#finalMs[row] as number) < nowMs,
        coming: this.#finals.subarray(inCycle),
        capacity: bounded ? this.#capacityAhead(nowMs, left, true).with(0, capacity[0]) : capacity,
      },
    };
    const high = this.#isHigh();
    for (const { policy, dirty, open } of this.#runs) {
      for (const row of policy.choose({ ...moment, dirty })) {
        open.movedRows++;
        open.movedBytes += this.#trace.rowBytes[row] as number;
        if (high) open.movedUnderLoad++;
        open.lag.add(nowMs - dirty.sinceMs(row));
        dirty.moved(row);
      }
    }
    this.#usualLoad.learn(nowMs, this.#load[this.#slot] as number, slotMs);
  }

  #fullCapacity(slots: number): Float64Array {
    return new Float64Array(slots).fill(this.#options.capacityRows);
  }

  /** @param known whether later load is known, or forecast from earlier days. */
  #capacityAhead(nowMs: number, slots: number, known: boolean): Float64Array {
    const { capacityRows: most, slotMs } = this.#options;
    const now = this.#load[this.#slot] as number;
    const forecast = Float64Array.from({ length: slots }, (_, ahead) =>
      known ? (this.#load[this.#slot + ahead] as number) : this.#usualLoad.upper(nowMs + ahead * slotMs),
    );
    const resource = { name: 'load', ceiling: 1, forecast, measured: now, costPerRow: 1 / most };
    return headroom([resource], slots, { least: most * LEAST_SHARE, most }).rows;
  }

  /** The changes of the slot come after what was decided at its beginning. */
  #happen(): void {
    const high = this.#isHigh();
    const { atMs, row: rows, rowBytes } = this.#trace;
    for (let change = this.#firstOf[this.#slot] as number; change < (this.#firstOf[this.#slot + 1] as number); change++) {
      const [row, at] = [rows[change] as number, atMs[change] as number];
      this.#survival.changed(row, at);
      this.#lastMs[row] = at;
      this.#changed.changed(row, at);
      for (const { policy, dirty, open } of this.#runs) {
        if (!policy.streams) {
          dirty.changed(row, at);
          continue;
        }
        open.movedRows++;
        open.movedBytes += rowBytes[row] as number;
        if (high) open.movedUnderLoad++;
        open.lag.add(0);
      }
    }
  }

  #capture(dueMs: number): void {
    const bytesOf = (rows: readonly number[]): number => rows.reduce((sum, row) => sum + (this.#trace.rowBytes[row] as number), 0);
    const changed = this.#changed.list();
    const [distinctRows, distinctBytes] = [changed.length, bytesOf(changed)];
    for (const run of this.#runs) {
      const residual = run.dirty.list();
      for (const row of residual) run.open.lag.add(dueMs - run.dirty.sinceMs(row));
      const { movedRows, movedBytes, movedUnderLoad, lag } = run.open;
      const residualBytes = bytesOf(residual);
      run.cycles.push({
        dueMs,
        distinctRows,
        distinctBytes,
        movedRows: movedRows + residual.length,
        movedBytes: movedBytes + residualBytes,
        residualRows: residual.length,
        residualBytes,
        movedUnderLoad,
        lag,
      });
      run.dirty.clear();
      run.open = nothingMoved();
    }
    const lastChanges = new Float64Array(this.#cycleSlots);
    for (const row of changed) {
      const before = Math.floor((dueMs - (this.#lastMs[row] as number)) / this.#options.slotMs);
      lastChanges[before] = (lastChanges[before] ?? 0) + 1;
    }
    this.#arrivals.learn(dueMs, lastChanges);
    this.#changed.clear();
  }

  #isHigh(): boolean {
    return (this.#load[this.#slot] as number) > this.#options.ceiling;
  }
}

/** A number per row that is worked out at most once in a slot, whoever asks. */
class PerRow {
  readonly #values: Float64Array;
  readonly #slots: Int32Array;

  constructor(rows: number) {
    this.#values = new Float64Array(rows);
    this.#slots = new Int32Array(rows).fill(-1);
  }

  of(row: number, slot: number, work: () => number): number {
    if (this.#slots[row] !== slot) {
      this.#slots[row] = slot;
      this.#values[row] = work();
    }
    return this.#values[row] as number;
  }
}

function nothingMoved(): Run['open'] {
  return { movedRows: 0, movedBytes: 0, movedUnderLoad: 0, lag: new LagCounts() };
}

/** Where nothing is known of the load, changes stand for it: those of a slot, as a share of what 49 of 50 slots stay below. */
function loadOf(firstOf: Int32Array): Float64Array {
  const changes = Float64Array.from({ length: firstOf.length - 1 }, (_, slot) => (firstOf[slot + 1] as number) - (firstOf[slot] as number));
  const usual = Math.max(1, quantile(changes.toSorted(), 0.98));
  return changes.map((count) => Math.min(1, count / usual));
}
