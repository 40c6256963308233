import { randomInt } from 'node:crypto';
import { RowList } from '../model/rows.ts';
import { cellStart, type Identity, type KeyTuple, type Tuple } from '../model/tuple.ts';
import { Arena } from './arena.ts';
import type { Copies, PendingEntry } from './pending.ts';

/** What a fold comes to, where its images are whole or to be completed by what stands under their own keys. */
export interface Settled {
  readonly deletes: RowList<KeyTuple>;
  readonly patches: RowList;
  readonly puts: RowList;
  /** Whole rows whose keys were free before the fold. */
  readonly inserts: RowList;
}

/** Where an image's absent columns come from: it has none, what stands under its own key, or a row that stood under another. */
export type Origin = 'none' | 'own' | Identity;

/** What an entry occupies beside its row's bytes: its words, its slots, and what both have grown too far. */
export const ENTRY_BYTES = 72;

// An entry's words.
const HASH = 0;
const KEY_BUFFER = 1;
const KEY_START = 2;
const KEY_END = 3;
const ROW_BUFFER = 4;
const ROW_START = 5;
const ROW_END = 6;
const STATE = 7;
const WORDS = 8;

// An entry's state.
const PUT = 1;
const DELETE = 2;
const COUNT = 3;
const KIND = 3;
const STOOD = 4;
/** Absent columns are those of the row that stands under its own key. */
const OWN = 8;

const ENTRIES_FIRST = 64;

/** So that nobody who chooses the keys can make them meet in one slot. */
const SEED = randomInt(1 << 30);

/**
 * The entries of a fold by identity: a hash table over the bytes where they lie, in a few arrays of integers. A Map with an object for
 * each entry and a string for each identity took half of the time of a fold, and its garbage as much again (measured, Node 24).
 */
export class Entries {
  readonly #key: readonly number[];
  /** The key's cells lie beside each other in a row, in the key's order. */
  readonly #inOneRun: boolean;
  readonly #buffers: Buffer[] = [];
  #last: Buffer | null = null;
  #lastBuffer = -1;
  #words: Int32Array = new Int32Array(WORDS * ENTRIES_FIRST);
  /** The number of an entry, from 1 on; as many again are free at least. */
  #slots: Int32Array = new Int32Array(2 * ENTRIES_FIRST);
  #size = 0;
  /** Of them, those that say nothing: they are new, or were forgotten. */
  #silent = 0;
  readonly #owns: boolean;
  /** Keys whose cells lie apart are put together here; where the bytes are owned, all keys and rows. */
  readonly #arena: Arena;
  readonly #moved = new Map<number, Identity>();
  readonly #copies = new Map<number, Copies>();
  /** The identity last placed. */
  #keyBytes: Buffer;
  #keyStart = 0;
  #keyEnd = 0;

  /** @param owns whether keys and rows are copied, so that the bytes they came in need not be kept. */
  constructor(key: readonly number[], owns = false) {
    this.#key = key;
    this.#owns = owns;
    this.#arena = new Arena(owns);
    this.#keyBytes = this.#arena.buffer;
    this.#inOneRun = key.every((column, index) => column === (key[0] as number) + index);
  }

  get size(): number {
    return this.#size - this.#silent;
  }

  /** What it occupies, where it owns its bytes; how much of it is in use is for others to know. */
  get ownBytes(): number {
    return this.#arena.bytes;
  }

  /** Entries that say nothing any more occupy as much as others. */
  get places(): number {
    return this.#size;
  }

  clear(): void {
    this.#size = 0;
    this.#silent = 0;
    this.#slots.fill(0);
    this.#moved.clear();
    this.#copies.clear();
    this.#buffers.length = 0;
    this.#last = null;
    this.#arena.number = -1;
  }

  /** The entry of a row's key; one that is new says nothing yet. */
  ofRow(bytes: Buffer, start: number): number {
    this.#placeRow(bytes, start);
    return this.#findOrAdd();
  }

  /** The entry of a key's tuple; one that is new says nothing yet. */
  ofKey(bytes: Buffer, start: number, end: number): number {
    this.#placeKey(bytes, start, end);
    return this.#findOrAdd();
  }

