import { type ChildProcess, spawn } from 'node:child_process';
import { copyFileSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Bookmark } from '../../journal/journal.ts';
import type { TableEvent, TrackedBatch } from '../../model/change.ts';
import type { TableName, TableSchema } from '../../model/schema.ts';
import { identityOf, keyTuple } from '../../model/tuple.ts';
import { allRows, foldBatches, shownRows, wholeBatches } from '../../tracking/primary.contract.ts';
import type { Primary } from '../../tracking/primary.ts';
import { sqliteIdentity } from './connection.ts';
import { openSqlitePrimary } from './primary.ts';

let directory: string;
let path: string;
let db: DatabaseSync;
let primary: Primary;

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'foreshadow-follow-'));
  path = join(directory, 'shop.db');
  db = new DatabaseSync(path, { timeout: 5000 });
  db.exec(`PRAGMA journal_mode = wal; PRAGMA synchronous = off;
    CREATE TABLE orders (id INTEGER PRIMARY KEY, label TEXT); CREATE TABLE notes (text TEXT)`);
  primary = await openSqlitePrimary(`sqlite:${path}`, { include: ['*'], exclude: ['scratch*'] });
});

afterEach(async () => {
  await primary[Symbol.asyncDispose]();
  if (db.isOpen) db.close();
  rmSync(directory, { recursive: true, force: true });
});

let writer: ChildProcess | null = null;
afterEach(() => {
  writer?.kill('SIGKILL');
  writer = null;
});

const patience = (): AbortSignal => AbortSignal.timeout(20_000);

async function install(): Promise<{ schema: readonly TableSchema[]; from: Bookmark }> {
  const { tables } = await primary.describe(patience());
  return { schema: tables, from: await primary.install(tables, patience()) };
}

/** Reads from a bookmark until everything written so far is in. */
async function readOn(from: Bookmark): Promise<{ batches: TrackedBatch[]; events: string[]; next: Bookmark }> {
  const stopping = new AbortController();
  const batches: TrackedBatch[] = [];
  let next = from;
  let goal: string | null = null;
  for await (const { batch, evidence } of wholeBatches(primary.changes(from, AbortSignal.any([stopping.signal, patience()])))) {
    batches.push(batch);
    next = { at: batch.through, evidence };
    goal ??= await primary.now(patience());
    if (batch.through >= goal) stopping.abort();
  }
  const events = batches.flatMap((batch) => batch.events).map((event: TableEvent) => `${event.kind} ${event.table}`);
  return { batches, events, next };
}

function shown(schema: readonly TableSchema[], batches: readonly TrackedBatch[], table: string): string[] {
  const described = schema.find((each) => each.table === table) as TableSchema;
  return shownRows(
    primary,
    described,
    foldBatches(schema, batches, () => true)
      .get(table as TableName)
      ?.values() ?? [],
  );
}

test('VACUUM may move the rowids of tables without a key, and says so', async () => {
  const { from } = await install();
  db.exec("INSERT INTO notes VALUES ('a'), ('b'); DELETE FROM notes WHERE text = 'a'; VACUUM; INSERT INTO orders VALUES (1, 'x')");
  const { events, next } = await readOn(from);
  expect(events).toEqual(['identity-moved notes']);
  db.exec("INSERT INTO orders VALUES (2, 'y')");
  expect((await readOn(next)).events).toEqual([]);
});

test('VACUUM is noticed while following and after a restart', async () => {
  const { from } = await install();
  db.exec("INSERT INTO notes VALUES ('a')");
  const first = await readOn(from);
  expect(first.events).toEqual([]);
  await primary[Symbol.asyncDispose]();
  db.exec('VACUUM');
  primary = await openSqlitePrimary(`sqlite:${path}`, { include: ['*'], exclude: [] });
  const { tables } = await primary.describe(patience());
  await primary.install(tables, patience());
  expect((await readOn(first.next)).events).toEqual(['identity-moved notes']);
});

