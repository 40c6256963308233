import fc from 'fast-check';
import { expect, test } from 'vitest';
import { BlockWriter } from '../journal/frame.ts';
import { captureNumber } from '../model/capture.ts';
import type { ChangeBlock, TransactionId, TransactionRef } from '../model/change.ts';
import { type Position, position } from '../model/position.ts';
import type { Element, Generation } from '../model/progress.ts';
import type { TableName, TableSchema } from '../model/schema.ts';
import { type Identity, type KeyTuple, type Tuple, fillAbsent, hasAbsent, identityOf, identityOfRow, packTuple } from '../model/tuple.ts';
import { type Extent, type Going, HeldFold } from './held-fold.ts';
import { HeldRows } from './held-rows.ts';

const ITEMS = 'items' as TableName;
const LOW = position(10n);
const SCHEMA = { table: ITEMS, columns: [], key: [1], keyOrderShared: true, shape: '', create: [], finish: [] } as unknown as TableSchema;
const ELEMENT: Element = {
  schema: SCHEMA,
  state: { kind: 'live' },
  progress: { generation: 1 as Generation, low: LOW, high: LOW, capture: captureNumber(1) },
};

/** Value, key, and a value that may be absent. */
function row(id: number, value: string, long?: string): Tuple {
  return packTuple([Buffer.from(value), Buffer.from([id]), long === undefined ? undefined : Buffer.from(long)]);
}

function keyOf(id: number): KeyTuple {
  return packTuple([Buffer.from([id])]) as KeyTuple;
}

function refAt(end: number): TransactionRef {
  return { id: BigInt(end) as TransactionId, at: position(BigInt(end)), committedAtMicros: 0n };
}

/** Changes with the ends of their transactions, in a block for each. */
async function* blocksOf(
  changes: readonly { readonly end: number; readonly write: (writer: BlockWriter) => void }[],
): AsyncGenerator<ChangeBlock> {
  for (const { end, write } of changes) {
    const writer = new BlockWriter(ITEMS);
    writer.transaction(refAt(end));
    write(writer);
    yield writer.take() as ChangeBlock;
  }
}

function extent(upTo: number, more: Partial<Extent> = {}): Extent {
  return { upTo: position(BigInt(upTo)), changesMax: 1000, hasRoom: () => true, arrivedMs: ({ id }) => Number(id), ...more };
}

function foldOf(heard: number[] = []): { readonly rows: HeldRows; readonly fold: HeldFold } {
  const rows = new HeldRows();
  const listener = { changed: (_table: TableName, identity: number) => heard.push(identity), left: () => undefined };
  return { rows, fold: new HeldFold(ELEMENT, rows, listener) };
}

/** The rows go, and nothing else happens meanwhile. */
function go(fold: HeldFold, going: Going): void {
  const { through: low, high } = going.folded;
  fold.went(going, { ...ELEMENT.progress, low, high: high as Position });
}

/** A shadow that takes only what it may be given: what is inserted must be free, what is patched or deleted must be there. */
class Strict {
  readonly rows = new Map<Identity, Tuple>();

  write({ folded }: Going): void {
    const settled = folded.settled();
    expect(settled).not.toBeNull();
    if (folded.truncated) this.rows.clear();
    for (const key of settled?.deletes ?? []) expect(this.rows.delete(identityOf(key))).toBe(true);
    for (const patch of settled?.patches ?? []) {
      const stands = this.rows.get(identityOfRow(patch, SCHEMA.key));
      expect(stands).toBeDefined();
      this.rows.set(identityOfRow(patch, SCHEMA.key), fillAbsent(patch, stands as Tuple));
    }
    for (const each of settled?.inserts ?? []) expect(this.rows.has(identityOfRow(each, SCHEMA.key))).toBe(false);
    for (const each of [...(settled?.puts ?? []), ...(settled?.inserts ?? [])]) {
      expect(hasAbsent(each)).toBe(false);
      this.rows.set(identityOfRow(each, SCHEMA.key), Buffer.from(each) as unknown as Tuple);
    }
  }
}

type Step =
  | { readonly kind: 'put' | 'patch' | 'delete' | 'move'; readonly id: number; readonly to: number; readonly size: number }
  | { readonly kind: 'go'; readonly picks: readonly number[] }
  | { readonly kind: 'truncate' };

