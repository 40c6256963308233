import { setTimeout as pause } from 'node:timers/promises';
import type { CapturePolicy } from '../src/capture/judge.ts';
import { Orchestrator } from '../src/capture/orchestrator.ts';
import { lastReadable } from '../src/capture/states.ts';
import { rowsAt } from '../src/capture/seal.ts';
import type { Catalog } from '../src/capture/catalog.ts';
import type { Journal } from '../src/journal/journal.ts';
import { type CaptureNumber, NO_CAPTURE, captureNumber } from '../src/model/capture.ts';
import type { Generation } from '../src/model/progress.ts';
import type { TableName, TableSchema } from '../src/model/schema.ts';
import { type KeyTuple, type Tuple, packTuple } from '../src/model/tuple.ts';
import { newDrain } from '../src/shadowing/drain.ts';
import { Newcomers } from '../src/shadowing/newcomers.ts';
import { Engine } from '../src/shadowing/engine.ts';
import type { HoldingParts } from '../src/shadowing/holding.ts';
import type { Shadow } from '../src/shadowing/shadow.ts';
import { openMemoryJournal } from '../src/stores/memory/journal.ts';
import { type MemoryOperation, MemoryPrimary } from '../src/stores/memory/primary.ts';
import { openMemoryShadow } from '../src/stores/memory/shadow.ts';
import { MemoryStore } from '../src/stores/memory/store.ts';
import { memoryCell } from '../src/stores/memory/values.ts';
import { Tracker } from '../src/tracking/tracker.ts';

export const ITEMS = 'items' as TableName;
export const NOTES = 'notes' as TableName;

const column = (name: string, type: string): TableSchema['columns'][number] => ({
  name,
  type,
  nullable: true,
  generated: false,
  hidden: false,
});

export function tableSchema(table: TableName, shape = 'v1'): TableSchema {
  return {
    table,
    columns: [column('id', 'integer'), column('value', 'text'), column('long', 'text')],
    key: [0],
    keyOrderShared: true,
    shape,
    create: [],
    finish: [],
  };
}

export function item(id: bigint, value: string | null, long: string | null = 'long'): Tuple {
  return packTuple([memoryCell(id), memoryCell(value), memoryCell(long)]);
}

/** What an update that leaves the long column alone sends of a row. */
export function partOfItem(id: bigint, value: string): Tuple {
  return packTuple([memoryCell(id), memoryCell(value), undefined]);
}

export function itemKey(id: bigint): KeyTuple {
  return packTuple([memoryCell(id)]) as KeyTuple;
}

export function put(table: TableName, id: bigint, value: string): MemoryOperation {
  return { table, kind: 'put', row: item(id, value) };
}

/** The whole system on stores in memory, started and stopped like the processes of a real one. */
export class MemoryWorld {
  readonly primary: MemoryPrimary;
  readonly journal: Journal = openMemoryJournal();
  readonly store = new MemoryStore();
  readonly log: string[] = [];
  readonly policy: CapturePolicy;
  /** Of the engines started from now on. */
  foldEveryMs = 1;
  /** With it rows may be held back. */
  holding: HoldingParts | null = null;
  lagToleranceMs = 60_000;
  /** Told of each engine before it begins. */
  told: (engine: Engine) => void = () => {};

  constructor(tables: readonly TableSchema[], policy: Partial<CapturePolicy> = {}) {
    this.primary = new MemoryPrimary(tables);
    this.policy = { validate: 'changed', onInvalid: 'rollback', drainDeadlineMs: 5_000, rollingBudgetMs: 1_000, ...policy };
  }

