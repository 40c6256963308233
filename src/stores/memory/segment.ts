import { type CaptureNumber, captureNumber } from '../../model/capture.ts';
import type { TableSchema } from '../../model/schema.ts';
import { type Identity, type KeyTuple, type Tuple, identityOf, keyOfIdentity, keyTuple } from '../../model/tuple.ts';
import type { ForeignRow, RowVersion } from '../../shadowing/shadow.ts';
import { compareKeys } from './values.ts';

/**
 * The stretch of a table's history that has one shape. The truth is a list of versions for each key, oldest first and never
 * overlapping; what others wrote into the live table lies beside it, so that no reading of the truth can meet it.
 */
export class Segment {
  readonly schema: TableSchema;
  /** The first capture that can read it. */
  readonly from: CaptureNumber;
  /** The last one; null while it is live. */
  through: CaptureNumber | null = null;
  readonly #versions = new Map<Identity, RowVersion[]>();
  /** What stands in the live table where somebody else wrote last: a row, or null where it was deleted. */
  readonly #foreign = new Map<Identity, Tuple | null>();

  constructor(schema: TableSchema, from: CaptureNumber) {
    this.schema = schema;
    this.from = from;
  }

  covers(at: CaptureNumber): boolean {
    return this.from <= at && (this.through === null || at <= this.through);
  }

  retire(through: CaptureNumber): void {
    this.through = through;
    this.#foreign.clear();
    // What no capture can read is gone.
    for (const identity of this.#versions.keys()) this.#keep(identity, (version) => version.since <= through);
  }

  version(key: KeyTuple, at: CaptureNumber): RowVersion | null {
    const versions = this.#versions.get(identityOf(key)) ?? [];
    return versions.find((each) => each.since <= at && (each.until === null || at < each.until)) ?? null;
  }

  /** The keys that have a row at a capture, in order. */
  keys(at: CaptureNumber): KeyTuple[] {
    return [...this.#versions.keys()]
      .map(keyOfIdentity)
      .filter((key) => this.version(key, at) !== null)
      .toSorted(compareKeys);
  }

  /**
   * Makes `row` (null: nothing) the live truth of a key for `capture`. The old version stays if a capture up to `savedThrough` reads
   * it. A foreign write there is overruled.
   */
  write(key: KeyTuple, row: Tuple | null, capture: CaptureNumber, savedThrough: CaptureNumber): Written {
    const identity = identityOf(key);
    const overruled = this.#foreign.delete(identity);
    const live = this.#live(identity);
    if (live === null ? row === null : row !== null && live.row.equals(row)) return { effect: 'none', overruled };
    this.#keep(identity, (version) => version.until !== null);
    if (live !== null && live.since <= savedThrough) this.#add(identity, { ...live, until: capture });
    if (row !== null) this.#add(identity, { since: capture, until: null, row });
    return { effect: row === null ? 'deleted' : live === null ? 'inserted' : 'updated', overruled };
  }

  /** Puts another row (null: nothing) in the place of the version that began at `since`. */
  replace(key: KeyTuple, since: CaptureNumber, until: CaptureNumber | null, row: Tuple | null): void {
    const identity = identityOf(key);
    const standing = this.#versions.get(identity)?.find((version) => version.since === since);
    this.#keep(identity, (version) => version.since !== since);
    if (row !== null) this.#add(identity, { since, until: standing === undefined ? until : standing.until, row });
  }

  /** What somebody else's program does: it sees the live table as it stands. */
  standing(): Map<Identity, Tuple> {
    const rows = new Map<Identity, Tuple>();
    for (const identity of this.#versions.keys()) {
      const live = this.#live(identity);
      if (live !== null) rows.set(identity, live.row);
    }
    for (const [identity, row] of this.#foreign) {
      if (row === null) rows.delete(identity);
      else rows.set(identity, row);
    }
    return rows;
  }

  writeForeign(key: KeyTuple, row: Tuple | null): void {
    const identity = identityOf(key);
    if (row === null && this.#live(identity) === null) this.#foreign.delete(identity);
    else this.#foreign.set(identity, row);
  }

  foreignRows(): ForeignRow[] {
    return [...this.#foreign].map(([identity, found]) => ({
      key: keyOfIdentity(identity),
      found,
      truth: this.#live(identity)?.row ?? null,
    }));
  }

  undoForeign(key: KeyTuple): boolean {
    return this.#foreign.delete(identityOf(key));
  }

  keyOf(row: Tuple): KeyTuple {
    return keyTuple(row, this.schema.key);
  }

  #live(identity: Identity): RowVersion | null {
    return this.#versions.get(identity)?.find((version) => version.until === null) ?? null;
  }

  #keep(identity: Identity, which: (version: RowVersion) => boolean): void {
    const kept = (this.#versions.get(identity) ?? []).filter(which);
    if (kept.length === 0) this.#versions.delete(identity);
    else this.#versions.set(identity, kept);
  }

  #add(identity: Identity, version: RowVersion): void {
    // Copied: what was applied is ours, whatever the caller does with its buffers.
    const owned = { ...version, row: Buffer.from(version.row) as unknown as Tuple };
    const versions = [...(this.#versions.get(identity) ?? []), owned];
    this.#versions.set(
      identity,
      versions.toSorted((a, b) => a.since - b.since),
    );
  }
}

export interface Written {
  readonly effect: 'inserted' | 'updated' | 'deleted' | 'none';
  /** Somebody else had written there. */
  readonly overruled: boolean;
}

/** The capture before a number. */
export function before(number: CaptureNumber): CaptureNumber {
  return captureNumber(Math.max(number - 1, 0));
}
