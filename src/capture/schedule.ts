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

export interface Window {
  readonly fromMs: number;
  readonly untilMs: number;
}

const LONGEST_DAY_MS = 25 * 3_600_000;

/** A stretch of each day, between two times of day (`HH:MM`) of a time zone; the second may be on the day after. */
export class Windows {
  readonly #from: Schedule;
  readonly #until: Schedule;
  /** From one time to the same of the next day. */
  readonly #wholeDay: boolean;

  /** A null time zone is the machine's. */
  constructor(from: string, until: string, timeZone: string | null) {
    const daily = (time: string): Schedule => new Schedule(`${Number(time.slice(3))} ${Number(time.slice(0, 2))} * * *`, timeZone);
    this.#from = daily(from);
    this.#until = daily(until);
    this.#wholeDay = from === until;
  }

  /** The one that is open at a moment, or else the next; no more than a moment where both of its times are left out as clocks are set forward. */
  at(moment: Date): Window {
    const until = following(this.#until, moment);
    let from = following(this.#from, new Date(until.getTime() - LONGEST_DAY_MS));
    const begins = (next: Date): boolean => next < until || (!this.#wholeDay && next.getTime() === until.getTime());
    for (let next = following(this.#from, from); begins(next); next = following(this.#from, from)) from = next;
    return { fromMs: from.getTime(), untilMs: until.getTime() };
  }
}

function following(schedule: Schedule, after: Date): Date {
  const next = schedule.next(after);
  if (next === null) throw new Error('a day without that time was the last');
  return next;
}
