import { isReadable, knownGood } from '../capture/states.ts';
import type { DiagnosedDifference } from '../capture/diagnose.ts';
import type { CaptureOutcome } from '../capture/judge.ts';
import type { Catalog } from '../capture/catalog.ts';
import type { CaptureRecord } from '../model/capture.ts';
import { type ChangeVisitor, walkBlock } from '../journal/frame.ts';
import type { Journal } from '../journal/journal.ts';
import type { TransactionRef } from '../model/change.ts';
import type { ActivityTotal } from '../tracking/history.ts';
import type { Tracked } from '../tracking/tracker.ts';
import { type Finding, ForeshadowError, isAbort, messageOf } from '../model/errors.ts';
import type { TableName, TableSchema } from '../model/schema.ts';
import { type KeyTuple, keyTuple } from '../model/tuple.ts';
import type { ValueCodec } from '../model/values.ts';
import type { UnmirroredIndex } from '../shadowing/shadow.ts';
import type {
  ActivityReport,
  CaptureListing,
  CaptureReport,
  DifferenceReport,
  RetainedReport,
  StatusReport,
  TailLine,
} from './operations.ts';

/** Turns what the parts return into the reports of `operations.ts`. */

export function listing(record: CaptureRecord): CaptureListing {
  const { number, state, cutAt, verdict, rows, absent, timings, note } = record;
  const notCompared = (record.coverage?.skipped ?? []).filter(({ table }) => !absent.some((each) => each.table === table));
  return { number, state, at: cutAt, verdict, rows, absent, notCompared, residualRows: timings?.residualRows ?? null, note, holds: [] };
}

/** How many tables a line of the log names. */
const LOGGED_MAX = 5;

/** What the log says of a capture. */
export function logged(record: CaptureRecord): Readonly<Record<string, unknown>> {
  const { number, verdict, note, absent, notCompared } = listing(record);
  return { capture: number, verdict, note, ...firstOf('absent', absent), ...firstOf('notCompared', notCompared) };
}

function firstOf(what: string, tables: CaptureListing['absent']): Readonly<Record<string, unknown>> {
  if (tables.length === 0) return {};
  const named = tables.slice(0, LOGGED_MAX).map(({ table, reason }) => `${table}: ${reason}`);
  return { [what]: tables.length > LOGGED_MAX ? [...named, `and ${tables.length - LOGGED_MAX} more`] : named };
}

export function differenceReports(differences: readonly DiagnosedDifference[], values: ValueCodec): DifferenceReport[] {
  return differences
    .slice(0, DIFFERENCES_SHOWN)
    .map(({ schema, key, diagnosis }) => ({ table: schema.table, key: values.key(schema, key), diagnosis }));
}

/** Beyond this many, differences are counted and not listed. */
export const DIFFERENCES_SHOWN = 1000;

export function captureReport(
  outcome: CaptureOutcome,
  schemas: ReadonlyMap<TableName, TableSchema>,
  values: ValueCodec,
  leaves: string | null,
): CaptureReport {
  const { record, conflicts } = outcome;
  const { verdict, cutAt, rows, timings, coverage } = record;
  if (verdict === null || cutAt === null || rows === null || timings === null || coverage === null) {
    throw new Error(`capture ${record.number} is not sealed`);
  }
  return {
    number: record.number,
    verdict,
    at: cutAt,
    rows,
    residualRows: timings.residualRows,
    drainMs: round(timings.drainMs),
    cutMs: round(timings.cutMs),
    validateMs: round(timings.validateMs),
    elapsedMs: round(timings.elapsedMs),
    coverage,
    differences: differenceReports(outcome.differences, values),
    conflicts: conflicts.slice(0, DIFFERENCES_SHOWN).map(({ table, key }) => ({ table, key: shownKey(schemas.get(table), key, values) })),
    cure: outcome.cure,
    note: record.note,
    leaves,
  };
}

/** What `IndexMirror` last found that it cannot make. */
export async function unmirroredIndexes(catalog: Catalog): Promise<readonly UnmirroredIndex[]> {
  return ((await catalog.read('unmirrored-indexes')) as readonly UnmirroredIndex[] | null | undefined) ?? [];
}

export function indexFinding({ table, index, reason }: UnmirroredIndex): Finding {
  return {
    severity: 'warning',
    code: 'INDEX_UNMIRRORED',
    subject: `${table}: ${index}`,
    message: `the index ${index} of ${table} is not mirrored: ${reason}`,
    remedy: 'Captures do not need it. Install in the shadow what it lacks and start again, or set indexes: none for the table.',
  };
}

/** A table that nobody changed while others were seen has zeros. */
export function activityReport(seen: ReadonlyMap<TableName, ActivityTotal> | null, table: TableName): ActivityReport | null {
  if (seen === null) return null;
  const { changes, distinct, bytes } = seen.get(table) ?? { changes: 0, distinct: 0, bytes: 0 };
  return { changes, distinctRows: distinct, bytes };
}

export function troubleReport(error: unknown, since: Date): NonNullable<StatusReport['tracking']['trouble']> {
  const known = error instanceof ForeshadowError ? error : null;
  const late = known === null && isAbort(error);
  return {
    code: known?.code ?? (late ? 'PRIMARY_UNREACHABLE' : 'INTERNAL'),
    message: late ? 'the primary does not answer' : messageOf(error),
    remedy: known?.remedy ?? 'Run `foreshadow doctor`.',
    since: since.toISOString(),
  };
}

/** `1.2 GB`, of log. */
function amount(bytes: number): string {
  if (bytes < 1e6) return `${Math.round(bytes / 1000)} kB`;
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;
}

