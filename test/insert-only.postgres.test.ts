import { expect, test } from 'vitest';
import { type ShapedSystem, openShaped, queried } from './shapes.ts';

/** Tables of which only inserts are followed: what captures hold of them, what is compared, and that the primary's statements pass. */

const { signal } = new AbortController();
const quiet = (): void => {};
const PATIENCE_MS = 180_000;
const ASKED = 'policy: { perTable: { "public.*": { insertOnly: true } } }\n';

const SETUP = `
  CREATE TABLE log (at int, note text);
  INSERT INTO log SELECT i % 10, 'line ' || i % 10 FROM generate_series(1, 100) i;
  CREATE TABLE silent (id int PRIMARY KEY, note text); ALTER TABLE silent REPLICA IDENTITY NOTHING;
  INSERT INTO silent VALUES (1, 'a'), (2, 'b');
  CREATE TABLE parts (at int, note text) PARTITION BY RANGE (at);
  CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (10);
  CREATE TABLE parts_high PARTITION OF parts FOR VALUES FROM (10) TO (20);
  INSERT INTO parts SELECT i % 20, 'p' FROM generate_series(1, 40) i;
  CREATE TABLE computed (a int, b int GENERATED ALWAYS AS (a * 2) STORED);
  INSERT INTO computed VALUES (1), (1);
  CREATE TABLE keyed (id int PRIMARY KEY, note text); INSERT INTO keyed VALUES (1, 'a'), (2, 'b');
  CREATE TABLE whole (v int); ALTER TABLE whole REPLICA IDENTITY FULL; INSERT INTO whole VALUES (1), (1), (2);`;

const INSERT_ONLY = ['public.computed', 'public.log', 'public.parts', 'public.silent'];

interface Taken {
  readonly number: number;
  readonly verdict: string;
  readonly skipped: readonly string[];
  readonly insertOnly: readonly string[];
}

async function taken(shaped: ShapedSystem): Promise<Taken> {
  const { number, verdict, differences, coverage } = await shaped.system.capture(quiet, signal);
  expect(differences).toEqual([]);
  const insertOnly = (coverage.insertOnly ?? []).toSorted();
  return { number, verdict, skipped: coverage.skipped.map(({ table }) => table).toSorted(), insertOnly };
}

/** While a table is copied anew it is left out of captures. */
async function valid(shaped: ShapedSystem): Promise<Taken> {
  let report = await taken(shaped);
  for (let again = 0; report.verdict === 'INCONCLUSIVE' && again < 4; again++) report = await taken(shaped);
  expect(report).toMatchObject({ verdict: 'VALID', skipped: [] });
  return report;
}

const counted = async (shaped: ShapedSystem, capture: number, table: string): Promise<unknown> =>
  (await queried(shaped, capture, `SELECT count(*), count(DISTINCT t.*) FROM public.${table} t`))[0];

const publications = (shaped: ShapedSystem): Promise<unknown> =>
  shaped.primary.run(`SELECT pubname LIKE '%+%' AS inserts, (SELECT count(*)::int FROM pg_publication_rel WHERE prpubid = p.oid) AS tables
    FROM pg_publication p ORDER BY 1`);

