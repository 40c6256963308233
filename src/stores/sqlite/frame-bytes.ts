import { crc32 } from 'node:zlib';
import { ForeshadowError } from '../../model/errors.ts';
import type { Statements } from './journal-statements.ts';

/** What was written and not read yet is kept up to here. */
const UNREAD_BYTES_MAX = 16 << 20;
/** Frames that found no room since one was last read: nobody reads what is kept. */
const PASSED_MAX = 64;

/**
 * The bytes of frames. Those written a moment ago and not read yet are kept: who folds them is close behind, and is spared the reading,
 * which takes a third as long as the writing. When there is no more room none is added until some were read, so that a reader who has
 * fallen behind still finds some.
 */
export class FrameBytes {
  readonly #path: string;
  readonly #sql: Statements;
  readonly #unread = new Map<number, Buffer>();
  #unreadBytes = 0;
  #passed = 0;
  /** Of the transaction that is being written. */
  #inserted: { readonly id: number; readonly bytes: Buffer }[] = [];

  constructor(path: string, sql: Statements) {
    this.#path = path;
    this.#sql = sql;
  }

  /** Within a transaction. Returns their check sum. */
  insert(id: number, bytes: Buffer): number {
    this.#sql.insertBytes.run(id, bytes);
    this.#inserted.push({ id, bytes });
    return crc32(bytes);
  }

  /** The transaction has ended. */
  ended(committed: boolean): void {
    if (committed) for (const { id, bytes } of this.#inserted) this.#keep(id, bytes);
    this.#inserted = [];
  }

  /** Throws JOURNAL_ACCESS where they are not what was written. */
  of(id: number, crc: number, what: string): Buffer {
    const unread = this.#unread.get(id);
    if (unread !== undefined) {
      this.#unread.delete(id);
      this.#unreadBytes -= unread.length;
      this.#passed = 0;
      return unread;
    }
    const found = this.#sql.bytes.get(id)?.['bytes'] as Uint8Array | undefined;
    const bytes = found === undefined ? null : Buffer.from(found.buffer, found.byteOffset, found.byteLength);
    if (bytes === null || crc32(bytes) !== crc) throw journalDamaged(this.#path, what);
    return bytes;
  }

  #keep(id: number, bytes: Buffer): void {
    if (this.#unreadBytes + bytes.length <= UNREAD_BYTES_MAX) {
      this.#unread.set(id, bytes);
      this.#unreadBytes += bytes.length;
    } else if (++this.#passed >= PASSED_MAX) {
      this.#unread.clear();
      this.#unreadBytes = 0;
      this.#passed = 0;
    }
  }
}

export function journalDamaged(path: string, what: string): ForeshadowError {
  return new ForeshadowError('JOURNAL_ACCESS', `the journal ${path} is damaged: ${what}`, {
    remedy: 'Move the file away and start again: tracking begins anew, and the tables are resynced by comparison.',
  });
}
