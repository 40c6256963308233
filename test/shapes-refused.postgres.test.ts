import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { parseConfig } from '../src/app/config.ts';
import { doctor } from '../src/app/doctor.ts';
import type { ForeshadowError } from '../src/model/errors.ts';
import { createDatabase } from './postgres.ts';
import { openShaped } from './shapes.ts';

/** What cannot be followed is named, with what to do; nothing is left out in silence. */

const SETUP = `
  CREATE TABLE good (id int PRIMARY KEY);
  CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY);
  CREATE TABLE keyless (v int);
  CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE);
  CREATE TABLE nothing (id int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING;
  CREATE TABLE indexed (id int NOT NULL UNIQUE); ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_id_key; ALTER TABLE indexed DROP CONSTRAINT indexed_id_key;
  CREATE TABLE ours (id int PRIMARY KEY, _foreshadow_since int);
  CREATE TABLE too_wide (id int PRIMARY KEY, ${Array.from({ length: 1598 }, (_, at) => `c${at} bool`).join(', ')});
  CREATE TABLE part_unlogged (id int PRIMARY KEY) PARTITION BY RANGE (id);
  CREATE UNLOGGED TABLE part_unlogged_1 PARTITION OF part_unlogged FOR VALUES FROM (0) TO (10);
  CREATE TABLE part_other (id int PRIMARY KEY, code int NOT NULL) PARTITION BY RANGE (id);
  CREATE TABLE part_other_1 PARTITION OF part_other FOR VALUES FROM (0) TO (10);
  CREATE UNIQUE INDEX part_other_code ON part_other_1 (code);
  ALTER TABLE part_other_1 REPLICA IDENTITY USING INDEX part_other_code;
  CREATE TABLE part_full (v int) PARTITION BY RANGE (v); ALTER TABLE part_full REPLICA IDENTITY FULL;
  CREATE TABLE part_full_1 PARTITION OF part_full FOR VALUES FROM (0) TO (10);
  CREATE SCHEMA "dotted.schema"; CREATE TABLE "dotted.schema".t (id int PRIMARY KEY);
  CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere;
  CREATE FOREIGN TABLE elsewhere (id int) SERVER nowhere;
  CREATE TEMP TABLE temporary (v int);
  SELECT lo_create(0);`;