test(
  'every insert is in captures, with duplicates; updates and deletes pass on the primary, and are said not to be seen',
  async () => {
    await using shaped = await openShaped(SETUP, ASKED);
    const first = await taken(shaped);
    expect(first).toMatchObject({ verdict: 'VALID', skipped: [], insertOnly: INSERT_ONLY });
    expect(await publications(shaped)).toEqual([
      { inserts: false, tables: 2 },
      { inserts: true, tables: 4 },
    ]);
    expect(await counted(shaped, first.number, 'log')).toEqual([100, 10]);

    await shaped.primary.run(`INSERT INTO log VALUES (3, 'line 3'), (3, 'line 3'), (99, 'new'); DELETE FROM log WHERE at = 5;
    INSERT INTO silent VALUES (3, 'c'); DELETE FROM silent WHERE id = 1;
    INSERT INTO parts VALUES (1, 'q'), (19, 'q'); DELETE FROM parts WHERE at > 10 AND at < 15;
    INSERT INTO computed VALUES (5); DELETE FROM computed WHERE a = 1;
    UPDATE keyed SET note = 'changed'; DELETE FROM keyed WHERE id = 2; UPDATE whole SET v = 7 WHERE v = 2; DELETE FROM whole WHERE v = 1`);
    const second = await taken(shaped);
    expect(second).toMatchObject({ verdict: 'VALID', skipped: [], insertOnly: INSERT_ONLY });
    expect(await counted(shaped, second.number, 'log')).toEqual([103, 11]);
    expect(await counted(shaped, second.number, 'silent')).toEqual([3, 3]);
    expect(await counted(shaped, second.number, 'parts')).toEqual([42, 22]);
    expect(await queried(shaped, second.number, 'SELECT a FROM public.computed ORDER BY a')).toEqual([[1], [1], [5]]);
    expect(await queried(shaped, second.number, 'SELECT * FROM public.keyed')).toEqual([[1, 'changed']]);
    expect(await queried(shaped, second.number, 'SELECT * FROM public.whole')).toEqual([[7]]);
    expect(await shaped.system.validate(null, quiet, signal)).toMatchObject({ verdict: 'VALID', coverage: { skipped: [] } });
    expect((await shaped.restored(second.number))['public.log']).toHaveLength(103);
    const { tables } = await shaped.system.status(signal);
    expect(
      tables
        .filter(({ insertOnly }) => insertOnly)
        .map(({ table }) => table)
        .toSorted(),
    ).toEqual(INSERT_ONLY);

    // An updated row looks like one of which the insert was missed: that is no proof of either.
    await shaped.primary.run(`UPDATE log SET note = 'rewritten' WHERE at = 7; UPDATE silent SET note = 'z' WHERE id = 2`);
    expect(await shaped.system.validate(null, quiet, signal)).toMatchObject({ verdict: 'INCONCLUSIVE', differences: [] });
    expect(await taken(shaped)).toMatchObject({ verdict: 'INCONCLUSIVE', skipped: ['public.log', 'public.silent'] });
    const listed = (await shaped.system.captures(signal)).at(-1);
    expect(listed).toMatchObject({ verdict: 'INCONCLUSIVE', absent: [] });
    expect(listed?.notCompared.map(({ table, reason }) => [table, reason.includes('insert-only')]).toSorted()).toEqual([
      ['public.log', true],
      ['public.silent', true],
    ]);
    const third = await taken(shaped);
    expect(third).toMatchObject({ verdict: 'VALID', skipped: [] });
    expect(await queried(shaped, third.number, 'SELECT note, count(*) FROM public.log WHERE at = 7 GROUP BY note ORDER BY note')).toEqual([
      ['line 7', 10],
      ['rewritten', 10],
    ]);
    expect(await shaped.system.validate(third.number, quiet, signal)).toMatchObject({ verdict: 'VALID' });

    // While nothing runs.
    await shaped.reopen();
    await shaped.primary.run(`TRUNCATE silent; INSERT INTO silent VALUES (9, 'i'); INSERT INTO log VALUES (100, 'down'); DELETE FROM log WHERE at < 3;
    UPDATE parts SET at = at + 10 WHERE at = 1`);
    const fourth = await taken(shaped);
    expect(fourth).toMatchObject({ verdict: 'VALID', skipped: [] });
    expect(await queried(shaped, fourth.number, 'SELECT * FROM public.silent')).toEqual([[9, 'i']]);
    expect(await counted(shaped, fourth.number, 'log')).toEqual([114, 13]);
    const rolled = await shaped.system.rollback(second.number, quiet, signal);
    expect(rolled).toMatchObject({ proved: true });
    await shaped.system.resume(quiet, signal);
    const fifth = await valid(shaped);
    // The journal does not reach back so far: the table was compared with the primary, and is as it is there.
    expect(await counted(shaped, fifth.number, 'log')).toEqual([64, 8]);
    expect((await shaped.restored(fifth.number))['public.log']).toHaveLength(64);
  },
  PATIENCE_MS,
);