test('a changed shape is an event, rows after it have the new shape', async () => {
  const { from } = await install();
  db.exec("INSERT INTO orders VALUES (1, 'x'); ALTER TABLE orders ADD COLUMN paid INTEGER DEFAULT 0");
  const first = await readOn(from);
  expect(first.events.toSorted()).toEqual(['identity-moved notes', 'schema-changed orders']);
  db.exec("INSERT INTO orders VALUES (2, 'y', 1)");
  const second = await readOn(first.next);
  const now = (await primary.describe(patience())).tables;
  expect(shown(now, second.batches, 'orders')).toEqual(['{"id":2,"label":"y","paid":1}']);
});

test('a dropped table is an event, the others go on', async () => {
  const { schema, from } = await install();
  db.exec("DROP TABLE notes; INSERT INTO orders VALUES (1, 'x')");
  const { events, batches } = await readOn(from);
  expect(events).toEqual(['dropped notes']);
  expect(shown(schema, batches, 'orders')).toEqual(['{"id":1,"label":"x"}']);
});

test('a table made anew, and a trigger taken away, are gaps; the triggers are put back', async () => {
  const { schema, from } = await install();
  db.exec('ALTER TABLE orders RENAME TO scratch; CREATE TABLE orders (id INTEGER PRIMARY KEY, label TEXT); DROP TABLE scratch');
  const first = await readOn(from);
  expect(first.events).toContain('gap orders');
  const { name } = db.prepare("SELECT name FROM sqlite_schema WHERE tbl_name = 'orders' AND name LIKE '%\\_ad' ESCAPE '\\'").get() as {
    name: string;
  };
  db.exec(`DROP TRIGGER ${name}`);
  const second = await readOn(first.next);
  expect(second.events).toContain('gap orders');
  db.exec("INSERT INTO orders VALUES (5, 'z'); DELETE FROM orders; INSERT INTO orders VALUES (6, 'z')");
  expect(shown(schema, (await readOn(second.next)).batches, 'orders')).toEqual(['{"id":6,"label":"z"}']);
});

test('a unique index made later is looked after too', async () => {
  const { schema, from } = await install();
  db.exec('CREATE UNIQUE INDEX by_label ON orders (label)');
  const first = await readOn(from);
  expect(first.events).toContain('gap orders');
  db.exec("INSERT INTO orders VALUES (1, 'x'); REPLACE INTO orders VALUES (2, 'x')");
  const second = await readOn(first.next);
  expect(shown(schema, second.batches, 'orders')).toEqual(['{"id":2,"label":"x"}']);
  db.exec("DROP INDEX by_label; INSERT INTO orders VALUES (3, 'x')");
  expect((await readOn(second.next)).events).not.toContain('gap orders');
});

test('an index that is gone leaves the table as it was to the application', async () => {
  await install();
  db.exec("CREATE UNIQUE INDEX by_label ON orders (label) WHERE label <> ''");
  await install();
  db.exec(
    "DROP INDEX by_label; INSERT INTO orders VALUES (1, 'x'), (2, 'x'); REPLACE INTO orders VALUES (1, 'y'); UPDATE orders SET label = 'z'",
  );
  expect(db.prepare('SELECT count(*) AS n FROM orders').get()).toEqual({ n: 2 });
});

test('a file put back from a backup is a gap of every table, and positions keep rising', async () => {
  const { schema, from } = await install();
  db.exec("INSERT INTO orders VALUES (1, 'x'); PRAGMA wal_checkpoint(truncate)");
  copyFileSync(path, join(directory, 'backup.db'));
  db.exec("INSERT INTO orders VALUES (2, 'y'), (3, 'z')");
  const first = await readOn(from);
  await primary[Symbol.asyncDispose]();
  db.close();
  rmSync(`${path}-wal`, { force: true });
  renameSync(join(directory, 'backup.db'), path);
  db = new DatabaseSync(path, { timeout: 5000 });
  db.exec("INSERT INTO orders VALUES (2, 'other'), (4, 'v'), (5, 'w')");
  primary = await openSqlitePrimary(`sqlite:${path}`, { include: ['*'], exclude: [] });
  await install();
  const second = await readOn(first.next);
  expect(second.events.toSorted()).toEqual(['gap notes', 'gap orders']);
  expect(second.batches[0]?.after).toBe(first.next.at);
  db.exec("INSERT INTO orders VALUES (6, 'u')");
  const third = await readOn(second.next);
  expect(third.events).toEqual([]);
  expect(shown(schema, third.batches, 'orders')).toEqual(['{"id":6,"label":"u"}']);
});

