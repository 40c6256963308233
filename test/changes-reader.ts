import { expect } from 'vitest';
import { walkBlock } from '../src/journal/frame.ts';
import type { Bookmark } from '../src/journal/journal.ts';
import type { TableEvent, TransactionRef } from '../src/model/change.ts';
import { ORIGIN, type Position } from '../src/model/position.ts';
import { Pulse } from '../src/model/pulse.ts';
import type { TableName, TableSchema } from '../src/model/schema.ts';
import { fillAbsent, type Identity, identityOf, type KeyTuple, keyTuple, type Tuple } from '../src/model/tuple.ts';
import { wholeBatches } from '../src/tracking/primary.contract.ts';
import type { Primary, PrimarySnapshot } from '../src/tracking/primary.ts';

export type TrackedChange = { readonly ref: TransactionRef } & (
  | { readonly kind: 'put'; readonly row: Tuple; readonly oldKey: KeyTuple | null }
  | { readonly kind: 'delete'; readonly key: KeyTuple }
  | { readonly kind: 'truncate' }
);

/** Reads `changes` as a tracker does: keeps everything, then acknowledges. */
export class ChangesReader {
  readonly changes = new Map<TableName, TrackedChange[]>();
  readonly events: TableEvent[] = [];
  batches = 0;
  /** Of transactions too large to come at once. */
  pieces = 0;
  /** Blocks of transactions that had not ended when they came, and parts of those that were rolled back. */
  streamed = 0;
  dropped = 0;
  head: Bookmark;
  readonly #pulse = new Pulse();
  readonly #stop = new AbortController();
  readonly #done: Promise<void>;
  failure: unknown = null;

  constructor(primary: Primary, from: Bookmark) {
    this.head = from;
    this.#done = this.#read(primary, from).catch((error: unknown) => {
      this.failure = error;
      this.#pulse.beat();
    });
  }

  async #read(primary: Primary, from: Bookmark): Promise<void> {
    for await (const { batch, evidence } of wholeBatches(primary.changes(from, this.#stop.signal), { piece: () => this.pieces++ })) {
      expect(batch.after).toBe(this.head.at);
      expect(batch.through > batch.after).toBe(true);
      this.batches++;
      this.events.push(...batch.events);
      for (const block of batch.blocks) {
        if (block.within !== null) this.streamed++;
        this.dropped += block.within?.dropped.size ?? 0;
        const list = this.changes.get(block.table) ?? [];
        this.changes.set(block.table, list);
        let ref: TransactionRef;
        const put = (row: Tuple, oldKey: KeyTuple | null): void => void list.push({ ref, kind: 'put', row, oldKey });
        walkBlock(block, ORIGIN, batch.through, {
          transaction: (each) => {
            expect(each.at > batch.after && each.at <= batch.through).toBe(true);
            ref = each;
            return true;
          },
          insert: (row) => put(row, null),
          update: put,
          delete: (key) => void list.push({ ref, kind: 'delete', key }),
          truncate: () => void list.push({ ref, kind: 'truncate' }),
        });
      }
      this.head = { at: batch.through, evidence };
      await primary.acknowledge(batch.through);
      this.#pulse.beat();
    }
  }

  async reached(at: Position): Promise<void> {
    while (this.head.at < at) {
      if (this.failure !== null) throw this.failure;
      await this.#pulse.next(AbortSignal.timeout(20_000));
    }
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#done;
  }

  of(table: string): TrackedChange[] {
    return this.changes.get(table as TableName) ?? [];
  }
}

/** What rows become when changes are applied to them by identity. */
export function fold(schema: TableSchema, rows: Map<Identity, Tuple>, changes: readonly TrackedChange[]): Map<Identity, Tuple> {
  for (const change of changes) {
    if (change.kind === 'truncate') rows.clear();
    else if (change.kind === 'delete') rows.delete(identityOf(change.key));
    else {
      const identity = identityOf(keyTuple(change.row, schema.key));
      const from = change.oldKey === null ? identity : identityOf(change.oldKey);
      const before = rows.get(from);
      rows.delete(from);
      rows.set(identity, before === undefined ? change.row : fillAbsent(change.row, before));
    }
  }
  return rows;
}

export async function rowsIn(
  snapshot: PrimarySnapshot,
  schema: TableSchema,
  limit = { rows: 1000, bytes: 1 << 20 },
): Promise<Map<Identity, Tuple>> {
  const rows = new Map<Identity, Tuple>();
  for (let after: KeyTuple | null = null; ; ) {
    const chunk = await snapshot.rows(schema, after, limit, AbortSignal.timeout(20_000));
    for (const row of chunk.rows) rows.set(identityOf(keyTuple(row, schema.key)), row);
    if (chunk.through === null) return rows;
    after = chunk.through;
  }
}
