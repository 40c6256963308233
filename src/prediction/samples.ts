import { GROUPS, MEASURES } from './row-history.ts';
import type { RowFeatures } from './row-history.ts';

/**
 * Rows as they looked at some moment, kept until it is known what became of them. A ring: what it has no room for is dropped, oldest first.
 * Samples are numbered from 0 as they come; a number is good until the ring has gone round.
 */
export class Samples {
  readonly #size: number;
  readonly #atMs: Float64Array;
  readonly #endedMs: Float64Array;
  readonly #classes: Uint16Array;
  readonly #measures: Float32Array;
  readonly #slot: Int32Array;
  /** The newest sample of a slot that saw no change yet, and from each sample the one before it; -1 is none. */
  readonly #newest: Float64Array;
  readonly #before: Float64Array;
  #count = 0;

  constructor(size: number, slots: number) {
    this.#size = size;
    this.#atMs = new Float64Array(size);
    this.#endedMs = new Float64Array(size);
    this.#classes = new Uint16Array(size * GROUPS);
    this.#measures = new Float32Array(size * MEASURES);
    this.#slot = new Int32Array(size);
    this.#newest = new Float64Array(slots).fill(-1);
    this.#before = new Float64Array(size);
  }

  get count(): number {
    return this.#count;
  }

  /** The oldest that is still held. */
  get first(): number {
    return Math.max(0, this.#count - this.#size);
  }

  add(slot: number, atMs: number, { classes, measures }: RowFeatures): void {
    const place = this.#count % this.#size;
    this.#atMs[place] = atMs;
    this.#endedMs[place] = Number.POSITIVE_INFINITY;
    this.#classes.set(classes, place * GROUPS);
    this.#measures.set(measures, place * MEASURES);
    this.#slot[place] = slot;
    this.#before[place] = this.#newest[slot] as number;
    this.#newest[slot] = this.#count;
    this.#count++;
  }

  /** The row of this slot changed: that is what its samples waited for. */
  end(slot: number, atMs: number): void {
    for (let sample = this.#newest[slot] as number; sample >= this.first; sample = this.#before[sample % this.#size] as number) {
      this.#endedMs[sample % this.#size] = atMs;
    }
    this.#newest[slot] = -1;
  }

  atMs(sample: number): number {
    return this.#atMs[sample % this.#size] as number;
  }

  /** When the row next changed, as far as is known; Infinity if it has not. */
  endedMs(sample: number): number {
    return this.#endedMs[sample % this.#size] as number;
  }

  read(sample: number, { classes, measures }: RowFeatures): void {
    const place = sample % this.#size;
    for (let index = 0; index < GROUPS; index++) classes[index] = this.#classes[place * GROUPS + index] as number;
    for (let index = 0; index < MEASURES; index++) measures[index] = this.#measures[place * MEASURES + index] as number;
  }
}
