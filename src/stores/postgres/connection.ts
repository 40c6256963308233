import { isIP, type Socket } from 'node:net';
import { Client, type ClientConfig } from 'pg';
import type { ConnectionOptions as TlsOptions } from 'node:tls';
import { readFile } from 'node:fs/promises';
import { type ErrorCode, ForeshadowError, messageOf } from '../../model/errors.ts';

/** Which end a connection leads to: it decides the codes of its errors. */
export type Side = 'primary' | 'shadow';

export interface ConnectOptions {
  readonly side: Side;
  /** Shown in pg_stat_activity after `foreshadow `: `tracking`, `snapshot`. */
  readonly purpose: string;
  /** Opens a replication connection of the database. */
  readonly replication?: boolean;
  /** Another database than the URL's. */
  readonly database?: string;
  readonly connectTimeoutMs?: number;
}

const CONNECT_TIMEOUT_MS = 10_000;

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
  'SET standard_conforming_strings = on',
  'SET statement_timeout = 0',
  'SET lock_timeout = 0',
  'SET idle_in_transaction_session_timeout = 0',
  'SET idle_session_timeout = 0',
  'SET default_transaction_read_only = off',
  // Where row security would hide rows, reading must fail and not yield fewer of them.
  'SET row_security = off',
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
  return {
    host,
    port: Number(url.port === '' ? 5432 : url.port),
    mode: (mode === 'allow' ? 'prefer' : mode) as TlsMode,
    rest: url.href,
    files,
  };
}

async function tlsAttempts(target: Target): Promise<(TlsOptions | false)[]> {
  if (target.mode === 'disable' || target.host.startsWith('/')) return [false];
  if (target.mode === 'prefer' && withoutTls.has(`${target.host}:${target.port}`)) return [false];
  const { ca, cert, key } = target.files;
  const tls: TlsOptions = { rejectUnauthorized: target.mode === 'verify-ca' || target.mode === 'verify-full' };
  // libpq: `require` with a root certificate at hand verifies it.
  if (ca !== null && ca !== 'system') Object.assign(tls, { ca: await readFile(ca, 'utf8'), rejectUnauthorized: true });
  if (cert !== null) tls.cert = await readFile(cert, 'utf8');
  if (key !== null) tls.key = await readFile(key, 'utf8');
  if (target.mode !== 'verify-full') tls.checkServerIdentity = () => undefined;
  return target.mode === 'prefer' ? [tls, false] : [tls];
}

function clientConfig(target: Target, options: ConnectOptions, tls: TlsOptions | false): ClientConfig {
  const config: ClientConfig & { replication?: string } = {
    connectionString: target.rest,
    application_name: `foreshadow ${options.purpose}`,
    connectionTimeoutMillis: options.connectTimeoutMs ?? CONNECT_TIMEOUT_MS,
    keepAlive: true,
    keepAliveInitialDelayMillis: 30_000,
    ssl: tls,
  };
  if (options.replication === true) config.replication = 'database';
  if (options.database !== undefined) {
    const url = new URL(target.rest);
    url.pathname = `/${encodeURIComponent(options.database)}`;
    config.connectionString = url.href;
  }
  return config;
}

/** Host, port and database: how messages name a server. Never the password. */
export function placeOf(url: string, database?: string): string {
  try {
    const parsed = new URL(url);
    const host = parsed.searchParams.get('host') ?? parsed.hostname;
    const bare = isIP(host.replace(/^\[|\]$/g, '')) === 6 && !host.startsWith('[') ? `[${host}]` : host;
    const name = database ?? decodeURIComponent(parsed.pathname.slice(1));
    return `${bare}:${parsed.port === '' ? '5432' : parsed.port}/${name}`;
  } catch {
    return 'the given URL';
  }
}

function userOf(url: string): string {
  try {
    return decodeURIComponent(new URL(url).username);
  } catch {
    return '';
  }
}

/** Not reachable now; may be soon. */
const GONE = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENOTFOUND',
  'EAI_AGAIN',
  'ETIMEDOUT',
  'EPIPE',
  'ENOENT',
]);
const GONE_STATES = new Set(['57P01', '57P02', '57P03', '53300', '08000', '08001', '08003', '08004', '08006', '57P05']);
const GONE_TEXTS =
  /timeout expired|Connection terminated|connection was closed|socket disconnected|does not support SSL|not queryable|Client was closed/i;

/**
 * The ForeshadowError for what went wrong on a connection: PRIMARY_UNREACHABLE, PRIMARY_ACCESS (or those of the shadow), else
 * QUERY_FAILED with the server's message. A ForeshadowError is passed through.
 */
export function failureOf(error: unknown, url: string, side: Side, database?: string): ForeshadowError {
  if (error instanceof ForeshadowError) return error;
  const code = codeOf(error);
  const place = placeOf(url, database);
  const name = side === 'primary' ? 'primary' : 'shadow';
  const unreachable: ErrorCode = side === 'primary' ? 'PRIMARY_UNREACHABLE' : 'SHADOW_UNREACHABLE';
  const access: ErrorCode = side === 'primary' ? 'PRIMARY_ACCESS' : 'SHADOW_ACCESS';
  const text = messageOf(error);
  if (code === '28P01' || code === '28000' || /password must be a string|SASL/.test(text)) {
    return new ForeshadowError(access, `The ${name} at ${place} does not let user "${userOf(url)}" in: ${text}`, {
      remedy: 'Check user and password in the URL, and that pg_hba.conf allows this connection.',
      cause: error,
    });
  }
  if (code === '42501') {
    return new ForeshadowError(access, `The ${name} at ${place} refuses user "${userOf(url)}": ${text}`, {
      remedy: `Grant what is missing to "${userOf(url)}"; \`foreshadow doctor\` lists it.`,
      cause: error,
    });
  }
  if (code === '3D000') {
    return new ForeshadowError(unreachable, `The ${name} at ${place} does not exist: ${text}`, {
      remedy: 'Create the database, or correct its name in the URL.',
      cause: error,
    });
  }
  if (GONE.has(code) || GONE_STATES.has(code) || GONE_TEXTS.test(text)) {
    return new ForeshadowError(unreachable, `The ${name} at ${place} cannot be reached: ${text}`, {
      remedy: 'Check host and port in the URL, and that the server is running and accepts connections from here.',
      retry: 'later',
      cause: error,
    });
  }
  return new ForeshadowError('QUERY_FAILED', `The ${name} at ${place} reports: ${text}`, {
    remedy: "The server's log tells more. `foreshadow doctor` checks both ends.",
    retry: RETRYABLE.has(code) ? 'later' : 'never',
    cause: error,
  });
}

/** Serialization failure, deadlock, lock not available, object in use, cannot connect now, out of memory or disk. */
const RETRYABLE = new Set(['40001', '40P01', '55P03', '55006', '53100', '53200', '57014']);

/** SQLSTATE or the system's error code; empty if it has none. */
export function codeOf(error: unknown): string {
  if (error instanceof AggregateError && error.errors.length > 0) return codeOf(error.errors[0]);
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' ? code : '';
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
