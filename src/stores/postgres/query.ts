import type { Client, QueryArrayConfig, QueryConfig } from 'pg';
import type { CaptureNumber, CaptureRecord } from '../../model/capture.ts';
import { ForeshadowError, messageOf } from '../../model/errors.ts';
import type { TableName } from '../../model/schema.ts';
import type { QuerySlice } from '../../shadowing/shadow.ts';
import { codeOf, connect, failureOf, identifier, literal, placeOf, rowsOf } from './connection.ts';
import { Layout, OWN_SCHEMA, splitName } from './layout.ts';
import { absentError, BEGIN_READING, segmentAt, segmentOf, SEGMENT_COLUMNS } from './segments.ts';
import { isUnprepared, unprepared } from './shadow-connections.ts';
import { shownArray, shownValue } from './shadow-values.ts';

const SLICE_ROWS = 500;

/** Raised by `_foreshadow.absent`. */
const ABSENT_STATE = 'FS001';

/**
 * `Shadow.query`. Inside one transaction, which is always rolled back, each schema of the data set is renamed out of the way and a
 * schema of that name holds views of the tables as of the capture: so `public.orders` means the capture, without a lock on
 * any table and unseen by everybody else. Then the transaction is made read-only, which nothing in it can take back, and the
 * statement runs as a cursor. It is sent through the extended protocol, which refuses more than one statement.
 */
export async function* runQuery(url: string, at: CaptureNumber, sql: string, signal: AbortSignal): AsyncIterable<QuerySlice> {
  const client = await connect(url, { side: 'shadow', purpose: 'query' }, signal);
  const cancel = (): void => void cancelBackend(url, client);
  signal.addEventListener('abort', cancel, { once: true });
  try {
    const tables = await standAsOf(client, url, at, signal);
    try {
      yield* runStatement(client, sql);
    } catch (error) {
      signal.throwIfAborted();
      throw queryError(error, tables, at);
    }
  } finally {
    signal.removeEventListener('abort', cancel);
    // Closing the connection rolls everything back.
    await client.end();
  }
}

async function standAsOf(client: Client, url: string, at: CaptureNumber, signal: AbortSignal): Promise<TableAt[]> {
  try {
    await client.query(BEGIN_READING);
    const tables = await tablesAt(client, url, at);
    await client.query(viewsSql(tables, at));
    // What people ask may well be worth compiling: that is the server's to say.
    await client.query('RESET jit');
    return tables;
  } catch (error) {
    signal.throwIfAborted();
    throw isUnprepared(error) ? unprepared(error) : failureOf(error, url, 'shadow');
  }
}

interface TableAt {
  readonly table: TableName;
  /** The newest shape known, where the capture does not hold it. */
  readonly layout: Layout;
  readonly absent: string | null;
}

async function tablesAt(client: Client, url: string, at: CaptureNumber): Promise<TableAt[]> {
  const [capture] = await rowsOf<{ record: string }>(client, `SELECT record FROM ${OWN_SCHEMA}.capture WHERE number = ${at}`);
  const rows = await rowsOf<Record<string, string | number | null>>(
    client,
    `SELECT ${SEGMENT_COLUMNS} FROM ${OWN_SCHEMA}.segment ORDER BY id`,
  );
  const segments = Map.groupBy(
    rows.map((row) => segmentOf(Object.values(row).map((value) => (value === null ? null : String(value))))),
    (segment) => segment.table,
  );
  const live = await rowsOf<{ newest: string | null }>(client, `SELECT max(capture) AS newest FROM ${OWN_SCHEMA}.progress`);
  if (capture === undefined && String(at) !== live[0]?.newest) {
    throw new ForeshadowError('CAPTURE_MISSING', `The shadow at ${placeOf(url)} has no capture ${at}`, {
      remedy: '`foreshadow captures` lists those it has.',
    });
  }
  const absent = capture === undefined ? [] : (JSON.parse(capture.record) as CaptureRecord).absent;
  return [...segments].map(([table, chain]) => {
    const left = absent.find((each) => each.table === table);
    const segment = segmentAt(chain, at);
    const reason = left?.reason ?? (segment === undefined ? 'it did not exist then' : null);
    return { table, layout: new Layout(segment ?? (chain.at(-1) as Layout['segment'])), absent: reason };
  });
}

function viewsSql(tables: readonly TableAt[], at: CaptureNumber): string {
  const statements: string[] = [];
  const homes = tables.flatMap(({ layout }) => layout.segment.home ?? []);
  const schemas = [...new Set([...homes, ...tables.map(({ table }) => table)].map((table) => splitName(table).schema))];
  const hidden = new Map(schemas.map((schema, index) => [schema, `_foreshadow_hidden_${index}`]));
  for (const [schema, other] of hidden) {
    statements.push(`ALTER SCHEMA ${identifier(schema)} RENAME TO ${other}`, `CREATE SCHEMA ${identifier(schema)}`);
  }
  for (const { table, layout, absent } of tables) {
    const { schema, name } = splitName(table);
    const home = layout.segment.home === null ? null : splitName(layout.segment.home);
    const moved = { ...layout.segment, home: home === null ? null : (`${hidden.get(home.schema)}.${home.name}` as TableName) };
    statements.push(`CREATE VIEW ${identifier(schema)}.${identifier(name)} AS ${viewBody(layout, new Layout(moved), at, absent)}`);
  }
  // What else lies in these schemas (types, functions of extensions) is found behind them.
  const path = [...schemas.map(identifier), ...(schemas.includes('public') ? [] : ['public']), 'pg_catalog', ...hidden.values()];
  statements.push(`SET LOCAL search_path = ${path.join(', ')}`, 'SET LOCAL transaction_read_only = on');
  return statements.join('; ');
}

