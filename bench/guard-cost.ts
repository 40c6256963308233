import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { parseArgs } from 'node:util';
import { Client } from 'pg';
import { parseConfig } from '../src/app/config.ts';
import { openShadow } from '../src/app/stores.ts';
import { type CaptureNumber, NO_CAPTURE, captureNumber } from '../src/model/capture.ts';
import type { Element } from '../src/model/progress.ts';
import { type KeyTuple, type Tuple, keyTuple } from '../src/model/tuple.ts';
import type { RowBatch, Shadow } from '../src/shadowing/shadow.ts';
import { startEmbeddedServer } from '../src/stores/postgres/embedded.ts';
import { median, noiseBand, randomIntegers } from './measuring.ts';
import { type ResultTable, record, say, shown, temporaryDirectory } from './recording.ts';
import { FOREVER, type SystemPlaces, configText, measureCapture, openBenchSystem } from './systems.ts';

/** What the guard against foreign writers costs our own writes: `Shadow.apply` with the guard's triggers, and without them. */

interface Settings {
  readonly rows: number;
  readonly batchRows: number;
  readonly rounds: number;
}

type Kind = 'update' | 'delete' | 'insert';
const KINDS: readonly Kind[] = ['update', 'delete', 'insert'];

/** With the guard, without it, and with it again: the control. */
const TURNS = ['guarded', 'bare', 'guarded again'] as const;
type Turn = (typeof TURNS)[number];

interface GuardResult {
  readonly store: string;
  /** Milliseconds an apply, by kind and turn, one a round. */
  readonly applyMs: Readonly<Record<Kind, Readonly<Record<Turn, readonly number[]>>>>;
}

interface Subject {
  readonly store: string;
  readonly places: SystemPlaces;
  /** Changes every row on the primary. */
  readonly changeAll: () => Promise<void>;
  /** Takes the guard's triggers away from the shadow's table, or puts them back. */
  readonly guard: (on: boolean) => Promise<void>;
}

/** Two images of every row, as the shadow itself holds them: so that an update of one to the other is a real one. */
async function measure({ store, places, changeAll, guard }: Subject, settings: Settings): Promise<GuardResult> {
  say(`${store}: two captures of ${settings.rows} rows`);
  {
    await using system = await openBenchSystem({ ...places, validate: 'none' });
    await measureCapture(system);
    await changeAll();
    await measureCapture(system);
  }
  const config = parseConfig(configText(places), join(places.directory, 'foreshadow.yaml'), {});
  const { shadow } = await openShadow(config);
  await using _ = shadow;
  await shadow.claim('the benchmark of the guard');
  const element = Array.from((await shadow.elements()).values())[0];
  if (element === undefined) throw new Error('the shadow has no table');
  const images = [await allRows(shadow, element, captureNumber(1)), await allRows(shadow, element, captureNumber(2))] as const;
  const random = randomIntegers(7);
  const standing = new Uint8Array(images[1].length).fill(1);
  const applyMs = Object.fromEntries(KINDS.map((kind) => [kind, { guarded: [], bare: [], 'guarded again': [] }])) as unknown as Record<
    Kind,
    Record<Turn, number[]>
  >;
  // The round before the first is not counted: caches and plans.
  for (let round = -1; round < settings.rounds; round++) {
    for (let index = 0; index < TURNS.length; index++) {
      const turn = TURNS[(index + round + TURNS.length) % TURNS.length] as Turn;
      await guard(turn !== 'bare');
      const chosen = chooseOther(images, standing, settings.batchRows, random);
      const keys = chosen.map((row) => keyTuple(row, element.schema.key));
      for (const kind of KINDS) {
        const ms = await timeApply(shadow, element, batchOf(kind, chosen, keys));
        if (round >= 0) applyMs[kind][turn].push(ms);
      }
    }
  }
  await guard(true);
  return { store, applyMs };
}

function batchOf(kind: Kind, puts: readonly Tuple[], keys: readonly KeyTuple[]): RowBatch {
  if (kind === 'delete') return { deletes: keys, puts: [], fresh: false };
  return { deletes: [], puts, fresh: kind === 'insert' };
}

async function timeApply(shadow: Shadow, { schema, progress, state }: Element, batch: RowBatch): Promise<number> {
  const begunMs = performance.now();
  await shadow.apply([{ table: schema.table, rows: [batch], from: progress, progress, state, savedThrough: NO_CAPTURE }], FOREVER);
  return performance.now() - begunMs;
}

async function allRows(shadow: Shadow, { schema }: Element, at: CaptureNumber): Promise<Tuple[]> {
  const rows: Tuple[] = [];
  let after: KeyTuple | null = null;
  do {
    const chunk = await shadow.rows(schema.table, at, after, { rows: 20_000, bytes: 8 << 20 }, FOREVER);
    rows.push(...chunk.rows);
    after = chunk.through;
  } while (after !== null);
  return rows;
}

/**
 * Distinct rows, uniformly, each in the image that does not stand in the shadow, so that every update is one; in the order of
 * their keys, as folds hand them on. `standing` is which image that is, row by row, and is kept up to date.
 */
function chooseOther(
  images: readonly [readonly Tuple[], readonly Tuple[]],
  standing: Uint8Array,
  count: number,
  random: (below: number) => number,
): Tuple[] {
  const chosen = new Set<number>();
  while (chosen.size < Math.min(count, standing.length)) chosen.add(random(standing.length));
  return Array.from(chosen)
    .toSorted((a, b) => a - b)
    .map((index) => {
      const other = standing[index] === 1 ? 0 : 1;
      standing[index] = other;
      return images[other][index] as Tuple;
    });
}

