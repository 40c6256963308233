import { spawn } from 'node:child_process';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { DATABASE, NATIVE_PUBLICATION, OUR_SLOT } from './catchup-bed.ts';
import { COPIED } from './copy-data.ts';
import {
  ask,
  type Cluster,
  connectionString,
  dropSlot,
  peakResidentBytes,
  processCpuMs,
  waitUntil,
  withClient,
} from './postgres-servers.ts';
import { startSystemProcess } from './system-processes.ts';

export const SIDES = ['native', 'native2', 'ours', 'dump'] as const;
export type SideName = (typeof SIDES)[number];

export interface CopyBed {
  readonly primary: Cluster;
  readonly shadow: Cluster;
  readonly directory: string;
  /** Where pg_dump and pg_restore are; null for a server that is not the system's. */
  readonly programs: string | null;
}

/** One copy, made and yet to be removed. CPU is of what is neither of the two clusters. */
export interface MadeCopy extends AsyncDisposable {
  readonly wallMs: number;
  readonly cpuMs: number;
  readonly peakResidentBytes: number | null;
}

const RUN = 'run';

/** Into the database `run` of the shadow's cluster. */
export async function makeCopy(bed: CopyBed, side: SideName): Promise<MadeCopy> {
  await bed.shadow.run(`CREATE DATABASE ${RUN}`);
  if (side === 'ours') return copyOurs(bed);
  return side === 'dump' ? dumpAndRestore(bed) : copyNative(bed);
}

/** Until every table is live and durable. */
async function copyOurs({ primary, shadow, directory }: CopyBed): Promise<MadeCopy> {
  const place = join(directory, 'ours');
  await mkdir(place, { recursive: true });
  const child = await startSystemProcess({
    directory: place,
    primary: primary.url(DATABASE),
    shadow: shadow.url(RUN),
    tables: ['public.*'],
  });
  const begunMs = performance.now();
  await child.run();
  const PREPARED = `SELECT to_regclass('_foreshadow.progress') IS NOT NULL`;
  const LIVE = `SELECT count(*) FILTER (WHERE state::json ->> 'kind' = 'live') || ' of ' || count(*) FROM _foreshadow.progress`;
  await withClient(shadow.url(RUN), (client) =>
    waitUntil('our copy', async () => {
      child.check();
      if ((await ask(client, PREPARED)) !== 'true') return false;
      return (await ask(client, LIVE)) === `${COPIED.length} of ${COPIED.length}`;
    }),
  );
  const wallMs = performance.now() - begunMs;
  return {
    wallMs,
    cpuMs: processCpuMs(child.pid),
    peakResidentBytes: peakResidentBytes(child.pid),
    [Symbol.asyncDispose]: async () => {
      await child.stop();
      await dropSlot(primary, OUR_SLOT);
      await primary.run(`DROP PUBLICATION IF EXISTS ${OUR_SLOT}`, DATABASE);
      await shadow.run(`DROP DATABASE ${RUN} WITH (FORCE)`);
      await rm(place, { recursive: true, force: true });
    },
  };
}

/** Until every table is ready, all at the same time, in binary where the server can (16). The tables are there, empty, with their keys. */
async function copyNative({ primary, shadow }: CopyBed): Promise<MadeCopy> {
  await shadow.run(COPIED.map(({ schema }) => schema).join('; '), RUN);
  const begunMs = performance.now();
  await shadow.run(
    `CREATE SUBSCRIPTION ${RUN} CONNECTION '${connectionString(primary, DATABASE)}' PUBLICATION ${NATIVE_PUBLICATION} WITH (binary = true)`,
    RUN,
  );
  const READY = `SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel`;
  await withClient(shadow.url(RUN), (client) => waitUntil("native's copy", async () => (await ask(client, READY)) === 'true'));
  return {
    wallMs: performance.now() - begunMs,
    cpuMs: 0,
    peakResidentBytes: null,
    [Symbol.asyncDispose]: async () => {
      await shadow.run(`DROP SUBSCRIPTION ${RUN}`, RUN);
      await shadow.run(`DROP DATABASE ${RUN} WITH (FORCE)`);
    },
  };
}

/** `pg_dump -Fd -j2`, then `pg_restore -j2`, by way of a directory. */
async function dumpAndRestore({ primary, shadow, directory, programs }: CopyBed): Promise<MadeCopy> {
  const file = join(directory, 'dump');
  const { password: from } = new URL(primary.url());
  const { password: to } = new URL(shadow.url());
  const begunMs = performance.now();
  const dumped = await timed(`${programs}/pg_dump -Fd -j2 -f ${file} ${connection(primary, DATABASE)}`, from);
  const restored = await timed(`${programs}/pg_restore -j2 ${connection(shadow, RUN)} ${file}`, to);
  return {
    wallMs: performance.now() - begunMs,
    cpuMs: dumped + restored,
    peakResidentBytes: null,
    [Symbol.asyncDispose]: async () => {
      await shadow.run(`DROP DATABASE ${RUN} WITH (FORCE)`);
      await rm(file, { recursive: true, force: true });
    },
  };
}

function connection(cluster: Cluster, database: string): string {
  const { hostname, port, username } = new URL(cluster.url());
  return `-h ${hostname} -p ${port} -U ${username} -d ${database}`;
}

/** Runs a command to its end. Resolves with the CPU of it and all its children, in milliseconds. */
async function timed(command: string, password: string): Promise<number> {
  const child = spawn('bash', ['-c', `${command} || exit 1; times`], {
    env: { ...process.env, PGPASSWORD: password },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let said = '';
  child.stdout.on('data', (chunk: Buffer) => {
    said += chunk.toString();
  });
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  if (code !== 0) throw new Error(`${command.split(' ')[0]} ended with ${code}`);
  // The second line: of the children, user and system, as 0m1.234s.
  const parts =
    said
      .trim()
      .split('\n')
      .at(-1)
      ?.matchAll(/(\d+)m([\d.]+)s/g) ?? [];
  return Array.from(parts, ([, minutes, seconds]) => (Number(minutes) * 60 + Number(seconds)) * 1000).reduce((a, b) => a + b, 0);
}
