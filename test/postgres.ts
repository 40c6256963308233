import { randomBytes } from 'node:crypto';
import { connect as connectSocket } from 'node:net';
import { Client } from 'pg';
import { inject } from 'vitest';
import { type EmbeddedServer, startEmbeddedServer } from '../src/stores/postgres/embedded.ts';
import { testedServer } from './tested-server.ts';

/**
 * PostgreSQL for tests: one embedded server for a whole run, started when the first test asks for it (`postgres-setup.ts`), and a
 * database of its own for each test that wants one.
 */
export interface TestDatabase extends AsyncDisposable {
  /** The superuser's. */
  readonly url: string;
  readonly name: string;
  /** Runs statements on a connection of its own; rows of the last one, as `pg` parses them. */
  run(sql: string, parameters?: readonly unknown[]): Promise<Record<string, unknown>[]>;
  /** An independent connection: somebody else's. Closed with the database. */
  client(): Promise<Client>;
  /** The URL of another user. */
  urlAs(user: string, password: string): string;
}

/** URL of the run's server: superuser, database postgres, wal_level=logical. */
async function serverUrl(): Promise<string> {
  const port = inject('postgresSetupPort');
  const answer = await new Promise<string>((resolve, reject) => {
    let text = '';
    const socket = connectSocket(port, '127.0.0.1');
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString();
    });
    socket.once('end', () => resolve(text));
    socket.once('error', reject);
  });
  if (!answer.startsWith('postgres://')) throw new Error(`The server for tests did not start: ${answer}`);
  return answer;
}

/** The major version of the run's server. */
export async function serverVersion(): Promise<number> {
  const [row] = await once(await serverUrl(), `SELECT current_setting('server_version_num')::int / 10000 AS version`);
  return row?.['version'] as number;
}

/** An empty database with a name of its own; dropped, with its slots, when disposed. */
export async function createDatabase(options: { server?: string } = {}): Promise<TestDatabase> {
  const server = options.server ?? (await serverUrl());
  const name = `test_${randomBytes(6).toString('hex')}`;
  await once(server, `CREATE DATABASE ${name}`);
  const url = withDatabase(server, name);
  const clients: Client[] = [];
  return {
    url,
    name,
    run: (sql, parameters) => once(url, sql, parameters),
    urlAs: (user, password) => Object.assign(new URL(url), { username: user, password }).href,
    client: async () => {
      const client = new Client({ connectionString: url });
      client.on('error', () => undefined);
      await client.connect();
      clients.push(client);
      return client;
    },
    [Symbol.asyncDispose]: async () => {
      await Promise.all(clients.map((client) => client.end()));
      await dropDatabase(server, name);
    },
  };
}

/** A server of the test's own, for settings that are the server's: `{ wal_level: 'replica' }`. */
export function startServer(settings: Readonly<Record<string, string>>): Promise<EmbeddedServer> {
  return startEmbeddedServer({ ...testedServer(), settings: { max_connections: '30', shared_buffers: '16MB', ...settings } });
}

async function dropDatabase(server: string, name: string): Promise<void> {
  const client = new Client({ connectionString: server });
  await client.connect();
  try {
    const ended = `SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE database = $1 AND active`;
    await client.query(ended, [name]);
    await client.query('SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1', [name]);
    await client.query(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`);
  } finally {
    await client.end();
  }
}

function withDatabase(url: string, name: string): string {
  return Object.assign(new URL(url), { pathname: `/${name}` }).href;
}

async function once(url: string, sql: string, parameters?: readonly unknown[]): Promise<Record<string, unknown>[]> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    const result: unknown = await client.query(sql, parameters === undefined ? undefined : [...parameters]);
    const last = Array.isArray(result)
      ? (result.at(-1) as { rows: Record<string, unknown>[] })
      : (result as { rows: Record<string, unknown>[] });
    return last.rows;
  } finally {
    await client.end();
  }
}