test('doctor names each table that cannot be followed, and why', async () => {
  await using primary = await createDatabase();
  await using shadow = await createDatabase();
  const directory = await mkdtemp(join(tmpdir(), 'foreshadow-refused-'));
  try {
    await primary.run(SETUP);
    const text = `dataSet: ${primary.name}\nprimary: "${primary.url}"\nshadow: "${shadow.url}"\ntables: ["*"]\n`;
    const { findings } = await doctor(parseConfig(text, join(directory, 'foreshadow.yaml'), {}), new AbortController().signal);
    const named = findings.filter(({ remedy }) => remedy !== null).map(({ severity, code, subject }) => `${severity} ${code} ${subject}`);
    expect(named.filter((each) => !each.includes('PRIMARY_SETTING')).toSorted()).toEqual([
      'error TABLE_TOO_WIDE public.too_wide',
      'error TABLE_UNIDENTIFIED public.deferred',
      'error TABLE_UNIDENTIFIED public.indexed',
      'error TABLE_UNIDENTIFIED public.keyless',
      'error TABLE_UNIDENTIFIED public.nothing',
      'error TABLE_UNIDENTIFIED public.part_full',
      'error TABLE_UNIDENTIFIED public.part_other',
      'error TABLE_UNLOGGED public.part_unlogged',
      'error TABLE_UNLOGGED public.unlogged',
      'error TABLE_UNNAMEABLE dotted.schema.t',
      'error TABLE_UNNAMEABLE public.ours',
      `warning LARGE_OBJECTS ${new URL(primary.url).host}/${primary.name}`,
      'warning TABLE_FOREIGN public.elsewhere',
    ]);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
});

test('a user who may read only some columns, or not all rows, is told so', async () => {
  await using primary = await createDatabase();
  const user = `reader_${primary.name}`;
  await primary.run(`CREATE ROLE ${user} LOGIN REPLICATION PASSWORD 'secret'; GRANT CREATE ON DATABASE ${primary.name} TO ${user};
    CREATE TABLE some_columns (id int PRIMARY KEY, hidden text); GRANT SELECT (id) ON some_columns TO ${user};
    CREATE TABLE some_rows (id int PRIMARY KEY); ALTER TABLE some_rows ENABLE ROW LEVEL SECURITY; GRANT SELECT ON some_rows TO ${user}`);
  try {
    const text = `dataSet: ${primary.name}\nprimary: "${primary.urlAs(user, 'secret')}"\nshadow: "postgres://127.0.0.1:1/none"\ntables: ["public.*"]\n`;
    const { findings } = await doctor(parseConfig(text, join(tmpdir(), 'foreshadow.yaml'), {}), new AbortController().signal);
    const messages = findings.filter(({ code }) => code === 'PRIMARY_ACCESS').map(({ message }) => message.replaceAll('"', ''));
    expect(messages).toContain(`The user ${user} may not read public.some_columns.`);
    expect(messages).toContain(`Row security hides rows of public.some_rows from the user ${user}.`);
  } finally {
    await primary.run(`DROP OWNED BY ${user}; DROP ROLE ${user}`);
  }
});

test('a capture names tables that came, or became, such that they cannot be followed', async () => {
  await using shaped = await openShaped(
    'CREATE TABLE good (id int PRIMARY KEY); CREATE TABLE changing (id int PRIMARY KEY); INSERT INTO changing VALUES (1)',
  );
  expect(await shaped.capture()).toMatchObject({ verdict: 'VALID' });
  await shaped.primary.run(`CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY); INSERT INTO unlogged VALUES (1);
    ALTER TABLE changing DROP CONSTRAINT changing_pkey`);
  for (let round = 0; round < 2; round++) {
    const { verdict, coverage } = await shaped.system.capture(() => undefined, new AbortController().signal);
    expect(verdict).toBe('INCONCLUSIVE');
    expect(coverage?.skipped.map(({ table }) => table).toSorted()).toEqual(['public.changing', 'public.unlogged']);
    if (round === 1) expect(coverage?.skipped.map(({ reason }) => reason).join()).toMatch(/unlogged.*SET LOGGED/);
  }
  // A published table without a key has its updates refused by the server: it is let go of.
  await expect(shaped.primary.run('UPDATE changing SET id = id')).resolves.toEqual([]);
  await shaped.primary.run('ALTER TABLE unlogged SET LOGGED; ALTER TABLE changing REPLICA IDENTITY FULL; INSERT INTO changing VALUES (1)');
  let after = await shaped.capture();
  while (after.verdict === 'INCONCLUSIVE') after = await shaped.capture();
  expect(after).toMatchObject({ verdict: 'VALID', differences: [] });
  expect(await shaped.restored(after.number)).toEqual(after.held);
});

test('a table that lost its key while nothing ran is named, with what lets its updates pass', async () => {
  await using shaped = await openShaped(
    'CREATE TABLE good (id int PRIMARY KEY); CREATE TABLE changing (id int PRIMARY KEY); INSERT INTO changing VALUES (1)',
  );
  expect(await shaped.capture()).toMatchObject({ verdict: 'VALID' });
  await shaped.reopen();
  await shaped.primary.run('ALTER TABLE changing DROP CONSTRAINT changing_pkey');
  const refused = await shaped.system.capture(() => undefined, new AbortController().signal).catch((error: unknown) => error);
  expect(refused).toMatchObject({ code: 'TABLE_UNIDENTIFIED' });
  const [statement] = /ALTER PUBLICATION .* DROP TABLE "public"."changing"/.exec((refused as ForeshadowError).remedy) ?? [];
  await shaped.primary.run(`${statement}; UPDATE changing SET id = id`);
});