const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(
    {
      weight: 20,
      arbitrary: fc.record({
        kind: fc.constantFrom('put' as const, 'put' as const, 'patch' as const, 'patch' as const, 'delete' as const, 'move' as const),
        id: fc.nat(40),
        to: fc.nat(40),
        size: fc.nat(1500),
      }),
    },
    { weight: 4, arbitrary: fc.record({ kind: fc.constant('go' as const), picks: fc.array(fc.nat(40), { maxLength: 8 }) }) },
    { weight: 1, arbitrary: fc.constant({ kind: 'truncate' as const }) },
  ),
  { minLength: 100, maxLength: 600, size: 'max' },
);

/** Writes a change that the primary can make to `block`, and makes it. False: it cannot. */
function change(primary: Map<Identity, Tuple>, step: Step, end: number): ((writer: BlockWriter) => void) | null {
  if (step.kind === 'go') return null;
  if (step.kind === 'truncate') {
    primary.clear();
    return (writer) => writer.truncate();
  }
  const [key, to] = [keyOf(step.id), keyOf(step.to)];
  const stands = primary.get(identityOf(key));
  const value = `${end}`.padEnd(step.size, '.');
  if (step.kind === 'put') {
    const whole = row(step.id, value, `long ${end}`);
    primary.set(identityOf(key), whole);
    return (writer) => (stands === undefined ? writer.insert(whole) : writer.update(whole, null));
  }
  if (stands === undefined) return null;
  if (step.kind === 'delete') {
    primary.delete(identityOf(key));
    return (writer) => writer.delete(key);
  }
  if (step.kind === 'patch') {
    const patch = row(step.id, value);
    primary.set(identityOf(key), fillAbsent(patch, stands));
    return (writer) => writer.update(patch, null);
  }
  if (primary.has(identityOf(to))) return null;
  primary.delete(identityOf(key));
  const moved = row(step.to, value);
  primary.set(identityOf(to), fillAbsent(moved, stands));
  return (writer) => writer.update(moved, key);
}

test('rows that go one by one, in any order, leave the shadow as the primary is', async () => {
  let [apart, compacted] = [0, 0];
  await fc.assert(
    fc.asyncProperty(steps, async (all) => {
      const { rows, fold } = foldOf();
      const primary = new Map<Identity, Tuple>();
      const shadow = new Strict();
      let end = 10;
      let low: Position = LOW;
      for (const step of all) {
        const going: Going | null =
          step.kind === 'go' ? fold.going(step.picks.filter((at) => at < rows.count).map((at) => rows.at(at))) : null;
        const write = change(primary, step, ++end);
        const before = fold.bytes;
        if (write !== null) expect(await fold.extend(blocksOf([{ end, write }]), extent(end))).toBe(true);
        if (fold.bytes < before) compacted++;
        // As the engine does: what cannot be told apart goes at once, and where a look at what stands is needed the primary's row is one.
        const whole = write !== null && fold.isWhole ? fold.going({ rowsMax: 0 }) : null;
        if (whole !== null && !fold.entries.isPlain) {
          for (const [identity, entry] of whole.folded.entries) {
            if (entry.kind === 'delete') shadow.rows.delete(identity);
            else shadow.rows.set(identity, primary.get(identity) as Tuple);
          }
          if (whole.folded.truncated) for (const identity of shadow.rows.keys()) if (!primary.has(identity)) shadow.rows.delete(identity);
          go(fold, whole);
        } else if (whole !== null || going !== null) {
          const some = (whole ?? going) as Going;
          shadow.write(some);
          go(fold, some);
          if (some.folded.through < (some.folded.high as Position)) apart++;
          expect(some.folded.through >= low && some.folded.through <= (some.folded.high as Position)).toBe(true);
          low = some.folded.through;
        }
      }
      const rest = fold.going({ rowsMax: 1000 });
      shadow.write(rest);
      go(fold, rest);
      expect(rows.count).toBe(0);
      expect(new Map(Array.from(shadow.rows, ([key, each]) => [key, each.toString()]))).toEqual(
        new Map(Array.from(primary, ([key, each]) => [key, each.toString()])),
      );
    }),
    { numRuns: 40 },
  );
  expect(apart).toBeGreaterThan(10);
  expect(compacted).toBeGreaterThan(10);
});

test('low lies before the oldest change that is left, and only there', async () => {
  const { rows, fold } = foldOf();
  const put = (id: number) => (writer: BlockWriter) => writer.update(row(id, 'value', 'long'), null);
  await fold.extend(blocksOf([20, 21, 22].map((end) => ({ end, write: put(end) }))), extent(30));
  await fold.extend(blocksOf([{ end: 35, write: put(20) }]), extent(40));
  const [first, second, third] = rows.list() as [number, number, number];
  expect([first, second, third].map((each) => [rows.sinceMs(each), rows.lastMs(each)])).toEqual([
    [20, 35],
    [21, 21],
    [22, 22],
  ]);
  const standing = (some: readonly number[]): readonly [Position, Position | null] => {
    const going = fold.going(some);
    go(fold, going);
    return [going.folded.through, going.folded.high];
  };
  expect(standing([second])).toEqual([position(19n), position(40n)]);
  expect(standing([first])).toEqual([position(21n), position(40n)]);
  expect(standing([third])).toEqual([position(40n), position(40n)]);
  expect(rows.count).toBe(0);
});

