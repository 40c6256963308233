import { ForeshadowError } from '../model/errors.ts';
import type { TableName } from '../model/schema.ts';

/** Tables of groups that failed: one of them may be the reason, so each goes by itself the next time. */
export class Apart {
  /** Until it has succeeded. */
  readonly #suspect = new Set<TableName>();
  /** Where a store could not be reached it is most likely nobody's fault: until one of them has succeeded. */
  readonly #unlucky = new Set<TableName>();

  has(table: TableName): boolean {
    return this.#suspect.has(table) || this.#unlucky.has(table);
  }

  /** A group failed. Returns whether it was for a reason that most likely is none of them. */
  blame(tables: readonly TableName[], error: unknown): boolean {
    const unlucky = error instanceof ForeshadowError && (error.code === 'FENCED' || error.code.endsWith('_UNREACHABLE'));
    for (const table of tables) (unlucky ? this.#unlucky : this.#suspect).add(table);
    return unlucky;
  }

  succeeded(table: TableName): void {
    this.#suspect.delete(table);
    this.#unlucky.clear();
  }
}
