import type { Coverage, Diagnosis, RowCounts, Verdict } from '../model/capture.ts';
import type { Finding } from '../model/errors.ts';
import type { UnmirroredIndex } from '../shadowing/shadow.ts';
import type { Retained } from '../model/retained.ts';
import type { PlanReport } from './plan-report.ts';

/**
 * What a person or a script can ask of a data set. Implemented twice: in this process (`system.ts`), and through the socket of a
 * running `start` (`server/client.ts`). The reports are the `--json` of the commands, which scripts rely on: fields are added,
 * never renamed or removed. Counts are numbers; integers beyond ±2^53 and all numerics are strings.
 */
export interface Operations extends AsyncDisposable {
  status(signal: AbortSignal): Promise<StatusReport>;
  /** Takes a capture now: tracks, drains, cuts, seals, validates, and cures by policy. */
  capture(progress: ProgressListener, signal: AbortSignal): Promise<CaptureReport>;
  captures(signal: AbortSignal): Promise<readonly CaptureListing[]>;
  /** Null: the live shadow against the primary. A number: that capture against its own seal, without the primary. Only reports. */
  validate(capture: number | null, progress: ProgressListener, signal: AbortSignal): Promise<ValidateReport>;
  diff(from: number, to: number, signal: AbortSignal): Promise<DiffReport>;
  /** The rows behind a diff, table by table. */
  diffRows(from: number, to: number, signal: AbortSignal): AsyncIterable<DiffRow>;
  /** One read-only statement over the data set as of a capture. The first slice names the columns, even of no rows. */
  query(capture: number, sql: string, signal: AbortSignal): AsyncIterable<QueryReport>;
  restore(request: RestoreRequest, progress: ProgressListener, signal: AbortSignal): Promise<RestoreReport>;
  /** The capture as SQL text. */
  script(capture: number, table: string | null, signal: AbortSignal): AsyncIterable<string>;
  rollback(to: number, progress: ProgressListener, signal: AbortSignal): Promise<RollbackReport>;
  resume(progress: ProgressListener, signal: AbortSignal): Promise<ResumeReport>;
  /** What is to move until the next capture, and why. */
  plan(signal: AbortSignal): Promise<PlanReport>;
  /** Changes from now on, as they become durable in the journal. */
  tail(signal: AbortSignal): AsyncIterable<TailLine>;
}

/** Called as work goes on. `total` is null where it is not known. */
export type ProgressListener = (step: { phase: string; table: string | null; done: number; total: number | null; unit: string }) => void;

export interface StatusReport {
  readonly dataSet: string;
  /** Whether a `start` is running. */
  readonly running: boolean;
  /** Age of the oldest change not yet in the shadow; null while nothing tracks. */
  readonly lagMs: number | null;
  readonly tables: readonly {
    readonly table: string;
    readonly state: 'copying' | 'live' | 'halted';
    readonly reason: string | null;
    readonly lagMs: number | null;
    readonly pendingRows: number;
    readonly copiedRows: number | null;
    /** Only its inserts are followed. */
    readonly insertOnly: boolean;
    /** Of the last hour, as far as it was seen; null: nothing is known. */
    readonly lastHour: ActivityReport | null;
  }[];
  /** Of those that policy asks for: what the shadow has not, and why. */
  readonly unmirroredIndexes: readonly UnmirroredIndex[];
  /** Why activity or load are not being learned, or prediction does not do all it could; empty while they are and it does. */
  readonly learning: { readonly troubles: readonly string[] };
  readonly captures: { readonly last: number | null; readonly knownGood: number | null; readonly parkedAt: number | null };
  readonly nextCapture: {
    readonly at: string;
    /** Rows expected to be left to move then; null: nothing is planned. */
    readonly forecastResidualRows: number | null;
    /** Why then, where it is not a schedule that says so. */
    readonly because: string | null;
  } | null;
  readonly journal: { readonly path: string; readonly bytes: number; readonly onPrimaryHost: boolean | null };
  readonly tracking: {
    /** Why the primary cannot be followed, or not be asked, for now: it is tried again. */
    readonly trouble: { readonly code: string; readonly message: string; readonly remedy: string; readonly since: string } | null;
    /** Log that the primary keeps for this data set; null: none that could fill its disk, or it could not be asked. */
    readonly retained: RetainedReport | null;
  };
}

export interface ActivityReport {
  readonly changes: number;
  /** Different rows changed; null: no longer known. */
  readonly distinctRows: number | null;
  /** As they lie in the journal. */
  readonly bytes: number;
}

