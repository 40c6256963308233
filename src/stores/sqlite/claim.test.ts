import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { ITEMS, ShadowSession, notes } from '../../shadowing/shadow-session.contract.ts';
import { openSqlite } from './connection.ts';
import { openSqliteFixture } from './shadow-fixture.contract.ts';
import { openSqliteShadow } from './shadow.ts';

let directory: string;
let path: string;
let s: ShadowSession;
beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'foreshadow-claim-'));
  const fixture = await openSqliteFixture(directory);
  path = fixture.path;
  s = await ShadowSession.start(fixture, ITEMS);
});
afterEach(async () => {
  await s.close();
});

/** Another process that claims the shadow, begins a write transaction as an apply does, and stays in it. */
async function holdInAnotherProcess(): Promise<ChildProcess> {
  const script = `
    import { Lease } from ${JSON.stringify(join(import.meta.dirname, 'claim.ts'))};
    import { openSqlite } from ${JSON.stringify(join(import.meta.dirname, 'connection.ts'))};
    globalThis.lease = Lease.take(${JSON.stringify(path)}, 'process ' + process.pid);
    globalThis.db = openSqlite(${JSON.stringify(path)}, { role: 'shadow' });
    db.exec("BEGIN IMMEDIATE; UPDATE _foreshadow_writer SET writing = 1; DELETE FROM items");
    process.stdout.write('held');
    setInterval(() => {}, 1000);
  `;
  const child = spawn(process.execPath, ['--input-type=module', '--eval', script], { stdio: ['ignore', 'pipe', 'inherit'] });
  await once(child.stdout, 'data');
  return child;
}

test('a process killed in the middle of a write leaves neither its claim nor its rows', async () => {
  await s.apply({ puts: [s.row(1n, 'a')] });
  await s.shadow[Symbol.asyncDispose]();
  const child = await holdInAnotherProcess();
  const ended = once(child, 'exit');
  try {
    const { shadow } = await openSqliteShadow(`sqlite:${path}`);
    await expect(shadow.claim('me')).rejects.toMatchObject({
      code: 'ALREADY_RUNNING',
      message: expect.stringContaining(`process ${child.pid}`),
    });
    await shadow[Symbol.asyncDispose]();
  } finally {
    child.kill('SIGKILL');
    await ended;
  }
  await s.restart();
  expect(await s.live()).toEqual(notes([s.row(1n, 'a')]));
  await s.apply({ puts: [s.row(2n, 'b')] });
  expect(await s.live()).toEqual(notes([s.row(1n, 'a'), s.row(2n, 'b')]));
  await s.fixture.foreign(s.schema, { kind: 'delete-all' });
  expect(await s.live()).toEqual(notes([s.row(1n, 'a'), s.row(2n, 'b')]));
});

test('a link to the shadow is the same shadow', async () => {
  const link = join(directory, 'link.db');
  symlinkSync(path, link);
  const { shadow } = await openSqliteShadow(`sqlite:${link}`);
  await expect(shadow.claim('me')).rejects.toMatchObject({ code: 'ALREADY_RUNNING' });
  await shadow[Symbol.asyncDispose]();
});

test('a newer token in the shadow fences the older writer off', async () => {
  await s.apply({ puts: [s.row(1n, 'a')] });
  {
    using db = openSqlite(path, { role: 'shadow' });
    db.exec('UPDATE _foreshadow_writer SET token = token + 1');
  }
  await expect(s.apply({ puts: [s.row(2n, 'b')] })).rejects.toMatchObject({ code: 'FENCED' });
  await expect(s.catalog.write('parked', { at: 1 })).rejects.toMatchObject({ code: 'FENCED' });
  expect(await s.live()).toEqual(notes([s.row(1n, 'a')]));
});

test('a write waits for a program that holds the lock, without holding up this process', async () => {
  using db = openSqlite(path, { role: 'shadow' });
  db.exec('BEGIN IMMEDIATE');
  const applied = s.apply({ puts: [s.row(1n, 'a')] });
  expect(await s.catalog.list()).toEqual([]);
  db.exec('COMMIT');
  await applied;
  expect(await s.live()).toEqual(notes([s.row(1n, 'a')]));
});
