import { chmodSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { openSqlite, quoteIdentifier, sqlitePath } from './connection.ts';

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'foreshadow-connection-'));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

test.each([
  ['sqlite:shop.db', '/base/shop.db'],
  ['sqlite:./shop.db', '/base/shop.db'],
  ['sqlite:../shop.db', '/shop.db'],
  ['sqlite:/abs/x.db', '/abs/x.db'],
  ['sqlite:///abs/x.db', '/abs/x.db'],
  ['sqlite:odd name?#%41.db', '/base/odd name?#%41.db'],
])('%s names %s', (url, path) => {
  expect(sqlitePath(url, '/base')).toBe(path);
});

test.each(['sqlite:', 'sqlite::memory:', 'postgres://x/y', 'sqlite://host/x.db'])('%s is refused', (url) => {
  expect(() => sqlitePath(url, '/base')).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
});

test('a missing primary is an error and no file appears', () => {
  const path = join(directory, 'missing.db');
  expect(() => openSqlite(path, { role: 'primary' })).toThrow(expect.objectContaining({ code: 'PRIMARY_UNREACHABLE' }));
  expect(() => openSqlite(path, { role: 'shadow' })).toThrow(expect.objectContaining({ code: 'SHADOW_UNREACHABLE' }));
  expect(existsSync(path)).toBe(false);
});

test('a file that is no database is named', () => {
  const path = join(directory, 'notes.txt');
  writeFileSync(path, 'these are notes, certainly not a database of any kind\n'.repeat(40));
  expect(() => openSqlite(path, { role: 'primary' })).toThrow(expect.objectContaining({ code: 'PRIMARY_UNREACHABLE' }));
  expect(() => openSqlite(directory, { role: 'primary' })).toThrow(/is not a file/);
});

test('odd characters in a path reach the right file, and integers are read as bigint', () => {
  const path = join(directory, 'odd ?#%41.db');
  using db = openSqlite(path, { role: 'shadow', create: true });
  db.exec('CREATE TABLE t (a); INSERT INTO t VALUES (9007199254740993)');
  expect(existsSync(path)).toBe(true);
  expect(db.prepare('SELECT a FROM t').get()).toEqual({ a: 9007199254740993n });
  using reader = openSqlite(path, { role: 'primary', readOnly: true });
  expect(() => reader.exec('DELETE FROM t')).toThrow(/readonly/);
});

test.skipIf(process.getuid?.() === 0)('a file without permission is ACCESS', () => {
  const path = join(directory, 'locked.db');
  openSqlite(path, { role: 'shadow', create: true }).close();
  chmodSync(path, 0);
  expect(() => openSqlite(path, { role: 'primary' })).toThrow(expect.objectContaining({ code: 'PRIMARY_ACCESS' }));
});

test('identifiers are quoted', () => {
  expect(quoteIdentifier('a"b')).toBe('"a""b"');
});
