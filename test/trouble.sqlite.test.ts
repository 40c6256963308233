import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { setImmediate as otherWork } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type Config, parseConfig } from '../src/app/config.ts';
import { uninstall } from '../src/app/doctor.ts';
import type { LocalSystem } from '../src/app/local-system.ts';
import { openSystem } from '../src/app/system.ts';
import { quiet } from './memory-world.ts';

/** What goes wrong around a capture on real files: the whole system, from SQLite to SQLite. */
const { signal } = new AbortController();
let directory: string;
let primary: DatabaseSync;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'foreshadow-trouble-'));
  primary = new DatabaseSync(join(directory, 'primary.db'));
  primary.exec('PRAGMA journal_mode = WAL; PRAGMA busy_timeout = 5000');
  primary.exec("CREATE TABLE items (id INTEGER PRIMARY KEY, value TEXT); INSERT INTO items VALUES (1, 'one'), (2, 'one')");
});

afterEach(async () => {
  primary.close();
  await rm(directory, { recursive: true, force: true });
});

function config(captures: string): Config {
  const text = `dataSet: trouble\nprimary: sqlite:primary.db\nshadow: sqlite:shadow.db\ntables: ["*"]\ncaptures: { ${captures} }\n`;
  return parseConfig(text, join(directory, 'foreshadow.yaml'), {});
}

/** One process of the system, from its start to its end. */
async function running<T>(work: (system: LocalSystem) => Promise<T>, captures = 'validate: changed'): Promise<T> {
  await using system = await openSystem(config(captures), { log: quiet });
  return await work(system);
}

async function rows(system: LocalSystem, capture: number, sql: string): Promise<unknown[]> {
  const all: unknown[] = [];
  for await (const slice of system.query(capture, sql, signal)) all.push(...slice.rows);
  return all;
}

const items = (system: LocalSystem, capture: number): Promise<unknown[]> => rows(system, capture, 'SELECT * FROM items ORDER BY id');

/** The shadow's own file, as any program may open it. */
function inShadow<T>(work: (shadow: DatabaseSync) => T): T {
  const shadow = new DatabaseSync(join(directory, 'shadow.db'));
  try {
    shadow.exec('PRAGMA busy_timeout = 5000');
    return work(shadow);
  } finally {
    shadow.close();
  }
}

/** In one transaction: another table in the place of `items`, of the same columns; no trigger fires for what is in it. */
function rebuild(): void {
  primary.exec(`BEGIN; CREATE TABLE built (id INTEGER PRIMARY KEY, value TEXT); INSERT INTO built SELECT id, 'rebuilt' FROM items;
    DROP TABLE items; ALTER TABLE built RENAME TO items; COMMIT`);
}

describe('a poll so large that it comes in pieces', () => {
  test('is captured whole and told whole, whichever piece a table came in', async () => {
    primary.exec(`CREATE TABLE large (id INTEGER PRIMARY KEY, value TEXT);
      WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40) INSERT INTO large SELECT i, 'small' FROM n`);
    await running(async (system) => {
      await system.capture(quiet, signal);
      const stop = new AbortController();
      const told = new Map<string, number>();
      const tailing = (async () => {
        for await (const { table } of system.tail(stop.signal)) {
          told.set(table, (told.get(table) ?? 0) + 1);
          if ((told.get('items') ?? 0) >= 2 && (told.get('large') ?? 0) >= 40) return;
        }
      })();
      // Over 2 MiB, the most that one piece holds: `items` goes with the first of them.
      primary.exec("BEGIN; UPDATE items SET value = 'two'; UPDATE large SET value = hex(randomblob(50000)); COMMIT");
      const { number, ...report } = await system.capture(quiet, signal);
      await tailing;
      stop.abort();
      expect(report).toMatchObject({ verdict: 'VALID', rows: { inserted: 0, updated: 42, deleted: 0 } });
      expect(await items(system, number)).toEqual([
        [1, 'two'],
        [2, 'two'],
      ]);
      expect(await rows(system, number, 'SELECT count(*) FROM large WHERE length(value) = 100000')).toEqual([[40]]);
      expect(Object.fromEntries(told)).toEqual({ items: 2, large: 40 });
    });
  });
});