test('an image that was completed from an older one waits where that began: no restart may begin between the two', async () => {
  const { rows, fold } = foldOf();
  const changes = [
    { end: 20, write: (writer: BlockWriter) => writer.update(row(1, 'whole', 'long'), null) },
    { end: 21, write: (writer: BlockWriter) => writer.update(row(9, 'between', 'long'), null) },
    { end: 22, write: (writer: BlockWriter) => writer.update(row(2, 'moved'), keyOf(1)) },
  ];
  await fold.extend(blocksOf(changes), extent(30));
  expect(fold.isWhole).toBe(false);
  // The key it had goes with whatever goes first.
  const between = rows.list().find((each) => rows.sinceMs(each) === 21) as number;
  const going = fold.going([between]);
  expect(going.rows).toHaveLength(2);
  expect([...(going.folded.settled()?.deletes ?? [])]).toEqual([keyOf(1)]);
  expect(going.folded.through).toBe(position(19n));
  go(fold, going);
  expect(rows.list().map((each) => rows.sinceMs(each))).toEqual([22]);
  expect([...(fold.going(rows.list()).folded.settled()?.inserts ?? [])]).toEqual([row(2, 'moved', 'long')]);
});

test('a row that needs a look at another takes all with it, and so does a truncate', async () => {
  const { rows, fold } = foldOf();
  const put = (writer: BlockWriter): void => writer.update(row(5, 'value', 'long'), null);
  await fold.extend(blocksOf([{ end: 20, write: put }]), extent(20));
  await fold.extend(blocksOf([{ end: 21, write: (writer) => writer.update(row(2, 'moved'), keyOf(1)) }]), extent(21));
  expect(fold.isWhole).toBe(true);
  expect(fold.going([rows.at(0)]).rows).toHaveLength(3);
  go(fold, fold.going([]));
  await fold.extend(blocksOf([{ end: 22, write: put }]), extent(22));
  await fold.extend(blocksOf([{ end: 23, write: (writer) => writer.truncate() }]), extent(23));
  expect([rows.count, fold.isWhole]).toEqual([0, true]);
  const going = fold.going([]);
  expect([going.folded.truncated, going.folded.isEmpty, going.folded.through]).toEqual([true, false, position(23n)]);
  // Not written, it leaves nothing to go on from.
  expect(fold.fits({ ...ELEMENT, progress: { ...ELEMENT.progress, low: position(22n), high: position(22n) } })).toBe(false);
});

test('it ends between transactions, and leaves one that is too large', async () => {
  const put = (writer: BlockWriter): void => {
    writer.update(row(1, 'value', 'long'), null);
    writer.update(row(2, 'value', 'long'), null);
  };
  const two = foldOf();
  expect(await two.fold.extend(blocksOf([20, 21].map((end) => ({ end, write: put }))), extent(30, { changesMax: 2 }))).toBe(true);
  expect([two.fold.through, two.rows.lastMs(two.rows.at(0))]).toEqual([position(20n), 20]);
  const room = foldOf();
  const full = extent(30, { hasRoom: () => false });
  expect(await room.fold.extend(blocksOf([20, 21].map((end) => ({ end, write: put }))), full)).toBe(true);
  expect(room.fold.through).toBe(position(20n));
  expect(await foldOf().fold.extend(blocksOf([20, 20].map((end) => ({ end, write: put }))), extent(30, { changesMax: 2 }))).toBe(false);
});

test('a row is heard of by the same number each time it changes', async () => {
  const heard: number[] = [];
  const { fold } = foldOf(heard);
  const put = (id: number) => (writer: BlockWriter) => writer.update(row(id, 'value', 'long'), null);
  await fold.extend(blocksOf([1, 2, 1].map((id, index) => ({ end: 20 + index, write: put(id) }))), extent(30));
  go(fold, fold.going({ rowsMax: 10 }));
  await fold.extend(blocksOf([{ end: 40, write: put(2) }]), extent(40));
  expect(heard).toEqual([heard[0], heard[1], heard[0], heard[1]]);
  expect(heard[0]).not.toBe(heard[1]);
  for (const each of heard) expect(Number.isInteger(each) && each >= 0 && each < 2 ** 31).toBe(true);
});
