import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { slotLengths } from '../../tracking/history.ts';
import { describeHistory } from '../../tracking/history.contract.ts';
import { openSqliteHistory } from './history.ts';

function directory(): { readonly path: string; remove(): void } {
  const path = mkdtempSync(join(tmpdir(), 'foreshadow-history-'));
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}

describeHistory('sqlite', async () => {
  const place = directory();
  return {
    survives: true,
    open: async (lengths) => openSqliteHistory(join(place.path, 'state', 'history.db'), lengths),
    [Symbol.asyncDispose]: async () => place.remove(),
  };
});

describe('the file', () => {
  let place: ReturnType<typeof directory>;
  const lengths = slotLengths(86_400_000);
  beforeEach(() => {
    place = directory();
  });
  afterEach(() => place.remove());

  test('is readable by its owner only', async () => {
    const path = join(place.path, 'history.db');
    await using _ = openSqliteHistory(path, lengths);
    expect(statSync(path).mode & 0o777).toBe(0o600);
  });

  test('one that is not ours, or damaged, is refused and left as it is', () => {
    const other = join(place.path, 'other.db');
    new DatabaseSync(other).exec('CREATE TABLE t (a)');
    expect(() => openSqliteHistory(other, lengths)).toThrow(expect.objectContaining({ code: 'HISTORY_ACCESS' }));
    const damaged = join(place.path, 'damaged.db');
    writeFileSync(damaged, 'no database at all, whatever it says');
    expect(() => openSqliteHistory(damaged, lengths)).toThrow(
      expect.objectContaining({ code: 'HISTORY_ACCESS', remedy: expect.stringContaining('move it away') }),
    );
  });

  test.each([
    [1, 'DROP TABLE turns; DROP TABLE learned'],
    [2, 'DROP TABLE learned'],
  ])('one of format %i is taken up', async (format, lacking) => {
    const path = join(place.path, 'history.db');
    {
      await using history = openSqliteHistory(path, lengths);
      await history.add({ counted: null, observed: null, activity: [], load: [{ resource: 'cpu', atMs: 0, lengthMs: 1, value: 1 }] });
    }
    const db = new DatabaseSync(path);
    db.exec(`${lacking}; PRAGMA user_version = ${format}`);
    db.close();
    await using history = openSqliteHistory(path, lengths);
    await history.keepTurn({ atMs: 1, document: 'a' });
    await history.keepLearned('b');
    const kept = [await history.turns(0, 1), await history.learned(), (await history.known()).resources];
    expect(kept).toEqual([[{ atMs: 1, document: 'a' }], 'b', ['cpu']]);
  });

  test('one of a newer version is refused', () => {
    const path = join(place.path, 'history.db');
    void openSqliteHistory(path, lengths)[Symbol.asyncDispose]();
    const db = new DatabaseSync(path);
    db.exec('PRAGMA user_version = 99');
    db.close();
    expect(() => openSqliteHistory(path, lengths)).toThrow(expect.objectContaining({ code: 'VERSION_UNSUPPORTED' }));
  });
});
