import { ForeshadowError } from '../model/errors.ts';

/** Changes as they once came: which row of which element, and when. In order of time; columns of one length, one entry per change. */
export interface Trace {
  /** Milliseconds, of UTC or of whatever clock the file had. */
  readonly atMs: Float64Array;
  /** Rows are numbered from 0. */
  readonly row: Int32Array;
  /** Per row: which element it belongs to. */
  readonly rowElement: Int32Array;
  /** Per row: its size when it last changed; 1 where the file does not say. */
  readonly rowBytes: Float64Array;
  readonly elements: readonly string[];
}

const TIME_COLUMNS = ['time', 'timestamp', 'seconds', 'ms', 'committedat'];
const ELEMENT_COLUMNS = ['element', 'table'];
const ROW_COLUMNS = ['row', 'key', 'page', 'id'];
const LONGEST_LINE = 1_000_000;
/** Below this a number counts seconds: in milliseconds it would be in 1973. Beyond the other it counts neither. */
const SECONDS_MAX = 1e11;
const MS_MAX = 1e14;

interface Columns {
  readonly count: number;
  readonly time: number;
  /** What a number in the time column counts; null: seconds, or milliseconds where it is too large for that. Text that is no number is a date. */
  readonly unitMs: number | null;
  readonly row: number;
  readonly element: number;
  readonly bytes: number;
}

/**
 * Takes the lines of a file of changes: CSV with a header (a time: `time`, `timestamp`, `seconds` or `ms`; a row: `row`, `key`, `page` or
 * `id`; if there are any, `table` or `element`, and `bytes`), or NDJSON as `foreshadow tail` prints it. Lines out of order are sorted.
 */
export class TraceReader {
  readonly #name: string;
  readonly #rows = new Map<string, number>();
  readonly #elements = new Map<string, number>();
  readonly #rowElement: number[] = [];
  readonly #rowBytes: number[] = [];
  readonly #atMs: number[] = [];
  readonly #row: number[] = [];
  #columns: Columns | null = null;
  #line = 0;

  /** @param name what errors call the file. */
  constructor(name: string) {
    this.#name = name;
  }

