import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { expect, onTestFinished, test, vi } from 'vitest';
import { LeftOut, readTraces } from '../bench/forecast-data.ts';
import { hourlyPlan, usable } from '../bench/forecast-series.ts';
import { checkLine, mean, middleLine, Parts, ratioLine } from '../bench/forecast-score.ts';

/** The benchmark of forecasts runs on folders of others: what it reads, what it leaves out, and when it says that it cannot tell. */

function folder(files: Readonly<Record<string, string>>): string {
  const path = mkdtempSync(join(tmpdir(), 'foreshadow-traces-'));
  onTestFinished(() => rmSync(path, { recursive: true }));
  for (const [name, text] of Object.entries(files)) writeFileSync(join(path, name), name.endsWith('.gz') ? gzipSync(text) : text);
  return path;
}

test('files are told by their headers, packed or not, wherever their time begins; what is none of them is named', () => {
  const leftOut = new LeftOut();
  const found = readTraces(
    folder({
      'disk.csv': '\uFEFFmachine,500,501,502\r\na,1,,x\r\nb,4,5,6\r\n',
      'my-CPU.csv.gz': 'vm,0,1,2\na,1,2,3\n',
      'server.csv': 'timestamp,value\n2014-01-01 00:00:00,1\n2014-01-01T00:05:00Z,2\n',
      'rows.csv': 'seconds,page\n1370002407,b\n1370006000,a\n1370002403,a\nnever,a\n',
      'second-rows.csv': 'seconds,page\n1,a\n',
      'broken.csv.gz': '',
      'bare.csv': 'vm,0,1,2\n',
      'other.csv': 'a,b\n1,2\n',
    }),
    leftOut,
  );
  expect(found.writes.map(({ name, series }) => [name, ...series.values])).toEqual([
    ['a', 1, Number.NaN, Number.NaN],
    ['b', 4, 5, 6],
  ]);
  expect(found.cpu).toHaveLength(1);
  expect([...(found.loads[0]?.series.values ?? [])]).toEqual([1, 2]);
  // In the order of time, from the hour in which the first one falls.
  expect(found.edits).toEqual({ seconds: Float64Array.of(803, 807, 4_400), rows: Int32Array.of(1, 0, 1), rowCount: 2 });
  expect(leftOut.rows.flatMap(([, names]) => names.split(', ')).toSorted()).toEqual([
    'bare.csv',
    'broken.csv.gz',
    'other.csv',
    'second-rows.csv',
  ]);
});

test('series that cannot be scored are left out, each with its reason', () => {
  const leftOut = new LeftOut();
  const named = (name: string, values: readonly number[]) => ({
    name,
    series: { startMs: 0, stepMs: 3_600_000, values: Float64Array.from(values) },
  });
  const days = (of: (hour: number) => number) => Array.from({ length: 240 }, (_, hour) => of(hour));
  const all = [
    named(
      'good',
      days((hour) => hour % 24),
    ),
    named('short', [1, 2, 3]),
    named(
      'silent',
      days(() => 0),
    ),
    named(
      'gappy',
      days((hour) => (hour % 3 === 0 ? 1 : Number.NaN)),
    ),
  ];
  expect(usable(all, ({ values }) => hourlyPlan(values.length), leftOut).map(({ name }) => name)).toEqual(['good']);
  expect(leftOut.rows.map(([count, names]) => [count, names])).toEqual([
    [1, 'short'],
    [1, 'silent'],
    [1, 'gappy'],
  ]);
});

test('what does not hold fails, also where one series decides; with too few series it is left open', () => {
  // What a check says while a benchmark runs would be read as a failure of this test.
  const said = vi.spyOn(process.stderr, 'write').mockReturnValue(true);
  onTestFinished(() => said.mockRestore());
  const sums = (errors: readonly number[]) => {
    const parts = new Parts();
    for (const [unit, error] of errors.entries()) {
      parts.add('Foreshadow', unit, error, 10);
      parts.add('persistence', unit, 2, 10);
    }
    return checkLine('writes', ratioLine('WAPE', parts, true)).passed;
  };
  const many = Array.from({ length: 30 });
  expect(sums(many.map(() => 1))).toBe(true);
  expect(sums(many.map(() => 3))).toBe(false);
  expect(sums(many.map((_, unit) => (unit === 0 ? 90 : 1)))).toBe(false);
  expect(sums([3, 3, 3, 3])).toBeNull();
  const recall = (ours: number) =>
    checkLine(
      'rows',
      middleLine(
        'recall',
        new Map([
          ['Foreshadow', many.map(() => ours)],
          ['persistence', many.map(() => 0.5)],
        ]),
        false,
        mean,
      ),
    );
  expect(recall(0.495).passed).toBe(true);
  expect(recall(0.4)).toMatchObject({ passed: false, found: '0.4 beside 0.5 (persistence); holds in 0 % of resamples' });
  expect(checkLine('rows', middleLine('recall', new Map([['Foreshadow', many.map(() => 1)]]), false, mean)).passed).toBeNull();
});
