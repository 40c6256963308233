import { type Arbitrary, array, assert, asyncProperty, boolean, integer, nat, option, record, tuple } from 'fast-check';
import { expect, test } from 'vitest';
import type { TableName } from '../model/schema.ts';
import { ORDERS, STOCK, type Written, at, batchOf, codeOf, ended, piece, rowsIn } from './batches.contract.ts';
import type { Journal } from './journal.ts';

/** A step of the model: a batch of transactions, cut into pieces, perhaps repeated; then perhaps a prune. */
interface Step {
  readonly transactions: readonly { readonly orders: number; readonly stock: number; readonly gap: number }[];
  readonly repeat: boolean;
  readonly huge: boolean;
  readonly pruneBack: number | null;
}

const steps: Arbitrary<Step[]> = array(
  record({
    transactions: array(record({ orders: nat(3), stock: nat(2), gap: integer({ min: 1, max: 3 }) }), { maxLength: 4 }),
    repeat: boolean(),
    huge: boolean(),
    pruneBack: option(nat(12), { freq: 3 }),
  }),
  { maxLength: 12 },
);

export function describeModel(journal: () => Journal): void {
  test('any range of any table reads as a plain list of the same changes does', async () => {
    await assert(
      asyncProperty(steps, array(tuple(nat(80), nat(80)), { minLength: 1, maxLength: 8 }), async (run, ranges) => {
        await journal().begin({ at: at(10), evidence: '' });
        const model = await play(journal(), run);
        for (const [a, b] of ranges) {
          const [after, upTo] = [10 + Math.min(a, b), 10 + Math.max(a, b)];
          for (const table of [ORDERS, STOCK]) {
            const expected = model.rows.filter((row) => row.table === table && row.end > after && row.end <= upTo);
            const found = await rowsIn(journal(), table, at(after), at(upTo)).catch(codeOf);
            if (found === 'JOURNAL_GAP') expect(after).toBeLessThan(model.pruned.get(table) ?? 0);
            else expect(found).toEqual(expected.map((row) => `${row.end}:${row.value}`));
          }
        }
      }),
      { numRuns: 60 },
    );
  });
}

async function play(journal: Journal, run: readonly Step[]) {
  const rows: { table: TableName; end: number; value: number }[] = [];
  const pruned = new Map<TableName, number>();
  let head = 10;
  let value = 0;
  for (const step of run) {
    let end = head;
    const written: Written[] = [];
    for (const { orders, stock, gap } of step.transactions) {
      end += gap;
      const some = (count: number, table: TableName) =>
        Array.from({ length: count }, () => {
          rows.push({ table, end, value: ++value });
          return value;
        });
      written.push({ end, rows: { orders: some(orders, ORDERS), stock: some(stock, STOCK) } });
    }
    for (let repeats = step.repeat ? 2 : 1; repeats > 0; repeats--) {
      if (!step.huge) await journal.append(batchOf(head, written), '');
      else for (const [index, each] of written.entries()) await inPieces(journal, written[index - 1]?.end ?? head, each);
    }
    head = end;
    if (step.pruneBack !== null) {
      const through = Math.max(head - step.pruneBack, 10);
      await journal.prune(new Map([[ORDERS, at(through)]]));
      pruned.set(ORDERS, Math.max(pruned.get(ORDERS) ?? 0, through));
    }
  }
  return { rows, pruned };
}

/** A transaction as one piece for each row, and the batch that adopts them. */
async function inPieces(journal: Journal, after: number, { end, rows }: Written): Promise<void> {
  for (const [table, values] of Object.entries(rows)) {
    for (const value of values) await journal.spool(piece(end, [[0, [value]]], table as TableName));
  }
  await journal.append(batchOf(after, [], { through: at(end), adopts: [ended(end, end)] }), '');
}
