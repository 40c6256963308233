import { createHash } from 'node:crypto';
import { DatabaseError } from 'pg';
import { ForeshadowError } from '../../model/errors.ts';
import type { ElementState } from '../../model/progress.ts';
import { OWN_PREFIX, type IndexSchema, type TableName } from '../../model/schema.ts';
import { Turns } from '../../model/turns.ts';
import type { IndexOrder, IndexReport, UnmirroredIndex } from '../../shadowing/shadow.ts';
import type { Claim } from './claim.ts';
import { identifier, literal } from './connection.ts';
import { tableName } from './describe.ts';
import { hasKey } from './key.ts';
import { type Layout, OWN_SCHEMA } from './layout.ts';
import { storedProgress } from './segments.ts';
import { EXISTS } from './shadow-schema.ts';
import { Wire } from './wire.ts';

/** Indexes of ours bear numbers instead of the primary's names: those need only be unique in its schemas, as they are now. */
const NAME = `${OWN_PREFIX}_index_`;
const NAMED_OURS = `x.relname LIKE ${literal(`${NAME.replaceAll('_', '\\_')}%`)}`;

/** It waits for all who read in the shadow when it begins, and nobody waits for it. */
const PATIENCE = "SET client_min_messages = warning; SET lock_timeout = '10min'; SET statement_timeout = 0";
const CONNECTION = { side: 'shadow', purpose: 'indexes' } as const;

interface StandingIndex {
  readonly table: TableName;
  readonly name: string;
  readonly qualified: string;
  readonly definition: string;
  /** False: what made it did not live to the end. */
  readonly valid: boolean;
  /** Something is computed for each row, which may fail. */
  readonly computes: boolean;
  /** Its entries may be of any length. */
  readonly unbounded: boolean;
}

/** Why an index is not made. */
interface Obstacle {
  readonly reason: string;
  readonly mayPass: boolean;
}

interface Making {
  readonly table: TableName;
  readonly stop: AbortController;
  readonly done: Promise<unknown>;
}

/**
 * Secondary indexes of the live tables: what policy asks for beyond the key. Made and dropped CONCURRENTLY on a connection of their own,
 * so that applies go on meanwhile. Which there are is read from the catalog each time: a mirrored index is known by its name and by what
 * the server says of it. One that stands in the way of rows gives way to them.
 */
export class MirroredIndexes implements AsyncDisposable {
  readonly #url: string;
  readonly #claim: Claim;
  readonly #turns = new Turns();
  #making: Making | null = null;
  /** Tables that something else is done to: nothing is made for them meanwhile. */
  readonly #aside = new Set<TableName>();
  /** Why one could not be made, by segment and definition: tried again in another shape, or by another process. */
  readonly #failed = new Map<string, string>();

  constructor(url: string, claim: Claim) {
    this.#url = url;
    this.#claim = claim;
  }

