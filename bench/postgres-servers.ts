import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { Client } from 'pg';
import { type EmbeddedServer, startEmbeddedServer } from '../src/stores/postgres/embedded.ts';

/**
 * Commits reach the disk, checkpoints come when a benchmark asks for them, and autovacuum does not run into one side and miss the
 * other. Both clusters are set up alike, so native replication's target has what our shadow has.
 */
export const SERVER_SETTINGS: Readonly<Record<string, string>> = {
  shared_buffers: '1536MB',
  max_wal_size: '24GB',
  checkpoint_timeout: '1h',
  autovacuum: 'off',
  max_worker_processes: '24',
  max_logical_replication_workers: '16',
  max_sync_workers_per_subscription: '4',
  max_connections: '60',
};

/** For a run that only tries: it must not take a machine's memory. */
const SMALL_SETTINGS: Readonly<Record<string, string>> = { ...SERVER_SETTINGS, shared_buffers: '256MB', max_wal_size: '4GB' };

export interface Cluster extends AsyncDisposable {
  /** Of the database `postgres`, or of another one. The superuser's. */
  url(database?: string): string;
  /** Runs statements on a connection of its own; the first column of the last one's first row as text. */
  run(sql: string, database?: string): Promise<string>;
  /** CPU of every process of this cluster since it was started, those that ended included, in milliseconds. */
  cpuMs(): number;
}

export interface ClusterOptions {
  readonly small: boolean;
  readonly settings?: Readonly<Record<string, string>>;
  /** A directory with bin, lib and share of another server than the package's. */
  readonly native?: string;
}

export async function startCluster({ small, settings, native }: ClusterOptions): Promise<Cluster> {
  const options = { durable: true, settings: { ...(small ? SMALL_SETTINGS : SERVER_SETTINGS), ...settings } };
  const server = await startEmbeddedServer(native === undefined ? options : { ...options, native });
  try {
    const url = (database = 'postgres'): string => Object.assign(new URL(server.url), { pathname: `/${database}` }).href;
    const postmaster = await postmasterOf(server);
    return {
      url,
      run: (sql, database) => runOnce(url(database), sql),
      cpuMs: () => treeCpuMs(postmaster),
      [Symbol.asyncDispose]: () => server.stop(),
    };
  } catch (error) {
    await server.stop();
    throw error;
  }
}

/** Where a server and its clients are installed together, the newest first: the package has a server only. */
export function installedServers(): readonly string[] {
  const root = '/usr/lib/postgresql';
  if (!existsSync(root)) return [];
  return readdirSync(root)
    .filter((version) => ['postgres', 'pg_dump'].every((program) => existsSync(join(root, version, 'bin', program))))
    .toSorted((a, b) => Number(b) - Number(a))
    .map((version) => join(root, version));
}

/** Keyword and value, as a subscription takes it; with a password. */
export function connectionString(cluster: Cluster, database: string): string {
  const { hostname, port, username, password } = new URL(cluster.url());
  return `host=${hostname} port=${port} user=${username} password=${decodeURIComponent(password)} dbname=${database}`;
}

export async function runOnce(url: string, sql: string): Promise<string> {
  return withClient(url, (client) => ask(client, sql));
}

export async function withClient<T>(url: string, work: (client: Client) => Promise<T>): Promise<T> {
  const client = new Client({ connectionString: url, application_name: 'bench' });
  client.on('error', () => undefined); // a connection that breaks fails the call that waits on it
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

/** The first column of the last statement's first row, as text; empty where there is none. */
export async function ask(client: Client, sql: string): Promise<string> {
  const result: unknown = await client.query({ text: sql, rowMode: 'array' });
  const last = (Array.isArray(result) ? result.at(-1) : result) as { rows: (string | number | boolean | null)[][] };
  return String(last.rows[0]?.[0] ?? '');
}

/** Rows and a digest of all their text, over the columns named: says nothing of Foreshadow, and asks nothing of it. */
export function digestSql(table: string, columns: string): string {
  return `SELECT count(*) || ' rows, ' || coalesce(sum(hashtextextended(ROW(${columns})::text, 0)::numeric), 0) FROM ${table}`;
}

/** The columns of a table, quoted, in their order. */
export function columnsOf(cluster: Cluster, database: string, table: string): Promise<string> {
  const sql = `SELECT string_agg('r.' || quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
    WHERE attrelid = '${table}'::regclass AND attnum > 0 AND NOT attisdropped`;
  return cluster.run(sql, database);
}

export async function dropSlot(cluster: Cluster, name: string): Promise<void> {
  await waitUntil(
    `slot ${name} to be free`,
    async () => (await cluster.run(`SELECT count(*) FROM pg_replication_slots WHERE slot_name = '${name}' AND active`)) === '0',
  );
  await cluster.run(`SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '${name}'`);
}

const DEADLINE_MS = 15 * 60_000;

export async function waitUntil(what: string, holds: () => Promise<boolean>, everyMs = 50): Promise<void> {
  const deadlineMs = performance.now() + DEADLINE_MS;
  while (!(await holds())) {
    if (performance.now() > deadlineMs) throw new Error(`${what} took longer than ${DEADLINE_MS / 60_000} minutes`);
    await new Promise((resolve) => {
      setTimeout(resolve, everyMs);
    });
  }
}

/** Every backend is a child of the process that started the server. */
async function postmasterOf({ url }: EmbeddedServer): Promise<number> {
  return withClient(url, async (client) => {
    const backend = Number(await ask(client, 'SELECT pg_backend_pid()'));
    const parent = statOf(backend)?.parent;
    if (parent === undefined) throw new Error(`process ${backend} of the server cannot be looked at in /proc: this needs Linux`);
    return parent;
  });
}

interface ProcessStat {
  readonly parent: number;
  readonly ownTicks: number;
  /** Of children that have ended and were waited for. */
  readonly endedTicks: number;
}

/** Linux counts processor time in hundredths of a second. */
const MS_PER_TICK = 10;

/** Undefined where the process is gone. */
function statOf(pid: number): ProcessStat | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, 'utf8');
  } catch (error) {
    if (['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) return undefined;
    throw error;
  }
  // The name, in parentheses, may hold anything; what follows it are numbers.
  const fields = text
    .slice(text.lastIndexOf(')') + 2)
    .split(' ')
    .map(Number);
  const [, parent = 0] = fields;
  const [user = 0, system = 0, endedUser = 0, endedSystem = 0] = fields.slice(11, 15);
  return { parent, ownTicks: user + system, endedTicks: endedUser + endedSystem };
}

/** CPU of one process, all its threads. */
export function processCpuMs(pid: number): number {
  return (statOf(pid)?.ownTicks ?? 0) * MS_PER_TICK;
}

/** The most memory a process ever had resident, in bytes. */
export function peakResidentBytes(pid: number): number {
  const found = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  return Number(found?.[1] ?? 0) * 1024;
}

function treeCpuMs(postmaster: number): number {
  let ticks = 0;
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const stat = statOf(Number(name));
    if (stat === undefined) continue;
    if (Number(name) === postmaster || stat.parent === postmaster) ticks += stat.ownTicks + stat.endedTicks;
  }
  return ticks * MS_PER_TICK;
}
