import { createHash } from 'node:crypto';
import { DatabaseSync } from 'node:sqlite';
import { Client } from 'pg';

/**
 * A user's own connection to a database of the demonstration: the shop's program, and the sceptic who looks for himself. Foreshadow
 * does not see it. Placeholders are written ?1, ?2.
 */
export interface ShopDatabase extends AsyncDisposable {
  readonly kind: 'sqlite' | 'postgres';
  /** Runs one statement. Integers come as numbers or strings, as the driver has them. */
  all(sql: string, values?: readonly (string | number | null)[]): Promise<Record<string, unknown>[]>;
  /** Several statements without values. */
  script(sql: string): Promise<void>;
}

export async function openShopDatabase(url: string): Promise<ShopDatabase> {
  return url.startsWith('sqlite:') ? openSqlite(url.slice('sqlite:'.length)) : openPostgres(url);
}

function openSqlite(path: string): ShopDatabase {
  const database = new DatabaseSync(path, { timeout: 10_000 });
  const statements = new Map<string, ReturnType<DatabaseSync['prepare']>>();
  return {
    kind: 'sqlite',
    async all(sql, values = []) {
      let statement = statements.get(sql);
      if (statement === undefined) {
        statement = database.prepare(sql);
        statements.set(sql, statement);
      }
      return statement.all(...values);
    },
    async script(sql) {
      database.exec(sql);
    },
    async [Symbol.asyncDispose]() {
      database.close();
    },
  };
}

async function openPostgres(url: string): Promise<ShopDatabase> {
  const client = new Client({ connectionString: url, application_name: 'shop' });
  await client.connect();
  // A server that is stopped under an idle connection says so here; whoever uses the connection next is told by its own error.
  client.on('error', () => undefined);
  return {
    kind: 'postgres',
    async all(sql, values = []) {
      const text = sql.replace(/\?(\d+)/g, '$$$1');
      return (await client.query<Record<string, unknown>>(text, [...values])).rows;
    },
    async script(sql) {
      await client.query(sql);
    },
    async [Symbol.asyncDispose]() {
      await client.end();
    },
  };
}

/** Every row of the shop's tables as one fingerprint a table, read in key order by an ordinary program. */
export async function fingerprints(
  database: ShopDatabase,
  tables: readonly ShopTable[],
): Promise<Map<string, { rows: number; hash: string }>> {
  const found = new Map<string, { rows: number; hash: string }>();
  for (const { name, key } of tables) {
    const rows = await database.all(`SELECT * FROM ${name} ORDER BY ${key.join(', ')}`);
    const hash = createHash('sha256');
    for (const row of rows) hash.update(`${JSON.stringify(row)}\n`);
    found.set(name, { rows: rows.length, hash: hash.digest('hex') });
  }
  return found;
}

export interface ShopTable {
  readonly name: string;
  readonly key: readonly string[];
}