  /** Whether a row has this key. */
  hasKey(bytes: Buffer, start: number, key: Buffer, keyStart: number, keyEnd: number): boolean {
    this.#placeRow(bytes, start);
    return key.compare(this.#keyBytes, this.#keyStart, this.#keyEnd, keyStart + 2, keyEnd) === 0;
  }

  /** The row of a put, or the bytes of a count. */
  rowOf(entry: number): Tuple | null {
    const at = entry * WORDS;
    const end = this.#word(at + ROW_END);
    return end === 0 ? null : (this.#bufferAt(at + ROW_BUFFER).subarray(this.#word(at + ROW_START), end) as Tuple);
  }

  rowBytes(entry: number): number {
    const at = entry * WORDS;
    return this.#word(at + ROW_END) - this.#word(at + ROW_START);
  }

  /** Of the image, or of the key where the row is deleted. */
  bytesOf(entry: number): number {
    const at = entry * WORDS;
    return this.isPut(entry) ? this.rowBytes(entry) : this.#word(at + KEY_END) - this.#word(at + KEY_START) + 2;
  }

  /** Stands for the identity where two may share a number: below 2^31, and another in another process. */
  numberOf(entry: number): number {
    return this.#word(entry * WORDS + HASH) >>> 1;
  }

  isPut(entry: number): boolean {
    return (this.#word(entry * WORDS + STATE) & KIND) === PUT;
  }

  /** `null` where it was not heard of before. */
  stood(entry: number): boolean | null {
    const state = this.#word(entry * WORDS + STATE);
    return (state & KIND) === 0 || (state & KIND) === COUNT ? null : (state & STOOD) !== 0;
  }

  originOf(entry: number): Origin {
    return (this.#word(entry * WORDS + STATE) & OWN) === 0 ? (this.#moved.get(entry) ?? 'none') : 'own';
  }

  copiesOf(entry: number): Copies | null {
    return this.#copies.get(entry) ?? null;
  }

  put(entry: number, bytes: Buffer, start: number, end: number, origin: Origin, stood: boolean): void {
    this.#place(entry, bytes, start, end);
    this.#set(entry, PUT | (stood ? STOOD : 0) | (origin === 'own' ? OWN : 0));
    if (origin !== 'none' && origin !== 'own') this.#moved.set(entry, origin);
  }

  /** The key's tuple lies at `start`. */
  delete(entry: number, bytes: Buffer, start: number, end: number, stood: boolean): void {
    const at = entry * WORDS;
    const kept = this.#owns ? this.#arena.keep(bytes, start, end) : start;
    this.#words[at + KEY_BUFFER] = this.#owns ? this.#arenaNumber() : this.#bufferOf(bytes);
    this.#words[at + KEY_START] = kept + 2;
    this.#words[at + KEY_END] = kept + end - start;
    this.#words[at + ROW_START] = 0;
    this.#words[at + ROW_END] = 0;
    this.#set(entry, DELETE | (stood ? STOOD : 0));
  }

  /** It says nothing any more, as if the row had not been heard of. */
  forget(entry: number): void {
    const at = entry * WORDS;
    this.#words[at + ROW_START] = 0;
    this.#words[at + ROW_END] = 0;
    this.#set(entry, 0);
  }

  /** Takes over an entry of another's. Returns which it is here. */
  adopt(from: Entries, theirs: number): number {
    const at = theirs * WORDS;
    this.#keyBytes = from.#bufferAt(at + KEY_BUFFER);
    this.#keyStart = from.#word(at + KEY_START);
    this.#keyEnd = from.#word(at + KEY_END);
    const entry = this.#findOrAdd();
    const stood = from.stood(theirs) === true;
    if (from.isPut(theirs)) {
      const row = from.#bufferAt(at + ROW_BUFFER);
      this.put(entry, row, from.#word(at + ROW_START), from.#word(at + ROW_END), from.originOf(theirs), stood);
    } else {
      const key = from.#bufferAt(at + KEY_BUFFER);
      this.delete(entry, key, from.#word(at + KEY_START) - 2, from.#word(at + KEY_END), stood);
    }
    return entry;
  }

  count(entry: number, row: Tuple | null, copies: Copies): void {
    if (row !== null) this.#place(entry, row, 0, row.length);
    this.#set(entry, COUNT);
    this.#copies.set(entry, copies);
  }

  identityOf(entry: number): Identity {
    const at = entry * WORDS;
    return this.#bufferAt(at + KEY_BUFFER).toString('latin1', this.#word(at + KEY_START), this.#word(at + KEY_END)) as Identity;
  }

  has(identity: Identity): boolean {
    const entry = this.#find(identity);
    return entry !== -1 && this.#says(entry);
  }

  get(identity: Identity): PendingEntry | undefined {
    const entry = this.#find(identity);
    return entry === -1 || !this.#says(entry) ? undefined : this.#entryAt(entry);
  }

  *keys(): Generator<Identity> {
    for (let entry = 0; entry < this.#size; entry++) if (this.#says(entry)) yield this.identityOf(entry);
  }

  *[Symbol.iterator](): Generator<[Identity, PendingEntry]> {
    for (let entry = 0; entry < this.#size; entry++) if (this.#says(entry)) yield [this.identityOf(entry), this.#entryAt(entry)];
  }

  /** Whether each entry can be written without a look at what stands, and without the others. */
  get isPlain(): boolean {
    return this.#moved.size === 0 && this.#copies.size === 0;
  }

  /** All of them, or these. Null where rows came from other keys with columns absent, or copies were counted: those need a look at what stands. */
  settled(some?: readonly number[]): Settled | null {
    if (!this.isPlain) return null;
    const lists: Settled = { deletes: new RowList(), patches: new RowList(), puts: new RowList(), inserts: new RowList() };
    if (some === undefined) for (let entry = 0; entry < this.#size; entry++) this.#settle(lists, entry);
    else for (const entry of some) this.#settle(lists, entry);
    return lists;
  }

  #settle(lists: Settled, entry: number): void {
    const at = entry * WORDS;
    const state = this.#word(at + STATE);
    const stood = (state & STOOD) !== 0;
    if ((state & KIND) === DELETE) {
      if (stood) lists.deletes.add(this.#bufferAt(at + KEY_BUFFER), this.#word(at + KEY_START) - 2, this.#word(at + KEY_END));
    } else if ((state & KIND) === PUT) {
      const list = (state & OWN) !== 0 ? lists.patches : stood ? lists.puts : lists.inserts;
      list.add(this.#bufferAt(at + ROW_BUFFER), this.#word(at + ROW_START), this.#word(at + ROW_END));
    }
  }

  #entryAt(entry: number): PendingEntry {
    const state = this.#word(entry * WORDS + STATE);
    const stood = (state & STOOD) !== 0;
    if ((state & KIND) === DELETE) return { kind: 'delete', stood };
    const row = this.rowOf(entry);
    if ((state & KIND) === COUNT) return { kind: 'count', row, ...(this.#copies.get(entry) as Copies) };
    const from = (state & OWN) !== 0 ? this.identityOf(entry) : (this.#moved.get(entry) ?? null);
    return { kind: 'put', row: row as Tuple, from, stood };
  }

  #says(entry: number): boolean {
    return (this.#word(entry * WORDS + STATE) & KIND) !== 0;
  }

  #set(entry: number, state: number): void {
    if (!this.#says(entry)) this.#silent--;
    if ((state & KIND) === 0) this.#silent++;
    this.#words[entry * WORDS + STATE] = state;
    if (this.#moved.size > 0) this.#moved.delete(entry);
    if (this.#copies.size > 0) this.#copies.delete(entry);
  }

  #place(entry: number, bytes: Buffer, start: number, end: number): void {
    const at = entry * WORDS;
    let from = start;
    if (!this.#owns) this.#words[at + ROW_BUFFER] = this.#bufferOf(bytes);
    else if (end - start <= this.rowBytes(entry)) {
      // Where the image before it lay: a row that changes all the time takes no more room each time.
      from = this.#word(at + ROW_START);
      bytes.copy(this.#bufferAt(at + ROW_BUFFER), from, start, end);
    } else {
      from = this.#arena.keep(bytes, start, end);
      this.#words[at + ROW_BUFFER] = this.#arenaNumber();
    }
    this.#words[at + ROW_START] = from;
    this.#words[at + ROW_END] = from + end - start;
  }

  #arenaNumber(): number {
    if (this.#arena.number === -1) this.#arena.number = this.#buffers.push(this.#arena.buffer) - 1;
    return this.#arena.number;
  }

  #placeKey(bytes: Buffer, start: number, end: number): void {
    this.#keyBytes = bytes;
    this.#keyStart = start + 2;
    this.#keyEnd = end;
  }

  #placeRow(bytes: Buffer, start: number): void {
    if (!this.#inOneRun) {
      this.#gather(bytes, start);
      return;
    }
    let end = cellStart(bytes, this.#key[0] as number, start);
    this.#keyBytes = bytes;
    this.#keyStart = end;
    for (let cells = this.#key.length; cells > 0; cells--) end += cellBytes(bytes, end);
    this.#keyEnd = end;
  }

  /** What is gathered for a key that is known already is overwritten by the next. */
  #gather(bytes: Buffer, start: number): void {
    let size = 0;
    for (const column of this.#key) size += cellBytes(bytes, cellStart(bytes, column, start));
    const arena = this.#arena;
    arena.room(size);
    let end = arena.length;
    for (const column of this.#key) {
      const at = cellStart(bytes, column, start);
      end += bytes.copy(arena.buffer, end, at, at + cellBytes(bytes, at));
    }
    this.#keyBytes = arena.buffer;
    this.#keyStart = arena.length;
    this.#keyEnd = end;
  }

  #find(identity: Identity): number {
    this.#keyBytes = Buffer.from(identity, 'latin1');
    this.#keyStart = 0;
    this.#keyEnd = this.#keyBytes.length;
    return this.#look(this.#hash());
  }

  #findOrAdd(): number {
    const hash = this.#hash();
    const found = this.#look(hash);
    if (found !== -1) return found;
    const entry = this.#size++;
    this.#silent++;
    if (this.#keyBytes === this.#arena.buffer) this.#arena.length = this.#keyEnd;
    else if (this.#owns) {
      const size = this.#keyEnd - this.#keyStart;
      this.#keyStart = this.#arena.keep(this.#keyBytes, this.#keyStart, this.#keyEnd);
      this.#keyEnd = this.#keyStart + size;
      this.#keyBytes = this.#arena.buffer;
    }
    if (2 * this.#size > this.#slots.length) this.#grow();
    const at = entry * WORDS;
    const words = this.#words;
    words[at + HASH] = hash;
    words[at + KEY_BUFFER] = this.#keyBytes === this.#arena.buffer ? this.#arenaNumber() : this.#bufferOf(this.#keyBytes);
    words[at + KEY_START] = this.#keyStart;
    words[at + KEY_END] = this.#keyEnd;
    words[at + ROW_START] = 0;
    words[at + ROW_END] = 0;
    words[at + STATE] = 0;
    this.#fill(entry, hash);
    return entry;
  }

  /** The entry of the identity last placed, or -1. */
  #look(hash: number): number {
    const mask = this.#slots.length - 1;
    for (let slot = hash & mask; ; slot = (slot + 1) & mask) {
      const entry = (this.#slots[slot] as number) - 1;
      if (entry === -1) return -1;
      if (this.#words[entry * WORDS + HASH] === hash && this.#isPlaced(entry)) return entry;
    }
  }

  #isPlaced(entry: number): boolean {
    const at = entry * WORDS;
    const start = this.#word(at + KEY_START);
    const length = this.#keyEnd - this.#keyStart;
    if (this.#word(at + KEY_END) - start !== length) return false;
    const bytes = this.#bufferAt(at + KEY_BUFFER);
    for (let i = 0; i < length; i++) if (bytes[start + i] !== this.#keyBytes[this.#keyStart + i]) return false;
    return true;
  }

  /** FNV-1a (http://www.isthe.com/chongo/tech/comp/fnv/), its upper bits folded into the lower ones, which choose the slot. */
  #hash(): number {
    const bytes = this.#keyBytes;
    let hash = SEED;
    for (let at = this.#keyStart; at < this.#keyEnd; at++) hash = Math.imul(hash ^ (bytes[at] as number), 0x0100_0193);
    return hash ^ (hash >>> 15);
  }

  #fill(entry: number, hash: number): void {
    const mask = this.#slots.length - 1;
    let slot = hash & mask;
    while (this.#slots[slot] !== 0) slot = (slot + 1) & mask;
    this.#slots[slot] = entry + 1;
  }

  #grow(): void {
    const words = new Int32Array(this.#words.length * 2);
    words.set(this.#words);
    this.#words = words;
    this.#slots = new Int32Array(this.#slots.length * 2);
    for (let entry = 0; entry < this.#size - 1; entry++) this.#fill(entry, this.#word(entry * WORDS + HASH));
  }

  #bufferOf(bytes: Buffer): number {
    if (bytes !== this.#last) {
      this.#last = bytes;
      this.#lastBuffer = this.#buffers.push(bytes) - 1;
    }
    return this.#lastBuffer;
  }

  #bufferAt(word: number): Buffer {
    return this.#buffers[this.#word(word)] as Buffer;
  }

  #word(at: number): number {
    return this.#words[at] as number;
  }
}

function cellBytes(bytes: Buffer, at: number): number {
  return 4 + Math.max(bytes.readInt32BE(at), 0);
}
