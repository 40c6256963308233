import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describeJournal } from '../../journal/journal.contract.ts';
import { openSqliteJournal } from './journal.ts';

describeJournal('sqlite', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'foreshadow-journal-'));
  return {
    durable: true,
    open: async () => await openSqliteJournal(join(directory, 'state', 'journal.db')),
    [Symbol.asyncDispose]: async () => await rm(directory, { recursive: true }),
  };
});
