import type { ElementState } from '../../model/progress.ts';
import { codeOf, literal } from './connection.ts';
import { FOREIGN_LITERAL, type Layout, SINCE } from './layout.ts';
import { keyDdl, keyName } from './mirror.ts';
import type { Wire } from './wire.ts';

const UNIQUE_VIOLATION = '23505';

/**
 * The primary key of a live table. While a table is only copied into it has none: making it at the end takes half the time, and a
 * quarter where keys come in no order. Everything that finds rows by key needs it first.
 */
export class LiveKey {
  readonly #wire: Wire;
  readonly #layout: Layout;
  #stands: boolean;

  /** `state`: the one stored with the rows as they are. */
  constructor(wire: Wire, layout: Layout, state: ElementState) {
    this.#wire = wire;
    this.#layout = layout;
    this.#stands = hasKey(state);
  }

  /** Known to be there. */
  get stands(): boolean {
    return this.#stands;
  }

  /** Makes it if it is not there. In the caller's transaction: whatever was copied before, the rows and their key are durable together. */
  async need(): Promise<void> {
    if (!this.#stands) await ensureKey(this.#wire, this.#layout);
    this.#stands = true;
  }
}

/** Whether a table in this state was given its key. A halted one may have been or not. */
export function hasKey(state: ElementState): boolean {
  return state.kind === 'live' || (state.kind === 'copying' && !state.fresh);
}

export async function ensureKey(wire: Wire, layout: Layout): Promise<void> {
  const [found] = await wire.query(
    `SELECT EXISTS (SELECT FROM pg_constraint WHERE conrelid = ${literal(layout.live)}::regclass AND conname = ${literal(keyName(layout))})`,
  );
  if (found?.rows[0]?.[0] === 't') return;
  try {
    await wire.query(`SAVEPOINT keyed; ${keyDdl(layout)}; RELEASE keyed`);
  } catch (error) {
    if (wire.broken || codeOf(error) !== UNIQUE_VIOLATION) throw error;
    await wire.query(`ROLLBACK TO keyed; LOCK TABLE ${layout.live} IN SHARE ROW EXCLUSIVE MODE; ${dropForeignDoubles(layout)}`);
    await wire.query(keyDdl(layout));
  }
}

/** Only rows of somebody else's can be in the way; what they stood for is saved in the history. */
function dropForeignDoubles({ live, key }: Layout): string {
  const keys = key.join(', ');
  return `SET LOCAL enable_hashjoin = on; DELETE FROM ${live} WHERE ${SINCE} = ${FOREIGN_LITERAL}
    AND (${keys}) IN (SELECT ${keys} FROM ${live} GROUP BY ${keys} HAVING count(*) > 1)`;
}