  /** `Shadow.mirrorIndexes`. */
  mirror(orders: readonly IndexOrder[], signal: AbortSignal): Promise<IndexReport> {
    return this.#turns.take(async () => {
      const made: IndexReport['made'][number][] = [];
      const unmirrored: UnmirroredIndex[] = [];
      let again = false;
      await using wire = await Wire.open(this.#url, CONNECTION, signal);
      await wire.query(PATIENCE);
      const standing = Map.groupBy(await standingIndexes(wire, signal), ({ table }) => table);
      for (const order of orders) {
        const here = standing.get(order.table) ?? [];
        if (order.indexes.length === 0 && here.length === 0) continue;
        const found = await this.#alone(order.table, wire, signal, (within) => this.#bring(wire, order, here, within));
        made.push(...(found?.made ?? []));
        unmirrored.push(...(found?.unmirrored ?? []));
        again ||= found?.again === true;
      }
      return { made, unmirrored, again };
    });
  }

  /** Does something to a table that needs its locks. Whatever is being made for it is given up first. */
  async aside<T>(table: TableName, work: () => Promise<T>): Promise<T> {
    this.#aside.add(table);
    try {
      if (this.#making?.table === table) {
        this.#making.stop.abort();
        await this.#making.done;
      }
      return await work();
    } finally {
      this.#aside.delete(table);
    }
  }

  /**
   * What to say where an apply to a table may have failed because of a mirrored index: it is gone then, and the apply may be tried again.
   * Null: none can be the reason.
   */
  async blame(table: TableName, error: unknown): Promise<ForeshadowError | null> {
    if (!(error instanceof ForeshadowError) || error.retry === 'later' || !(error.cause instanceof DatabaseError)) return null;
    const { code, message, where } = error.cause;
    const cause = causeOf(error.cause);
    // Too large for an index; or anything that computing may come to. A value that COPY did not understand never got that far.
    const tooLarge = code === '54000' && /\bindex\b/.test(message);
    if (!tooLarge && (code?.startsWith('23') === true || /^COPY .*, column /m.test(where ?? ''))) return null;
    const blamed = await this.aside(table, () => this.#dropBlamed(table, tooLarge, (name) => message.includes(name), cause));
    if (!blamed) return null;
    return new ForeshadowError('QUERY_FAILED', `${table} could not be written with a mirrored index, which was dropped: ${cause}`, {
      remedy: 'It is tried again. `foreshadow status` names the index.',
      retry: 'later',
      cause: error.cause,
    });
  }

  async #dropBlamed(table: TableName, tooLarge: boolean, isNamed: (name: string) => boolean, cause: string): Promise<boolean> {
    // Another connection than the one on which an index of another table may be in the making.
    await using wire = await Wire.open(this.#url, CONNECTION);
    try {
      await wire.query("SET lock_timeout = '10s'");
      const here = (await standingIndexes(wire)).filter((each) => each.table === table && (tooLarge ? each.unbounded : each.computes));
      const named = here.filter(({ name }) => isNamed(name));
      const blamed = named.length > 0 ? named : here;
      const segment = (await storedLayout(wire, table))?.layout.segment.id;
      for (const { qualified, definition } of blamed) {
        this.#failed.set(`${segment} ${definition}`, `rows could not be written with it: ${cause}`);
        await wire.query(`DROP INDEX CONCURRENTLY IF EXISTS ${qualified}`);
      }
      return blamed.length > 0;
    } catch (error) {
      throw wire.failure(error);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#making?.stop.abort();
    await this.#turns.take(() => Promise.resolve());
  }

  /** Null: something else is done to the table, or came to be. */
  async #alone<T>(table: TableName, wire: Wire, signal: AbortSignal, work: (signal: AbortSignal) => Promise<T>): Promise<T | null> {
    signal.throwIfAborted();
    if (this.#aside.has(table)) return null;
    const stop = new AbortController();
    const done = work(AbortSignal.any([signal, stop.signal]));
    this.#making = { table, stop, done: done.catch(() => undefined) };
    try {
      return await done;
    } catch (error) {
      signal.throwIfAborted();
      if (stop.signal.aborted) return null;
      throw error instanceof DatabaseError || wire.broken ? wire.failure(error) : error;
    } finally {
      this.#making = null;
    }
  }

  async #bring(
    wire: Wire,
    { table, shape, indexes }: IndexOrder,
    here: readonly StandingIndex[],
    signal: AbortSignal,
  ): Promise<IndexReport | null> {
    const stored = await storedLayout(wire, table);
    // What is asked for in another shape is not known to be right or wrong for this one.
    const ready = stored !== undefined && hasKey(stored.state) && stored.layout.segment.schema.shape === shape;
    if (indexes.length > 0 && !ready) return null;
    const layout = stored?.layout;
    const kept = new Set<StandingIndex>();
    const missing: IndexSchema[] = [];
    for (const index of indexes) {
      const match = here.find(
        ({ valid, definition, name }) => valid && (definition === index.definition || name === nameOf(layout as Layout, index)),
      );
      if (match === undefined) missing.push(index);
      else kept.add(match);
    }
    for (const each of here) if (!kept.has(each)) await wire.query(`DROP INDEX CONCURRENTLY IF EXISTS ${each.qualified}`, signal);
    const made: IndexReport['made'][number][] = [];
    const unmirrored: UnmirroredIndex[] = [];
    let again = false;
    // Some are of one definition.
    const tried = new Map<string, Obstacle | null>();
    for (const index of missing) {
      const known = tried.get(index.definition);
      const obstacle = known === undefined ? await this.#make(wire, layout as Layout, index, signal) : known;
      tried.set(index.definition, obstacle);
      if (obstacle === null) made.push({ table, index: index.name });
      else unmirrored.push({ table, index: index.name, reason: obstacle.reason });
      again ||= obstacle?.mayPass === true;
    }
    return { made, unmirrored, again };
  }

  /** Null: it is made. */
  async #make(wire: Wire, layout: Layout, index: IndexSchema, signal: AbortSignal): Promise<Obstacle | null> {
    if (index.flaw !== null) return { reason: index.flaw, mayPass: false };
    const known = `${layout.segment.id} ${index.definition}`;
    const failed = this.#failed.get(known);
    if (failed !== undefined) return { reason: failed, mayPass: false };
    await wire.query('BEGIN');
    try {
      await this.#claim.verify(wire);
    } finally {
      await wire.query('COMMIT');
    }
    const name = nameOf(layout, index);
    try {
      await wire.query(`CREATE INDEX CONCURRENTLY ${identifier(name)} ON ${layout.live} USING ${index.definition}`, signal);
      return null;
    } catch (error) {
      if (signal.aborted || !(error instanceof DatabaseError)) throw error;
      // What was begun is not used, but kept up to date.
      const [schema] = layout.live.split('.', 1);
      await wire.query(`DROP INDEX CONCURRENTLY IF EXISTS ${schema}.${identifier(name)}`, signal);
      const mayPass = wire.failure(error).retry === 'later';
      const reason = `${causeOf(error)}${mayPass ? ' (it is tried again)' : ''}`;
      if (!mayPass) this.#failed.set(known, reason);
      return { reason, mayPass };
    }
  }
}

