import { describe, expect, test } from 'vitest';
import type { TableName } from '../model/schema.ts';
import { Hotspots, rankHotspots, recallAt } from './hotspots.ts';
import type { Candidate } from './hotspots.ts';

const noise = (index: number) => ((Math.sin(index * 12.9898) * 43_758.5453) % 1) ** 2;

describe('the pooled model', () => {
  test('tells what will be busy from how each was, sparse ones among them', () => {
    const model = new Hotspots({ period: 6, day: 24 });
    // Element n does about n rows an hour; the last three begin on the last day.
    const rate = (element: number, hour: number) => (element < 17 ? element : hour > 380 ? 40 : 0) * (0.5 + noise(hour * 31 + element));
    for (let hour = 0; hour < 400; hour++) model.advance(Float64Array.from({ length: 20 }, (_, element) => rate(element, hour)));
    const said = model.forecast();
    const came = Float64Array.from({ length: 20 }, (_, element) =>
      Array.from({ length: 6 }, (__, hour) => rate(element, 400 + hour)).reduce((a, b) => a + b),
    );
    expect(recallAt(10, said, came)).toBeGreaterThanOrEqual(0.9);
    const [saidAll, cameAll] = [said, came].map((each) => each.reduce((sum, value) => sum + value, 0)) as [number, number];
    expect(saidAll / cameAll).toBeGreaterThan(0.7);
    expect(saidAll / cameAll).toBeLessThan(1.4);
  });

  test('begins with the mean of what was, and with nothing of nothing', () => {
    const model = new Hotspots({ period: 6, day: 24 });
    expect(model.forecast()).toHaveLength(0);
    for (let hour = 0; hour < 3; hour++) model.advance([2, 0, Number.NaN]);
    expect([...model.forecast()]).toEqual([12, 0, 0]);
  });

  test('takes up elements that come later', () => {
    const model = new Hotspots({ period: 2, day: 24 });
    for (let hour = 0; hour < 300; hour++) model.advance(Float64Array.from({ length: hour < 280 ? 5 : 6 }, (_, element) => element));
    const said = model.forecast();
    expect(said).toHaveLength(6);
    expect(said.every((value) => Number.isFinite(value) && value >= 0)).toBe(true);
    expect(said[4]).toBeGreaterThan(said[1] as number);
  });
});

describe('the ranking', () => {
  const candidate = (table: string, expectedRows: number, more: Partial<Candidate> = {}): Candidate => ({
    table: table as TableName,
    sizeBytes: 1_000,
    columnTypes: ['int4'],
    expectedRows,
    expectedBytes: 100 - expectedRows,
    ...more,
  });
  const all = [
    candidate('public.a', 1),
    candidate('public.b', 3, { sizeBytes: 10 }),
    candidate('audit.c', 6),
    candidate('public.d', 0),
    candidate('public.e', 2, { columnTypes: ['bytea'] }),
  ];
  const names = (...args: Parameters<typeof rankHotspots>) => rankHotspots(...args).map(({ table }) => table as string);

  test('is by rows or by bytes, and nothing that does nothing is hot', () => {
    expect(names(all, 'rows', 10)).toEqual(['audit.c', 'public.b', 'public.e', 'public.a']);
    expect(names(all, 'bytes', 2)).toEqual(['public.d', 'public.a']);
    expect(rankHotspots(all, 'rows', 1)[0]).toMatchObject({ rank: 1, share: 0.5 });
  });

  test('keeps to the filter by name, size and type; a size not known passes', () => {
    expect(names(all, 'rows', 10, { tables: { include: ['*'], exclude: ['audit.*'] } })).toEqual(['public.b', 'public.e', 'public.a']);
    expect(names(all, 'rows', 10, { sizeBytesMin: 100 })).toEqual(['audit.c', 'public.e', 'public.a']);
    expect(names(all, 'rows', 10, { sizeBytesMax: 100 })).toEqual(['public.b']);
    expect(names(all, 'rows', 10, { withoutTypes: ['bytea'] })).toEqual(['audit.c', 'public.b', 'public.a']);
    expect(names([candidate('public.f', 1, { sizeBytes: null })], 'rows', 10, { sizeBytesMin: 100 })).toEqual(['public.f']);
  });

  test('is scored against what came: ties count, and what did nothing never does', () => {
    expect(recallAt(2, [5, 4, 3, 2], [9, 8, 1, 0])).toBe(1);
    expect(recallAt(2, [5, 4, 3, 2], [1, 0, 9, 8])).toBe(0);
    expect(recallAt(2, [0, 9, 8, 0], [5, 1, 1, 1])).toBe(1);
    expect(recallAt(3, [3, 2, 1], [0, 0, 4])).toBe(1);
    expect(recallAt(3, [3, 2, 1], [0, 0, 0])).toBeNaN();
  });
});