function viewBody(layout: Layout, moved: Layout, at: CaptureNumber, absent: string | null): string {
  const { columns } = layout.segment.schema;
  const visible = columns.flatMap(({ hidden, name }, index) => (hidden ? [] : [{ stored: layout.columns[index], name: identifier(name) }]));
  const shown = (alias: string): string => visible.map(({ stored, name }) => `${alias}.${stored} AS ${name}`).join(', ');
  if (absent === null) return `SELECT ${shown('v')} FROM (${moved.asOf(at)}) v${layout.unfolded('v')}`;
  const message = absentError(layout.segment.table, at, absent).message;
  return `SELECT ${shown('r')} FROM ${moved.history} r WHERE ${OWN_SCHEMA}.absent(${literal(message)})
    UNION ALL SELECT ${visible.map(({ name }) => `NULL AS ${name}`).join(', ')} WHERE ${OWN_SCHEMA}.absent(${literal(message)})`;
}

/** Statements that return rows but cannot be a cursor. */
const WITHOUT_CURSOR = /^\s*(?:explain|show)\b/i;

async function* runStatement(client: Client, sql: string): AsyncIterable<QuerySlice> {
  const arrays = new ArrayTypes(client);
  if (WITHOUT_CURSOR.test(sql)) {
    yield await slice(client, sql, arrays);
    return;
  }
  await client.query({ text: `DECLARE foreshadow_query NO SCROLL CURSOR FOR ${sql}\n`, queryMode: 'extended' } as QueryConfig);
  for (let first = true; ; first = false) {
    const next = await slice(client, `FETCH FORWARD ${SLICE_ROWS} FROM foreshadow_query`, arrays);
    if (first || next.rows.length > 0) yield next;
    if (next.rows.length < SLICE_ROWS) return;
  }
}

async function slice(client: Client, text: string, arrays: ArrayTypes): Promise<QuerySlice> {
  const result = await client.query<(string | null)[]>({
    text,
    rowMode: 'array',
    queryMode: 'extended',
    types: { getTypeParser: () => (value: string) => value },
  } as unknown as QueryArrayConfig);
  const show: ((value: string) => unknown)[] = [];
  for (const field of result.fields) show.push(await arrays.shower(field.dataTypeID));
  return {
    columns: result.fields.map((field) => field.name),
    rows: result.rows.map((row) => row.map((value, index) => (value === null ? null : show[index]?.(value)))),
  };
}

/** How values of types are shown; which types are arrays is asked once for each. */
class ArrayTypes {
  readonly #client: Client;
  readonly #known = new Map<number, (value: string) => unknown>();

  constructor(client: Client) {
    this.#client = client;
  }

  async shower(type: number): Promise<(value: string) => unknown> {
    const known = this.#known.get(type);
    if (known !== undefined) return known;
    const [array] = await rowsOf<{ element: string; delimiter: string }>(
      this.#client,
      `SELECT e.oid::text AS element, e.typdelim::text AS delimiter FROM pg_type t JOIN pg_type e ON e.oid = t.typelem
       WHERE t.oid = ${type} AND t.typcategory = 'A' AND t.typlen = -1`,
    );
    const shower =
      array === undefined
        ? (value: string): unknown => shownValue(type, value)
        : (value: string): unknown => shownArray(Number(array.element), array.delimiter, value);
    this.#known.set(type, shower);
    return shower;
  }
}

function queryError(error: unknown, tables: readonly TableAt[], at: CaptureNumber): ForeshadowError {
  if (error instanceof ForeshadowError) return error;
  const text = messageOf(error);
  if (codeOf(error) === ABSENT_STATE) {
    const left = tables.find((each) => each.absent !== null && text === absentError(each.table, at, each.absent).message);
    if (left !== undefined) return absentError(left.table, at, left.absent as string, error);
  }
  return new ForeshadowError('QUERY_FAILED', `The query failed: ${text}`, {
    remedy: 'Correct the statement: one that only reads, over tables of the data set.',
    cause: error,
  });
}

/** Asks the server to stop what the connection is running: it would not notice our leaving before it has a row to send. */
async function cancelBackend(url: string, client: Client): Promise<void> {
  const { processID } = client as unknown as { processID: number };
  try {
    const other = await connect(url, { side: 'shadow', purpose: 'query' });
    await other.query('SELECT pg_cancel_backend($1)', [processID]);
    await other.end();
  } catch {
    // The server is out of reach: then the statement has nobody to answer to either.
  }
}
