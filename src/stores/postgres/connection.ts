import { Socket, type SocketConstructorOpts } from 'node:net';
import { Client, type ClientConfig } from 'pg';
import type { ConnectionOptions as TlsOptions } from 'node:tls';
import { readFile } from 'node:fs/promises';
import { ForeshadowError, messageOf } from '../../model/errors.ts';
import { failureOf, type Side } from './failure.ts';

export { codeOf, failureOf, placeOf } from './failure.ts';

export interface ConnectOptions {
  readonly side: Side;
  /** Shown in pg_stat_activity after `foreshadow `: `tracking`, `snapshot`. */
  readonly purpose: string;
  /** Opens a replication connection of the database. */
  readonly replication?: boolean;
  /** Another database than the URL's. */
  readonly database?: string;
  readonly connectTimeoutMs?: number;
  /**
   * Whether the connection is given up when the server owes an answer and sends nothing for long (`tcp_user_timeout` of the URL, else a
   * minute). For connections whose every request is short, or which the server keeps alive itself.
   */
  readonly watched?: boolean;
}

const CONNECT_TIMEOUT_MS = 10_000;
const SILENCE_MS = 60_000;

/**
 * Values read as text must not depend on how a server, a database or a role is set up; and names must come with their schema, so
 * that they mean the same in another database.
 */
const SESSION_SETTINGS = [
  `SET TimeZone = 'UTC'`,
  `SET DateStyle = 'ISO, YMD'`,
  `SET IntervalStyle = 'postgres'`,
  'SET extra_float_digits = 3',
  `SET bytea_output = 'hex'`,
  `SET client_encoding = 'UTF8'`,
  `SET lc_monetary = 'C'`,
  'SET xmloption = content',
  'SET standard_conforming_strings = on',
  'SET statement_timeout = 0',
  'SET lock_timeout = 0',
  'SET idle_in_transaction_session_timeout = 0',
  'SET idle_session_timeout = 0',
  'SET default_transaction_read_only = off',
  // Where row security would hide rows, reading must fail and not yield fewer of them.
  'SET row_security = off',
  // Compiling takes longer than what we ask takes to answer: of a question of the catalog 190 ms of 192 (PostgreSQL 15).
  'SET jit = off',
  'SET search_path = pg_catalog',
].join('; ');

/**
 * A connection with our session settings. Throws ForeshadowError, as `failureOf` maps it. TLS goes by `sslmode` with libpq's meanings;
 * without one, TLS is used where the server offers it.
 */
export async function connect(url: string, options: ConnectOptions, signal?: AbortSignal): Promise<Client> {
  signal?.throwIfAborted();
  const target = parseUrl(url, options);
  for (const tls of await tlsAttempts(target)) {
    const client = new Client(clientConfig(target, options, tls));
    // A connection that breaks while nobody waits for it fails the next call on it; without a listener it would end the process.
    client.on('error', () => undefined);
    const abandon = (): void => {
      streamOf(client).destroy();
    };
    signal?.addEventListener('abort', abandon, { once: true });
    // The driver's own limit ends with authentication.
    const late = setTimeout(abandon, target.connectTimeoutMs);
    try {
      await client.connect();
      await client.query(SESSION_SETTINGS);
      return client;
    } catch (error) {
      abandon();
      signal?.throwIfAborted();
      if (tls !== false && target.mode === 'prefer' && /does not support SSL/.test(messageOf(error))) {
        withoutTls.add(`${target.host}:${target.port}`);
        continue;
      }
      throw failureOf(error, url, options.side, options.database);
    } finally {
      clearTimeout(late);
      signal?.removeEventListener('abort', abandon);
    }
  }
  throw new Error('unreachable: the last attempt throws or returns');
}

/** The socket under a client, after TLS. Not part of the declared interface of `pg`, and stable since its first versions. */
export function streamOf(client: Client): Socket {
  return (client as unknown as { connection: { stream: Socket } }).connection.stream;
}

type TlsMode = 'disable' | 'prefer' | 'require' | 'verify-ca' | 'verify-full';

interface Target {
  readonly host: string;
  readonly port: number;
  readonly mode: TlsMode;
  readonly connectTimeoutMs: number;
  readonly silenceMs: number;
  /** The URL without the parameters read here. */
  readonly rest: string;
  readonly files: Readonly<Record<'ca' | 'cert' | 'key', string | null>>;
}

/** Servers found to speak no TLS, so that each further connection does not have to find out again. */
const withoutTls = new Set<string>();

