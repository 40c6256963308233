import { Cron } from 'croner';

/**
 * When captures are due: cron with a time zone. A capture that is due while another is being taken, or that was due while nothing ran,
 * is not made up for: the next due time is always in the future.
 */
export class Schedule {
  readonly #cron: Cron;

  /** `cron` has five fields, or six with seconds first. A null time zone is the machine's. */
  constructor(cron: string, timeZone: string | null) {
    this.#cron = new Cron(cron, { paused: true, ...(timeZone === null ? {} : { timezone: timeZone }) });
  }

  /** The first due time after a moment; null if there is none. */
  next(after: Date): Date | null {
    return this.#cron.nextRun(after);
  }
}
