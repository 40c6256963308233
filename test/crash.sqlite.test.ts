import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { foreshadow, holding, succeeds } from './command.ts';
import { contents } from './workload.ts';

/**
 * Real processes killed with SIGKILL at named places, then the same command again: it goes on, nothing is lost, nothing doubled, nothing
 * left locked. The primary is written to between the kill and the next command, and by a rollback of its own transaction.
 */
const SHAPES = [
  { name: 'items', key: 'integer', unique: true },
  { name: 'notes', key: 'nullable', unique: false },
] as const;

let directory: string;
let primary: DatabaseSync;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'foreshadow-crash-'));
  await writeFile(
    join(directory, 'foreshadow.yaml'),
    'dataSet: crash\nprimary: sqlite:primary.db\nshadow: sqlite:shadow.db\ntables: ["*"]\n',
  );
  primary = new DatabaseSync(join(directory, 'primary.db'));
  primary.exec(`PRAGMA journal_mode = WAL; PRAGMA busy_timeout = 5000;
    CREATE TABLE items (id INTEGER PRIMARY KEY, part TEXT, value, tag INTEGER UNIQUE);
    CREATE TABLE notes (id TEXT PRIMARY KEY, part TEXT, value, tag INTEGER);`);
  write(0);
});

afterEach(async () => {
  primary.close();
  await rm(directory, { recursive: true, force: true });
});

/** 500 rows put, changed or removed, differently each round. */
function write(round: number): void {
  primary.exec('BEGIN');
  const put = primary.prepare('INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?)');
  for (let id = round * 50; id < round * 50 + 400; id++) put.run(id, `round ${round}`, id * round, id % 7 === 0 ? null : id + round);
  primary.prepare('DELETE FROM items WHERE id % 11 = ?').run(round % 11);
  const note = primary.prepare('INSERT INTO notes VALUES (?, ?, ?, ?)');
  for (let id = 0; id < 100; id++) note.run(id % 5 === 0 ? null : `${round} ${id}`, null, round, id);
  primary.exec('COMMIT');
}

const done = (parameters: readonly string[]): Promise<Record<string, unknown>> => succeeds(directory, parameters);

async function restored(capture: number): Promise<unknown> {
  const to = join(directory, `restored-${capture}.db`);
  await done(['restore', String(capture), '--to', `sqlite:${to}`]);
  const database = new DatabaseSync(to);
  try {
    return contents(database, SHAPES);
  } finally {
    database.close();
  }
}

/** Where a first capture passes, and where a later one does. */
const FIRST = ['installed', 'chunk-read', 'chunk-applied', 'planned', 'draining', 'crossed', 'cut', 'sealed'];
const LATER = ['appended', 'acknowledged', 'planned', 'draining', 'applied', 'crossed', 'cut', 'sealed'];

describe('killed during the first capture', () => {
  test.each(FIRST)('at %s', async (failpoint) => {
    expect(await foreshadow(directory, ['capture'], failpoint)).toMatchObject({ killed: true });
    write(1);
    const report = await done(['capture']);
    expect(report).toMatchObject({ verdict: 'VALID', differences: [] });
    expect(await restored(report['number'] as number)).toEqual(contents(primary, SHAPES));
  });
});

describe('killed during a later capture', () => {
  test.each(LATER)('at %s', async (failpoint) => {
    const first = await done(['capture']);
    const then = contents(primary, SHAPES);
    write(1);
    expect(await foreshadow(directory, ['capture'], failpoint)).toMatchObject({ killed: true });
    write(2);
    const report = await done(['capture']);
    expect(report).toMatchObject({ verdict: 'VALID', differences: [] });
    expect(await restored(report['number'] as number)).toEqual(contents(primary, SHAPES));
    expect(await restored(first['number'] as number)).toEqual(then);
    const all = JSON.parse((await foreshadow(directory, ['captures'])).out) as Array<{
      number: number;
      state: string;
      verdict: string | null;
    }>;
    expect(new Set(all.map(({ number }) => number)).size).toBe(all.length);
    for (const each of all) expect(['sealed', 'aborted']).toContain(each.state);
  });
});

/** Tables of the shadow in which later changes are than some that are not. */
function ahead(): string[] {
  const shadow = new DatabaseSync(join(directory, 'shadow.db'), { readOnly: true });
  try {
    return shadow
      .prepare('SELECT tbl FROM _foreshadow_element WHERE low < high')
      .all()
      .map(({ tbl }) => String(tbl));
  } finally {
    shadow.close();
  }
}

/** Between cold rows and hot ones: some are in the shadow, older changes of others are not. */
const AHEAD = ['moved-ahead', 'moved-ahead:3', 'draining', 'applied', 'crossed'];

describe('killed while rows are held back', () => {
  test.each(AHEAD)('at %s', async (failpoint) => {
    const first = await done(['capture']);
    const then = contents(primary, SHAPES);
    write(1);
    expect(await holding(directory, failpoint)).toMatchObject({ killed: true });
    expect(ahead().length > 0).toBe(failpoint.startsWith('moved-ahead') || failpoint === 'draining');
    write(2);
    const report = await done(['capture']);
    expect(report).toMatchObject({ verdict: 'VALID', differences: [] });
    expect(await restored(report['number'] as number)).toEqual(contents(primary, SHAPES));
    expect(await restored(first['number'] as number)).toEqual(then);
  });

  test('and not killed', async () => {
    await done(['capture']);
    write(1);
    const { out, err } = await holding(directory);
    const { held, moved, capture, verdict } = JSON.parse(out || `"${err}"`) as Record<string, number>;
    expect(verdict).toBe('VALID');
    expect(held).toBeGreaterThan(300);
    expect(moved).toBe(Math.ceil((held as number) / 2));
    expect(await restored(capture as number)).toEqual(contents(primary, SHAPES));
  });
});

test('killed during a rollback, it can be asked for again, and resume goes on', async () => {
  const first = (await done(['capture']))['number'] as number;
  const then = contents(primary, SHAPES);
  write(1);
  await done(['capture']);
  expect(await foreshadow(directory, ['rollback', String(first)], 'rolled-back')).toMatchObject({ killed: true });
  expect(await done(['rollback', String(first)])).toMatchObject({ proved: true, parked: true });
  const parked = await foreshadow(directory, ['capture']);
  expect(parked).toMatchObject({ code: 1 });
  expect(parked.out + parked.err).toMatch(/foreshadow resume/);
  await done(['resume']);
  const report = await done(['capture']);
  expect(report).toMatchObject({ verdict: 'VALID' });
  expect(await restored(report['number'] as number)).toEqual(contents(primary, SHAPES));
  expect(await restored(first)).toEqual(then);
});
