import { statSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { Host } from '../../tracking/host.ts';
import type { LoadReading, LoadSample } from '../../tracking/load.ts';

/** Bytes that a writer locks: in the WAL's index, and without one in the file, where it goes on from the second to the first. */
const INDEX_WRITER = 120n;
const PENDING = 0x4000_0000n;
const RESERVED = PENDING + 1n;

/** What those who ask the file meet. */
export interface SqliteEncounters {
  /** Looks at the file that found something committed since the one before. */
  readonly commits: bigint;
  /** Questions that met another program's lock. */
  readonly busy: bigint;
}

/**
 * How busy a SQLite file is. Nothing is locked for it, so no program waits; and the file's headers are not read, for closing a file takes
 * away the locks that SQLite holds on it in this process.
 */
export class SqliteLoad {
  readonly #path: string;
  readonly #host = new Host();

  constructor(path: string) {
    this.#path = path;
  }

  async sample({ commits, busy }: SqliteEncounters): Promise<LoadSample> {
    const counter = { kind: 'counter', epoch: 'process', unit: 1, includesOurs: false } as const;
    const readings: LoadReading[] = [
      { ...counter, resource: 'commits', total: commits },
      { ...counter, resource: 'busy.waits', total: busy },
      ...(await this.#writer()),
      ...(await this.#host.readings(this.#path, [])),
    ];
    return { atMs: Date.now(), readings };
  }

  /** Whether some program is writing at this moment: Linux tells who holds locks. Ours are there for milliseconds, hours apart. */
  async #writer(): Promise<LoadReading[]> {
    const locks = await readFile('/proc/locks', 'utf8').catch(() => null); // another system, which does not tell
    if (locks === null) return [];
    const held = isLocked(locks, `${this.#path}-shm`, [INDEX_WRITER]) || isLocked(locks, this.#path, [RESERVED, PENDING]);
    return [{ kind: 'gauge', resource: 'writer', value: held ? 1 : 0, includesOurs: false }];
  }
}

function isLocked(locks: string, path: string, bytes: readonly bigint[]): boolean {
  const stat = statSync(path, { bigint: true, throwIfNoEntry: false });
  if (stat === undefined) return false;
  return locks.split('\n').some((line) => {
    const [, , , mode, , place, first, last] = line.trim().split(/\s+/);
    if (mode !== 'WRITE' || place?.endsWith(`:${stat.ino}`) !== true || first === undefined || last === undefined) return false;
    return bytes.some((byte) => BigInt(first) <= byte && (last === 'EOF' || byte <= BigInt(last)));
  });
}