/** Where a table stands, read at one moment. */
async function storedLayout(wire: Wire, table: TableName): Promise<{ layout: Layout; state: ElementState } | undefined> {
  await wire.query('BEGIN ISOLATION LEVEL REPEATABLE READ');
  const stored = await storedProgress(wire, [table]);
  await wire.query('COMMIT');
  return stored.get(table);
}

async function standingIndexes(wire: Wire, signal?: AbortSignal): Promise<StandingIndex[]> {
  const [exists] = await wire.query(EXISTS);
  if (exists?.rows[0]?.[0] !== 't') return [];
  const [found] = await wire.query(
    `SELECT n.nspname, c.relname, x.relname, format('%I.%I', n.nspname, x.relname), i.indisvalid,
       i.indexprs IS NOT NULL OR i.indpred IS NOT NULL, EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = x.oid AND a.attlen < 0),
       substr(pg_get_indexdef(x.oid), length(format('CREATE INDEX %I ON %I.%I USING ', x.relname, n.nspname, c.relname)) + 1)
     FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class c ON c.oid = i.indrelid
     JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE ${NAMED_OURS} AND n.nspname <> '${OWN_SCHEMA}' ORDER BY x.relname`,
    signal,
  );
  return (found?.rows ?? []).map((row) => {
    const [schema, table, name, qualified, valid, computes, unbounded, definition] = row as string[];
    return {
      table: tableName(schema as string, table as string),
      name: name as string,
      qualified: qualified as string,
      valid: valid === 't',
      computes: computes === 't',
      unbounded: unbounded === 't',
      definition: definition as string,
    };
  });
}

/** States of the server whose messages name objects and limits. */
const SPEAKS_OF_OBJECTS = /^(0A|3F|40|42|53|54|55|57|58)/;

/** What the server says, without what a row holds: an expression that fails says on what. */
function causeOf({ code = '', message }: DatabaseError): string {
  if (SPEAKS_OF_OBJECTS.test(code)) return message;
  if (code.startsWith('22')) return `its expression fails on a row: ${message.replaceAll(/(["']).*\1/g, '"…"')}`;
  return `its expression fails on a row (SQLSTATE ${code}; the log of the shadow's server tells more)`;
}

function nameOf(layout: Layout, { definition }: IndexSchema): string {
  return `${NAME}${layout.segment.storage}_${createHash('sha256').update(definition).digest('hex').slice(0, 16)}`;
}

/**
 * Before a live table's columns are changed, inside the transaction. An index on a column of another type would be made anew within
 * the ALTER TABLE: it goes, and is made afterwards. One whose definition will read otherwise gives up the name that stands for it.
 */
export async function releaseIndexes(
  wire: Wire,
  layout: Layout,
  { retyped, renamed }: { readonly retyped: readonly string[]; readonly renamed: boolean },
): Promise<void> {
  const columns = retyped.length === 0 ? 'NULL' : retyped.map(literal).join(', ');
  const [found] = await wire.query(
    `SELECT format('%I.%I', n.nspname, x.relname), x.relname, x.oid, EXISTS (
       SELECT FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
       WHERE d.classid = 'pg_class'::regclass AND d.objid = x.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid
         AND a.attname IN (${columns}))
     FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_namespace n ON n.oid = x.relnamespace
     WHERE i.indrelid = ${literal(layout.live)}::regclass AND ${NAMED_OURS}`,
  );
  for (const [qualified, name, oid, gone] of found?.rows ?? []) {
    const now = `${NAME}of_${oid}`;
    if (gone === 't') await wire.query(`DROP INDEX ${qualified}`);
    else if (renamed && name !== now) await wire.query(`ALTER INDEX ${qualified} RENAME TO ${identifier(now)}`);
  }
}
