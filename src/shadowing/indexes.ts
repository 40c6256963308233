import { type ErrorCode, ForeshadowError, isAbort } from '../model/errors.ts';
import { Pulse } from '../model/pulse.ts';
import type { TableName } from '../model/schema.ts';
import { Turns } from '../model/turns.ts';
import type { Primary } from '../tracking/primary.ts';
import type { Engine } from './engine.ts';
import type { IndexOrder, Shadow, UnmirroredIndex } from './shadow.ts';

export interface MirroringParts {
  readonly primary: Primary;
  readonly shadow: Shadow;
  readonly engine: Engine;
  /** Whether policy could ask for those of any table, of one that is to come too. */
  readonly mirrorsAny: boolean;
  /** Whether policy asks for the secondary indexes of a table. */
  readonly mirrorsIndexes: (table: TableName) => boolean;
  /** Told wherever it is no longer what it was. */
  readonly report: (unmirrored: readonly UnmirroredIndex[]) => Promise<void>;
  readonly failpoint: (name: string) => void;
  readonly log: (message: string, fields: Readonly<Record<string, unknown>>) => void;
}

/** How often the primary is asked for indexes that came, went or changed. */
const ASK_EVERY_MS = 60_000;
/** After trying in vain, which may have meant to read a large table. */
const TRY_AGAIN_MS = 600_000;
/** Whatever else is in the way, shadowing and captures go on without. */
const FATAL: ReadonlySet<ErrorCode> = new Set<ErrorCode>(['FENCED', 'NOT_BUILT']);
/** How often it is looked whether a table has become live, or has another shape. */
const LOOK_EVERY_MS = 1000;

/**
 * Keeps the secondary indexes of the shadow's tables as policy wants them. Nothing waits for it: a table is shadowed and captured
 * whether it has them or not. A table's are made once it is copied, and again where its shape changed; the primary's DDL on
 * indexes alone, which is not in its log, is seen within a minute.
 */
export class IndexMirror {
  readonly #parts: MirroringParts;
  readonly #turns = new Turns();
  #reported: string | null = null;
  /** What was asked for when the functions and types that indexes lean on were last brought to the shadow. */
  #prepared = '';
  /** How long the primary took to answer: it is asked a tenth of the time at most. */
  #askingMs = 0;
  /** An index could not be made that may be another time. */
  #inVain = false;

  constructor(parts: MirroringParts) {
    this.#parts = parts;
  }

  /** Whether policy asks for any. */
  get isWanted(): boolean {
    return this.#parts.mirrorsAny;
  }

  /** Until `signal` aborts; where policy wants none, until what was mirrored before is gone. */
  async run(signal: AbortSignal): Promise<void> {
    try {
      while (!signal.aborted) {
        const standing = this.#standing();
        const done = await this.bring(signal);
        if (done && !this.#inVain && !this.#parts.mirrorsAny) return;
        const askAgainMs = performance.now() + (this.#inVain ? TRY_AGAIN_MS : ASK_EVERY_MS);
        do await new Pulse().next(signal, Math.max(LOOK_EVERY_MS, 10 * this.#askingMs));
        while (performance.now() < askAgainMs && this.#standing() === standing);
      }
    } catch (error) {
      if (!signal.aborted && !isAbort(error)) throw error;
    }
  }

  /** Makes what can be made now, and returns when it is done. False: something was in the way, which may pass. */
  bring(signal: AbortSignal): Promise<boolean> {
    return this.#turns.take(async () => {
      try {
        await this.#bring(signal);
        return true;
      } catch (error) {
        if (signal.aborted || !(error instanceof ForeshadowError) || FATAL.has(error.code)) throw error;
        this.#parts.log('indexes could not be mirrored, and will be tried again', { code: error.code, reason: error.message });
        return false;
      }
    });
  }

  async #bring(signal: AbortSignal): Promise<void> {
    const { shadow, engine, mirrorsAny, log, report, failpoint } = this.#parts;
    if (shadow.mirrorIndexes === undefined) {
      if (!mirrorsAny) return;
      throw new ForeshadowError('NOT_BUILT', `mirroring secondary indexes into a ${shadow.kind} shadow is not built`, {
        remedy: 'Set policy.indexes: none, or leave it out.',
      });
    }
    const orders = mirrorsAny ? await this.#orders(signal) : unwanted(engine.elements.keys());
    failpoint('mirroring');
    const { made, unmirrored, again } = await shadow.mirrorIndexes(orders, signal);
    this.#inVain = again;
    for (const each of made) log('an index was mirrored', { ...each });
    const text = JSON.stringify(unmirrored);
    if (text === this.#reported) return;
    for (const each of unmirrored) log('an index cannot be mirrored', { ...each });
    await report(unmirrored);
    this.#reported = text;
  }

  async #orders(signal: AbortSignal): Promise<IndexOrder[]> {
    const { primary, shadow, engine, mirrorsIndexes } = this.#parts;
    const begunMs = performance.now();
    const described = await primary.describe(signal);
    this.#askingMs = performance.now() - begunMs;
    const orders = described.tables
      .filter(({ table }) => mirrorsIndexes(table))
      .map(({ table, shape, indexes }) => ({ table, shape, indexes: indexes ?? [] }));
    const wanted = JSON.stringify(orders);
    const [element] = engine.elements.values();
    if (wanted !== this.#prepared && element !== undefined) {
      await shadow.prepare({ tables: [], before: described.before, after: [] }, element.progress);
      this.#prepared = wanted;
    }
    return [...orders, ...unwanted([...engine.elements.keys()].filter((table) => !mirrorsIndexes(table)))];
  }

  /** What tables' indexes depend on, as far as it is known here. */
  #standing(): string {
    return Array.from(this.#parts.engine.elements.values(), ({ schema, state }) => `${schema.table} ${schema.shape} ${state.kind}`).join(
      '\n',
    );
  }
}

function unwanted(tables: Iterable<TableName>): IndexOrder[] {
  return Array.from(tables, (table) => ({ table, shape: '', indexes: [] }));
}
