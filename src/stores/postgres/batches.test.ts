import { expect, test, vi } from 'vitest';
import { ORIGIN } from '../../model/position.ts';
import type { TableName } from '../../model/schema.ts';
import { Batches } from './batches.ts';
import type { RelationMessage } from './pgoutput.ts';

const TABLE = 'public.items' as TableName;
const RELATION: RelationMessage = { id: 7, schema: 'public', name: 'items', identity: 'd', columns: [] };

test('a shape that went with a savepoint is put back once: others may have altered the table since', () => {
  const batches = new Batches({
    numbering: { base: 0n, transactionNear: 5n },
    after: ORIGIN,
    onTransaction: () => {},
    due: () => [],
    onRepeated: () => {},
  });
  const undo = vi.fn<() => void>();
  batches.streamStart(5);
  batches.writtenBy(6);
  batches.settle(RELATION, { tracked: null, changed: { kind: 'schema-changed', table: TABLE, reason: 'altered' }, undo });
  batches.streamStop();
  batches.streamAbort(5, 6);
  expect(undo).toHaveBeenCalledTimes(1);
  batches.streamAbort(5, 5);
  expect(undo).toHaveBeenCalledTimes(1);
});
