import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { BlockWriter } from '../journal/frame.ts';
import { captureNumber } from '../model/capture.ts';
import type { OpenBlock, TransactionId } from '../model/change.ts';
import { type Position, position, positionBefore } from '../model/position.ts';
import type { Element, Generation } from '../model/progress.ts';
import type { TableName, TableSchema } from '../model/schema.ts';
import { type KeyTuple, packTuple, type Tuple } from '../model/tuple.ts';
import { openMemoryJournal } from '../stores/memory/journal.ts';
import type { Tracked, Tracker } from '../tracking/tracker.ts';
import { Ahead } from './ahead.ts';
import { type Drain, newDrain } from './drain.ts';
import type { Engine } from './engine.ts';
import type { EngineParts } from './parts.ts';
import { Backlog } from './lag.ts';
import type { AheadWork, Shadow } from './shadow.ts';
import type { FoldTask } from './write.ts';

/** When a transaction is written ahead, when it is not any more, and what of it reaches the shadow. */
const ITEM = 'item' as TableName;
const NOTE = 'note' as TableName;
const OTHER = 'other' as TableName;
const END = position(50n);

interface Written {
  readonly table: TableName;
  rows: number;
  from: Position | null;
  outcome: 'open' | 'taken' | 'given up';
}

let journal = openMemoryJournal();
let elements: Map<TableName, Element>;
let surroundings: { drain: Drain | null; parked: boolean };
let written: Written[];
let ahead: Ahead;
let hear: { pieces: Parameters<Tracker['onPiece']>[0]; ended: (tracked: Tracked) => void };

beforeEach(async () => {
  journal = openMemoryJournal();
  await journal.begin({ at: position(10n), evidence: '' });
  elements = new Map([ITEM, NOTE, OTHER].map((table) => [table, elementOf(table)]));
  surroundings = { drain: null, parked: false };
  written = [];
  const listeners: Partial<typeof hear> = {};
  const tracker = {
    onPiece: (listener: typeof hear.pieces) => {
      listeners.pieces = listener;
      return () => undefined;
    },
    onTracked: (listener: typeof hear.ended) => {
      listeners.ended = listener;
      return () => undefined;
    },
  };
  const parts = { tracker, journal, shadow: { applyAhead }, log: () => undefined, failpoint: () => undefined } as unknown as EngineParts;
  const backlog = await Backlog.read(journal, elements, position(10n), new AbortController().signal);
  const engine = {
    elements,
    backlog,
    savedThrough: () => captureNumber(1),
    get drain() {
      return surroundings.drain;
    },
    get parked() {
      return surroundings.parked;
    },
  } as unknown as Engine;
  ahead = new Ahead(parts, engine, () => undefined);
  hear = listeners as typeof hear;
});

afterEach(async () => {
  await ahead[Symbol.asyncDispose]();
  expect(written.map(({ outcome }) => outcome)).not.toContain('open');
});

function elementOf(table: TableName): Element {
  const columns = [{ name: 'id', type: 'int', nullable: false, generated: false, hidden: false }];
  const schema = { table, columns, key: [0], keyOrderShared: true, shape: '', create: [], finish: [] } as TableSchema;
  const progress = { generation: 1 as Generation, low: position(10n), high: position(10n), capture: captureNumber(2) };
  return { schema, state: { kind: 'live' }, progress };
}

const applyAhead: Shadow['applyAhead'] = async (work: AheadWork) => {
  const each: Written = { table: work.table, rows: 0, from: null, outcome: 'open' };
  written.push(each);
  try {
    for await (const rows of work.rows) each.rows += [...rows].length;
    each.from = work.reached().from.low;
    each.outcome = 'taken';
  } finally {
    if (each.outcome === 'open') each.outcome = 'given up';
  }
  return { inserted: each.rows, updated: 0, deleted: 0, conflicts: [] };
};

function row(megabytes: number): Tuple {
  return packTuple([Buffer.alloc(megabytes << 20)]);
}

/** A piece of a transaction: rows of a MiB each, or other changes. */
async function piece(id: number, table: TableName, rows: number, write: (writer: BlockWriter) => void = () => undefined): Promise<void> {
  const writer = new BlockWriter(table);
  for (let i = 0; i < rows; i++) writer.insert(row(1));
  write(writer);
  const one = { transaction: BigInt(id) as TransactionId, blocks: [writer.takeOpen() as OpenBlock] };
  await journal.spool(one);
  hear.pieces({ kind: 'piece', piece: one });
}

async function commit(id: number, dropped: readonly number[] = []): Promise<void> {
  const ended = { transaction: { id: BigInt(id) as TransactionId, at: END, committedAtMicros: 0n }, dropped: new Set(dropped) };
  const batch = { after: position(10n), through: END, blocks: [], adopts: [ended], events: [] };
  const changes = await journal.append(batch, '');
  hear.ended({ ...batch, changes, adopted: [ended], blocks: null });
}

async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await sleep(1);
}

const outcomes = (): string[] => written.map(({ table, outcome }) => `${table} ${outcome}`);

const task = (drain: Drain | null = null, target = END): FoldTask => ({
  drain,
  savedThrough: captureNumber(1),
  target: drain?.at ?? target,
  chunk: null,
  scope: null,
});

const item = (): Element => elements.get(ITEM) as Element;

function standing(low: Position): Element {
  return { ...item(), progress: { ...item().progress, low, high: low } };
}

