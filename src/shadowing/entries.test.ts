import fc from 'fast-check';
import { expect, test } from 'vitest';
import { identityOfRow, keyTuple, packTuple, type Identity, type Tuple } from '../model/tuple.ts';
import { Entries } from './entries.ts';

/** Rows in buffers of several, as blocks hold them, with other bytes around each. */
function placed(rows: readonly Tuple[]): { readonly bytes: Buffer; readonly start: number; readonly end: number }[] {
  const places: { bytes: Buffer; start: number; end: number }[] = [];
  for (let from = 0; from < rows.length; from += 7) {
    const pieces = rows.slice(from, from + 7).flatMap((row) => [Buffer.from([0xee, 0xee, 0xee]), row]);
    const bytes = Buffer.concat([...pieces, Buffer.from([0xee])]);
    let at = 0;
    for (const piece of pieces) {
      if (piece.length > 3) places.push({ bytes, start: at, end: at + piece.length });
      at += piece.length;
    }
  }
  return places;
}

const cell = fc.option(
  fc.uint8Array({ maxLength: 3 }).map((bytes) => Buffer.from(bytes)),
  { freq: 5 },
);
const row = fc.tuple(cell, cell, cell).map((cells) => packTuple(cells));

test.each([{ key: [0] }, { key: [1, 2] }, { key: [2, 0] }, { key: [1] }])(
  'keys in columns $key are told apart by their bytes',
  ({ key }) => {
    fc.assert(
      fc.property(fc.array(fc.tuple(row, fc.boolean()), { maxLength: 400, size: 'max' }), (acts) => {
        const entries = new Entries(key);
        const model = new Map<Identity, Tuple | null>();
        const places = placed(acts.map(([each]) => each));
        for (const [index, [each, isPut]] of acts.entries()) {
          const { bytes, start, end } = places[index] as (typeof places)[number];
          const identity = identityOfRow(each, key);
          if (isPut) {
            entries.put(entries.ofRow(bytes, start), bytes, start, end, 'none', true);
            model.set(identity, each);
          } else {
            const gone = keyTuple(each, key);
            entries.delete(entries.ofKey(gone, 0, gone.length), gone, 0, gone.length, true);
            model.set(identity, null);
          }
        }
        expect(entries.size).toBe(model.size);
        expect(Array.from(entries.keys())).toEqual(Array.from(model.keys()));
        for (const [identity, each] of model) {
          const entry = entries.get(identity);
          expect(entry?.kind).toBe(each === null ? 'delete' : 'put');
          if (entry?.kind === 'put') expect(entry.row).toEqual(each);
        }
        const settled = entries.settled();
        expect([...(settled?.puts ?? [])]).toEqual([...model.values()].filter((each) => each !== null));
        const gone = [...model].flatMap(([identity, each]) => (each === null ? [identity] : []));
        const keyColumns = key.map((_, index) => index);
        expect(Array.from(settled?.deletes ?? [], (each) => identityOfRow(each, keyColumns))).toEqual(gone);
      }),
      { numRuns: 60 },
    );
  },
);

test('many keys, and an emptied table begins anew', () => {
  const entries = new Entries([0]);
  const rowOf = (id: number): Tuple => packTuple([Buffer.from(id.toString(16).padStart(8, '0'), 'hex')]);
  for (let round = 0; round < 2; round++) {
    for (let id = 0; id < 50_000; id++) {
      const each = rowOf(id);
      entries.put(entries.ofRow(each, 0), each, 0, each.length, 'none', id % 2 === 0);
    }
    for (let id = 0; id < 50_000; id += 3) {
      const each = rowOf(id);
      expect(entries.stood(entries.ofRow(each, 0))).toBe(id % 2 === 0);
    }
    expect(entries.size).toBe(50_000);
    expect(entries.settled()?.inserts.length).toBe(25_000);
    entries.clear();
    expect(entries.size).toBe(0);
    expect(entries.has(identityOfRow(rowOf(1), [0]))).toBe(false);
  }
});
