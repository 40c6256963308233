import { accessSync, constants } from 'node:fs';
import { dirname } from 'node:path';
import type { DatabaseSync } from 'node:sqlite';
import { type Finding, messageOf } from '../../model/errors.ts';
import type { Selection } from '../../model/selection.ts';
import { describeDatabase } from './describe.ts';

/** What stands in the way of tracking this file, or makes it dearer. Changes nothing. Call it in a read transaction. */
export function checkPrimary(db: DatabaseSync, path: string, selection: Selection): Finding[] {
  const { tables, findings } = describeDatabase(db, selection);
  return [...journalMode(db, path), ...permission(path), ...tableCount(tables.size, path), ...findings];
}

function journalMode(db: DatabaseSync, path: string): Finding[] {
  const { journal_mode: mode } = db.prepare('PRAGMA journal_mode').get() as { journal_mode: string };
  if (mode === 'wal')
    return [
      { severity: 'ok', code: 'SQLITE_WAL', subject: path, message: 'readers and writers do not block each other (WAL)', remedy: null },
    ];
  return [
    {
      severity: 'warning',
      code: 'SQLITE_NOT_WAL',
      subject: path,
      message: `the journal mode is ${mode}: while Foreshadow reads, a commit of the application waits, and the other way round`,
      remedy: `Switch to WAL once, when the application allows it: sqlite3 ${path} "PRAGMA journal_mode = wal". It stays so.`,
    },
  ];
}

function permission(path: string): Finding[] {
  try {
    accessSync(path, constants.R_OK | constants.W_OK);
    accessSync(dirname(path), constants.W_OK);
    return [];
  } catch (error) {
    return [
      {
        severity: 'error',
        code: 'PRIMARY_ACCESS',
        subject: path,
        message: `no permission to write the file and its directory, which installing triggers needs: ${messageOf(error)}`,
        remedy: 'Run as the user that owns the database, or give this one the right to write there.',
      },
    ];
  }
}

function tableCount(tables: number, path: string): Finding[] {
  if (tables > 0) return [{ severity: 'ok', code: 'TABLES', subject: path, message: `${tables} tables can be tracked`, remedy: null }];
  return [
    {
      severity: 'warning',
      code: 'TABLES_NONE',
      subject: path,
      message: 'no table matches the data set',
      remedy: 'Check tables: and policy.exclude in the configuration.',
    },
  ];
}
