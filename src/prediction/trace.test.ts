import { describe, expect, test } from 'vitest';
import { TraceReader } from './trace.ts';
import type { Trace } from './trace.ts';

function read(...lines: readonly string[]): Trace {
  const reader = new TraceReader('changes.csv');
  for (const line of lines) reader.take(line);
  return reader.finish();
}

describe('a trace', () => {
  test('is read from seconds and rows', () => {
    const trace = read('seconds,page', '0,8228', '36.5,8229', '77,8228', '');
    expect([...trace.atMs]).toEqual([0, 36_500, 77_000]);
    expect([...trace.row]).toEqual([0, 1, 0]);
    expect([...trace.rowBytes]).toEqual([1, 1]);
    expect(trace.elements).toEqual(['rows']);
  });

  test('is read with tables, sizes and dates, in whatever order', () => {
    const trace = read('table,time,key,bytes', 'orders,2026-01-01T00:00:02Z,1,40', 'users,2026-01-01T00:00:01Z,1,50');
    expect([...trace.atMs]).toEqual([Date.UTC(2026, 0, 1, 0, 0, 1), Date.UTC(2026, 0, 1, 0, 0, 2)]);
    expect([...trace.row]).toEqual([1, 0]);
    expect(trace.elements).toEqual(['orders', 'users']);
    expect([...trace.rowElement]).toEqual([0, 1]);
    expect([...trace.rowBytes]).toEqual([40, 50]);
  });

  test('is read from times since 1970, in seconds or in milliseconds', () => {
    const inSeconds = read('time,row', '1767225600,1', '1767225601.5,1');
    const inMs = read('timestamp,row', '1767225600000,1', '1767225601500,1');
    expect([...inMs.atMs]).toEqual([...inSeconds.atMs]);
    expect(inMs.atMs[0]).toBe(Date.UTC(2026, 0, 1));
  });

  test('is read from what tail prints; a truncated table names no row', () => {
    const trace = read(
      '{"table":"orders","kind":"update","key":{"id":7},"row":{"id":7},"committedAt":"2026-01-01T00:00:00.000Z"}',
      '{"table":"orders","kind":"truncate","key":null,"committedAt":"2026-01-01T00:00:01.000Z"}',
      '{"table":"orders","kind":"delete","key":{"id":7},"row":null,"committedAt":"2026-01-01T00:00:02.000Z"}',
    );
    expect([...trace.row]).toEqual([0, 0]);
  });

  test.each([
    [['when,what', '1,2'], 'line 1 of changes.csv is no header'],
    [['seconds,page', 'soon,1'], 'line 2 of changes.csv has no time'],
    [['seconds,page', ',1'], 'line 2 of changes.csv has no time'],
    [['seconds,page', '1, '], 'line 2 of changes.csv names no row'],
    [['seconds,page', '1'], 'line 2 of changes.csv has 1 fields, and the header 2'],
    [['time,page', '1767225600000000,1'], 'line 2 of changes.csv has a time that is neither in seconds nor in milliseconds'],
    [['seconds,page,bytes', '1,2,many'], 'line 2 of changes.csv has no size'],
    [['{"table":"orders"'], 'line 1 of changes.csv is no JSON'],
    [['{"key":{"id":1}}'], 'line 1 of changes.csv has no table'],
    [['seconds,page'], 'changes.csv holds no change'],
  ])('is refused by line: %j', (lines, message) => {
    expect(() => read(...lines)).toThrow(message);
  });
});