test(
  'a table goes from inserts only to all of its changes, and back, as what identifies its rows comes and goes',
  async () => {
    await using shaped = await openShaped(
      `CREATE TABLE good (id int PRIMARY KEY); CREATE TABLE changing (id int, note text); INSERT INTO changing VALUES (1, 'a'), (2, 'b')`,
      ASKED,
    );
    const changes = async (insertOnly: readonly string[]): Promise<void> => {
      const { number } = await valid(shaped);
      await shaped.primary.run(
        `INSERT INTO changing SELECT max(id) + 1, 'new' FROM changing; DELETE FROM changing WHERE id = (SELECT min(id) FROM changing)`,
      );
      const after = await valid(shaped);
      expect(after).toMatchObject({ insertOnly });
      const before = await queried(shaped, number, 'SELECT * FROM public.changing');
      const [held] = await shaped.primary.run('SELECT count(*)::int AS rows FROM changing');
      const now = await queried(shaped, after.number, 'SELECT * FROM public.changing');
      expect(now).toHaveLength(insertOnly.includes('public.changing') ? before.length + 1 : (held?.['rows'] as number));
    };
    await changes(['public.changing']);
    await shaped.primary.run('ALTER TABLE changing ADD PRIMARY KEY (id)');
    await changes([]);
    await shaped.primary.run('ALTER TABLE changing DROP CONSTRAINT changing_pkey');
    // Nobody's statement fails for longer than it takes to notice.
    await valid(shaped);
    await changes(['public.changing']);
    await shaped.primary.run('ALTER TABLE changing REPLICA IDENTITY FULL');
    await changes([]);
    await shaped.primary.run(
      'ALTER TABLE changing REPLICA IDENTITY NOTHING; CREATE TABLE later (v int); INSERT INTO later VALUES (1), (1)',
    );
    await valid(shaped);
    await changes(['public.changing', 'public.later']);
    await shaped.reopen();
    await shaped.primary.run('ALTER TABLE changing REPLICA IDENTITY FULL; ALTER TABLE later ADD w int; UPDATE later SET w = 1');
    await changes(['public.later']);
    await shaped.primary.run('ALTER TABLE later RENAME TO latest; INSERT INTO latest VALUES (2, 2)');
    const last = await valid(shaped);
    expect(await queried(shaped, last.number, 'SELECT * FROM public.latest ORDER BY 1, 2')).toEqual([
      [1, 1],
      [1, 1],
      [2, 2],
    ]);
  },
  PATIENCE_MS,
);

test(
  'it is asked for, and no longer asked for, from one start to the next',
  async () => {
    await using shaped = await openShaped('CREATE TABLE good (id int PRIMARY KEY); INSERT INTO good VALUES (1)');
    await valid(shaped);
    await shaped.reopen(ASKED);
    await shaped.primary.run(`CREATE TABLE log (v int); INSERT INTO log VALUES (1), (1); INSERT INTO good VALUES (2)`);
    expect(await valid(shaped)).toMatchObject({ insertOnly: ['public.log'] });
    await shaped.primary.run('INSERT INTO log VALUES (2); DELETE FROM log WHERE v = 1; INSERT INTO good VALUES (3)');
    const before = await valid(shaped);
    expect(await counted(shaped, before.number, 'log')).toEqual([3, 2]);
    await shaped.reopen('');
    const refused = await shaped.system.capture(quiet, signal).catch((error: unknown) => error);
    expect(refused).toMatchObject({ code: 'TABLE_UNIDENTIFIED', remedy: expect.stringMatching(/insertOnly: true/) as string });
    await shaped.primary.run('ALTER TABLE log REPLICA IDENTITY FULL; INSERT INTO log VALUES (3)');
    const after = await valid(shaped);
    expect(after.insertOnly).toEqual([]);
    expect(await queried(shaped, after.number, 'SELECT * FROM public.log ORDER BY 1')).toEqual([[2], [3]]);
    expect(await counted(shaped, before.number, 'log')).toEqual([3, 2]);
    await shaped.primary.run('UPDATE log SET v = 4 WHERE v = 3');
    const last = await valid(shaped);
    expect(await queried(shaped, last.number, 'SELECT * FROM public.log ORDER BY 1')).toEqual([[2], [4]]);
    expect(await publications(shaped)).toEqual([{ inserts: false, tables: 2 }]);
  },
  PATIENCE_MS,
);
