import { DatabaseError } from 'pg';
import { ForeshadowError, messageOf } from '../../model/errors.ts';
import { Pulse } from '../../model/pulse.ts';
import { Turns } from '../../model/turns.ts';
import { moved } from '../../shadowing/shadow.ts';
import type { Claim } from './claim.ts';
import { codeOf } from './connection.ts';
import { OWN_SCHEMA } from './layout.ts';
import { PASS_SETTING } from './guard.ts';
import { endStaging } from './staging.ts';
import { Wire } from './wire.ts';

/** How our own transactions get past the guard. */
export type GuardPass = 'replica' | 'setting';

/** One writing connection, whose transactions follow one another. */
export class Writer implements AsyncDisposable {
  readonly #url: string;
  readonly #purpose: string;
  readonly #claim: Claim;
  #wire: Wire | null = null;
  readonly #turns = new Turns();
  #pass: GuardPass = 'setting';
  #writing = 0;
  /** Committed here last, while that may be lost: its answer is awaited, or it did not wait for the disk. */
  #unsettled: Wire | null = null;

  constructor(url: string, purpose: string, claim: Claim) {
    this.#url = url;
    this.#purpose = purpose;
    this.#claim = claim;
  }

  /**
   * One transaction under the claim: durable when it resolves, or where it is `unflushed` with the next that is; `beside`: with that of another
   * connection, which comes after it. All failures are ForeshadowErrors.
   */
  write<T>(work: (wire: Wire) => Promise<T>, signal?: AbortSignal, durable: 'flushed' | 'unflushed' | 'beside' = 'flushed'): Promise<T> {
    const flushing = durable === 'flushed' ? '' : '; SET LOCAL synchronous_commit = off';
    return this.#write(
      async (wire) => {
        const result = await work(wire);
        signal?.throwIfAborted();
        const before = this.#unsettled;
        this.#unsettled = wire;
        await commit(wire);
        if (durable !== 'unflushed') this.#unsettled = durable === 'beside' ? before : null;
        return result;
      },
      signal,
      flushing,
    );
  }

  /**
   * What was committed is on the disk. Asked on the connection that committed it: a crash of the server in between would have ended that one.
   * A COMMIT flushes the log only where the transaction has an id: the claim's row lock gives it one.
   */
  async flush(): Promise<void> {
    if (this.#unsettled === null) return;
    await this.#write(async (wire) => {
      await commit(wire);
      this.#unsettled = null;
    });
  }

  /** Whoever relied on what may be lost has read what is there. */
  forgive(): void {
    if (this.#unsettled?.broken === true) this.#unsettled = null;
  }

  /** As `write`, of statements whose results do not matter: two round trips in all. */
  run(sql: string): Promise<void> {
    return this.#write((wire) => commit(wire, sql));
  }

  /** No transaction runs or waits. */
  get idle(): boolean {
    return this.#writing === 0;
  }

  /** `work` ends with the commit. */
  #write<T>(work: (wire: Wire) => Promise<T>, signal?: AbortSignal, settings = ''): Promise<T> {
    this.#writing++;
    const written = this.#turns.take(async () => {
      signal?.throwIfAborted();
      const wire = await this.#open();
      try {
        await this.#claim.verify(wire, `BEGIN; ${this.#settings()}${settings}`);
        const result = await work(wire);
        endStaging(wire, true);
        return result;
      } catch (error) {
        endStaging(wire, false);
        if (!wire.broken) await wire.query('ROLLBACK').catch(() => wire.close());
        signal?.throwIfAborted();
        throw serverFailure(wire, error);
      }
    });
    return written.finally(() => this.#writing--);
  }

  /** Statements that only read, on this connection. */
  async read<T>(work: (wire: Wire) => Promise<T>): Promise<T> {
    return this.#turns.take(async () => {
      const wire = await this.#open();
      try {
        return await work(wire);
      } catch (error) {
        throw serverFailure(wire, error);
      }
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#turns.take(async () => this.#wire?.close());
  }

  /**
   * The default plan for a small batch against a big table is a hash join with a scan of the whole table (4 times slower): the
   * stage has no statistics. Sorted batches through the key's index win at every ratio that was measured.
   */
  #settings(): string {
    const pass = this.#pass === 'replica' ? 'SET LOCAL session_replication_role = replica; ' : '';
    return `${pass}SET LOCAL ${PASS_SETTING} = 'on'; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off`;
  }

  async #open(): Promise<Wire> {
    if (this.#wire?.broken === false) return this.#wire;
    if (this.#unsettled !== null) throw moved('The connection to the shadow was lost, and with it what was on its way to the disk may be');
    const wire = await Wire.open(this.#url, { side: 'shadow', purpose: this.#purpose });
    this.#pass = await guardPass(wire);
    // A long reader of a live table must not stop all shadowing with it: what waits for its lock gives up and is tried again.
    await wire.query("SET client_min_messages = warning; SET synchronous_commit = 'local'; SET lock_timeout = '10s'");
    await wire.query(QUICKEST_COMPRESSION);
    this.#wire = wire;
    return wire;
  }
}

/** Of large values: several times quicker than the default, where the server was built with it. */
const QUICKEST_COMPRESSION = `SELECT set_config('default_toast_compression', 'lz4', false) FROM pg_settings
  WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)`;

/** After the `last` statements. A COMMIT of a transaction that failed answers ROLLBACK and no error. */
async function commit(wire: Wire, last = ''): Promise<void> {
  const result = (await wire.query(`${last}; COMMIT`)).at(-1);
  if (result?.tag !== 'COMMIT') throw new Error(`the transaction was not committed: ${result?.tag ?? 'no answer'}`);
}

/** Superusers, and from 15 on roles with `GRANT SET ON PARAMETER session_replication_role`, may act as a replica. */
export async function guardPass(wire: Wire): Promise<GuardPass> {
  try {
    await wire.query('BEGIN; SET LOCAL session_replication_role = replica; COMMIT');
    return 'replica';
  } catch (error) {
    await wire.query('ROLLBACK');
    if ((error as { code?: unknown }).code === '42501') return 'setting';
    throw error;
  }
}

/** A table of ours, or the schema, is not there. */
export function isUnprepared(error: unknown): boolean {
  return ['42P01', '3F000'].includes(codeOf(error)) && messageOf(error).includes(OWN_SCHEMA);
}

export function unprepared(cause: unknown): ForeshadowError {
  return new ForeshadowError('TABLE_MISSING', 'The shadow holds nothing of ours: it was never prepared', {
    remedy: 'Run `foreshadow capture` or `foreshadow start` first, or correct the URL of the shadow.',
    cause,
  });
}

/** Errors of the server and of the connection as ForeshadowErrors; what the rows' source threw stays what it is. */
function serverFailure(wire: Wire, error: unknown): unknown {
  if (isUnprepared(error)) return unprepared(error);
  return error instanceof DatabaseError || wire.broken ? wire.failure(error) : error;
}

const READERS_MAX = 4;
const NEVER = new AbortController().signal;

/** Connections that read, each in a snapshot of its own, beside the writer. */
export class Readers implements AsyncDisposable {
  readonly #url: string;
  readonly #idle: Wire[] = [];
  readonly #freed = new Pulse();
  #open = 0;

  constructor(url: string) {
    this.#url = url;
  }

  /** Runs `work` in a read transaction: one snapshot, which it takes with its first statement that reads. */
  async read<T>(work: (wire: Wire) => Promise<T>, signal?: AbortSignal): Promise<T> {
    const wire = await this.#take(signal);
    try {
      return await work(wire);
    } catch (error) {
      signal?.throwIfAborted();
      throw serverFailure(wire, error);
    } finally {
      await this.#give(wire);
    }
  }

  /** Like `read`, for what is read bit by bit. The connection is held until the consumer has enough. */
  async *stream<T>(work: (wire: Wire) => AsyncIterable<T>, signal: AbortSignal): AsyncIterable<T> {
    const wire = await this.#take(signal);
    try {
      yield* work(wire);
    } catch (error) {
      signal.throwIfAborted();
      throw serverFailure(wire, error);
    } finally {
      await this.#give(wire);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const wire of this.#idle.splice(0)) await wire.close();
  }

  async #take(signal?: AbortSignal): Promise<Wire> {
    while (this.#open >= READERS_MAX && this.#idle.length === 0) await this.#freed.next(signal ?? NEVER);
    signal?.throwIfAborted();
    for (let wire = this.#idle.pop(); wire !== undefined; wire = this.#idle.pop()) {
      if (!wire.broken) return wire;
      this.#open -= 1;
    }
    this.#open += 1;
    try {
      const wire = await Wire.open(this.#url, { side: 'shadow', purpose: 'reading' }, signal);
      await wire.query('SET client_min_messages = warning');
      return wire;
    } catch (error) {
      this.#open -= 1;
      this.#freed.beat();
      throw error;
    }
  }

  async #give(wire: Wire): Promise<void> {
    try {
      // Committed, so that the session keeps its temporary tables; a transaction that failed answers ROLLBACK.
      if (!wire.broken) endStaging(wire, (await wire.query('COMMIT'))[0]?.tag === 'COMMIT');
    } catch {
      await wire.close();
    }
    if (wire.broken) this.#open -= 1;
    else this.#idle.push(wire);
    this.#freed.beat();
  }
}
