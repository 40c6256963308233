import { ForeshadowError } from '../../model/errors.ts';
import { type DdlStatement, OWN_PREFIX } from '../../model/schema.ts';
import { codeOf, literal } from './connection.ts';
import { OWN_SCHEMA } from './layout.ts';
import type { Wire } from './wire.ts';

/** The object is there already: schema, type, table, function. */
const EXISTS_STATES = new Set(['42P06', '42710', '42P07', '42723']);

/**
 * Makes the types, schemas and extensions that the tables need, as far as they are missing. Sequences are left out: nothing in a
 * shadow counts. Runs inside the caller's transaction.
 */
export async function makeTypes(wire: Wire, statements: readonly DdlStatement[]): Promise<void> {
  for (const { object, sql, mayFail } of statements) {
    if (/^\s*CREATE\s+SEQUENCE/i.test(sql)) continue;
    await wire.query('SAVEPOINT made');
    try {
      await wire.query(sql);
      await wire.query('RELEASE made');
    } catch (error) {
      if (wire.broken) throw error;
      await wire.query('ROLLBACK TO made; RELEASE made');
      const exists = EXISTS_STATES.has(codeOf(error));
      if (!exists && !mayFail) throw withObject(wire, object, error);
      if (exists) await addLabels(wire, sql);
      if (exists) await renew(wire, object, sql);
    }
    await uncheck(wire, sql);
  }
}

/** A name as SQL spells it: what stands in quotes may be anything. */
const NAME = String.raw`((?:"(?:[^"]|"")+"|[^\s"])+)`;
const LABELLED = new RegExp(String.raw`^CREATE TYPE ${NAME} AS ENUM \((.*)\)$`, 's');
const MADE = new RegExp(String.raw`^CREATE (TYPE|DOMAIN) ${NAME} AS (?!ENUM |RANGE )(.+)$`, 's');
/** A type as it should be, beside the one that stands. No other type has its name, in whatever schema. */
const COMING_NAME = `${OWN_PREFIX}_coming`;
const COMING = `${OWN_SCHEMA}.${COMING_NAME}`;

/** An enum of an earlier run may lack labels that the primary's has by now. */
async function addLabels(wire: Wire, sql: string): Promise<void> {
  const match = LABELLED.exec(sql);
  if (match === null) return;
  const [, name, list] = match as unknown as [string, string, string];
  let before: string | null = null;
  for (const label of list.match(/E?'(?:[^'\\]|''|\\.)*'/gs) ?? []) {
    await wire.query(`ALTER TYPE ${name} ADD VALUE IF NOT EXISTS ${label}${before === null ? '' : ` AFTER ${before}`}`);
    before = label;
  }
}

/**
 * A composite whose attributes are others on the primary by now, or a domain of such. The type that stands belongs to the rows of earlier
 * captures: it is put aside with them, and one as it should be takes its place. Attributes that only have other names get those.
 */
async function renew(wire: Wire, object: string, sql: string): Promise<void> {
  const [, kind, type = '', rest] = MADE.exec(sql) ?? [];
  if (kind === undefined) return;
  await wire.query('SAVEPOINT coming');
  try {
    await wire.query(`CREATE ${kind} ${COMING} AS ${rest}`);
  } catch (error) {
    if (wire.broken) throw error;
    await wire.query('ROLLBACK TO coming; RELEASE coming');
    // Its new checks may lean on functions that a shadow lacks: it checks nothing.
    if (kind === 'DOMAIN') return;
    throw withObject(wire, object, error);
  }
  const stands = await readMade(wire, type);
  const coming = await readMade(wire, COMING);
  const same = stands.parts === coming.parts;
  await wire.query(`${same ? 'ROLLBACK TO coming; ' : ''}RELEASE coming`);
  if (same) {
    for (const step of renames(type, stands.names, coming.names)) await wire.query(step);
    return;
  }
  const aside = `type_${stands.oid}`;
  await wire.query(`ALTER TYPE ${type} RENAME TO ${aside}; ALTER TYPE ${stands.schema}.${aside} SET SCHEMA ${OWN_SCHEMA};
    ALTER TYPE ${COMING} SET SCHEMA ${stands.schema}; ALTER TYPE ${stands.schema}.${COMING_NAME} RENAME TO ${stands.name}`);
  const renamed = literal(JSON.stringify({ [type]: `${OWN_SCHEMA}.${aside}`, [`${type}[]`]: `${OWN_SCHEMA}.${aside}[]` }));
  await wire.query(
    `UPDATE ${OWN_SCHEMA}.segment SET types = (types::jsonb || jsonb_build_object('renamed', ${renamed}::jsonb || coalesce(types::jsonb -> 'renamed', '{}')))::text`,
  );
}

