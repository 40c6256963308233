import { ForeshadowError } from '../model/errors.ts';
import type { Element } from '../model/progress.ts';
import type { TableName } from '../model/schema.ts';
import type { Holding } from './holding.ts';
import type { Backlog } from './lag.ts';
import type { EngineParts } from './parts.ts';

/** Whether the shadow stands where the elements say. */
export class Footing {
  readonly #parts: EngineParts;
  readonly #elements: Map<TableName, Element>;
  readonly #backlog: Backlog;
  readonly #holding: Holding;
  isUncertain = false;

  constructor(parts: EngineParts, elements: Map<TableName, Element>, backlog: Backlog, holding: Holding) {
    this.#parts = parts;
    this.#elements = elements;
    this.#backlog = backlog;
    this.#holding = holding;
  }

  /** An apply of which nothing was heard may be in, and one that was not flushed may be lost. */
  doubt({ code }: ForeshadowError): void {
    this.isUncertain ||= code === 'SHADOW_MOVED' || code === 'SHADOW_UNREACHABLE';
  }

  /** What the elements say is in the shadow for good when it resolves. Returns whether they were put right for it. */
  async ascertain(): Promise<boolean> {
    try {
      await this.#parts.shadow.flush();
    } catch (error) {
      if (!(error instanceof ForeshadowError && error.code === 'SHADOW_MOVED')) throw error;
      this.doubt(error);
    }
    const { isUncertain } = this;
    if (isUncertain) await this.reload();
    return isUncertain;
  }

  /** Whatever became of what was written: what is stored is the truth. Where a table was put back, its changes wait again. */
  async reload(written: ReadonlySet<TableName> = new Set()): Promise<void> {
    this.isUncertain = true;
    const stored = await this.#parts.shadow.elements();
    // Gone, or of another name by now.
    for (const table of this.#elements.keys()) if (!stored.has(table)) this.#elements.delete(table);
    for (const [table, element] of stored) {
      const thought = this.#elements.get(table)?.progress;
      this.#elements.set(table, element);
      // Rows may have gone ahead of which nothing was heard, though progress is what it was.
      this.#holding.drop(table);
      const { generation, low } = element.progress;
      if (low === thought?.low && !written.has(table)) continue;
      this.#backlog.rewound(table, this.#parts.tracker.head);
      if (generation === thought?.generation && low < thought.low) {
        this.#parts.log('the shadow has lost what it had not flushed: it is applied again', { table });
      }
    }
    this.isUncertain = false;
  }
}
