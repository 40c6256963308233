/**
 * How many different things were seen, from hashes of 32 bits: exactly up to `EXACT_MAX` (but for the rare pair that shares a hash:
 * one in eight thousand sets of that size has one), from then on estimated with a standard error of 1.6 %, in 4 KiB. Two of them merge
 * into what one would be that saw both: so minutes roll up into hours and days without anything being counted twice.
 *
 * The estimate is HyperLogLog's, by the estimator of Ertl, "New cardinality estimation algorithms for HyperLogLog sketches"
 * (arXiv 1702.01284, algorithm 6), which needs no tables of corrections at either end.
 */
export class Distinct {
  /** Hashes in open addressing, 0 where a place is free; null once there are too many. */
  #exact: Uint32Array | null;
  #seen = 0;
  #registers: Uint8Array | null = null;

  constructor() {
    this.#exact = new Uint32Array(FIRST_PLACES);
  }

  /** Whether `count` is a count and no estimate. */
  get isExact(): boolean {
    return this.#exact !== null;
  }

  add(hash: number): void {
    const registers = this.#registers;
    if (registers === null) {
      this.#addExact(hash === 0 ? 1 : hash);
      return;
    }
    const register = hash >>> REST_BITS;
    const rank = Math.clz32((hash << INDEX_BITS) | (1 << (INDEX_BITS - 1))) + 1;
    if (rank > (registers[register] as number)) registers[register] = rank;
  }

  /** Takes in what another one saw; the other stays as it is. */
  merge(other: Distinct): void {
    if (other.#exact !== null) {
      for (const hash of other.#exact) if (hash !== 0) this.add(hash);
      return;
    }
    const registers = this.#estimating();
    for (const [index, rank] of (other.#registers as Uint8Array).entries()) {
      if (rank > (registers[index] as number)) registers[index] = rank;
    }
  }

  get count(): number {
    return this.#registers === null ? this.#seen : Math.round(estimate(this.#registers));
  }

  /** Exact hashes, four bytes each, or all registers: `read` makes the same of them again. */
  bytes(): Uint8Array {
    if (this.#exact === null) return Uint8Array.from(this.#registers as Uint8Array);
    const bytes = new DataView(new ArrayBuffer(4 * this.#seen));
    let at = 0;
    for (const hash of this.#exact) {
      if (hash === 0) continue;
      bytes.setUint32(at, hash);
      at += 4;
    }
    return new Uint8Array(bytes.buffer);
  }

  /** @throws RangeError for bytes that `bytes` did not make. */
  static read(bytes: Uint8Array): Distinct {
    const distinct = new Distinct();
    if (bytes.length === REGISTERS) {
      if (bytes.some((rank) => rank > REST_BITS + 1)) throw new RangeError('a register of a sketch is out of range');
      distinct.#exact = null;
      distinct.#registers = Uint8Array.from(bytes);
      return distinct;
    }
    if (bytes.length % 4 !== 0 || bytes.length > 4 * EXACT_MAX) throw new RangeError(`${bytes.length} bytes are no sketch`);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    for (let at = 0; at < bytes.length; at += 4) distinct.add(view.getUint32(at));
    return distinct;
  }

  #addExact(hash: number): void {
    const exact = this.#exact as Uint32Array;
    const last = exact.length - 1;
    let place = hash & last;
    for (;;) {
      const standing = exact[place];
      if (standing === hash) return;
      if (standing === 0) break;
      place = (place + 1) & last;
    }
    if (this.#seen === EXACT_MAX) {
      this.#estimating();
      this.add(hash);
      return;
    }
    exact[place] = hash;
    this.#seen++;
    if (this.#seen * 2 > exact.length) this.#grow(exact);
  }

  #grow(before: Uint32Array): void {
    const exact = new Uint32Array(before.length * 2);
    const last = exact.length - 1;
    for (const hash of before) {
      if (hash === 0) continue;
      let place = hash & last;
      while (exact[place] !== 0) place = (place + 1) & last;
      exact[place] = hash;
    }
    this.#exact = exact;
  }

  #estimating(): Uint8Array {
    if (this.#registers !== null) return this.#registers;
    const exact = this.#exact as Uint32Array;
    this.#registers = new Uint8Array(REGISTERS);
    this.#exact = null;
    for (const hash of exact) if (hash !== 0) this.add(hash);
    return this.#registers;
  }
}

const INDEX_BITS = 12;
const REST_BITS = 32 - INDEX_BITS;
const REGISTERS = 1 << INDEX_BITS;
/** One less than would fill the registers' bytes: the length of the bytes tells the two apart. */
const EXACT_MAX = REGISTERS / 4 - 1;
const FIRST_PLACES = 16;

function estimate(registers: Uint8Array): number {
  const histogram = new Uint32Array(REST_BITS + 2);
  for (const rank of registers) histogram[rank] = (histogram[rank] as number) + 1;
  let sum = REGISTERS * tau(1 - (histogram[REST_BITS + 1] as number) / REGISTERS);
  for (let rank = REST_BITS; rank >= 1; rank--) sum = 0.5 * (sum + (histogram[rank] as number));
  sum += REGISTERS * sigma((histogram[0] as number) / REGISTERS);
  return (REGISTERS * REGISTERS) / (2 * Math.LN2 * sum);
}

/** Weighs registers that nothing fell into. */
function sigma(share: number): number {
  if (share === 1) return Number.POSITIVE_INFINITY;
  let [x, y, sum] = [share, 1, share];
  for (let before = Number.NaN; sum !== before; ) {
    x *= x;
    before = sum;
    sum += x * y;
    y += y;
  }
  return sum;
}

/** Weighs registers that hold the greatest rank there is. */
function tau(share: number): number {
  if (share === 0 || share === 1) return 0;
  let [x, y, sum] = [share, 1, 1 - share];
  for (let before = Number.NaN; sum !== before; ) {
    x = Math.sqrt(x);
    before = sum;
    y *= 0.5;
    sum -= (1 - x) ** 2 * y;
  }
  return sum / 3;
}

/**
 * Continues a hash over bytes; begin with 0, end with `finishHash`. Four bytes cost one multiplication: this is done for every change, and
 * what it lacks in mixing is made good once, at the end.
 */
export function hashBytes(bytes: DataView, start: number, end: number, hash: number): number {
  let mixed = hash ^ Math.imul(end - start + 1, 0x27d4eb2f);
  let at = start;
  for (; at + 4 <= end; at += 4) {
    mixed = Math.imul(mixed ^ bytes.getInt32(at), 0x9e3779b1);
    mixed ^= mixed >>> 15;
  }
  if (at < end) {
    let word = 0;
    for (; at < end; at++) word = (word << 8) | bytes.getUint8(at);
    mixed = Math.imul(mixed ^ word, 0x85ebca6b);
    mixed ^= mixed >>> 15;
  }
  return mixed;
}

/** Spreads what was hashed over all 32 bits, unsigned (MurmurHash3's last steps, which are in the public domain). */
export function finishHash(hash: number): number {
  let mixed = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}
