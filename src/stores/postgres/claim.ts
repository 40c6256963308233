import { ForeshadowError } from '../../model/errors.ts';
import { literal, placeOf } from './connection.ts';
import { OWN_SCHEMA } from './layout.ts';
import { OWN_TABLES } from './shadow-schema.ts';
import { Wire } from './wire.ts';

/** The advisory lock of a shadow, one per database: "foreshad" in ASCII. */
const LOCK_KEY = 0x666f_7265_7368_6164n;

/** A process that was killed is gone from the server a moment later; how long its lock is waited for. */
const GRACE_MS = 1500;

/**
 * The right to write to a shadow. It is an advisory lock on a connection of its own, so it dies with its process; and a token in
 * the shadow, which every write transaction locks for sharing: a newer claim waits until such transactions are over, and
 * none of the older claim begins after it. Where the connection alone was lost, as by a restart of the server, the lock is taken again, as
 * long as nobody had it meanwhile.
 */
export class Claim {
  readonly #url: string;
  #wire: Wire | null = null;
  #token: string | null = null;
  #renewing: Promise<void> | null = null;

  constructor(url: string) {
    this.#url = url;
  }

  async take(holder: string): Promise<void> {
    if (this.#token !== null && this.#wire?.broken === false) return;
    const wire = await Wire.open(this.#url, { side: 'shadow', purpose: 'claim' });
    try {
      await this.#lock(wire);
      await wire.query(`SET client_min_messages = warning; BEGIN; ${OWN_TABLES.join('; ')}; COMMIT`);
      const [taken] = await wire.query(
        `INSERT INTO ${OWN_SCHEMA}.claim AS c (token, holder, process, claimed_at)
         VALUES (1, ${literal(holder)}, pg_backend_pid(), now())
         ON CONFLICT (one) DO UPDATE
           SET token = c.token + 1, holder = excluded.holder, process = excluded.process, claimed_at = excluded.claimed_at
         RETURNING token`,
      );
      this.#token = taken?.rows[0]?.[0] ?? null;
      this.#wire = wire;
    } catch (error) {
      await wire.close();
      throw wire.failure(error);
    }
  }

  /**
   * Begins every write transaction, right after BEGIN, or with it: `first` is sent along. Throws FENCED. The token is no key: a lock of
   * keys alone would not keep a newer claim from writing it.
   */
  async verify(wire: Wire, first = ''): Promise<void> {
    if (this.#token === null) {
      throw new ForeshadowError('FENCED', `The shadow at ${placeOf(this.#url)} is not claimed by this process`, {
        remedy: 'Claim the shadow before writing to it.',
      });
    }
    if (this.#wire?.broken !== false) await (this.#renewing ??= this.#renew().finally(() => (this.#renewing = null)));
    const results = await wire.query(`${first}; SELECT token FROM ${OWN_SCHEMA}.claim WHERE token = ${this.#token} FOR SHARE`);
    if (results.at(-1)?.rows.length !== 1) throw this.#fenced('another instance took it over');
  }

  async release(): Promise<void> {
    await this.#wire?.close();
    this.#wire = null;
    this.#token = null;
  }

  async #renew(): Promise<void> {
    const wire = await Wire.open(this.#url, { side: 'shadow', purpose: 'claim' });
    try {
      await this.#lock(wire);
      const ours = `UPDATE ${OWN_SCHEMA}.claim SET process = pg_backend_pid() WHERE token = ${this.#token} RETURNING token`;
      if ((await wire.query(ours)).at(-1)?.rows.length !== 1) throw this.#fenced('another instance took it over');
      this.#wire = wire;
    } catch (error) {
      await wire.close();
      throw error instanceof ForeshadowError && error.code === 'ALREADY_RUNNING' ? this.#fenced(error.message) : wire.failure(error);
    }
  }

  #fenced(reason: string): ForeshadowError {
    return new ForeshadowError('FENCED', `The claim on the shadow at ${placeOf(this.#url)} is gone: ${reason}`, {
      remedy: 'Stop this instance, or stop the other one and start this one again.',
    });
  }

  async #lock(wire: Wire): Promise<void> {
    const deadline = Date.now() + GRACE_MS;
    for (;;) {
      const [tried] = await wire.query(`SELECT pg_try_advisory_lock(${LOCK_KEY})`);
      if (tried?.rows[0]?.[0] === 't') return;
      if (Date.now() >= deadline) throw await this.#running(wire);
      await new Promise((resolve) => {
        setTimeout(resolve, 50);
      });
    }
  }

  async #running(wire: Wire): Promise<ForeshadowError> {
    const [claimed] = await wire.query(`SELECT to_regclass('${OWN_SCHEMA}.claim') IS NOT NULL`);
    const holderSql = claimed?.rows[0]?.[0] === 't' ? `(SELECT c.holder FROM ${OWN_SCHEMA}.claim c WHERE c.process = l.pid)` : 'NULL::text';
    const [found] = await wire.query(
      `SELECT l.pid, coalesce(host(a.client_addr), 'a local socket'), a.backend_start, ${holderSql}
       FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
       WHERE l.locktype = 'advisory' AND l.granted AND l.classid = ${LOCK_KEY >> 32n} AND l.objid = ${LOCK_KEY & 0xffff_ffffn}
         AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())`,
    );
    const [pid, address, since, holder] = found?.rows[0] ?? [];
    const who = holder ?? 'another instance';
    return new ForeshadowError(
      'ALREADY_RUNNING',
      `The shadow at ${placeOf(this.#url)} is in use by ${who} (connected from ${address ?? 'somewhere'} since ${since ?? 'just now'}, server process ${pid ?? 'unknown'})`,
      { remedy: 'Use the running instance, or stop it first.' },
    );
  }
}
