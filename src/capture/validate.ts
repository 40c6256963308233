import { setImmediate as otherWork } from 'node:timers/promises';
import type { Coverage } from '../model/capture.ts';
import { isKeyless } from '../model/copies.ts';
import { ForeshadowError } from '../model/errors.ts';
import type { TableName, TableSchema } from '../model/schema.ts';
import type { KeyTuple } from '../model/tuple.ts';
import { KEYLESS_PAGE } from '../tracking/primary.ts';
import { type CompareOutcome, type CompareParts, type CompareScope, type Stand, type Unequal, compareChunk } from './compare.ts';

/** Where the rolling comparison of a table goes on: which pass, and above which key. */
export interface Cursor {
  readonly pass: 'primary' | 'shadow';
  readonly after: KeyTuple | null;
}

export interface TableToValidate {
  readonly schema: TableSchema;
  /** Keys that are compared whatever the budget, slice by slice; null: the whole table is. */
  readonly changedKeys: AsyncIterable<readonly KeyTuple[]> | null;
  /** Where the rolling share of the rest begins. */
  readonly cursor: Cursor;
}

export interface ValidationRequest {
  readonly tables: readonly TableToValidate[];
  readonly skipped: Coverage['skipped'];
  /** Runs one comparison against a stand that does not move meanwhile. */
  readonly stand: <T>(table: TableName, work: (stand: Stand) => Promise<T>) => Promise<T>;
  /** Milliseconds for the rolling share, over all tables. */
  readonly budgetMs: number;
  readonly onProgress: (table: TableName, rows: number) => void;
}

export interface TableDifference extends Unequal {
  readonly schema: TableSchema;
}

export interface ValidationOutcome {
  readonly coverage: Coverage;
  readonly differences: readonly TableDifference[];
  /** Rows of the primary that are not there, of tables of which only inserts are tracked: no difference, and not as it should be. */
  readonly untold: readonly TableDifference[];
  /** Tables where something differed that a second fence could neither confirm nor clear, and why. */
  readonly unconfirmed: ReadonlyMap<TableSchema, string>;
  /** Differences found beyond those kept. */
  readonly more: number;
  readonly cursors: ReadonlyMap<TableSchema, Cursor>;
}

const DIFFERENCES_KEPT = 10_000;
/** A chunk takes a fraction of a second: by then the primary does not answer, or tracking is far behind it. */
const CHUNK_DEADLINE_MS = 120_000;

export const FROM_THE_START: Cursor = { pass: 'primary', after: null };

/** One validation: table by table, chunk by chunk, each at a fence of its own; differences count only if a second fence shows them too. */
export class Validation {
  readonly #parts: CompareParts;
  readonly #request: ValidationRequest;
  readonly #differences: TableDifference[] = [];
  readonly #skipped: Array<Coverage['skipped'][number]>;
  readonly #cursors = new Map<TableSchema, Cursor>();
  #rows = 0;
  #witnessed = 0;
  #more = 0;
  readonly #untold: TableDifference[] = [];
  readonly #unconfirmed = new Map<TableSchema, string>();
  #leftMs: number;
  #shareMs = 0;

  constructor(parts: CompareParts, request: ValidationRequest) {
    this.#parts = parts;
    this.#request = request;
    this.#skipped = [...request.skipped];
    this.#leftMs = request.budgetMs;
  }

