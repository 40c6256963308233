import { expect, test } from 'vitest';
import { createDatabase } from '../../../test/postgres.ts';
import type { KeyTuple } from '../../model/tuple.ts';
import { packTuple } from '../../model/tuple.ts';
import type { Layout } from './layout.ts';
import { endStaging, stageKeys } from './staging.ts';
import { Wire } from './wire.ts';

const TABLES = 40;

const key = packTuple([Buffer.from([0, 0, 0, 7])]) as KeyTuple;

const layoutOf = (id: number): Layout =>
  ({ gone: `pg_temp.gone_${id}`, history: `public.history_${id}`, key: ['id'] }) as unknown as Layout;

test('a session works on many tables in turn, each with what was staged for it, and keeps stages for few of them', async () => {
  await using database = await createDatabase();
  const layouts = Array.from({ length: TABLES }, (_, id) => layoutOf(id));
  await database.run(layouts.map(({ history }) => `CREATE TABLE ${history} (id int)`).join('; '));
  await using wire = await Wire.open(database.url, { side: 'shadow', purpose: 'test' });
  const staged = async (layout: Layout): Promise<string | null | undefined> => {
    await stageKeys(wire, layout, [key]);
    return (await wire.query(`SELECT string_agg(id::text, ',') FROM ${layout.gone}`))[0]?.rows[0]?.[0];
  };
  for (const end of ['COMMIT', 'ROLLBACK', 'COMMIT'])
    for (const layout of layouts) {
      await wire.query('BEGIN');
      expect(await staged(layout)).toBe('7');
      // In place of what it held.
      expect(await staged(layout)).toBe('7');
      await wire.query(end);
      endStaging(wire, end === 'COMMIT');
    }
  const [kept] = await wire.query(`SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema() AND relkind = 'r'`);
  expect(Number(kept?.rows[0]?.[0])).toBeLessThan(TABLES);
});

test('what was staged in a transaction stays to its end, however many tables it works on', async () => {
  await using database = await createDatabase();
  const layouts = Array.from({ length: TABLES }, (_, id) => layoutOf(id));
  await database.run(layouts.map(({ history }) => `CREATE TABLE ${history} (id int)`).join('; '));
  await using wire = await Wire.open(database.url, { side: 'shadow', purpose: 'test' });
  await wire.query('BEGIN');
  for (const layout of layouts) await stageKeys(wire, layout, [key]);
  const counts = layouts.map(({ gone }) => `SELECT count(*) FROM ${gone}`).join(' UNION ALL ');
  const [found] = await wire.query(counts);
  expect(found?.rows).toEqual(layouts.map(() => ['1']));
  await wire.query('COMMIT');
});

test('what is staged of a table whose key was renamed has the names it has now', async () => {
  await using database = await createDatabase();
  const layout = layoutOf(1);
  await database.run(`CREATE TABLE ${layout.history} (id int)`);
  await using wire = await Wire.open(database.url, { side: 'shadow', purpose: 'test' });
  const staged = async (name: string): Promise<unknown> => {
    await wire.query('BEGIN');
    await stageKeys(wire, Object.assign(layout, { key: [name] }), [key]);
    const [found] = await wire.query(`SELECT ${name} FROM ${layout.gone}`);
    await wire.query('COMMIT');
    endStaging(wire, true);
    return found?.rows;
  };
  expect(await staged('id')).toEqual([['7']]);
  await database.run(`ALTER TABLE ${layout.history} RENAME id TO number`);
  expect(await staged('number')).toEqual([['7']]);
});
