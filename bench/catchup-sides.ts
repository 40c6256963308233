import { rm } from 'node:fs/promises';
import { Client } from 'pg';
import {
  type Bed,
  cloneDatabase,
  cloneOurs,
  DATABASE,
  digests,
  HOLD,
  lsnOf,
  NATIVE_BASE,
  NATIVE_PUBLICATION,
  OUR_SLOT,
} from './catchup-bed.ts';
import type { DrainProgress, DrainRequest } from './drain-process.ts';
import { ask, connectionString, dropSlot, waitUntil } from './postgres-servers.ts';
import { forkSide, startSystemProcess } from './system-processes.ts';
import { FOREVER, openBenchSystem } from './systems.ts';

export const SIDES = ['native', 'native2', 'ours', 'ours-captures', 'drain'] as const;
export type SideName = (typeof SIDES)[number];

/** A side with everything made that is not timed: clones, a slot of its own, a process. */
export interface Side extends AsyncDisposable {
  /** The process beside the servers, if there is one. */
  readonly processId: number | null;
  start(): Promise<void>;
  /** The position of the log up to which everything is in. */
  reached(): Promise<bigint>;
  /** The position up to which everything is in its journal; null where it has none. */
  readonly journaled: (() => Promise<bigint>) | null;
  /** Ends it; what it made stays to be looked at. */
  stop(): Promise<void>;
  /** What it has now, and what its copy of before the load has now: a digest for each table; null where it keeps none. */
  live(): Promise<readonly string[] | null>;
  before(): Promise<readonly string[] | null>;
  /** Captures cut during the run. */
  captures(): Promise<number>;
}

export function prepareSide(name: SideName, bed: Bed): Promise<Side> {
  switch (name) {
    case 'native':
    case 'native2':
      return prepareNative(bed);
    case 'ours':
      return prepareOurs(bed);
    case 'ours-captures':
      return prepareOurs(bed, '*/2 * * * * *');
    case 'drain':
      return prepareDrain(bed);
  }
}

const RUN = 'bench_run';

async function prepareNative(bed: Bed): Promise<Side> {
  const { primary, shadow, workload } = bed;
  await cloneDatabase(shadow, NATIVE_BASE, RUN);
  await primary.run(`SELECT pg_copy_logical_replication_slot('${HOLD}', '${RUN}')`, DATABASE);
  const parallel = Number(await shadow.run('SHOW server_version_num')) >= 160_000 ? ', streaming = parallel' : ', streaming = on';
  await shadow.run(
    `CREATE SUBSCRIPTION ${RUN} CONNECTION '${connectionString(primary, DATABASE)}' PUBLICATION ${NATIVE_PUBLICATION}
     WITH (create_slot = false, slot_name = '${RUN}', copy_data = false, enabled = false, binary = true${parallel})`,
    RUN,
  );
  const poll = await openClient(shadow.url(RUN));
  const origin = await ask(poll, `SELECT 'pg_' || oid FROM pg_subscription WHERE subname = '${RUN}'`);
  return {
    processId: null,
    start: async () => void (await poll.query(`ALTER SUBSCRIPTION ${RUN} ENABLE`)),
    reached: async () =>
      lsnOf((await ask(poll, `SELECT remote_lsn FROM pg_replication_origin_status WHERE external_id = '${origin}'`)) || '0/0'),
    journaled: null,
    stop: async () => {
      await poll.query(`ALTER SUBSCRIPTION ${RUN} DISABLE`);
      await waitUntil('the apply worker to end', async () => (await ask(poll, WORKERS)) === '0');
    },
    live: () => digests(shadow, RUN, workload.tables, primary),
    before: () => Promise.resolve(null),
    captures: () => Promise.resolve(0),
    [Symbol.asyncDispose]: async () => {
      await poll.query(`DROP SUBSCRIPTION ${RUN}`);
      await poll.end();
      await shadow.run(`DROP DATABASE ${RUN} WITH (FORCE)`);
    },
  };
}

const WORKERS = `SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'logical replication %worker' AND datname = current_database()`;

