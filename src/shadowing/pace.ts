import type { Element } from '../model/progress.ts';
import type { TableName } from '../model/schema.ts';
import type { Holding } from './holding.ts';
import type { Backlog } from './lag.ts';
import type { EngineParts } from './parts.ts';

/** Which elements take a step, in which order; and when live changes are left to gather. */
export class Pace {
  readonly #parts: EngineParts;
  readonly #elements: ReadonlyMap<TableName, Element>;
  readonly #backlog: Backlog;
  readonly #holding: Holding;
  /** On the clock of `performance`. */
  #gatherUntilMs = 0;
  /** The last round left changes to gather. */
  #leaves = false;

  constructor(parts: EngineParts, elements: ReadonlyMap<TableName, Element>, backlog: Backlog, holding: Holding) {
    this.#parts = parts;
    this.#elements = elements;
    this.#backlog = backlog;
    this.#holding = holding;
  }

  /** Changes of live elements were written: the next ones gather. */
  folded(): void {
    this.#gatherUntilMs = performance.now() + this.#parts.foldEveryMs;
  }

  /** Whether there is reason not to rest after a round. `crossing`: a capture waits for elements. */
  hurries(crossing: boolean): boolean {
    return this.#changesHurry(crossing) || this.#copies();
  }

  /** When there is something to be done though nothing happens: `restMs`, or earlier where changes have gathered or may wait no longer. */
  nextTryMs(crossing: boolean, restMs: number | undefined): number | undefined {
    // Where it is time by now, what was left is looked at even so.
    const gathersMs = this.#leaves ? Math.max(1, this.#gathersMs(crossing)) : undefined;
    this.#leaves = false;
    return this.#holding.nextDueMs(gathersMs === undefined ? restMs : Math.min(gathersMs, restMs ?? gathersMs));
  }

  /** The element whose oldest change comes first to the end of its tolerance; copies come last. `all`: also those without changes. */
  order(crossing: boolean, isAsked: (table: TableName) => boolean, all: boolean): TableName[] {
    this.#leaves = this.#gathersMs(crossing) > 0;
    const waiting = Array.from(this.#elements.values()).filter(
      ({ schema, state }) =>
        all || state.kind === 'copying' || (!this.#leaves && this.#backlog.isDirty(schema.table)) || isAsked(schema.table),
    );
    const deadlineMs = ({ schema: { table } }: Element): number =>
      (this.#backlog.waitingSinceMs(table) ?? Number.MAX_SAFE_INTEGER) + this.#parts.lagToleranceMs(table);
    return waiting.toSorted((a, b) => deadlineMs(a) - deadlineMs(b)).map(({ schema }) => schema.table);
  }

  /** Whether there is reason not to let changes gather before the next fold. */
  #changesHurry(crossing: boolean): boolean {
    return crossing || this.#backlog.isLarge || this.#holding.isPressed;
  }

  #copies(): boolean {
    return !this.#holding.copiesYield && Array.from(this.#elements.values()).some(({ state }) => state.kind === 'copying');
  }

  /** How long live changes still gather while the rounds go on for what is copied. */
  #gathersMs(crossing: boolean): number {
    if (this.#changesHurry(crossing) || !this.#copies()) return 0;
    return Math.max(0, this.#gatherUntilMs - performance.now());
  }
}
