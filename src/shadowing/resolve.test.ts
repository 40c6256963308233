import fc from 'fast-check';
import { expect, test } from 'vitest';
import { BlockWriter } from '../journal/frame.ts';
import { captureNumber } from '../model/capture.ts';
import type { ChangeBlock, TransactionId } from '../model/change.ts';
import { position } from '../model/position.ts';
import { COPY_FROM_NOTHING, type Element, type Generation } from '../model/progress.ts';
import { RowList } from '../model/rows.ts';
import type { TableName, TableSchema } from '../model/schema.ts';
import { type Identity, identityOf, identityOfRow, type KeyTuple, keyTuple, packTuple, type Tuple } from '../model/tuple.ts';
import type { Chunk } from './copy.ts';
import { fold, Pending } from './pending.ts';
import { batchesOf } from './resolve.ts';
import type { StandingRows } from './shadow.ts';
import { Touched } from './touched.ts';

const SCHEMA: TableSchema = {
  table: 'items' as TableName,
  columns: ['id', 'value'].map((name) => ({ name, type: '', nullable: true, generated: false, hidden: false })),
  key: [0],
  keyOrderShared: true,
  shape: 'v1',
  create: [],
  finish: [],
};
const PLACES_EACH = 8;
const one = captureNumber(1);

interface Act {
  readonly kind: 'put' | 'delete';
  readonly id: number;
}

/** A table whose rows lie in places, and lie elsewhere once they are changed; and the changes a fold is made of. */
class Heap {
  readonly places: (Tuple | null)[] = [];
  readonly #placeOf = new Map<number, number>();
  #versions = 0;
  #writer = new BlockWriter(SCHEMA.table);

  constructor(ids: number) {
    this.begin(0n);
    for (let id = 0; id < ids; id++) this.act({ kind: 'put', id });
    this.begin(1n);
  }

  /** The transaction of all acts until the next one. Returns what the one before did. */
  begin(number: bigint): ChangeBlock | null {
    const before = this.#writer.take();
    this.#writer = new BlockWriter(SCHEMA.table);
    this.#writer.transaction({ id: number as TransactionId, at: position(number), committedAtMicros: 0n });
    return before;
  }

  act({ kind, id }: Act): void {
    const place = this.#placeOf.get(id);
    if (place === undefined && kind === 'delete') return;
    const row = packTuple([Buffer.from([id]), Buffer.from(String(++this.#versions))]);
    if (place !== undefined) this.places[place] = null;
    if (kind === 'delete') {
      this.#placeOf.delete(id);
      this.#writer.delete(keyTuple(row, SCHEMA.key));
      return;
    }
    this.#placeOf.set(id, this.places.push(row) - 1);
    if (place === undefined) this.#writer.insert(row);
    else this.#writer.update(row, null);
  }

  get rows(): Tuple[] {
    return this.places.filter((row) => row !== null);
  }
}

/** What a shadow makes of the batches, and which keys it was asked for. */
class Copy implements StandingRows {
  readonly held = new Map<Identity, Tuple>();
  readonly asked: Identity[] = [];

  rows(): never {
    throw new Error('a copy reads no pages');
  }

  async rowsByKey(keys: readonly KeyTuple[]): Promise<readonly Tuple[]> {
    this.asked.push(...keys.map(identityOf));
    return await Promise.resolve(keys.flatMap((key) => this.held.get(identityOf(key)) ?? []));
  }

  async apply(element: Element, pending: Pending, chunk: Chunk, touched: Touched | null): Promise<void> {
    async function* pieces(): AsyncGenerator<Pending> {
      yield await Promise.resolve(pending);
    }
    for await (const { deletes, puts, pack, fresh } of batchesOf(element, pieces(), { chunk, touched }, this)) {
      for (const key of deletes) this.held.delete(identityOf(key));
      for (const row of [...puts, ...(pack?.rows() ?? [])]) {
        const identity = identityOfRow(row, SCHEMA.key);
        if (fresh) expect(this.held.has(identity)).toBe(false);
        this.held.set(identity, row);
      }
    }
  }
}

/** Copies the table chunk by chunk, with the acts of each round half before its chunk is read and half after. */
async function copied(heap: Heap, rounds: readonly (readonly Act[])[], touched: Touched | null): Promise<Copy> {
  const copy = new Copy();
  let fresh = true;
  let from = 0;
  for (let round = 0; ; round++) {
    const acts = rounds[round] ?? [];
    for (const act of acts.slice(0, acts.length / 2)) heap.act(act);
    const to = from + PLACES_EACH;
    const rows = new RowList();
    for (const row of heap.places.slice(from, to)) if (row !== null) rows.add(row, 0, row.length);
    const last = to >= heap.places.length;
    for (const act of acts.slice(acts.length / 2)) heap.act(act);
    const [low, at] = [position(BigInt(round)), position(BigInt(round + 1))];
    const block = heap.begin(BigInt(round + 2));
    async function* blocks(): AsyncGenerator<ChangeBlock> {
      if (block !== null) yield await Promise.resolve(block);
    }
    const pending = await fold(blocks(), { after: low, upTo: at }, new Pending(SCHEMA, low, { changes: 1000, bytes: 1 << 20 }));
    const pack = { count: rows.length, bytes: 1, capture: one, rows: () => rows };
    const chunk = {
      rows: new Map(),
      pack,
      asked: new Set<Identity>(),
      through: null,
      end: at,
      low,
      shape: 'v1',
      includes: () => false,
      moved: false,
    };
    const progress = { generation: 1 as Generation, low, high: low, capture: one };
    const touches = !pending.isEmpty;
    await copy.apply({ schema: SCHEMA, state: { ...COPY_FROM_NOTHING, fresh } as Element['state'], progress }, pending, chunk, touched);
    fresh &&= !touches;
    if (last) return copy;
    from = to;
  }
}

const act = fc.record({ kind: fc.constantFrom('put' as const, 'put' as const, 'delete' as const), id: fc.nat(50) });
const rounds = fc.array(fc.array(act, { maxLength: 6 }), { maxLength: 12 });
const ordered = (rows: Iterable<Tuple>): string[] => Array.from(rows, (row) => row.toString('hex')).toSorted();

test('a first copy while rows change brings every row, and looks only for those that changes spoke of', async () => {
  await fc.assert(
    fc.asyncProperty(rounds, async (all) => {
      const heap = new Heap(40);
      const copy = await copied(heap, all, new Touched());
      expect(ordered(copy.held.values())).toEqual(ordered(heap.rows));
      const spokenOf = new Set(all.flat().map(({ id }) => identityOf(packTuple([Buffer.from([id])]) as KeyTuple)));
      for (const identity of copy.asked) expect(spokenOf).toContain(identity);
    }),
  );
});

test('where it is not known what changes spoke of, all is looked for', async () => {
  await fc.assert(
    fc.asyncProperty(rounds, async (all) => {
      const heap = new Heap(40);
      expect(ordered((await copied(heap, all, null)).held.values())).toEqual(ordered(heap.rows));
    }),
  );
});