async function prepareOurs(bed: Bed, schedule?: string): Promise<Side> {
  const { primary, shadow, workload } = bed;
  const directory = await cloneOurs(bed, RUN);
  const mirrorIndexes = workload.mirrored === true;
  const places = { directory, primary: primary.url(DATABASE), shadow: shadow.url(RUN), tables: ['public.*'], mirrorIndexes };
  const child = await startSystemProcess(schedule === undefined ? places : { ...places, schedule });
  const [poll, slot] = await Promise.all([openClient(shadow.url(RUN)), openClient(primary.url(DATABASE))]);
  return {
    processId: child.pid,
    start: () => child.run(),
    reached: async () => {
      child.check();
      const halted = await ask(
        poll,
        `SELECT string_agg(table_name || ': ' || state, '; ') FROM _foreshadow.progress WHERE state LIKE '%halted%'`,
      );
      if (halted !== '') throw new Error(`tables were halted: ${halted}`);
      // Of a table that is being copied again, what was reached says nothing.
      const low = await ask(
        poll,
        `SELECT min(low) FROM _foreshadow.progress WHERE NOT EXISTS (SELECT FROM _foreshadow.progress WHERE state LIKE '%copying%')`,
      );
      return low === '' ? 0n : BigInt(`0x${low.slice(0, 16)}`);
    },
    // What is acknowledged is durable there.
    journaled: async () => lsnOf(await ask(slot, `SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '${OUR_SLOT}'`)),
    stop: () => child.stop(),
    live: () => digests(shadow, RUN, workload.tables, primary),
    before: () => capturedDigests(bed, places),
    captures: async () =>
      Number(await shadow.run(`SELECT count(*) - 2 FROM _foreshadow.capture WHERE record ~ '"state":"(cut|validating|sealed)"'`, RUN)),
    [Symbol.asyncDispose]: async () => {
      await child.stop();
      await Promise.all([poll.end(), slot.end()]);
      await shadow.run(`DROP DATABASE ${RUN} WITH (FORCE)`);
      await dropSlot(primary, OUR_SLOT);
      await rm(directory, { recursive: true, force: true });
    },
  };
}

/** Capture 1 as the product shows it, after a load that has changed what it held. */
async function capturedDigests(
  { base, workload }: Bed,
  places: { directory: string; primary: string; shadow: string; tables: string[] },
): Promise<string[]> {
  await using system = await openBenchSystem(places);
  const found: string[] = [];
  for (const table of workload.tables) {
    const sql = `SELECT count(*) || ' rows, ' || coalesce(sum(hashtextextended(r::text, 0)::numeric), 0) FROM ${table} r`;
    const slices = system.query(1, sql, FOREVER);
    for await (const { rows } of slices) for (const row of rows) found.push(String(row[0]));
  }
  if (found.length !== base.length) throw new Error('a capture answered with another number of rows than was asked for');
  return found;
}

async function prepareDrain({ primary }: Bed): Promise<Side> {
  await primary.run(`SELECT pg_copy_logical_replication_slot('${HOLD}', '${RUN}')`, DATABASE);
  const child = await forkSide('drain-process.ts', {
    url: primary.url(DATABASE),
    slot: RUN,
    publication: NATIVE_PUBLICATION,
  } satisfies DrainRequest);
  let reached = 0n;
  child.process.on('message', (message: DrainProgress) => {
    reached = BigInt(message.reached);
  });
  return {
    processId: child.pid,
    start: () => Promise.resolve(void child.process.send('go')),
    reached: () => {
      child.check();
      return Promise.resolve(reached);
    },
    journaled: null,
    stop: () => child.stop(),
    live: () => Promise.resolve(null),
    before: () => Promise.resolve(null),
    captures: () => Promise.resolve(0),
    [Symbol.asyncDispose]: async () => {
      await child.stop();
      await dropSlot(primary, RUN);
    },
  };
}

async function openClient(url: string): Promise<Client> {
  const client = new Client({ connectionString: url, application_name: 'bench' });
  await client.connect();
  return client;
}
