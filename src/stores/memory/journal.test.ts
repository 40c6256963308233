import { describeJournal } from '../../journal/journal.contract.ts';
import { openMemoryJournal } from './journal.ts';

describeJournal('memory', async () => ({
  durable: false,
  open: async () => openMemoryJournal(),
  [Symbol.asyncDispose]: async () => {},
}));
