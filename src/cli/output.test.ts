import { PassThrough } from 'node:stream';
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Output, ReaderGone } from './output.ts';
import { Progress, stepText } from './progress.ts';
import { tableText } from './table.ts';
import { cell, count, duration, keyText, size } from './words.ts';

function heard(terminal: boolean): { output: Output; text: () => string } {
  const stream = Object.assign(new PassThrough(), { isTTY: terminal, columns: 60 });
  let text = '';
  stream.on('data', (part: Buffer) => (text += part.toString()));
  return { output: new Output(stream), text: () => text };
}

describe('words', () => {
  test.each([
    [0.04, '0 ms'],
    [4.12, '4.1 ms'],
    [31, '31 ms'],
    [1234, '1.2 s'],
    [125_000, '2 m 05 s'],
    [3_660_000, '1 h 01 m'],
  ])('%d ms is %s', (ms, text) => {
    expect(duration(ms)).toBe(text);
  });

  test('amounts', () => {
    expect([size(999), size(1_500_000), size(2e15)]).toEqual(['999 bytes', '1.5 MB', '2000.0 TB']);
    expect([count(1, 'row'), count(1234, 'row'), count(2, 'more difference', 'more differences')]).toEqual([
      '1 row',
      '1,234 rows',
      '2 more differences',
    ]);
    expect(keyText({ order: 3, line: 'a\n' })).toBe('order=3, line=a\\n');
  });

  test('a value of the database never reaches the terminal as a command', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        // oxlint-disable-next-line no-control-regex -- control characters are what this is about
        expect(cell(text)).not.toMatch(/[\u0000-\u001f\u007f-\u009f\u202a-\u202e]/);
      }),
    );
  });
});

test('a table is aligned whatever its values', () => {
  expect(
    tableText(
      [{ title: 'table' }, { title: 'rows', right: true }, { title: 'note' }],
      [
        ['orders', '7', ''],
        ['日本', '12,345', 'x'],
      ],
    ),
  ).toBe('table     rows  note\norders       7\n日本    12,345  x\n');
});

describe('progress', () => {
  const step = { phase: 'copying', table: 'orders', done: 50, total: 200, unit: 'rows' };

  test('says how far it is', () => {
    expect(stepText(step, 3000, false)).toBe('copying orders: 25 %, 50 of 200 rows (3.0 s)');
    expect(stepText(step, 3000, true)).toContain('██████░░░░░░░░░░░░░░░░░░ 25 %');
    expect(stepText({ ...step, table: null, total: null }, 3000, true)).toBe('copying: 50 rows (3.0 s)');
  });

  test('is silent for what is soon done; then lines for a file, one redrawn line for a terminal', () => {
    for (const terminal of [false, true]) {
      const { output, text } = heard(terminal);
      let nowMs = 0;
      {
        using progress = new Progress(output, () => nowMs);
        for (const at of [0, 1000, 1999]) {
          nowMs = at;
          progress.listener(step);
        }
        expect(text()).toBe('');
        for (const at of [2000, 2050, 2200, 7100]) {
          nowMs = at;
          progress.listener(step);
        }
        expect(text().includes('\u001b[2K')).toBe(terminal);
        expect(text().match(/copying orders/g)).toHaveLength(terminal ? 3 : 2);
      }
      expect(text().endsWith(terminal ? '\u001b[2K' : '\n')).toBe(true);
    }
  });
});

describe('output', () => {
  test('a slow reader holds the writer back', async () => {
    const stream = new PassThrough({ highWaterMark: 4 });
    const output = new Output(stream);
    let written = false;
    const writing = output.write('more than four bytes').then(() => (written = true));
    await new Promise((resolve) => setImmediate(resolve));
    expect(written).toBe(false);
    stream.resume();
    await writing;
  });

  test('a reader that went away is told apart from a disk that is full', async () => {
    for (const [code, kind] of [
      ['EPIPE', ReaderGone],
      ['ENOSPC', Error],
    ] as const) {
      const stream = new PassThrough({ highWaterMark: 1 });
      const output = new Output(stream);
      const writing = output.write('text');
      stream.destroy(Object.assign(new Error(code), { code }));
      const error: unknown = await writing.catch((caught: unknown) => caught);
      expect(error).toBeInstanceOf(kind);
      expect(error instanceof ReaderGone).toBe(code === 'EPIPE');
    }
  });
});