export interface RetainedReport extends Retained {
  /** Over the last minutes; without a running `start`, over a second; null: not known. Negative while it shrinks. */
  readonly growthBytesPerSecond: number | null;
  /** Until the slot is given up, at that growth; null: it does not grow, has no limit, or that cannot be told. Free disk cannot. */
  readonly secondsLeft: number | null;
}

export interface CaptureReport {
  readonly number: number;
  readonly verdict: Verdict;
  /** The moment the capture stands for: when its cut was durable. */
  readonly at: string;
  readonly rows: RowCounts;
  readonly residualRows: number;
  readonly drainMs: number;
  readonly cutMs: number;
  readonly validateMs: number;
  readonly elapsedMs: number;
  readonly coverage: Coverage;
  readonly differences: readonly DifferenceReport[];
  /** Foreign writes found in the shadow and undone. */
  readonly conflicts: readonly { readonly table: string; readonly key: Readonly<Record<string, unknown>> }[];
  /** What was done about an INVALID verdict, and the verdict after it. */
  readonly cure: { readonly action: 'repair' | 'rollback' | 'halt'; readonly rows: number; readonly note: string } | null;
  /** Why the verdict is what it is, where the differences do not say it. */
  readonly note: string | null;
  /** What is left on the primary when nothing runs on: a slot that holds back WAL, a trigger log that grows. */
  readonly leaves: string | null;
}

export interface DifferenceReport {
  readonly table: string;
  readonly key: Readonly<Record<string, unknown>>;
  readonly diagnosis: Diagnosis;
}

export interface CaptureListing {
  readonly number: number;
  readonly state: string;
  readonly at: string | null;
  readonly verdict: Verdict | null;
  readonly rows: RowCounts | null;
  readonly absent: readonly { readonly table: string; readonly reason: string }[];
  /** Tables that are in it and could not be compared with the primary: it is INCONCLUSIVE because of them. */
  readonly notCompared: readonly { readonly table: string; readonly reason: string }[];
  /** What was left to move when it was due; null: not known, as before it was cut. */
  readonly residualRows: number | null;
  readonly note: string | null;
  readonly holds: readonly { readonly name: string; readonly until: string | null }[];
}

export interface ValidateReport {
  readonly against: 'primary' | 'seal';
  readonly capture: number | null;
  readonly verdict: Verdict;
  readonly coverage: Coverage;
  readonly differences: readonly DifferenceReport[];
  /** Differences beyond those listed. */
  readonly moreDifferences: number;
  readonly elapsedMs: number;
}

export interface DiffReport {
  readonly from: number;
  readonly to: number;
  readonly tables: readonly ({ readonly table: string } & RowCounts)[];
}

export interface DiffRow {
  readonly table: string;
  readonly key: Readonly<Record<string, unknown>>;
  readonly before: Readonly<Record<string, unknown>> | null;
  readonly after: Readonly<Record<string, unknown>> | null;
}

export interface QueryReport {
  readonly columns: readonly string[];
  readonly rows: readonly (readonly unknown[])[];
}

export interface RestoreRequest {
  readonly capture: number;
  /** URL of the new database. */
  readonly to: string;
  readonly table: string | null;
}

export interface RestoreReport {
  readonly capture: number;
  readonly to: string;
  readonly tables: number;
  readonly rows: number;
  readonly elapsedMs: number;
  /** Whether what was written adds up to the capture's seals. */
  readonly proved: boolean;
  /** Views and triggers that lean on something outside the data set. */
  readonly skipped: readonly { readonly object: string; readonly reason: string }[];
}

export interface RollbackReport {
  readonly to: number;
  readonly rows: number;
  readonly proved: boolean;
  readonly parked: boolean;
  /** The capture cut first, so that nothing is lost. */
  readonly before: number | null;
  /** Tables that the capture does not have, left as they stand. */
  readonly untouched: readonly string[];
  readonly elapsedMs: number;
}

export interface ResumeReport {
  /** The capture it was parked at; null: tables were halted, and are compared with the primary again. */
  readonly from: number | null;
  readonly method: 'replay' | 'resync';
  readonly rows: number;
  readonly elapsedMs: number;
}

export interface TailLine {
  readonly table: string;
  readonly kind: 'insert' | 'update' | 'delete' | 'truncate';
  readonly key: Readonly<Record<string, unknown>> | null;
  readonly row: Readonly<Record<string, unknown>> | null;
  readonly transaction: string;
  readonly position: string;
  readonly committedAt: string;
}

export interface DoctorReport {
  readonly findings: readonly Finding[];
  /** As in `status`; null: nothing is installed, or it could not be asked. */
  readonly retained: RetainedReport | null;
}
