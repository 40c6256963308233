import type { Identity } from '../model/tuple.ts';

/** So many hashes take some 60 MB. */
const KEYS_MAX = 1 << 21;

/**
 * Keys that folds spoke of since the first copy of a table began: of the rows that a chunk brings, only theirs may stand in the shadow
 * already, so others need not be looked for. Hashes tell: two keys that share one are looked for both, and beyond a bound all are.
 */
export class Touched {
  readonly #hashes = new Set<number>();

  add(identity: Identity): void {
    if (this.#hashes.size < KEYS_MAX) this.#hashes.add(hashOf(identity));
  }

  has(identity: Identity): boolean {
    return this.#hashes.size >= KEYS_MAX || this.#hashes.has(hashOf(identity));
  }
}

/** FNV-1a (http://www.isthe.com/chongo/tech/comp/fnv/), in the 30 bits of a small integer. */
function hashOf(identity: Identity): number {
  let hash = 0x811c_9dc5;
  for (let at = 0; at < identity.length; at++) hash = Math.imul(hash ^ identity.charCodeAt(at), 0x0100_0193);
  return (hash ^ (hash >>> 15)) & 0x3fff_ffff;
}
