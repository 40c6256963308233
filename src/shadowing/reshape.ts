import type { ShapeChange } from '../model/change.ts';
import { ForeshadowError } from '../model/errors.ts';
import { type Position, maxPosition } from '../model/position.ts';
import { COPY_BY_COMPARISON, COPY_FROM_NOTHING, type Element, type Generation, type Progress } from '../model/progress.ts';
import { type DataSetSchema, type TableName, type TableSchema, tableOf } from '../model/schema.ts';
import type { EngineParts } from './parts.ts';

const ASK_PRIMARY_MS = 10_000;

/** A resync is a new generation: what was applied before says nothing of what stands now. */
export function restarted(progress: Progress, at: Position): Progress {
  const low = maxPosition(progress.low, at);
  return { ...progress, generation: (progress.generation + 1) as Generation, low, high: low };
}

/** Whether an element is in the shape that a change leads to already: nothing that its rows hold is left open by it. */
export function isTaken({ schema }: Element, { to }: ShapeChange): boolean {
  return to.shape === schema.shape && to.table === schema.table && to.columns.every(({ id, hidden }) => hidden || id !== undefined);
}

/** Takes elements from one shape to the next. */
export class Reshaper {
  readonly #parts: EngineParts;
  readonly #hasElement: (table: TableName) => boolean;

  constructor(parts: EngineParts, hasElement: (table: TableName) => boolean) {
    this.#parts = parts;
    this.#hasElement = hasElement;
  }

  /**
   * In place where the store can, and without reading a row where it is known what rows hold; else by comparison in the new shape, or by
   * a copy. Everything before the change is applied, unless a comparison follows. Halts a table whose policy wants no more than the
   * first.
   */
  async follow(element: Element, change: ShapeChange, at: Position, signal: AbortSignal): Promise<Element> {
    const { shadow, log } = this.#parts;
    const { schema, state, progress } = element;
    const { table } = schema;
    if (change.to.table !== table && this.#hasElement(change.to.table)) throw takenName(table, change.to.table);
    const to = await this.#prepared(change.to, progress, signal);
    const next = { ...progress, low: at, high: at };
    const kept = change.kept && change.from === schema.shape;
    if (kept && (await shadow.reshape(table, { ...change, to }, state, next))) {
      log('a table was given its new shape in place', { table, now: to.table });
      return { schema: to, state, progress: next };
    }
    if (!this.#parts.followsShape(table)) throw halting(table);
    return this.#anew(element, change, to, at);
  }

  /** As `follow`, where nothing is known of the rows: whatever the policy says. */
  async anew(element: Element, change: ShapeChange, at: Position, signal: AbortSignal): Promise<Element> {
    return this.#anew(element, change, await this.#prepared(change.to, element.progress, signal), at);
  }

  async #anew({ schema: { table }, progress }: Element, change: ShapeChange, to: TableSchema, at: Position): Promise<Element> {
    const { shadow, log } = this.#parts;
    const again = restarted(progress, at);
    const unknown = { ...change, to, kept: false, initial: to.columns.map(() => null) };
    if (await shadow.reshape(table, unknown, COPY_BY_COMPARISON, again)) {
      log('a table was given its new shape, and is compared with the primary', { table, now: to.table });
      return { schema: to, state: COPY_BY_COMPARISON, progress: again };
    }
    log('a table is copied again in its new shape', { table, now: to.table });
    await shadow.retire(table, to.table === table ? to : null, COPY_FROM_NOTHING, again);
    if (to.table !== table) await shadow.prepare({ tables: [to], before: [], after: [] }, again);
    return { schema: to, state: COPY_FROM_NOTHING, progress: again };
  }

  /**
   * The shape that the rows of the journal have at its head, where no event tells: null if the table is gone. 'told' where one tells by now.
   * Only for primaries that tell shapes.
   */
  async present(element: Element, signal: AbortSignal): Promise<{ readonly schema: TableSchema | null; readonly at: Position } | 'told'> {
    const { primary, tracker, journal } = this.#parts;
    const { table } = element.schema;
    const within = AbortSignal.any([signal, AbortSignal.timeout(ASK_PRIMARY_MS)]);
    const head = tracker.head;
    try {
      const described = await primary.describe(within);
      // It looks at the catalog once more, and says by an event what is other than the log's.
      const at = await primary.now(within);
      await tracker.reached(at, within);
      const told = (await journal.events(table, head, at)).some(({ kind }) => kind === 'schema-changed' || kind === 'dropped');
      return told ? 'told' : { schema: tableOf(described, table) ?? null, at };
    } catch (error) {
      if (signal.aborted || !within.aborted) throw error;
      throw new ForeshadowError('PRIMARY_UNREACHABLE', `the primary did not say in time what shape ${table} has`, {
        remedy: 'It is asked again.',
        retry: 'later',
        cause: error,
      });
    }
  }

  /** Makes types in the shadow that the primary has by now, and labels of enums. */
  async renewTypes(progress: Progress, signal: AbortSignal): Promise<DataSetSchema> {
    const described = await this.#parts.primary.describe(signal);
    await this.#parts.shadow.prepare({ tables: [], before: described.before, after: [] }, progress);
    return described;
  }

  /** The types of a shape are made in the shadow; its statements come from the primary, if it has that shape still. */
  async #prepared(to: TableSchema, progress: Progress, signal: AbortSignal): Promise<TableSchema> {
    const described = await this.renewTypes(progress, signal);
    const now = tableOf(described, to.table);
    return now?.shape === to.shape ? now : to;
  }
}

function takenName(table: TableName, name: TableName): ForeshadowError {
  return new ForeshadowError('SHADOW_OCCUPIED', `${table} is ${name} now, but the shadow still has another table of that name`, {
    remedy: 'It is tried again once that one has moved on.',
    retry: 'later',
  });
}

function halting(table: TableName): ForeshadowError {
  return new ForeshadowError('TABLE_HALTED', `the shape of ${table} changed on the primary in a way that its rows must be copied again`, {
    remedy: 'Run `foreshadow resume` to copy it in its new shape, or set policy.onSchemaChange: follow.',
  });
}
