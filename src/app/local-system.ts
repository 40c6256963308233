import type { Config } from './config.ts';
import type { DoctorReport, Operations } from './operations.ts';

/** A data set served in this process: everything `Operations` can do, and the loops behind it. */
export interface LocalSystem extends Operations {
  /** Tracks, shadows, and captures on schedule, until the signal aborts or something fails for good. What `start` does. */
  run(signal: AbortSignal): Promise<void>;
}

/** `fields` hold names, counts and positions; never row values, never secrets. */
export type Log = (level: 'debug' | 'info' | 'warn' | 'error', message: string, fields?: Readonly<Record<string, unknown>>) => void;

export interface SystemOptions {
  readonly log: Log;
}

/** What commands ask for: `app/system.ts` and `app/doctor.ts` together. */
export interface Systems {
  /** Opens both ends and the journal. Installs nothing and claims nothing until something is asked that needs it. */
  readonly openSystem: (config: Config, options: SystemOptions) => Promise<LocalSystem>;
  /** What stands in the way, each finding with a remedy. Changes nothing; an end that cannot be reached is a finding too. */
  readonly doctor: (config: Config, signal: AbortSignal) => Promise<DoctorReport>;
  /** Takes away what was installed on the primary. Idempotent; refused with ALREADY_RUNNING while a `start` lives. */
  readonly uninstall: (config: Config, options: SystemOptions, signal: AbortSignal) => Promise<void>;
}
