import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import type { TableName } from '../../model/schema.ts';
import { type NeutralRow, type PrimaryFixture, describePrimary } from '../../tracking/primary.contract.ts';
import { openSqlitePrimary } from './primary.ts';

const TABLES = `CREATE TABLE things (id INTEGER PRIMARY KEY, label TEXT);
  CREATE TABLE links (a INTEGER NOT NULL, b INTEGER NOT NULL, note TEXT, PRIMARY KEY (a, b))`;

async function makeFixture(journalMode: string): Promise<PrimaryFixture> {
  const directory = mkdtempSync(join(tmpdir(), 'foreshadow-primary-'));
  const path = join(directory, 'primary.db');
  const db = new DatabaseSync(path, { timeout: 5000 });
  db.exec(`PRAGMA journal_mode = ${journalMode}; PRAGMA synchronous = off; ${TABLES}`);
  return {
    open: async () => await openSqlitePrimary(`sqlite:${path}`, { include: ['*'], exclude: [] }),
    things: 'things' as TableName,
    links: 'links' as TableName,
    write: async (rows) => {
      db.exec('BEGIN IMMEDIATE');
      for (const row of rows) write(db, row);
      db.exec('COMMIT');
    },
    traces: async () =>
      (db.prepare("SELECT name FROM sqlite_schema WHERE name LIKE '%foreshadow%'").all() as { name: string }[]).map(({ name }) => name),
    [Symbol.asyncDispose]: async () => {
      db.close();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

function write(db: DatabaseSync, { table, key, text }: NeutralRow): void {
  const keys = table === 'things' ? ['id'] : ['a', 'b'];
  if (text === null) db.prepare(`DELETE FROM ${table} WHERE ${keys.map((name) => `${name} = ?`).join(' AND ')}`).run(...key);
  else db.prepare(`INSERT OR REPLACE INTO ${table} VALUES (${[...key, text].map(() => '?').join(', ')})`).run(...key, text);
}

describePrimary('sqlite', async () => await makeFixture('wal'));
describePrimary('sqlite without WAL', async () => await makeFixture('delete'), { snapshotsBlockWriters: true });
