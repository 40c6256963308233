import type { CaptureNumber } from '../../model/capture.ts';
import { fillAbsent, type Identity, identityOf, keyOfIdentity, type KeyTuple, type Tuple } from '../../model/tuple.ts';
import { type RowBatch, RowsMissing, type StandingRows } from '../../shadowing/shadow.ts';
import type { RowChunk, RowLimit } from '../../tracking/primary.ts';
import type { Segment } from './segment.ts';
import { compareKeys } from './values.ts';

/** A table with the batches of an apply laid over it, before any of them is written. */
export class StagedRows implements StandingRows {
  readonly #segment: Segment;
  readonly #at: CaptureNumber;
  readonly #over = new Map<Identity, Tuple | null>();

  constructor(segment: Segment, at: CaptureNumber) {
    this.#segment = segment;
    this.#at = at;
  }

  /** Returns the batch with its patches completed. Throws `RowsMissing`. */
  stage(batch: RowBatch): RowBatch {
    for (const key of batch.deletes) this.#over.set(identityOf(key), null);
    const missing: KeyTuple[] = [];
    const patched = Array.from(batch.patches ?? [], (patch) => {
      const key = this.#segment.keyOf(patch);
      const standing = this.#row(identityOf(key));
      if (standing === null) missing.push(key);
      return standing === null ? patch : fillAbsent(patch, standing);
    });
    if (missing.length > 0) throw new RowsMissing(this.#segment.schema.table, missing);
    const puts = [...patched, ...batch.puts];
    for (const row of puts) this.#over.set(identityOf(this.#segment.keyOf(row)), row);
    return { deletes: batch.deletes, puts, fresh: batch.fresh };
  }

  async rows(after: KeyTuple | null, limit: RowLimit): Promise<RowChunk> {
    const identities = new Set([...this.#segment.keys(this.#at).map(identityOf), ...this.#over.keys()]);
    const keys = [...identities].filter((identity) => this.#row(identity) !== null).map(keyOfIdentity);
    return pageOf(keys.toSorted(compareKeys), (key) => this.#row(identityOf(key)) as Tuple, after, limit);
  }

  async rowsByKey(keys: readonly KeyTuple[]): Promise<readonly Tuple[]> {
    return keys.flatMap((key) => this.#row(identityOf(key)) ?? []);
  }

  #row(identity: Identity): Tuple | null {
    const over = this.#over.get(identity);
    if (over !== undefined) return over;
    return this.#segment.version(keyOfIdentity(identity), this.#at)?.row ?? null;
  }
}

/** A page of rows in the order of `keys`. */
export function pageOf(keys: readonly KeyTuple[], rowOf: (key: KeyTuple) => Tuple, after: KeyTuple | null, limit: RowLimit): RowChunk {
  const left = keys.filter((key) => after === null || compareKeys(key, after) > 0);
  const rows: Tuple[] = [];
  let bytes = 0;
  for (const key of left) {
    const row = rowOf(key);
    rows.push(row);
    bytes += row.length;
    if (rows.length >= limit.rows || bytes >= limit.bytes) break;
  }
  return { rows, through: rows.length < left.length ? (left[rows.length - 1] ?? null) : null };
}
