import { createReadStream } from 'node:fs';
import { createInterface } from 'node:readline';
import { ForeshadowError, messageOf } from '../model/errors.ts';
import type { TableName } from '../model/schema.ts';
import { type Seed, type SeedActivity, type SlotLengths, slotStart, stepsOf } from '../tracking/history.ts';
import type { PrometheusRule } from './config.ts';
import { queryRange } from './prometheus.ts';

/** Slots of tables that are held while a file is read. */
const SLOTS_MAX = 5_000_000;
const LINE_MAX = 1 << 20;
const SHAPE = 'a header time,element,rows[,distinct,bytes] or time,resource,value, or one JSON object of those names to a line';

interface Line {
  readonly atMs: number;
  readonly what:
    | { readonly table: TableName; readonly rows: number; readonly distinct: number; readonly bytes: number }
    | { readonly resource: string; readonly value: number };
}

/**
 * A seed from a file, as CSV with a header or as NDJSON: times with a zone (ISO 8601, or seconds or milliseconds since 1970), elements as their store
 * names them, changed rows; or resources and values. Lines of one slot add up. Every slot from the first to the last counts as observed, so
 * that what a file does not name is zero; the slots are the longest that keep its times apart. Throws SEED_INVALID, naming the line.
 */
export async function readSeed(path: string, lengths: SlotLengths): Promise<Seed> {
  const lines = await readLines(path, lengths);
  const times = Array.from(lines.times).toSorted((a, b) => a - b);
  const first = times[0];
  const last = times.at(-1);
  if (first === undefined || last === undefined) throw invalid(path, null, 'it holds no line of data', `Write ${SHAPE}.`);
  const gapMs = times.slice(1).reduce((least, time, index) => Math.min(least, time - (times[index] as number)), Number.POSITIVE_INFINITY);
  const steps = stepsOf(lengths);
  const stepMs = steps.findLast((step) => gapMs >= step && Number.isFinite(gapMs)) ?? steps[0];
  const observed = lines.activity.size === 0 ? null : { fromMs: slotStart(first, stepMs), untilMs: slotStart(last, stepMs) + stepMs };
  return { stepMs, observed, activity: joined(lines.activity.values(), stepMs), load: averaged(lines.load.values(), stepMs) };
}

/** A seed from queries that give a table's changes a second. Nothing tells how many rows those were: each counts as another. */
export async function querySeed(
  rule: PrometheusRule,
  range: { readonly fromMs: number; readonly untilMs: number; readonly stepMs: number },
  signal: AbortSignal,
): Promise<Seed> {
  const activity: SeedActivity[] = [];
  for (const [table, query] of rule.activity) {
    for (const { atMs, value } of await queryRange(rule, query, range, signal)) {
      const changes = Math.round((Math.max(0, value) * range.stepMs) / 1000);
      activity.push({ table, atMs, changes, distinct: changes, bytes: 0 });
    }
  }
  const load: { resource: string; atMs: number; value: number }[] = [];
  for (const [name, query] of rule.load) {
    const points = await queryRange(rule, query, range, signal);
    load.push(...points.map(({ atMs, value }) => ({ resource: `prometheus.${name}`, atMs, value })));
  }
  return { stepMs: range.stepMs, observed: null, activity, load };
}

interface Gathered {
  readonly times: Set<number>;
  readonly activity: Map<string, SeedActivity>;
  readonly load: Map<string, { readonly resource: string; readonly atMs: number; readonly value: number; readonly count: number }>;
}

async function readLines(path: string, { minuteMs }: SlotLengths): Promise<Gathered> {
  const gathered: Gathered = { times: new Set(), activity: new Map(), load: new Map() };
  let header: readonly string[] | null = null;
  let number = 0;
  try {
    for await (const text of createInterface({ input: createReadStream(path, 'utf8'), crlfDelay: Number.POSITIVE_INFINITY })) {
      number++;
      const line = number === 1 ? text.replace(/^\uFEFF/, '') : text;
      if (line.length > LINE_MAX) throw invalid(path, number, 'it is longer than any line of such a file', `Write ${SHAPE}.`);
      if (line.trim() === '') continue;
      if (line.trimStart().startsWith('{')) gather(gathered, lineOf(jsonFields(line, path, number), path, number), minuteMs);
      else if (header === null) header = headerOf(line, path, number);
      else gather(gathered, lineOf(namedFields(header, line, path, number), path, number), minuteMs);
      if (gathered.activity.size + gathered.load.size > SLOTS_MAX) {
        throw invalid(path, number, `it has more than ${SLOTS_MAX} slots`, 'Split it, or give longer steps.');
      }
    }
  } catch (error) {
    if (error instanceof ForeshadowError) throw error;
    throw new ForeshadowError('SEED_INVALID', `${path} cannot be read: ${messageOf(error)}`, { remedy: 'Check the path.', cause: error });
  }
  return gathered;
}

function gather({ times, activity, load }: Gathered, { atMs, what }: Line, minuteMs: number): void {
  const slot = slotStart(atMs, minuteMs);
  times.add(slot);
  if ('table' in what) {
    const before = activity.get(`${slot} ${what.table}`) ?? { changes: 0, distinct: 0, bytes: 0 };
    const { table, rows, distinct, bytes } = what;
    activity.set(`${slot} ${table}`, {
      table,
      atMs: slot,
      changes: before.changes + rows,
      distinct: before.distinct + distinct,
      bytes: before.bytes + bytes,
    });
    return;
  }
  const before = load.get(`${slot} ${what.resource}`) ?? { value: 0, count: 0 };
  load.set(`${slot} ${what.resource}`, { resource: what.resource, atMs: slot, value: before.value + what.value, count: before.count + 1 });
}