test('a file renamed into place while following is noticed, with or without triggers', async () => {
  const { from } = await install();
  db.exec("INSERT INTO orders VALUES (1, 'x'); PRAGMA wal_checkpoint(truncate)");
  const stopping = new AbortController();
  const events: TableEvent[] = [];
  const seen = Promise.withResolvers<void>();
  const following = (async () => {
    for await (const { batch } of wholeBatches(primary.changes(from, stopping.signal))) {
      events.push(...batch.events);
      if (events.length >= 2) seen.resolve();
    }
  })();
  await (await primary.snapshot(from.at, patience()))[Symbol.asyncDispose]();
  db.close();
  const replacement = join(directory, 'replacement.db');
  using other = new DatabaseSync(replacement);
  other.exec('CREATE TABLE orders (id INTEGER PRIMARY KEY, label TEXT); CREATE TABLE notes (text TEXT)');
  renameSync(replacement, path);
  await seen.promise;
  stopping.abort();
  await following;
  expect(events.map((event) => `${event.kind} ${event.table}`).toSorted()).toEqual(['gap notes', 'gap orders']);
  expect(await primary.installed(patience())).toBe(true);
});

test('what was acknowledged is forgotten in steps, the newest row stays', async () => {
  const { from } = await install();
  db.exec("WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 120000) INSERT INTO orders SELECT i, 'x' FROM n");
  const { next } = await readOn(from);
  const logged = () => (db.prepare('SELECT count(*) AS n FROM _foreshadow_log').get() as { n: number }).n;
  expect(logged()).toBe(120_001);
  await primary.acknowledge(next.at);
  while (logged() > 70_001) await new Promise((resolve) => setTimeout(resolve, 5));
  expect(logged()).toBeGreaterThan(60_000);
  expect((await readOnce(next)).events).toEqual([]);
});

async function readOnce(from: Bookmark): Promise<{ events: string[] }> {
  db.exec("INSERT INTO orders VALUES (NULL, 'one more')");
  return await readOn(from);
}

test('text that is not valid UTF-8 comes through in its bytes', async () => {
  const { schema, from } = await install();
  db.exec("INSERT INTO orders VALUES (1, CAST(x'fffe41' AS TEXT)), (2, 'plain'), (3, 'a' || char(0) || 'b')");
  const { batches } = await readOn(from);
  const folded = foldBatches(schema, batches, () => true).get('orders' as TableName);
  expect([...(folded?.values() ?? [])].some((row) => row.includes(Buffer.from('fffe41', 'hex')))).toBe(true);
  expect(shown(schema, batches, 'orders')).toContain('{"id":3,"label":"a\\u0000b"}');
});

test('no key and no name left for the rowid: left out, with the remedy', async () => {
  db.exec('CREATE TABLE odd (rowid, oid, _rowid_); CREATE VIRTUAL TABLE search USING fts5(body); CREATE VIEW v AS SELECT * FROM orders');
  const described = await primary.describe(patience());
  expect(described.tables.map((table) => table.table)).toEqual(['notes', 'orders']);
  expect(described.after.map((statement) => statement.object)).toEqual(['view v']);
  const codes = (await primary.check(patience())).filter((finding) => finding.severity !== 'ok').map((finding) => finding.code);
  expect(codes.toSorted()).toEqual(['TABLE_UNIDENTIFIED', 'TABLE_VIRTUAL']);
});

test('one file has one identity, by whatever path, and keeps it when it is replaced', async () => {
  await install();
  const before = await primary.identity(patience());
  expect(sqliteIdentity(join(directory, '.', 'x', '..', 'shop.db'), 'shadow')).toBe(before);
  db.exec('PRAGMA wal_checkpoint(truncate)');
  copyFileSync(path, join(directory, 'copy.db'));
  renameSync(join(directory, 'copy.db'), path);
  expect(await primary.identity(patience())).toBe(before);
});