/** How much log a slot keeps, how that grows, and how long it can: one sentence without its end. */
function keeps(report: RetainedReport): string {
  const { slot, bytes, growthBytesPerSecond: growth, limitBytes, leftBytes, secondsLeft } = report;
  if (bytes === null) return `the replication slot ${slot} has lost the log it needed (${report.walStatus})`;
  const rate = growth === null ? '' : `, ${growth > 0 ? `growing by ${amount(growth)} a second` : 'not growing'}`;
  const limit =
    limitBytes === null
      ? 'max_slot_wal_keep_size sets no limit: it may fill the disk (how much is free there is unknown)'
      : `given up at ${amount(limitBytes)} (max_slot_wal_keep_size), ${leftBytes === null ? 'unknown how much is' : amount(leftBytes)} left`;
  const left =
    secondsLeft === null ? '' : `, for about ${secondsLeft < 120 ? `${secondsLeft} s` : `${Math.round(secondsLeft / 60)} minutes`}`;
  return `the replication slot ${slot} keeps ${amount(bytes)} of WAL on the primary${rate}; ${limit}${left}`;
}

/** What a capture alone leaves behind. */
export function slotLeft(report: RetainedReport): string {
  return `${keeps(report)}. It holds back WAL until the next capture or start; foreshadow uninstall drops it`;
}

/** What `doctor` says of a slot. */
export function slotFindings(report: RetainedReport, scarce: boolean): Finding[] {
  const { slot, heldBy, bytes } = report;
  const lost = bytes === null;
  const stuck = scarce || lost;
  const findings: Finding[] = [
    {
      severity: stuck ? 'warning' : 'ok',
      code: 'SLOT_RETAINS',
      subject: slot,
      message: `${keeps(report)}.`,
      remedy: !stuck
        ? null
        : lost
          ? 'Run `foreshadow start` or `foreshadow capture`: the slot is made anew, and every table is resynced by comparison.'
          : 'Run `foreshadow start` so that the log is read, end what holds it back, or raise max_slot_wal_keep_size.',
    },
  ];
  for (const who of heldBy) {
    const remedy =
      'End it, or let it end: the log is kept until then. With nothing running: `foreshadow start`, or `foreshadow uninstall`.';
    findings.push({ severity: 'warning', code: 'SLOT_HELD', subject: slot, message: `held back by ${who}`, remedy });
  }
  return findings;
}

function shownKey(schema: TableSchema | undefined, key: KeyTuple, values: ValueCodec): Readonly<Record<string, unknown>> {
  return schema === undefined ? {} : values.key(schema, key);
}

/** Milliseconds with one decimal: more would claim what a clock cannot tell. */
export function round(ms: number): number {
  return Math.round(ms * 10) / 10;
}

/** A capture that can be read; CAPTURE_MISSING names those that can. */
export async function readable(catalog: Catalog, number: number): Promise<CaptureRecord> {
  const records = (await catalog.exists()) ? (await catalog.list()).filter(isReadable) : [];
  const record = records.find((each) => each.number === number);
  if (record !== undefined) return record;
  const last = records.at(-1);
  throw new ForeshadowError('CAPTURE_MISSING', `there is no capture ${number}`, {
    remedy:
      last === undefined
        ? 'Take the first with `foreshadow capture`.'
        : `Captures reach from ${records[0]?.number} to ${last.number}, known-good is ${knownGood(records)?.number ?? 'none'}: see \`foreshadow captures\`.`,
  });
}

/** What became durable as lines for people, in commit order for each table. */
export async function* tailLines(
  tracked: Tracked,
  journal: Journal,
  schemas: (table: TableName) => TableSchema | undefined,
  values: ValueCodec,
  signal: AbortSignal,
): AsyncGenerator<TailLine> {
  const { after, through } = tracked;
  for (const table of tracked.changes.keys()) {
    const schema = schemas(table);
    if (schema === undefined) continue;
    const held = tracked.blocks?.filter((block) => block.table === table);
    for await (const block of held ?? journal.read(table, after, through, signal)) {
      const lines = new TailWriter(schema, values);
      walkBlock(block, after, through, lines);
      yield* lines.lines;
    }
  }
}

class TailWriter implements ChangeVisitor {
  readonly lines: TailLine[] = [];
  readonly #schema: TableSchema;
  readonly #values: ValueCodec;
  #ref: TransactionRef | null = null;

  constructor(schema: TableSchema, values: ValueCodec) {
    this.#schema = schema;
    this.#values = values;
  }

  transaction(ref: TransactionRef): boolean {
    this.#ref = ref;
    return true;
  }

  insert(row: Parameters<ChangeVisitor['insert']>[0]): void {
    this.#line('insert', keyTuple(row, this.#schema.key), row);
  }

  update(row: Parameters<ChangeVisitor['update']>[0], oldKey: KeyTuple | null): void {
    this.#line('update', oldKey ?? keyTuple(row, this.#schema.key), row);
  }

  delete(key: KeyTuple): void {
    this.#line('delete', key, null);
  }

  truncate(): void {
    this.#line('truncate', null, null);
  }

  #line(kind: TailLine['kind'], key: KeyTuple | null, row: Parameters<ChangeVisitor['insert']>[0] | null): void {
    const ref = this.#ref;
    if (ref === null) return;
    this.lines.push({
      table: this.#schema.table,
      kind,
      key: key === null ? null : this.#values.key(this.#schema, key),
      row: row === null ? null : this.#values.row(this.#schema, row),
      transaction: ref.id.toString(),
      position: ref.at,
      committedAt: new Date(Number(ref.committedAtMicros / 1000n)).toISOString(),
    });
  }
}
