import { ForeshadowError } from '../model/errors.ts';
import type { TableName } from '../model/schema.ts';

/** Tables of groups that failed: one of them may be the reason, so each goes by itself the next time. */
export class Apart {
  /** Until it has succeeded. */
  readonly #suspect = new Set<TableName>();
  /** Where a store could not be reached, or has moved, it is most likely nobody's fault: until one of them has succeeded. */
  readonly #unlucky = new Set<TableName>();

  has(table: TableName): boolean {
    return this.#suspect.has(table) || this.#unlucky.has(table);
  }

  /** A group failed. Returns whether it was for a reason that most likely is none of them. */
  blame(tables: readonly TableName[], error: unknown): boolean {
    const code = error instanceof ForeshadowError ? error.code : '';
    const unlucky = code === 'FENCED' || code === 'SHADOW_MOVED' || code.endsWith('_UNREACHABLE');
    for (const table of tables) (unlucky ? this.#unlucky : this.#suspect).add(table);
    return unlucky;
  }

  succeeded(table: TableName): void {
    this.#suspect.delete(table);
    this.#unlucky.clear();
  }
}
