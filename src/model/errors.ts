/**
 * Every failure a person can meet has a code (stable, for scripts), a message that names the thing at fault, and a remedy that
 * says what to do. `retry` says whether doing the same again may work: the loops back off and go on for 'later', stop for 'never'.
 */
export class ForeshadowError extends Error {
  override readonly name = 'ForeshadowError';
  readonly code: ErrorCode;
  readonly remedy: string;
  readonly retry: 'later' | 'never';

  constructor(code: ErrorCode, message: string, options: { remedy: string; retry?: 'later' | 'never'; cause?: unknown }) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.remedy = options.remedy;
    this.retry = options.retry ?? 'never';
  }
}

export type ErrorCode =
  | 'ALREADY_RUNNING' // a second instance on the same shadow
  | 'CAPTURE_ABSENT_TABLE' // the table was left out of that capture
  | 'CAPTURE_DAMAGED' // its rows no longer add up to its seals
  | 'CAPTURE_MISSING' // no such capture
  | 'CAPTURE_SKIPPED' // not taken: parked, or nothing is copied yet
  | 'CONFIG_INVALID'
  | 'CONNECTION_LOST' // the running `start` ended before it answered
  | 'FENCED' // another instance took over
  | 'HISTORY_ACCESS' // it cannot be opened, read or written: permission, disk full, damage, a file that is not ours
  | 'JOURNAL_ACCESS' // it cannot be opened, read or written: permission, disk full, damage, a file that is not ours
  | 'JOURNAL_GAP' // changes are missing between the journal and what is to be appended
  | 'JOURNAL_REPLACED'
  | 'LOAD_SOURCE' // a Prometheus that cannot be asked, or does not answer as one
  | 'NOT_BUILT' // a setting or command whose feature does not exist yet
  | 'NOT_INSTALLED'
  | 'PARKED'
  | 'PRIMARY_ACCESS' // password, privileges
  | 'PRIMARY_SETTING' // wal_level, slots …
  | 'PRIMARY_UNREACHABLE'
  | 'PRIMARY_REPLACED' // not the database that was installed on
  | 'QUERY_FAILED'
  | 'SEED_INVALID' // a file of activity or load that cannot be read as one
  | 'SHADOW_ACCESS'
  | 'SHADOW_IS_PRIMARY'
  | 'SHADOW_MOVED' // it stands elsewhere than was thought: its elements are to be read again
  | 'SHADOW_OCCUPIED' // holds tables that are not ours
  | 'SHADOW_UNREACHABLE'
  | 'TABLE_HALTED'
  | 'TABLE_MISSING'
  | 'TABLE_UNIDENTIFIED' // no usable identity
  | 'TARGET_ACCESS' // password, privileges
  | 'TARGET_OCCUPIED'
  | 'TARGET_UNREACHABLE'
  | 'TRACKED_ELSEWHERE' // another instance tracks a data set of this name on the primary, or reads from its slot
  | 'TRACE_INVALID' // a file of recorded changes that cannot be read as one
  | 'USAGE'
  | 'VERSION_UNSUPPORTED';

/** What `check` and `doctor` report. Nothing is changed by asking. */
export interface Finding {
  readonly severity: 'ok' | 'warning' | 'error';
  readonly code: string;
  /** The object at fault: a table, a setting, a URL without its password. */
  readonly subject: string;
  readonly message: string;
  readonly remedy: string | null;
}

/** The text of an unknown error, never empty. */
export function messageOf(error: unknown): string {
  if (error instanceof AggregateError && error.message === '') return error.errors.map(messageOf).join('; ');
  if (error instanceof Error) return error.message === '' ? error.name : error.message;
  return String(error);
}

export function isAbort(error: unknown): boolean {
  return error instanceof Error && (error.name === 'AbortError' || (error as { code?: unknown }).code === 'ABORT_ERR');
}
