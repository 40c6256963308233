import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { DatabaseSync } from 'node:sqlite';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { FOREVER, ORDERS, at, batchOf, eventAt, piece, rowsIn } from '../../journal/batches.contract.ts';
import type { Journal } from '../../journal/journal.ts';
import { describeJournal } from '../../journal/journal.contract.ts';
import type { TransactionId } from '../../model/change.ts';
import { commitEndOf } from '../../model/position.ts';
import { openSqliteJournal } from './journal.ts';

describeJournal('sqlite', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'foreshadow-journal-'));
  return {
    durable: true,
    open: async () => await openSqliteJournal(join(directory, 'state', 'journal.db')),
    [Symbol.asyncDispose]: async () => await rm(directory, { recursive: true }),
  };
});

/** What WRITER put in transaction n. */
function rowsOfWriter(n: number): string[] {
  const pieces = n % 3 === 0 ? 4 : 1;
  return Array.from({ length: pieces * 5 }, (_, i) => `${n}:${n * 100 + (Math.floor(i / 5) + 1) * 10 + (i % 5)}`);
}

describe('the journal as a SQLite file', () => {
  let directory: string;
  let path: string;
  let child: ChildProcess | null = null;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'foreshadow-journal-'));
    path = join(directory, 'state', 'journal.db');
  });

  afterEach(async () => {
    await kill();
    await rm(directory, { recursive: true });
  });

  async function kill(): Promise<void> {
    const running = child;
    child = null;
    if (running === null || running.exitCode !== null || running.signalCode !== null) return;
    const gone = once(running, 'exit');
    running.kill('SIGKILL');
    await gone;
  }

  /** Runs a module in a process of its own; yields its lines. */
  function run(script: string): AsyncIterable<string> {
    const journal = new URL('./journal.ts', import.meta.url).href;
    const batches = new URL('../../journal/frame.ts', import.meta.url).href;
    const position = new URL('../../model/position.ts', import.meta.url).href;
    const tuple = new URL('../../model/tuple.ts', import.meta.url).href;
    const text = `
      import { writeSync } from 'node:fs';
      import { openSqliteJournal } from ${JSON.stringify(journal)};
      import { BlockWriter } from ${JSON.stringify(batches)};
      import { position } from ${JSON.stringify(position)};
      import { packTuple } from ${JSON.stringify(tuple)};
      const journal = await openSqliteJournal(${JSON.stringify(path)});
      ${script}`;
    child = spawn(process.execPath, ['--input-type=module', '--eval', text], { stdio: ['ignore', 'pipe', 'inherit'] });
    return createInterface({ input: child.stdout as NodeJS.ReadableStream });
  }

  /** Transaction n puts the rows n*10 … in orders, in pieces where n is a multiple of 3, and says so once it is durable. 25 large ones follow 25 small ones. */
  const WRITER = `
    for (;;) {
      const after = journal.head().at;
      const n = Number(BigInt('0x' + after.slice(0, 16))) + 1;
      const pieces = n % 3 === 0 ? 4 : 1;
      const writer = new BlockWriter('orders');
      const cell = Buffer.alloc(Math.floor(n / 25) % 2 === 1 ? 210_000 : 4 + (n % 50) * 400);
      const transaction = { id: BigInt(n), at: position(BigInt(n)), committedAtMicros: 0n };
      for (let piece = 1; piece <= pieces; piece++) {
        for (let row = 0; row < 5; row++) {
          cell.writeInt32BE(n * 100 + piece * 10 + row);
          writer.insert(packTuple([cell]));
        }
        if (piece < pieces) await journal.spool({ transaction: BigInt(n), blocks: [writer.takeOpen()] });
      }
      const adopts = pieces === 1 ? [] : [{ transaction, dropped: new Set() }];
      const blocks = [writer.takeWithin({ transaction, dropped: new Set() })];
      await journal.append({ after, through: transaction.at, blocks, adopts, events: [] }, 'evidence ' + n);
      writeSync(1, n + '\\n');
    }`;

  test('killed at any moment, it holds all that append resolved for, and nothing besides', async () => {
    let first = await openSqliteJournal(path);
    await first.begin({ at: at(10), evidence: 'begun' });
    await first[Symbol.asyncDispose]();
    let acknowledged = 10;
    for (let round = 0; round < 4; round++) {
      // Lines may still lie in the pipe when the process dies: more may be durable than was heard of, never less.
      const enough = acknowledged + 3 + round * 41;
      for await (const line of run(WRITER)) {
        acknowledged = Math.max(acknowledged, Number(line));
        if (acknowledged === enough) child?.kill('SIGKILL');
      }
      await kill();
      expect(acknowledged).toBeGreaterThanOrEqual(enough);
      first = await openSqliteJournal(path);
      const head = first.head();
      const end = Number(commitEndOf(head?.at ?? at(0)));
      expect(end - acknowledged).toBeOneOf([0, 1]);
      expect(head?.evidence).toBe(`evidence ${end}`);
      const expected = Array.from({ length: end - 10 }, (_, i) => rowsOfWriter(i + 11)).flat();
      expect(await rowsIn(first, ORDERS, at(10), at(1_000_000))).toEqual(expected);
      await first[Symbol.asyncDispose]();
    }
  });

  test('pruning that a crash cut off does not come back to less: what it deleted is not read as nothing', async () => {
    let journal = await openSqliteJournal(path);
    await journal.begin({ at: at(10), evidence: 'begun' });
    for (let n = 10; n < 210; n++) {
      const batch = batchOf(n, [{ end: n + 1, rows: { orders: [n + 1] } }], n === 19 ? { events: [eventAt(20)] } : {});
      await journal.append(batch, '');
    }
    const cut = journal.prune(new Map([[ORDERS, at(200)]])).catch(() => undefined);
    await journal[Symbol.asyncDispose]();
    await cut;
    journal = await openSqliteJournal(path);
    await journal.prune(new Map([[ORDERS, at(25)]]));
    await expect(rowsIn(journal, ORDERS, at(25), at(1000))).rejects.toMatchObject({ code: 'JOURNAL_GAP' });
    await journal.prune(new Map([[ORDERS, at(205)]]));
    expect(await rowsIn(journal, ORDERS, at(205), at(1000))).toEqual([206, 207, 208, 209, 210].map((n) => `${n}:${n}`));
    await journal[Symbol.asyncDispose]();
  });

  test('a second process is kept out, and gets it as soon as the first has died', async () => {
    const lines = run(
      `await journal.begin({ at: position(3n), evidence: 'theirs' }); writeSync(1, 'open\\n'); setInterval(() => {}, 1000);`,
    );
    for await (const line of lines) if (line === 'open') break;
    await expect(openSqliteJournal(path)).rejects.toMatchObject({ code: 'ALREADY_RUNNING', message: expect.stringContaining(path) });
    await kill();
    await using journal = await openSqliteJournal(path);
    expect(journal.head()).toEqual({ at: at(3), evidence: 'theirs' });
  });

  test('a second opening in the same process is kept out too', async () => {
    await using journal = await openSqliteJournal(path);
    await expect(openSqliteJournal(path)).rejects.toMatchObject({ code: 'ALREADY_RUNNING' });
    expect(journal.head()).toBeNull();
  });

  test('only its owner can read it', async () => {
    await using journal = await openSqliteJournal(path);
    await journal.begin({ at: at(1), evidence: '' });
    expect((await stat(join(directory, 'state'))).mode & 0o777).toBe(0o700);
    const files = await readdir(join(directory, 'state'));
    expect(files).toContain('journal.db-wal');
    for (const file of files) expect((await stat(join(directory, 'state', file))).mode & 0o077, file).toBe(0);
  });

  test.each([
    ['text', Buffer.from('not a database, but somebody’s notes\n'.repeat(10))],
    ['a few bytes', Buffer.from('x')],
    ['a damaged beginning', Buffer.alloc(20_000)],
  ])('a file that is not a journal is refused and left alone: %s', async (_, content) => {
    const other = join(directory, 'other');
    await writeFile(other, content);
    await expect(openSqliteJournal(other)).rejects.toMatchObject({ code: 'JOURNAL_ACCESS', message: expect.stringContaining(other) });
    expect(await readFile(other)).toEqual(content);
    expect(await readdir(directory)).toEqual(['other']);
  });

  test('somebody else’s database is refused and left alone', async () => {
    const other = join(directory, 'shop.db');
    const shop = new DatabaseSync(other);
    shop.exec('CREATE TABLE orders (id INTEGER PRIMARY KEY)');
    shop.close();
    const before = await readFile(other);
    await expect(openSqliteJournal(other)).rejects.toMatchObject({
      code: 'JOURNAL_ACCESS',
      remedy: expect.stringContaining('journal.path'),
    });
    expect(await readFile(other)).toEqual(before);
    expect(await readdir(directory)).toEqual(['shop.db']);
  });

  test('a newer format is refused by name', async () => {
    await (await openSqliteJournal(path))[Symbol.asyncDispose]();
    const db = new DatabaseSync(path);
    db.exec('PRAGMA user_version = 99');
    db.close();
    await expect(openSqliteJournal(path)).rejects.toMatchObject({ code: 'VERSION_UNSUPPORTED', message: expect.stringContaining('99') });
  });

  test('a flipped bit in stored changes is found when they are read, never passed on', async () => {
    const first = await openSqliteJournal(path);
    await first.begin({ at: at(10), evidence: '' });
    const both = batchOf(10, [
      { end: 11, id: 5, rows: { orders: [0x0bad_cafe] } },
      { end: 12, id: 6, rows: { orders: [1] } },
    ]);
    await first.append(both, '');
    await first[Symbol.asyncDispose]();
    const bytes = await readFile(path);
    const where = bytes.indexOf(Buffer.from('0badcafe', 'hex'));
    expect(where).toBeGreaterThan(0);
    bytes[where] = 0x0a;
    await writeFile(path, bytes);
    await using journal = await openSqliteJournal(path);
    await expect(rowsIn(journal, ORDERS, at(10), at(11))).rejects.toMatchObject({
      code: 'JOURNAL_ACCESS',
      message: expect.stringContaining('orders'),
    });
    await expect(journal.contains([5n as never], at(11))).rejects.toMatchObject({ code: 'JOURNAL_ACCESS' });
  });

  test('a directory that cannot be made is named', async () => {
    const file = join(directory, 'file');
    await writeFile(file, '');
    await expect(openSqliteJournal(join(file, 'journal.db'))).rejects.toMatchObject({
      code: 'JOURNAL_ACCESS',
      message: expect.stringContaining(file),
    });
  });

  test('a crash while it was being made leaves nothing in the way', async () => {
    await (await openSqliteJournal(path))[Symbol.asyncDispose]();
    await rm(path);
    await writeFile(`${path}-new`, 'half a database');
    for (const suffix of ['-wal', '-journal']) await writeFile(path + suffix, 'of a journal that was moved away');
    await using journal = await openSqliteJournal(path);
    await journal.begin({ at: at(1), evidence: '' });
    expect(await readdir(join(directory, 'state'))).not.toContain('journal.db-new');
  });

  test('space of transactions that were rolled back is used again', async () => {
    await using journal = await openSqliteJournal(path);
    await journal.begin({ at: at(0), evidence: '' });
    const rows = Array.from({ length: 20_000 }, (_, row) => row);
    const sizes: number[] = [];
    for (let round = 1; round <= 60; round++) {
      for (let i = 0; i < 3; i++) await journal.spool(piece(5, [[31, rows]]));
      await journal.discard(5n as TransactionId, round % 2 === 0 ? null : 31);
      sizes.push((await stat(path)).size);
    }
    expect(sizes.at(-1)).toBe(sizes[30]);
    expect(sizes.at(-1)).toBeLessThan(20 << 20);
  });

  test('space that was pruned is used again', async () => {
    await using journal = await openSqliteJournal(path);
    await journal.begin({ at: at(0), evidence: '' });
    const rows = Array.from({ length: 20_000 }, (_, row) => row);
    const sizes: number[] = [];
    for (let end = 1; end <= 100; end++) {
      await journal.append(batchOf(end - 1, [{ end, rows: { orders: rows } }]), '');
      if (end % 10 === 0) {
        await journal.prune(new Map([[ORDERS, at(end)]]));
        sizes.push((await stat(path)).size);
      }
    }
    expect(sizes.at(-1)).toBe(sizes[3]);
    expect(await journal.size()).toBeLessThan(40 << 20);
    await expect(rowsIn(journal, ORDERS, at(99), at(100))).rejects.toMatchObject({ code: 'JOURNAL_GAP' });
    for await (const _ of journal.read(ORDERS, at(100), at(100), FOREVER)) expect.unreachable();
  });

  describe('by what comes', () => {
    const large = Array.from({ length: 120_000 }, (_, row) => row);

    /** Appends so many times what `rows` says, and returns where that ends. */
    async function append(journal: Journal, from: number, times: number, rows: readonly number[]): Promise<number> {
      for (let end = from + 1; end <= from + times; end++) await journal.append(batchOf(end - 1, [{ end, rows: { orders: rows } }]), '');
      return from + times;
    }

    const isLogged = async (): Promise<boolean> => (await readdir(join(directory, 'state'))).includes('journal.db-wal');

    test('large appends are written past the log, and small ones through it again', async () => {
      await using journal = await openSqliteJournal(path);
      await journal.begin({ at: at(0), evidence: '' });
      let end = await append(journal, 0, 10, large);
      expect(await isLogged()).toBe(false);
      end = await append(journal, end, 3, [1, 2]);
      expect(await isLogged()).toBe(false);
      end = await append(journal, end, 30, [1, 2]);
      expect(await isLogged()).toBe(true);
      await append(journal, end, 10, large);
      expect(await isLogged()).toBe(false);
      expect(await rowsIn(journal, ORDERS, at(0), at(53))).toHaveLength(20 * large.length + 33 * 2);
    });

    test('somebody who looks into the file keeps it as it is, and stops nothing', async () => {
      await using journal = await openSqliteJournal(path);
      await journal.begin({ at: at(0), evidence: '' });
      const reader = new DatabaseSync(path, { readOnly: true });
      reader.exec('BEGIN; SELECT count(*) FROM frames');
      reader.prepare('SELECT count(*) FROM frames').get();
      await append(journal, 0, 10, large);
      expect(await isLogged()).toBe(true);
      reader.close();
      expect(journal.head()?.at).toBe(at(10));
    });

    test('while large appends come nobody can hold them up by looking into the file', async () => {
      await using journal = await openSqliteJournal(path);
      await journal.begin({ at: at(0), evidence: '' });
      let end = await append(journal, 0, 10, large);
      const reader = new DatabaseSync(path, { readOnly: true });
      expect(() => reader.prepare('SELECT count(*) FROM frames').get()).toThrow('locked');
      end = await append(journal, end, 30, [1]);
      expect(await isLogged()).toBe(true);
      expect(reader.prepare('SELECT count(*) AS frames FROM frames').get()).toEqual({ frames: 40 });
      reader.close();
    });

    test('killed amid large appends it cannot be opened while somebody looks into it, and says so', async () => {
      const journal = await openSqliteJournal(path);
      await journal.begin({ at: at(0), evidence: '' });
      await append(journal, 0, 10, large);
      await journal[Symbol.asyncDispose]();
      const reader = new DatabaseSync(path);
      const modeOf = (): unknown => reader.prepare('PRAGMA journal_mode').get()?.['journal_mode'];
      expect(modeOf()).toBe('wal');
      reader.exec('PRAGMA journal_mode = TRUNCATE; BEGIN');
      reader.prepare('SELECT count(*) FROM frames').get();
      await expect(openSqliteJournal(path)).rejects.toMatchObject({ code: 'JOURNAL_ACCESS', remedy: expect.stringContaining('Close') });
      reader.exec('COMMIT');
      await using again = await openSqliteJournal(path);
      reader.close();
      await append(again, 10, 1, [1]);
      expect(await rowsIn(again, ORDERS, at(10), at(11))).toEqual(['11:1']);
    });
  });
});