interface MadeType {
  readonly oid: string;
  readonly schema: string;
  readonly name: string;
  /** The base of a domain, or the types of a composite's attributes. */
  readonly parts: string;
  readonly names: readonly string[];
}

async function readMade(wire: Wire, type: string): Promise<MadeType> {
  const [found] = await wire.query(
    `SELECT t.oid, quote_ident(n.nspname), quote_ident(t.typname),
       json_build_array(t.typbasetype, t.typtypmod, json_agg(json_build_array(a.atttypid, a.atttypmod) ORDER BY a.attnum)),
       coalesce(json_agg(quote_ident(a.attname) ORDER BY a.attnum) FILTER (WHERE a.attnum IS NOT NULL), '[]')
     FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
     LEFT JOIN pg_attribute a ON a.attrelid = t.typrelid AND t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped
     WHERE t.oid = ${literal(type)}::regtype GROUP BY t.oid, n.nspname`,
  );
  const [oid = '', schema = '', name = '', parts = '', names = '[]'] = (found?.rows[0] ?? []) as string[];
  return { oid, schema, name, parts, names: JSON.parse(names) as string[] };
}

/** In two steps: names may change places. */
function renames(type: string, from: readonly string[], to: readonly string[]): string[] {
  const others = from.flatMap((name, index) => (name === to[index] ? [] : [{ name, index }]));
  const between = (index: number): string => `${OWN_PREFIX}_moving_${index}`;
  return [
    ...others.map(({ name, index }) => `ALTER TYPE ${type} RENAME ATTRIBUTE ${name} TO ${between(index)}`),
    ...others.map(({ index }) => `ALTER TYPE ${type} RENAME ATTRIBUTE ${between(index)} TO ${to[index]}`),
  ];
}

/** What a domain lets pass may become more, and its arrays and composites stand in a shadow as they are: there it checks nothing. */
async function uncheck(wire: Wire, sql: string): Promise<void> {
  const [, kind, type = ''] = MADE.exec(sql) ?? [];
  if (kind !== 'DOMAIN') return;
  const [checks] = await wire.query(
    `SELECT format('ALTER DOMAIN %s DROP CONSTRAINT %I', ${literal(type)}, conname) FROM pg_constraint
      WHERE contypid = ${literal(type)}::regtype AND contype = 'c'
     UNION ALL SELECT format('ALTER DOMAIN %s DROP NOT NULL', ${literal(type)}) FROM pg_type WHERE oid = ${literal(type)}::regtype AND typnotnull`,
  );
  for (const [statement] of checks?.rows ?? []) {
    // A dropped check is heard of only with the next row written to a catalog: without one the server refuses the savepoint that follows.
    await wire.query(`${statement}; ALTER DOMAIN ${type} DROP DEFAULT`);
  }
}

function withObject(wire: Wire, object: string, error: unknown): ForeshadowError {
  const failure = wire.failure(error);
  return new ForeshadowError(failure.code, `The shadow cannot make ${object}. ${failure.message}`, {
    remedy: failure.remedy,
    retry: failure.retry,
    cause: error,
  });
}
