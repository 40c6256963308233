import { describeHistory } from '../../tracking/history.contract.ts';
import { openMemoryHistory } from './history.ts';

describeHistory('memory', async () => ({
  survives: false,
  open: async (lengths) => openMemoryHistory(lengths),
  [Symbol.asyncDispose]: async () => {},
}));
