import { describe, expect, test } from 'vitest';
import { RowList } from '../../model/rows.ts';
import { type KeyTuple, packTuple, type Tuple } from '../../model/tuple.ts';
import type { RowBatch } from '../../shadowing/shadow.ts';
import { lanesOf } from './lanes.ts';

const tuple = (n: number): Tuple => packTuple([Buffer.from(String(n))]);
const tuples = (from: number, count: number): Tuple[] => Array.from({ length: count }, (_, index) => tuple(from + index));

function listed(rows: readonly Tuple[]): RowList {
  const list = new RowList();
  for (const row of rows) list.add(row, 0, row.length);
  return list;
}

function textsOf(batches: readonly RowBatch[]): string[] {
  return batches.flatMap(({ deletes, patches, puts, fresh }) => [
    ...Array.from(deletes, (row) => `delete ${row.toString('hex')}`),
    ...Array.from(patches ?? [], (row) => `patch ${row.toString('hex')}`),
    ...Array.from(puts, (row) => `${fresh ? 'insert' : 'put'} ${row.toString('hex')}`),
  ]);
}

describe('lanes', () => {
  const mixed: RowBatch = {
    deletes: tuples(0, 11) as KeyTuple[],
    patches: listed(tuples(100, 7)),
    puts: listed(tuples(200, 40)),
    fresh: false,
  };
  const inserts: RowBatch = { deletes: [], puts: listed(tuples(300, 30)), fresh: true };

  test('share every row, each to one of them, and keep together what is deleted and what is inserted without looking', () => {
    const lanes = lanesOf([mixed, inserts], 10);
    if (lanes === null) throw new Error('not shared');
    expect([...textsOf(lanes.own), ...textsOf(lanes.beside)].toSorted()).toEqual(textsOf([mixed, inserts]).toSorted());
    expect(textsOf(lanes.own).filter((text) => text.startsWith('insert'))).toHaveLength(30);
    expect(textsOf(lanes.own).filter((text) => text.startsWith('delete'))).toHaveLength(11);
    // 2 for each of 47, beside 3 for each of 11 and 1 for each of 30, and 6 for the bytes of all: as near to half of 163 as whole rows come.
    expect(textsOf(lanes.beside)).toHaveLength(6 + 34);
  });

  test('are not worth it for a few rows, nor where nothing is changed', () => {
    expect(lanesOf([mixed, inserts], 131)).toBeNull();
    expect(lanesOf([mixed, inserts], 130)).not.toBeNull();
    expect(lanesOf([inserts], 1)).toBeNull();
    expect(lanesOf([{ ...mixed, patches: [], puts: [] }, inserts], 1)).toBeNull();
    expect(lanesOf([], 1)).toBeNull();
  });

  test('weigh large rows by their bytes', () => {
    const large = (count: number): RowList => listed(Array.from({ length: count }, () => packTuple([Buffer.alloc(6400)])));
    expect(lanesOf([{ deletes: [], puts: large(20), fresh: false }], 1000)).not.toBeNull();
    const lanes = lanesOf([mixed, { deletes: [], puts: large(4), fresh: true }], 1);
    expect(textsOf(lanes?.beside ?? [])).toHaveLength(7 + 40);
  });

  test('where little is changed, all of that goes to the other one', () => {
    const some = { ...mixed, deletes: [], puts: [] };
    const many = { ...inserts, puts: listed(tuples(300, 300)) };
    const lanes = lanesOf([some, many], 1);
    expect(textsOf(lanes?.beside ?? [])).toEqual(textsOf([some]));
    expect(textsOf(lanes?.own ?? [])).toEqual(textsOf([many]));
  });
});