  async run(signal: AbortSignal): Promise<ValidationOutcome> {
    let left = this.#request.tables.length;
    for (const table of this.#request.tables) {
      // Each table has its share of what is left, and what it does not use falls to those after it.
      this.#shareMs = this.#leftMs / left--;
      const reason = (await this.#table(table, signal)) ?? this.#doubt(table.schema);
      if (reason !== null) this.#skipped.push({ table: table.schema.table, reason });
    }
    const insertOnly = this.#request.tables.flatMap(({ schema }) => (schema.insertOnly === true ? [schema.table] : []));
    const coverage: Coverage = {
      tables: this.#request.tables.length,
      rows: this.#rows,
      witnessed: this.#witnessed,
      skipped: this.#skipped,
      ...(insertOnly.length === 0 ? {} : { insertOnly }),
    };
    const found = { differences: this.#differences, untold: this.#untold, unconfirmed: this.#unconfirmed, more: this.#more };
    return { coverage, ...found, cursors: this.#cursors };
  }

  #doubt(schema: TableSchema): string | null {
    const unconfirmed = this.#unconfirmed.get(schema);
    if (unconfirmed !== undefined) return unconfirmed;
    if (!this.#untold.some((each) => each.schema === schema)) return null;
    // An update looks like an insert that was missed.
    return 'insert-only by policy, and the primary has rows that were not inserted as they are: they were updated there, or missed';
  }

  /** Why the table could not be compared, or null. */
  async #table({ schema, changedKeys, cursor }: TableToValidate, signal: AbortSignal): Promise<string | null> {
    if (changedKeys === null) return this.#roll(schema, FROM_THE_START, null, signal);
    for await (const keys of isKeyless(schema) ? gathered(changedKeys, KEYLESS_PAGE.rows) : changedKeys) {
      const outcome = await this.#compare(schema, { kind: 'keys', keys }, signal);
      if (outcome.inconclusive !== null) return outcome.inconclusive;
    }
    return this.#roll(schema, cursor, FROM_THE_START, signal);
  }

  /**
   * Compares the rest of the table from a cursor on: to the very end without a `restart`, and with one within the budget and at most once
   * around. Where both stores order keys alike one pass over ranges does; elsewhere, and where ranges did not meet, the primary's rows
   * are looked up in the shadow, and then the shadow's in the primary; only the first where only inserts are tracked.
   */
  async #roll(schema: TableSchema, from: Cursor, restart: Cursor | null, signal: AbortSignal): Promise<string | null> {
    let cursor: Cursor | null = from;
    let around = from.pass === 'primary' && from.after === null;
    const inserts = schema.insertOnly === true;
    let paired = schema.keyOrderShared && !inserts;
    const unbounded = restart === null;
    while (cursor !== null) {
      if (!unbounded && this.#shareMs <= 0) break;
      const begunMs = performance.now();
      const kind: CompareScope['kind'] = cursor.pass === 'primary' && paired ? 'range' : cursor.pass;
      const outcome = await this.#compare(schema, { kind, after: cursor.after }, signal);
      if (outcome.inconclusive !== null) return outcome.inconclusive;
      if (outcome.unpaired) paired = false;
      else cursor = following(cursor, outcome.through, paired || inserts);
      if (cursor === null && !around) {
        around = true;
        cursor = restart;
      }
      const tookMs = performance.now() - begunMs;
      this.#leftMs -= tookMs;
      this.#shareMs -= tookMs;
    }
    this.#cursors.set(schema, cursor ?? FROM_THE_START);
    return null;
  }

  async #compare(schema: TableSchema, scope: CompareScope, signal: AbortSignal): Promise<CompareOutcome> {
    // An embedded store answers without ever letting timers, sockets and signals have their turn.
    await otherWork(undefined, { signal });
    const outcome = await this.#chunk(schema, scope, signal);
    // The shadow's pass looks for strays only: its rows were counted by the primary's pass.
    if (scope.kind !== 'shadow') {
      this.#rows += outcome.compared;
      this.#witnessed += outcome.witnessed;
    }
    this.#request.onProgress(schema.table, outcome.compared + outcome.witnessed);
    if (outcome.unequal.length > 0) await this.#confirm(schema, outcome.unequal, signal);
    return outcome;
  }

  /** A difference that a later fence does not show was none, unless that fence cannot show it. */
  async #confirm(schema: TableSchema, unequal: readonly Unequal[], signal: AbortSignal): Promise<void> {
    const kept = schema.insertOnly === true ? this.#untold : this.#differences;
    const known = new Set(kept.filter((each) => each.schema === schema).map(({ key }) => key.toString('latin1')));
    const again = await this.#chunk(schema, { kind: 'keys', keys: unequal.map(({ key }) => key) }, signal);
    for (const each of again.unequal) {
      if (known.has(each.key.toString('latin1'))) continue;
      if (kept.length < DIFFERENCES_KEPT) kept.push({ ...each, schema });
      else if (kept === this.#differences) this.#more++;
    }
    // Of what changed between the fences the later one shows what the journal says, and no longer what the shadow holds.
    const changed = again.witnessed > again.unequal.filter(({ rewritten }) => rewritten).length;
    const reason = again.inconclusive ?? (changed ? 'rows that differed changed before they could be compared again' : null);
    if (reason !== null) this.#unconfirmed.set(schema, reason);
  }

  async #chunk(schema: TableSchema, scope: CompareScope, signal: AbortSignal): Promise<CompareOutcome> {
    const deadline = AbortSignal.timeout(CHUNK_DEADLINE_MS);
    const within = AbortSignal.any([signal, deadline]);
    try {
      return await this.#request.stand(schema.table, (stand) => compareChunk(this.#parts, schema, stand, scope, within));
    } catch (error) {
      if (error !== deadline.reason) throw error;
      const waited = `within ${CHUNK_DEADLINE_MS / 1000} seconds`;
      throw new ForeshadowError('PRIMARY_UNREACHABLE', `rows of ${schema.table} could not be compared with the primary ${waited}`, {
        remedy: 'See `foreshadow status`: the primary does not answer, or tracking is far behind it. Compare again when it has caught up.',
        retry: 'later',
        cause: error,
      });
    }
  }
}

/** Larger slices: each is looked up apart. */
async function* gathered(slices: AsyncIterable<readonly KeyTuple[]>, size: number): AsyncGenerator<readonly KeyTuple[]> {
  let some: KeyTuple[] = [];
  for await (const slice of slices) {
    some = [...some, ...slice];
    if (some.length < size) continue;
    yield some;
    some = [];
  }
  if (some.length > 0) yield some;
}

function following(cursor: Cursor, through: KeyTuple | null, once: boolean): Cursor | null {
  if (through !== null) return { pass: cursor.pass, after: through };
  return cursor.pass === 'primary' && !once ? { pass: 'shadow', after: null } : null;
}