function parseUrl(text: string, options: ConnectOptions): Target {
  let url: URL;
  try {
    url = new URL(text);
    if (url.protocol !== 'postgres:' && url.protocol !== 'postgresql:') throw new TypeError(`${url.protocol} is not postgres:`);
  } catch (error) {
    // The text may hold a password, and so may the error's cause.
    throw new ForeshadowError(
      'CONFIG_INVALID',
      `The URL of the ${options.side} is not a PostgreSQL URL: ${error instanceof TypeError && !('input' in error) ? error.message : 'it cannot be parsed'}`,
      {
        remedy: 'Write it as postgres://user:password@host:5432/database; percent-encode special characters in the password.',
      },
    );
  }
  const parameters = url.searchParams;
  const take = (name: string): string | null => {
    const value = parameters.get(name);
    parameters.delete(name);
    return value;
  };
  const host = parameters.get('host') ?? (url.hostname === '' ? '/var/run/postgresql' : url.hostname);
  const local = host.startsWith('/') || host === 'localhost' || host === '127.0.0.1' || host === '[::1]';
  const mode = take('sslmode') ?? (local ? 'disable' : 'prefer');
  const known: readonly string[] = ['disable', 'prefer', 'require', 'verify-ca', 'verify-full'];
  if (mode !== 'allow' && !known.includes(mode)) {
    throw new ForeshadowError('CONFIG_INVALID', `The URL of the ${options.side} has sslmode=${mode}`, {
      remedy: `Use one of ${known.join(', ')}.`,
    });
  }
  const files = { ca: take('sslrootcert'), cert: take('sslcert'), key: take('sslkey') };
  take('application_name');
  const connectSeconds = Number(take('connect_timeout') ?? 0);
  const silenceMs = Number(take('tcp_user_timeout') ?? 0);
  return {
    host,
    port: Number(url.port === '' ? 5432 : url.port),
    mode: (mode === 'allow' ? 'prefer' : mode) as TlsMode,
    connectTimeoutMs: connectSeconds > 0 ? connectSeconds * 1000 : (options.connectTimeoutMs ?? CONNECT_TIMEOUT_MS),
    silenceMs: silenceMs > 0 ? silenceMs : SILENCE_MS,
    rest: url.href,
    files,
  };
}

async function tlsAttempts(target: Target): Promise<(TlsOptions | false)[]> {
  if (target.mode === 'disable' || target.host.startsWith('/')) return [false];
  if (target.mode === 'prefer' && withoutTls.has(`${target.host}:${target.port}`)) return [false];
  const { ca, cert, key } = target.files;
  // Said outright, as a certificate for "localhost" would do for any address otherwise.
  const tls: TlsOptions = { host: target.host, rejectUnauthorized: target.mode === 'verify-ca' || target.mode === 'verify-full' };
  // libpq: `require` with a root certificate at hand verifies it.
  if (ca !== null && ca !== 'system') Object.assign(tls, { ca: await fileOf('sslrootcert', ca), rejectUnauthorized: true });
  if (cert !== null) tls.cert = await fileOf('sslcert', cert);
  if (key !== null) tls.key = await fileOf('sslkey', key);
  if (target.mode !== 'verify-full') tls.checkServerIdentity = () => undefined;
  return target.mode === 'prefer' ? [tls, false] : [tls];
}

async function fileOf(parameter: string, path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw new ForeshadowError('CONFIG_INVALID', `The file ${path}, ${parameter} of the URL, cannot be read: ${messageOf(error)}`, {
      remedy: `Correct ${parameter} in the URL, or the file's permissions.`,
      cause: error,
    });
  }
}

/** How long the server may owe an answer before a watched connection is given up. */
export function silenceMsOf(url: string, options: ConnectOptions): number {
  return parseUrl(url, options).silenceMs;
}

function clientConfig(target: Target, options: ConnectOptions, tls: TlsOptions | false): ClientConfig {
  const config: ClientConfig & { replication?: string } = {
    connectionString: target.rest,
    application_name: `foreshadow ${options.purpose}`,
    connectionTimeoutMillis: target.connectTimeoutMs,
    keepAlive: true,
    keepAliveInitialDelayMillis: 30_000,
    // A paused socket would go on reading until 64 KB have gathered in it, in the morsels that pausing is to avoid (`Gulps`).
    stream: () => new Socket({ readableHighWaterMark: 1 } as SocketConstructorOpts),
    ssl: tls === false ? false : ({ ...tls, highWaterMark: 1 } as TlsOptions),
  };
  if (options.replication === true) config.replication = 'database';
  if (options.database !== undefined) {
    const url = new URL(target.rest);
    url.pathname = `/${encodeURIComponent(options.database)}`;
    config.connectionString = url.href;
  }
  return config;
}

/** `name` as an SQL identifier, always quoted. */
export function identifier(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}

/** `text` as an SQL string literal. */
export function literal(text: string): string {
  const quoted = `'${text.replaceAll("'", "''")}'`;
  return text.includes('\\') ? `E${quoted.replaceAll('\\', '\\\\')}` : quoted;
}

/**
 * Rows of a query on a connection nobody else is using; cells as `pg` parses them. Aborting cancels the statement on the server by
 * closing the connection: a `pg` client has no other way, and the connection is then of no further use.
 */
export async function rowsOf<Row extends Record<string, unknown>>(
  client: Client,
  sql: string,
  parameters: readonly unknown[] = [],
  signal?: AbortSignal,
): Promise<Row[]> {
  signal?.throwIfAborted();
  const abandon = (): void => {
    streamOf(client).destroy();
  };
  signal?.addEventListener('abort', abandon, { once: true });
  try {
    return (await client.query<Row>(sql, [...parameters])).rows;
  } catch (error) {
    signal?.throwIfAborted();
    throw error;
  } finally {
    signal?.removeEventListener('abort', abandon);
  }
}