describe('a definition that changes', () => {
  test('a rollback across another shape is proved, and resume comes back to the new one', async () => {
    await running(async (system) => {
      await system.capture(quiet, signal);
      primary.exec("ALTER TABLE items ADD COLUMN more TEXT; UPDATE items SET value = 'two', more = 'more'");
      await system.capture(quiet, signal);
      const { number: reshaped } = await system.capture(quiet, signal);
      expect(await system.rollback(1, quiet, signal)).toMatchObject({ to: 1, proved: true, untouched: [] });
      expect(inShadow((shadow) => shadow.prepare('SELECT id, value FROM items ORDER BY id').all())).toEqual([
        { id: 1, value: 'one' },
        { id: 2, value: 'one' },
      ]);
      expect((await items(system, reshaped))[0]).toEqual([1, 'two', 'more']);
      await system.resume(quiet, signal);
      const { number, verdict } = await system.capture(quiet, signal);
      expect(verdict).toBe('VALID');
      expect((await items(system, number))[0]).toEqual([1, 'two', 'more']);
    });
  });

  test('a column dropped and added anew has the new values, though the table looks the same', async () => {
    await running(async (system) => {
      primary.exec("ALTER TABLE items ADD COLUMN more TEXT DEFAULT 'stale'");
      await system.capture(quiet, signal);
      primary.exec("BEGIN; ALTER TABLE items DROP COLUMN more; ALTER TABLE items ADD COLUMN more TEXT DEFAULT 'fresh'; COMMIT");
      await system.capture(quiet, signal);
      const { number } = await system.capture(quiet, signal);
      expect(await rows(system, number, 'SELECT more FROM items')).toEqual([['fresh'], ['fresh']]);
      expect(await rows(system, 1, 'SELECT more FROM items')).toEqual([['stale'], ['stale']]);
    }, 'validate: none');
  });

  test('a table rebuilt in the same shape has the rows of the new one, and is followed', async () => {
    await running(async (system) => {
      await system.capture(quiet, signal);
      rebuild();
      await system.capture(quiet, signal);
      primary.exec("UPDATE items SET value = 'after' WHERE id = 2");
      await system.capture(quiet, signal);
      const { number } = await system.capture(quiet, signal);
      expect(await items(system, number)).toEqual([
        [1, 'rebuilt'],
        [2, 'after'],
      ]);
      expect((await items(system, 1))[0]).toEqual([1, 'one']);
    }, 'validate: none');
  });

  test('a rebuilding that an earlier process met is met again after a rollback', async () => {
    await running((system) => system.capture(quiet, signal));
    rebuild();
    await running(async (system) => {
      expect((await system.validate(null, quiet, signal)).verdict).toBe('VALID');
    });
    await running(async (system) => {
      expect(await system.rollback(1, quiet, signal)).toMatchObject({ proved: true });
      await system.resume(quiet, signal);
      expect(await system.validate(null, quiet, signal)).toMatchObject({ verdict: 'VALID', differences: [] });
      const { number } = await system.capture(quiet, signal);
      expect((await items(system, number))[0]).toEqual([1, 'rebuilt']);
    });
  });
});

describe('tables that come and go', () => {
  test('a table created while the system runs is named by the next capture, and is in the one after', async () => {
    await running(async (system) => {
      await system.capture(quiet, signal);
      primary.exec("CREATE TABLE late (id INTEGER PRIMARY KEY, value TEXT); INSERT INTO late VALUES (1, 'late')");
      const { number } = await system.capture(quiet, signal);
      expect((await system.captures(signal)).find((each) => each.number === number)?.absent.map(({ table }) => table)).toEqual(['late']);
      primary.exec("INSERT INTO late VALUES (2, 'later')");
      const next = await system.capture(quiet, signal);
      expect(next).toMatchObject({ verdict: 'VALID', coverage: { tables: 2, skipped: [] } });
      expect(await rows(system, next.number, 'SELECT value FROM late ORDER BY id')).toEqual([['late'], ['later']]);
    });
  });

  test('a diff counts the rows of tables that only one of its captures has', async () => {
    primary.exec('CREATE TABLE early (id INTEGER PRIMARY KEY); INSERT INTO early VALUES (1)');
    await running((system) => system.capture(quiet, signal));
    primary.exec("CREATE TABLE late (id INTEGER PRIMARY KEY); INSERT INTO late VALUES (1); UPDATE items SET value = 'two' WHERE id = 1");
    await running(async (system) => {
      await system.capture(quiet, signal);
      const came = [
        { table: 'early', inserted: 0, updated: 0, deleted: 0 },
        { table: 'items', inserted: 0, updated: 1, deleted: 0 },
        { table: 'late', inserted: 1, updated: 0, deleted: 0 },
      ];
      expect((await system.diff(1, 2, signal)).tables.toSorted((a, b) => a.table.localeCompare(b.table))).toEqual(came);
      primary.exec('DROP TABLE early');
      await system.capture(quiet, signal);
      const { number } = await system.capture(quiet, signal);
      const went = came.map((each) => (each.table === 'early' ? { ...each, deleted: 1 } : each));
      expect((await system.diff(1, number, signal)).tables.toSorted((a, b) => a.table.localeCompare(b.table))).toEqual(went);
    });
  });
});