  async start(failpoint: (name: string) => void = () => {}): Promise<RunningWorld> {
    const { primary, journal } = this;
    const { shadow, catalog } = openMemoryShadow(this.store);
    const lifetime = new AbortController();
    const { signal } = lifetime;
    await shadow.claim('test');
    const described = await primary.describe();
    const bookmark = await primary.install(described.tables);
    if (journal.head() === null) await journal.begin(bookmark);
    const tracker = new Tracker({ primary, journal, failpoint, onRetry: (error) => this.log.push(String(error)) });
    const last = (await catalog.exists()) ? (await catalog.list()).at(-1)?.number : undefined;
    await shadow.prepare(described, {
      generation: 1 as Generation,
      low: tracker.head,
      high: tracker.head,
      capture: captureNumber((last ?? 0) + 1),
    });
    const records = await catalog.list();
    const draining = records.find(({ state }) => state === 'draining');
    const parts = {
      primary,
      journal,
      tracker,
      shadow,
      catalog,
      failpoint,
      foldEveryMs: this.foldEveryMs,
      followsShape: () => true,
      lagToleranceMs: () => this.lagToleranceMs,
      ...(this.holding === null ? {} : { holding: this.holding }),
      log: (message: string) => this.log.push(message),
    };
    const engine = await Engine.open(
      parts,
      {
        lastCut: lastReadable(records)?.number ?? NO_CAPTURE,
        drain: draining?.position ? newDrain(draining.number, draining.position) : null,
        parked: (await catalog.read('parked')) !== null && (await catalog.read('parked')) !== undefined,
      },
      signal,
    );
    const newcomers = new Newcomers({ ...parts, engine });
    const adopt = async (tables: readonly TableName[]): Promise<void> => {
      newcomers.want(tables);
      await newcomers.adopt(signal);
    };
    const orchestrator = new Orchestrator({ ...parts, engine, adopt, policy: this.policy, lifetime: signal });
    this.told(engine);
    const failures: unknown[] = [];
    const loops = [tracker.run(signal), engine.run(signal)].map((loop) => loop.catch((error: unknown) => failures.push(error)));
    const stop = async (): Promise<void> => {
      lifetime.abort();
      await Promise.all(loops);
      await shadow[Symbol.asyncDispose]();
      if (failures.length > 0) throw failures[0];
    };
    return { shadow, catalog, tracker, engine, orchestrator, signal, stop };
  }
}

export interface RunningWorld {
  readonly shadow: Shadow;
  readonly catalog: Catalog;
  readonly tracker: Tracker;
  readonly engine: Engine;
  readonly orchestrator: Orchestrator;
  readonly signal: AbortSignal;
  stop(): Promise<void>;
}

export const quiet = (): void => {};

/** Starts the world, works in it, and stops it whatever came of the work. */
export async function running(
  world: MemoryWorld,
  work: (run: RunningWorld) => Promise<void>,
  failpoint: (name: string) => void = quiet,
): Promise<void> {
  const run = await world.start(failpoint);
  try {
    await work(run);
  } finally {
    await run.stop();
  }
}

/** The rows of a table as of a capture, in a form that compares; the number of a capture in progress reads the live state. */
export async function read(shadow: Shadow, table: TableName, at: CaptureNumber, signal: AbortSignal): Promise<string[]> {
  const rows: string[] = [];
  for await (const page of rowsAt(shadow, table, at, signal)) for (const row of page) rows.push(row.toString('hex'));
  return rows.toSorted();
}

/** The rows of the live shadow. */
export function live({ engine, shadow, signal }: RunningWorld, table: TableName): Promise<string[]> {
  return read(shadow, table, engine.elements.get(table)?.progress.capture as CaptureNumber, signal);
}

export function hex(rows: readonly Tuple[]): string[] {
  return rows.map((row) => row.toString('hex')).toSorted();
}

/** Waits until something holds that no promise tells of. */
export async function until(holds: () => boolean, signal: AbortSignal): Promise<void> {
  while (!holds()) await pause(1, undefined, { signal });
}

/** Until everything that is committed now is in the journal. */
export async function tracked({ primary }: MemoryWorld, { tracker, signal }: RunningWorld): Promise<void> {
  await tracker.reached(await primary.now(), signal);
}

/** Until everything that is committed now is in the shadow. */
export async function shadowed(world: MemoryWorld, run: RunningWorld): Promise<void> {
  await tracked(world, run);
  await run.engine.caughtUp(run.tracker.head, run.signal);
}