function joined(activity: Iterable<SeedActivity>, stepMs: number): SeedActivity[] {
  const slots = new Map<string, SeedActivity>();
  for (const { table, atMs, changes, distinct, bytes } of activity) {
    const slot = slotStart(atMs, stepMs);
    const before = slots.get(`${slot} ${table}`) ?? { changes: 0, distinct: 0, bytes: 0 };
    slots.set(`${slot} ${table}`, {
      table,
      atMs: slot,
      changes: before.changes + changes,
      distinct: before.distinct + distinct,
      bytes: before.bytes + bytes,
    });
  }
  return [...slots.values()];
}

function averaged(load: Iterable<{ resource: string; atMs: number; value: number; count: number }>, stepMs: number): Seed['load'] {
  const slots = new Map<string, { resource: string; atMs: number; sum: number; count: number }>();
  for (const { resource, atMs, value, count } of load) {
    const slot = slotStart(atMs, stepMs);
    const before = slots.get(`${slot} ${resource}`) ?? { sum: 0, count: 0 };
    slots.set(`${slot} ${resource}`, { resource, atMs: slot, sum: before.sum + value, count: before.count + count });
  }
  return Array.from(slots.values(), ({ resource, atMs, sum, count }) => ({ resource, atMs, value: sum / count }));
}

type Fields = Readonly<Record<string, unknown>>;

function lineOf(fields: Fields, path: string, number: number): Line {
  const atMs = timeOf(fields['time'], path, number);
  const amount = (name: string): number => {
    const value = fields[name];
    const amountOf = typeof value === 'number' ? value : typeof value === 'string' && value.trim() !== '' ? Number(value) : Number.NaN;
    if (Number.isFinite(amountOf) && amountOf >= 0) return amountOf;
    throw invalid(path, number, `${name} is no number from 0 on`, `Write ${SHAPE}.`);
  };
  const whole = (name: string): number => {
    const value = amount(name);
    if (Number.isSafeInteger(value)) return value;
    throw invalid(path, number, `${name} is no whole number`, 'Write counts without a fraction.');
  };
  const { element, resource } = fields;
  if (typeof resource === 'string' && resource !== '') return { atMs, what: { resource, value: amount('value') } };
  if (typeof element !== 'string' || element === '') throw invalid(path, number, 'it names no element', `Write ${SHAPE}.`);
  const rows = whole('rows');
  const has = (name: string): boolean => fields[name] !== undefined && fields[name] !== '';
  const distinct = has('distinct') ? whole('distinct') : rows;
  if (distinct > rows)
    throw invalid(
      path,
      number,
      'distinct is more than rows',
      'Write in `rows` how many changes there were, in `distinct` of how many different rows.',
    );
  return { atMs, what: { table: element as TableName, rows, distinct, bytes: has('bytes') ? whole('bytes') : 0 } };
}

/** Below this a number counts seconds: in milliseconds it would be in 1973. */
const SECONDS_MAX = 1e11;

function timeOf(value: unknown, path: string, number: number): number {
  const text = typeof value === 'number' ? String(value) : typeof value === 'string' ? value.trim() : '';
  if (/^\d+(\.\d+)?$/.test(text)) return Number(text) < SECONDS_MAX ? Number(text) * 1000 : Number(text);
  const hasZone = /^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)$/i.test(text);
  const atMs = hasZone ? Date.parse(text.replace(' ', 'T')) : Number.NaN;
  if (!Number.isNaN(atMs)) return atMs;
  throw invalid(path, number, 'its time is not one', 'Write it with its zone, such as 2026-11-22T10:00:00Z, or as seconds since 1970.');
}

function jsonFields(line: string, path: string, number: number): Fields {
  try {
    return JSON.parse(line) as Fields;
  } catch (error) {
    throw invalid(path, number, `it is not JSON: ${messageOf(error)}`, 'Write one object to a line.');
  }
}

function headerOf(line: string, path: string, number: number): readonly string[] {
  const names = cellsOf(line, path, number).map((name) => name.trim().toLowerCase());
  const isKnown =
    names.includes('time') && (names.includes('element') ? names.includes('rows') : names.includes('resource') && names.includes('value'));
  if (!isKnown) throw invalid(path, number, 'it is no header', `Write ${SHAPE}.`);
  return names;
}

function namedFields(header: readonly string[], line: string, path: string, number: number): Fields {
  const cells = cellsOf(line, path, number);
  if (cells.length !== header.length) {
    throw invalid(
      path,
      number,
      `it has ${cells.length} fields, and the header ${header.length}`,
      'Put fields that hold commas into double quotes.',
    );
  }
  return Object.fromEntries(header.map((name, index) => [name, cells[index]]));
}

/** One line of CSV (RFC 4180), without line breaks in quotes. */
function cellsOf(line: string, path: string, number: number): string[] {
  const cells: string[] = [];
  const cell = /(?:"((?:[^"]|"")*)"|([^",]*))(,|$)/y;
  for (;;) {
    const found = cell.exec(line);
    if (found === null) throw invalid(path, number, 'its quotes do not match', 'Double a quote inside quotes.');
    cells.push(found[1]?.replaceAll('""', '"') ?? (found[2] as string));
    if (found[3] === '') return cells;
  }
}

function invalid(path: string, line: number | null, what: string, remedy: string): ForeshadowError {
  return new ForeshadowError('SEED_INVALID', `${path}${line === null ? '' : ` line ${line}`}: ${what}`, { remedy });
}