describe('a person puts things right', () => {
  test('resume cures a table that was halted, and the next start puts its guard up again', async () => {
    const guards = (shadow: DatabaseSync) =>
      shadow.prepare("SELECT name FROM sqlite_schema WHERE type = 'trigger' ORDER BY name").all() as { name: string }[];
    await running(async (system) => {
      await system.capture(quiet, signal);
      const present = inShadow((shadow) => {
        const all = guards(shadow);
        for (const { name } of all) shadow.exec(`DROP TRIGGER "${name}"`);
        shadow.exec("UPDATE items SET value = 'altered' WHERE id = 1");
        return all;
      });
      expect(present.length).toBeGreaterThan(0);
      expect(await system.capture(quiet, signal)).toMatchObject({ verdict: 'INVALID', cure: { action: 'halt' } });
      expect((await system.status(signal)).tables).toMatchObject([{ table: 'items', state: 'halted' }]);
      expect(await system.resume(quiet, signal)).toMatchObject({ from: null, method: 'resync' });
      await expect(system.resume(quiet, signal)).rejects.toMatchObject({ code: 'USAGE' });
    }, 'onInvalid: halt');
    await running(async (system) => {
      const { number, verdict } = await system.capture(quiet, signal);
      expect(verdict).toBe('VALID');
      expect((await system.status(signal)).tables).toMatchObject([{ table: 'items', state: 'live' }]);
      expect((await items(system, number))[0]).toEqual([1, 'one']);
      expect(inShadow(guards)).not.toEqual([]);
    });
  });

  test('uninstall leaves no trace on the primary, though the shadow is beyond reach', async () => {
    const traces = "SELECT name FROM sqlite_schema WHERE name LIKE '%foreshadow%'";
    await running((system) => system.capture(quiet, signal));
    expect(primary.prepare(traces).all()).not.toEqual([]);
    for (const suffix of ['', '-wal', '-shm']) await rm(join(directory, `shadow.db${suffix}`), { force: true });
    await writeFile(join(directory, 'shadow.db'), 'this is no database'.repeat(100));
    const warnings: string[] = [];
    const log = (level: string, message: string): void => {
      if (level === 'warn') warnings.push(message);
    };
    await uninstall(config('validate: none'), { log }, signal);
    expect(primary.prepare(traces).all()).toEqual([]);
    expect(warnings).toEqual(['the shadow could not be asked whether another instance runs']);
  });
});

describe('a capture asked for while a rollback is under way', () => {
  /** What became of the capture. */
  async function beside(capture: (system: LocalSystem) => Promise<unknown>): Promise<unknown> {
    return running(async (system) => {
      await system.capture(quiet, signal);
      primary.exec("UPDATE items SET value = 'two'");
      await system.capture(quiet, signal);
      primary.exec("UPDATE items SET value = 'three'");
      const rolling = system.rollback(1, quiet, signal);
      const [rolledBack, captured] = await Promise.allSettled([rolling, capture(system)]);
      expect(rolledBack).toMatchObject({ status: 'fulfilled', value: { to: 1, proved: true, parked: true } });
      // Neither finds the other half-way.
      const captures = await system.captures(signal);
      for (const each of captures) expect(each).toMatchObject({ state: 'sealed', absent: [] });
      expect((await items(system, captures.at(-1)?.number ?? 0))[0]).toEqual([1, 'three']);
      await system.resume(quiet, signal);
      const { number, verdict } = await system.capture(quiet, signal);
      expect(verdict).toBe('VALID');
      expect((await items(system, number))[0]).toEqual([1, 'three']);
      return captured.status === 'fulfilled' ? captured.value : captured.reason;
    });
  }

  test('is taken whole or refused', { timeout: 20_000 }, async () => {
    const outcome = await beside((system) => system.capture(quiet, signal));
    if (outcome instanceof Error) expect(outcome).toMatchObject({ code: 'PARKED' });
    else expect(outcome).toMatchObject({ verdict: 'VALID' });
  });

  test('is refused where it comes behind the capture that the rollback takes first', { timeout: 20_000 }, async () => {
    const outcome = await beside(async (system) => {
      while ((await system.captures(signal)).length < 3) await otherWork();
      return system.capture(quiet, signal);
    });
    expect(outcome).toMatchObject({ code: 'PARKED' });
  });
});
