import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client } from 'pg';
import { expect, test } from 'vitest';
import { parseConfig } from '../src/app/config.ts';
import { openSystem } from '../src/app/system.ts';
import { createDatabase, serverVersion } from './postgres.ts';

/** A primary whose encoding is another than the shadow's: the same text, whatever its bytes are there. */

const quiet = (): void => {};
const { signal } = new AbortController();

test('a primary in LATIN1', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'foreshadow-encodings-'));
  await using beside = await createDatabase();
  await using home = await createDatabase();
  const name = `${beside.name}_latin`;
  const url = Object.assign(new URL(beside.url), { pathname: `/${name}` }).href;
  const provider = (await serverVersion()) >= 15 ? 'LOCALE_PROVIDER libc' : '';
  await beside.run(`CREATE DATABASE ${name} TEMPLATE template0 ENCODING 'LATIN1' ${provider} LC_COLLATE 'C' LC_CTYPE 'C'`);
  const client = new Client({ connectionString: url });
  try {
    await client.connect();
    await client.query(`CREATE TYPE größe AS ENUM ('groß', 'klein'); CREATE TABLE "Straßen" ("straße" text PRIMARY KEY, g größe, x xml, j jsonb, n text);
      INSERT INTO "Straßen" VALUES ('Bäcker', 'groß', '<a>ö</a>', '{"ä": "\\u00fc"}', '')`);
    const text = `dataSet: ${name}\nprimary: "${url}"\nshadow: "${home.url}"\ntables: ["public.*"]\n`;
    const system = await openSystem(parseConfig(text, join(directory, 'foreshadow.yaml'), {}), { log: quiet });
    try {
      expect(await system.capture(quiet, signal)).toMatchObject({ verdict: 'VALID' });
      await client.query(
        `INSERT INTO "Straßen" VALUES ('Ährenweg', 'groß', '<a>ß</a>', '"é"', 'à'); UPDATE "Straßen" SET n = 'ñ', "straße" = 'Bäckerstraße' WHERE n = ''`,
      );
      const { number, verdict } = await system.capture(quiet, signal);
      expect(verdict).toBe('VALID');
      const rows: unknown[] = [];
      for await (const slice of system.query(number, `SELECT * FROM "Straßen" WHERE g = 'groß' ORDER BY 1`, signal))
        rows.push(...slice.rows);
      expect(rows).toEqual([
        ['Bäckerstraße', 'groß', '<a>ö</a>', '{"ä": "ü"}', 'ñ'],
        ['Ährenweg', 'groß', '<a>ß</a>', '"é"', 'à'],
      ]);
    } finally {
      await system[Symbol.asyncDispose]();
    }
  } finally {
    await client.query(`SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()`);
    await client.end();
    await beside.run(`DROP DATABASE ${name} WITH (FORCE)`);
    await rm(directory, { recursive: true, force: true });
  }
});