const WRITER = `
  const { DatabaseSync } = require('node:sqlite');
  const db = new DatabaseSync(process.argv[2], { timeout: 10000 });
  let id = 0, stop = false;
  process.stdin.on('data', () => { stop = true; });
  const step = () => {
    for (let i = 0; i < 20; i++) {
      id++;
      db.exec('BEGIN IMMEDIATE');
      db.prepare('INSERT OR REPLACE INTO orders VALUES (?, ?)').run(id % 97, 'written ' + id);
      if (id % 5 === 0) db.prepare('DELETE FROM orders WHERE id = ?').run((id * 7) % 97);
      db.prepare('UPDATE notes SET text = ? WHERE rowid = ?').run('note ' + id, id % 10);
      if (id % 50 === 0) db.exec("INSERT INTO notes VALUES ('new')");
      db.exec('COMMIT');
    }
    if (stop) { process.stdout.write(String(id)); process.exit(0); }
    setImmediate(step);
  };
  process.stdout.write('.');
  step();
`;

test.each(['wal', 'delete'])('a writer never fails while tracking is installed, followed and removed (%s)', async (mode) => {
  db.exec(`PRAGMA journal_mode = ${mode}`);
  const script = join(directory, 'writer.cjs');
  writeFileSync(script, WRITER);
  const child = spawn(process.execPath, [script, path], { stdio: ['pipe', 'pipe', 'pipe'] });
  writer = child;
  const said: Buffer[] = [];
  const failed: Buffer[] = [];
  const started = Promise.withResolvers<void>();
  child.stdout.on('data', (data: Buffer) => {
    said.push(data);
    started.resolve();
  });
  child.stderr.on('data', (data: Buffer) => failed.push(data));
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
  await Promise.race([started.promise, ended]);
  for (let round = 0; round < 6; round++) {
    const { from } = await install();
    const { next } = await readOn(from);
    await readOn(next);
    if (round < 5) await primary.uninstall(patience());
  }
  const { schema, from } = await install();
  const stopping = new AbortController();
  const batches: TrackedBatch[] = [];
  const following = (async () => {
    for await (const { batch } of wholeBatches(primary.changes(from, stopping.signal))) batches.push(batch);
  })();
  const first = await primary.snapshot(from.at, patience());
  const bases = new Map(await Promise.all(schema.map(async (table) => [table, await allRows(first, table)] as const)));
  await first[Symbol.asyncDispose]();
  await new Promise((resolve) => setTimeout(resolve, 200));
  child.stdin.write('stop');
  expect({ exit: await ended, failed: Buffer.concat(failed).toString() }).toMatchObject({ exit: 0 });
  expect(Buffer.concat(failed).toString()).not.toContain('Error');
  await using last = await primary.snapshot(await primary.now(patience()), patience());
  while ((batches.at(-1)?.through ?? '') < last.end) await new Promise((resolve) => setTimeout(resolve, 2));
  stopping.abort();
  await following;
  for (const table of schema) {
    const onto = new Map([[table.table, new Map((bases.get(table) ?? []).map((row) => [identityOf(keyTuple(row, table.key)), row]))]]);
    const later = foldBatches(schema, batches, (ref) => ref.at > first.end, onto);
    expect(shownRows(primary, table, later.get(table.table)?.values() ?? [])).toEqual(
      shownRows(primary, table, await allRows(last, table)),
    );
  }
});

test('a file that is damaged while it is followed is a failure that may pass', async () => {
  const { from } = await install();
  db.exec('PRAGMA wal_checkpoint(truncate)');
  const following = (async () => {
    for await (const { batch } of wholeBatches(primary.changes(from, patience()))) expect(batch.events).toEqual([]);
  })();
  await (await primary.snapshot(from.at, patience()))[Symbol.asyncDispose]();
  db.close();
  const damaged = join(directory, 'damaged.db');
  writeFileSync(damaged, 'only half of a file was copied so far, and it is not a database '.repeat(100));
  renameSync(damaged, path);
  await expect(following).rejects.toMatchObject({ code: 'PRIMARY_UNREACHABLE', retry: 'later' });
});