  /** @throws ForeshadowError TRACE_INVALID, naming file and line. */
  take(line: string): void {
    this.#line++;
    const text = line.trim();
    if (text === '') return;
    if (text.length > LONGEST_LINE) throw this.#invalid(`is longer than ${LONGEST_LINE} characters`);
    if (text.startsWith('{')) this.#takeJson(text);
    else if (this.#columns === null) this.#columns = this.#header(text);
    else this.#takeCells(text.split(','), this.#columns);
  }

  /** @throws ForeshadowError TRACE_INVALID where there was no change at all. */
  finish(): Trace {
    if (this.#atMs.length === 0) {
      throw new ForeshadowError('TRACE_INVALID', `${this.#name} holds no change`, { remedy: 'give a file with a line for every change' });
    }
    const order = Array.from(this.#atMs.keys());
    const sorted = this.#atMs.every((atMs, index) => index === 0 || atMs >= (this.#atMs[index - 1] as number));
    if (!sorted) order.sort((a, b) => (this.#atMs[a] as number) - (this.#atMs[b] as number) || a - b);
    return {
      atMs: Float64Array.from(order, (index) => this.#atMs[index] as number),
      row: Int32Array.from(order, (index) => this.#row[index] as number),
      rowElement: Int32Array.from(this.#rowElement),
      rowBytes: Float64Array.from(this.#rowBytes),
      elements: [...this.#elements.keys()],
    };
  }

  #header(text: string): Columns {
    const names = text.split(',').map((name) => name.trim().toLowerCase());
    const find = (wanted: readonly string[]): number => names.findIndex((name) => wanted.includes(name));
    const [time, row] = [find(TIME_COLUMNS), find(ROW_COLUMNS)];
    if (time < 0 || row < 0) {
      throw this.#invalid(`is no header: it needs a time (${TIME_COLUMNS.slice(0, 4).join(', ')}) and a row (${ROW_COLUMNS.join(', ')})`);
    }
    const unitMs = names[time] === 'ms' ? 1 : names[time] === 'seconds' ? 1000 : null;
    return { count: names.length, time, row, unitMs, element: find(ELEMENT_COLUMNS), bytes: names.indexOf('bytes') };
  }

  #takeCells(cells: readonly string[], columns: Columns): void {
    if (cells.length !== columns.count) throw this.#invalid(`has ${cells.length} fields, and the header ${columns.count}`);
    const time = cells[columns.time]?.trim() ?? '';
    const row = cells[columns.row]?.trim() ?? '';
    if (row === '') throw this.#invalid('names no row');
    const bytes = columns.bytes < 0 ? 1 : Number(cells[columns.bytes]);
    if (!(bytes >= 0 && bytes < Infinity)) throw this.#invalid('has no size in its column bytes');
    const number = time === '' ? Number.NaN : Number(time);
    const unitMs = columns.unitMs ?? (number < SECONDS_MAX ? 1000 : 1);
    const atMs = Number.isNaN(number) ? Date.parse(time) : number * unitMs;
    this.#add(atMs, columns.element < 0 ? 'rows' : (cells[columns.element] ?? '').trim(), row, bytes);
  }

  #takeJson(text: string): void {
    let change: { readonly table?: unknown; readonly key?: unknown; readonly committedAt?: unknown };
    try {
      change = JSON.parse(text) as typeof change;
    } catch (error) {
      throw this.#invalid('is no JSON', error);
    }
    // A truncated table has no row to speak of.
    if (change.key === undefined || change.key === null) return;
    if (typeof change.table !== 'string' || typeof change.committedAt !== 'string') throw this.#invalid('has no table or no committedAt');
    this.#add(Date.parse(change.committedAt), change.table, JSON.stringify(change.key), text.length);
  }

  #add(atMs: number, element: string, row: string, bytes: number): void {
    if (!Number.isFinite(atMs)) throw this.#invalid('has no time');
    if (atMs > MS_MAX) throw this.#invalid('has a time that is neither in seconds nor in milliseconds');
    const elementIndex = numberOf(this.#elements, element);
    const rowIndex = numberOf(this.#rows, `${elementIndex} ${row}`);
    this.#rowElement[rowIndex] = elementIndex;
    this.#rowBytes[rowIndex] = bytes;
    this.#atMs.push(atMs);
    this.#row.push(rowIndex);
  }

  #invalid(what: string, cause?: unknown): ForeshadowError {
    return new ForeshadowError('TRACE_INVALID', `line ${this.#line} of ${this.#name} ${what}`, {
      remedy: 'give CSV with a header such as time,table,row,bytes, or what foreshadow tail prints',
      cause,
    });
  }
}

function numberOf(numbers: Map<string, number>, name: string): number {
  const known = numbers.get(name);
  if (known !== undefined) return known;
  numbers.set(name, numbers.size);
  return numbers.size - 1;
}

/** When a trace begins on a grid of slots, and the first change of each slot; one more entry ends the last whole slot. */
export function slotsOf({ atMs }: Trace, slotMs: number): { readonly startMs: number; readonly firstOf: Int32Array } {
  const first = atMs[0] ?? 0;
  const startMs = Math.floor(first / slotMs) * slotMs;
  const count = Math.floor(((atMs.at(-1) ?? first) - startMs) / slotMs);
  const firstOf = new Int32Array(count + 1);
  let change = 0;
  for (let slot = 0; slot <= count; slot++) {
    while (change < atMs.length && (atMs[change] as number) < startMs + slot * slotMs) change++;
    firstOf[slot] = change;
  }
  return { startMs, firstOf };
}

/** Rows that change in a cycle: the mean of the whole cycles that end by `untilMs`; 0 where there is none. */
export function distinctPerCycle(trace: Trace, startMs: number, cycleMs: number, untilMs: number): number {
  const cycles = Math.floor((Math.min(untilMs, trace.atMs.at(-1) ?? startMs) - startMs) / cycleMs);
  let distinct = 0;
  let [cycle, seen] = [-1, new Set<number>()];
  for (const [change, atMs] of trace.atMs.entries()) {
    const own = Math.floor((atMs - startMs) / cycleMs);
    if (own >= cycles) break;
    if (own !== cycle) [cycle, seen] = [own, new Set()];
    const row = trace.row[change] as number;
    if (!seen.has(row)) distinct++;
    seen.add(row);
  }
  return cycles > 0 ? distinct / cycles : 0;
}
