import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { appendFile, chown, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { Client } from 'pg';
import { freePort, initialise, nativeDirectory, type ServerUser, serverUser } from '../src/stores/postgres/embedded.ts';
import { testedServer } from './tested-server.ts';

const run = promisify(execFile);

/** Ends the server when our end of its input closes, however we end; the files stay, for the next start. */
const KEEPER = `
exec 3<&0
"$@" </dev/null 3<&- &
server=$!
( cat <&3 >/dev/null; kill -QUIT $server 2>/dev/null ) &
exec 3<&-
wait $server
`;

const SETTINGS = {
  listen_addresses: '127.0.0.1',
  unix_socket_directories: '',
  wal_level: 'logical',
  max_connections: '40',
  shared_buffers: '16MB',
  fsync: 'off',
  full_page_writes: 'off',
  log_min_messages: 'log',
};

/**
 * A server with a life: it can be stopped, crashed, copied, configured and started again under the same port, and have standbys. Its one
 * database of interest is `postgres`. (For a server that only runs, see `postgres.ts`.)
 */
export class Cluster implements AsyncDisposable {
  readonly directory: string;
  readonly port: number;
  readonly #password: string;
  readonly #owner: ServerUser | null;
  readonly #native: string;
  #keeper: ChildProcess | null = null;
  #said = '';

  private constructor(directory: string, port: number, password: string, owner: ServerUser | null, native: string) {
    this.directory = directory;
    this.port = port;
    this.#password = password;
    this.#owner = owner;
    this.#native = native;
  }

  /** Made, and not started yet. */
  static async create(): Promise<Cluster> {
    const owner = await serverUser();
    const directory = await mkdtemp(join(tmpdir(), 'foreshadow-cluster-'));
    if (owner !== null) await chown(directory, owner.uid, owner.gid);
    const native = testedServer().native ?? (await nativeDirectory(directory, owner));
    const password = randomBytes(18).toString('base64url');
    await initialise(native, directory, password, owner);
    return new Cluster(directory, await freePort(), password, owner, native);
  }

  /** A copy under a port of its own. The server must be stopped, or nothing be written since a CHECKPOINT. */
  async copy(): Promise<Cluster> {
    const directory = await mkdtemp(join(tmpdir(), 'foreshadow-cluster-'));
    if (this.#owner !== null) await chown(directory, this.#owner.uid, this.#owner.gid);
    await run('cp', ['-a', this.data, directory]);
    await rm(join(directory, 'data', 'postmaster.pid'), { force: true });
    return new Cluster(directory, await freePort(), this.#password, this.#owner, this.#native);
  }

  /** Puts the files of another in place of its own. Neither may be running. */
  async become(other: Cluster): Promise<void> {
    await rm(this.data, { recursive: true });
    await run('cp', ['-a', other.data, this.directory]);
  }

  get data(): string {
    return join(this.directory, 'data');
  }

  get url(): string {
    return this.urlOf('postgres', this.#password);
  }

  urlOf(user: string, password: string, port = this.port, parameters = ''): string {
    return `postgres://${user}:${password}@127.0.0.1:${port}/postgres${parameters}`;
  }

  /** The superuser's, by way of a proxy. */
  urlThrough(port: number, parameters = ''): string {
    return this.urlOf('postgres', this.#password, port, parameters);
  }

  /** Throws what the server said if it does not start. */
  async start(settings: Readonly<Record<string, string>> = {}): Promise<void> {
    const flags = Object.entries({ ...SETTINGS, port: String(this.port), ...settings }).flatMap(([name, value]) => [
      '-c',
      `${name}=${value}`,
    ]);
    const postgres = join(this.#native, 'bin', 'postgres');
    this.#said = '';
    const keeper = spawn('/bin/sh', ['-c', KEEPER, 'sh', postgres, '-D', this.data, ...flags], {
      ...this.#owner,
      cwd: this.directory,
      detached: true,
      env: { LC_ALL: 'C', PATH: process.env['PATH'] },
      stdio: ['pipe', 'ignore', 'pipe'],
    });
    keeper.stdin?.on('error', () => undefined); // EPIPE where the server is gone already: `exit` tells
    this.#keeper = keeper;
    await new Promise<void>((resolve, reject) => {
      keeper.once('close', () => reject(new Error(this.#said)));
      keeper.stderr?.on('data', (chunk: Buffer) => {
        this.#said = (this.#said + chunk.toString()).slice(-20_000);
        if (this.#said.includes('ready to accept')) resolve();
      });
    });
  }

  /** What the server wrote to its log since it was started. */
  get said(): string {
    return this.#said;
  }

  /** `fast` ends connections and writes a checkpoint, `immediate` is a crash. */
  async stop(mode: 'fast' | 'immediate' = 'fast'): Promise<void> {
    const keeper = this.#keeper;
    if (keeper === null) return;
    this.#keeper = null;
    if (keeper.exitCode !== null) return;
    const ended = new Promise((resolve) => keeper.once('exit', resolve));
    process.kill(await this.#pid(), mode === 'fast' ? 'SIGINT' : 'SIGQUIT');
    await ended;
    keeper.stdin?.end();
  }

  /** Reads its configuration files again. */
  async reload(): Promise<void> {
    process.kill(await this.#pid(), 'SIGHUP');
    await this.sql(`SELECT pg_sleep(0.1)`);
  }

  async #pid(): Promise<number> {
    return Number((await readFile(join(this.data, 'postmaster.pid'), 'utf8')).split('\n')[0]);
  }

  /** A file of the server's own: a certificate, a signal. */
  async put(name: string, text: string): Promise<void> {
    const path = join(this.data, name);
    await writeFile(path, text, { mode: 0o600 });
    if (this.#owner !== null) await chown(path, this.#owner.uid, this.#owner.gid);
  }

  /** Makes these files, which must be a copy of the primary's, a standby of it. Streams through a slot of its own. */
  async follow(primary: Cluster, slot: string): Promise<void> {
    await this.put('standby.signal', '');
    // As in a base backup: slots are not part of it.
    for (const each of await readdir(join(this.data, 'pg_replslot'))) await rm(join(this.data, 'pg_replslot', each), { recursive: true });
    const from = `host=127.0.0.1 port=${primary.port} user=postgres password=${primary.#password} dbname=postgres`;
    await appendFile(
      join(this.data, 'postgresql.auto.conf'),
      `primary_conninfo = '${from}'\nprimary_slot_name = '${slot}'\nhot_standby_feedback = on\n`,
    );
  }

  /** Statements of the superuser on a connection of their own; rows of the last one. */
  async sql(text: string, url = this.url): Promise<Record<string, unknown>[]> {
    const client = new Client({ connectionString: url });
    client.on('error', () => undefined);
    await client.connect();
    try {
      const result: unknown = await client.query(text);
      return ((Array.isArray(result) ? result.at(-1) : result) as { rows: Record<string, unknown>[] }).rows;
    } finally {
      await client.end();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop('immediate');
    await rm(this.directory, { recursive: true, force: true });
  }
}