const NOTE = "'a note that makes this row about as long as rows are, with words in it, number '";

async function sqlite(settings: Settings): Promise<GuardResult> {
  await using directory = await temporaryDirectory();
  const primary = new DatabaseSync(join(directory.path, 'primary.db'));
  primary.exec(`PRAGMA journal_mode = WAL; CREATE TABLE item (id INTEGER PRIMARY KEY, value INTEGER NOT NULL, note TEXT);
    WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${settings.rows})
    INSERT INTO item SELECT i, 0, ${NOTE} || i FROM n`);
  const guard = async (on: boolean): Promise<void> => {
    const shadow = new DatabaseSync(join(directory.path, 'shadow.db'));
    try {
      const triggers = shadow
        .prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND name LIKE '\\_foreshadow\\_guard\\_%' ESCAPE '\\'")
        .all();
      if (on) for (const sql of taken.splice(0)) shadow.exec(sql);
      else {
        taken.push(...triggers.map(({ sql }) => String(sql)));
        for (const { name } of triggers) shadow.exec(`DROP TRIGGER "${String(name)}"`);
      }
      await Promise.resolve();
    } finally {
      shadow.close();
    }
  };
  const taken: string[] = [];
  try {
    const places = { directory: directory.path, primary: 'sqlite:primary.db', shadow: 'sqlite:shadow.db', tables: ['item'] };
    const changeAll = async (): Promise<void> => {
      primary.exec('UPDATE item SET value = value + 1');
      await Promise.resolve();
    };
    return await measure({ store: 'SQLite', places, changeAll, guard }, settings);
  } finally {
    primary.close();
  }
}

async function postgres(settings: Settings): Promise<GuardResult[]> {
  await using directory = await temporaryDirectory();
  await using server = await startEmbeddedServer({ durable: true });
  const admin = new Client({ connectionString: server.url });
  await admin.connect();
  try {
    await admin.query(`CREATE TABLE item (id int PRIMARY KEY, value int NOT NULL, note text);
      INSERT INTO item SELECT i, 0, ${NOTE} || i FROM generate_series(1, ${settings.rows}) i`);
    await admin.query("CREATE ROLE ordinary LOGIN PASSWORD 'ordinary'");
    const results: GuardResult[] = [];
    for (const role of ['postgres', 'ordinary']) {
      await admin.query(`CREATE DATABASE shadow_${role} OWNER ${role}`);
      const shadow = new URL(server.url);
      shadow.pathname = `/shadow_${role}`;
      const adminUrl = shadow.href;
      if (role === 'ordinary') Object.assign(shadow, { username: role, password: role });
      const guard = async (on: boolean): Promise<void> => {
        const client = new Client({ connectionString: adminUrl });
        await client.connect();
        await client.query(`ALTER TABLE item ${on ? 'ENABLE' : 'DISABLE'} TRIGGER USER`);
        await client.end();
      };
      const places = { directory: join(directory.path, role), primary: server.url, shadow: shadow.href, tables: ['public.item'] };
      const changeAll = async (): Promise<void> => {
        await admin.query('UPDATE item SET value = value + 1');
      };
      const how = role === 'postgres' ? 'guard passed as a replica' : 'guard passed by a setting';
      results.push(await measure({ store: `PostgreSQL, ${how}`, places, changeAll, guard }, settings));
      await admin.query(`SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots`);
    }
    return results;
  } finally {
    await admin.end();
  }
}

function tableOf(results: readonly GuardResult[], { batchRows }: Settings): ResultTable {
  const rows = results.flatMap(({ store, applyMs }) =>
    KINDS.map((kind) => {
      const { guarded, bare, 'guarded again': again } = applyMs[kind];
      const [withGuard, without] = [median([...guarded, ...again]), median(bare)];
      return [
        store,
        kind,
        perSecond(batchRows, withGuard),
        perSecond(batchRows, without),
        shown((withGuard / without - 1) * 100),
        shown((median(guarded) / median(again) - 1) * 100),
        shown(noiseBand(guarded, again) * 100),
      ];
    }),
  );
  const columns = [
    'shadow',
    'rows are',
    'rows/s with the guard',
    'rows/s without',
    'cost of the guard %',
    'control: difference of medians %',
    'control: spread of rounds %',
  ];
  return { title: `Applies of ${batchRows.toLocaleString('en')} rows`, columns, rows };
}

function perSecond(rows: number, ms: number): string {
  return Math.round(rows / (ms / 1000)).toLocaleString('en');
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { quick: { type: 'boolean' } } });
  const quick = values.quick === true;
  const settings: Settings = quick ? { rows: 20_000, batchRows: 2000, rounds: 3 } : { rows: 1_000_000, batchRows: 10_000, rounds: 9 };
  const results = [await sqlite(settings), ...(await postgres(settings))];
  await record({
    name: quick ? 'guard-cost-quick' : 'guard-cost',
    title: 'What the guard costs our own writes to the shadow',
    method: [
      'One `Shadow.apply` after the other, each a durable transaction of rows chosen uniformly from the table and sorted by key: updates, then',
      'deletes of the same rows, then their inserts. In each round with the guard’s triggers, without them (dropped on SQLite, disabled on PostgreSQL),',
      'and with them again as the control, in an order that rotates. Medians; the rows are about 110 bytes, and no version is saved.',
    ],
    settings: { ...settings, quick },
    tables: [tableOf(results, settings)],
    checks: [],
    measurements: results,
  });
}

await main();