test('all of it, and nothing twice, once it has ended and the element has what was before', async () => {
  await piece(1, ITEM, 3);
  expect(written).toEqual([]);
  await piece(1, ITEM, 2);
  await until(() => written[0]?.rows === 5);
  await piece(1, ITEM, 1);
  expect(ahead.endOf(item(), task(), false)).toBeNull();
  await commit(1);
  expect(ahead.endOf(item(), task(null, positionBefore(END)), false)).toBeNull();
  expect(ahead.endOf(item(), task(), false)).toBe(END);
  const element = standing(positionBefore(END));
  for (;;) {
    const taken = await ahead.take(element);
    if (taken === null) await sleep(1);
    else {
      expect(taken).toMatchObject({ rows: 6, element: { progress: { low: END, high: END, capture: 2 } } });
      break;
    }
  }
  expect(written).toEqual([{ table: ITEM, rows: 6, from: positionBefore(END), outcome: 'taken' }]);
});

test('two tables at a time, each by itself, and one transaction for each', async () => {
  await piece(1, ITEM, 5);
  await piece(2, ITEM, 5);
  await piece(1, NOTE, 5);
  await piece(1, OTHER, 5);
  await until(() => written.length === 2 && written.every(({ rows }) => rows === 5));
  expect(outcomes()).toEqual([`${ITEM} open`, `${NOTE} open`]);
});

test.each<[string, (writer: BlockWriter) => void]>([
  ['an update', (writer) => writer.update(row(0), null)],
  ['a delete', (writer) => writer.delete(row(0) as unknown as KeyTuple)],
  ['a truncate', (writer) => writer.truncate()],
])('%s among the inserts', async (_, write) => {
  await piece(1, ITEM, 5);
  await until(() => written[0]?.rows === 5);
  await piece(1, ITEM, 1, write);
  await until(() => written[0]?.outcome === 'given up');
  await piece(1, ITEM, 5);
  await sleep(5);
  expect(outcomes()).toEqual([`${ITEM} given up`]);
  await piece(2, ITEM, 4, write);
  await sleep(5);
  expect(outcomes()).toEqual([`${ITEM} given up`]);
});

test('rolled back whole or in part, and heard of when it commits', async () => {
  for (const [id, part] of [
    [1, null],
    [2, 7],
  ] as const) {
    await piece(id, ITEM, 5);
    await until(() => written.length === id);
    hear.pieces({ kind: 'rolled-back', transaction: BigInt(id) as TransactionId, part });
    await until(() => written[id - 1]?.outcome === 'given up');
  }
  await piece(2, ITEM, 5);
  await piece(3, ITEM, 5);
  await until(() => written.length === 3);
  await commit(3, [8]);
  await until(() => written[2]?.outcome === 'given up');
  expect(ahead.endOf(item(), task(), false)).toBeNull();
  expect(outcomes()).toHaveLength(3);
});

test('pieces that come again from the first', async () => {
  await piece(1, ITEM, 5);
  await until(() => written[0]?.rows === 5);
  hear.pieces({ kind: 'abandoned' });
  await journal.abandon();
  await until(() => written[0]?.outcome === 'given up');
  await piece(1, ITEM, 5);
  await until(() => written[1]?.rows === 5);
});

test('a capture that it is not in ends it, one that it is in does not', async () => {
  await piece(1, ITEM, 5);
  await until(() => written[0]?.rows === 5);
  expect(ahead.endOf(item(), task(newDrain(captureNumber(2), position(40n))), false)).toBeNull();
  await until(() => written[0]?.outcome === 'given up');
  surroundings.drain = newDrain(captureNumber(2), position(40n));
  await piece(1, ITEM, 1);
  expect(written).toHaveLength(1);
  surroundings.drain = null;
  await piece(1, ITEM, 1);
  await until(() => written[1]?.rows === 7);
  await commit(1);
  expect(ahead.endOf(item(), task(newDrain(captureNumber(2), END)), false)).toBe(END);
});

test.each<[string, () => Element]>([
  ['another capture', () => ({ ...item(), progress: { ...item().progress, capture: captureNumber(3) } })],
  ['another generation', () => ({ ...item(), progress: { ...item().progress, generation: 2 as Generation } })],
  ['another shape', () => ({ ...item(), schema: { ...item().schema, shape: 'another' } })],
  ['a copy', () => ({ ...item(), state: { kind: 'halted', reason: '' } })],
  ['the end passed already', () => standing(END)],
])('an element that stands elsewhere: %s', async (_, element) => {
  await piece(1, ITEM, 5);
  await until(() => written[0]?.rows === 5);
  await commit(1);
  expect(ahead.endOf(element(), task(), false)).toBeNull();
  expect(await ahead.take(item())).toBe('given up');
});

test('a table that goes another way, and three tries', async () => {
  for (const tries of [1, 2, 3]) {
    await piece(1, ITEM, 5);
    await until(() => written[tries - 1]?.rows === 5 * tries);
    expect(ahead.endOf(item(), task(), true)).toBeNull();
    await until(() => written.at(-1)?.outcome === 'given up');
  }
  await piece(1, ITEM, 5);
  await sleep(5);
  expect(written).toHaveLength(3);
});

test('a parked shadow is left alone', async () => {
  await piece(1, ITEM, 5);
  await until(() => written[0]?.rows === 5);
  surroundings.parked = true;
  await until(() => written[0]?.outcome === 'given up');
  await piece(1, ITEM, 5);
  expect(written).toHaveLength(1);
});
