import { describe, expect, test } from 'vitest';
import { parseConfig } from './config.ts';
import { type BusyAhead, DueTimes, policyOf } from './due-times.ts';

const MINUTE = 60_000;
const captures = { validate: 'changed', onInvalid: 'rollback', schedule: null, window: null } as const;
const at = (text: string): number => Date.parse(text);
const shown = (ms: number | undefined): string | null => (ms === undefined ? null : new Date(ms).toISOString().slice(0, 16));

/** Load that is lowest in one hour of the day of UTC. */
function quietAt(hour: number): BusyAhead {
  return (fromMs, slotMs, slots) =>
    Float64Array.from({ length: slots }, (_, slot) => (new Date(fromMs + slot * slotMs).getUTCHours() === hour ? 0.2 : 0.6));
}

const unknown: BusyAhead = (_, __, slots) => new Float64Array(slots).fill(Number.NaN);

function windowed(busyAhead: BusyAhead, window = { from: '01:00', to: '05:00', timeZone: 'UTC' as string | null }): DueTimes {
  return new DueTimes({ ...captures, window }, MINUTE, busyAhead);
}

describe('when captures are due', () => {
  test('a schedule says, or nothing does', () => {
    const due = new DueTimes({ ...captures, schedule: { cron: '0 */6 * * *', timeZone: 'UTC' } }, MINUTE, unknown);
    expect(due.next(at('2026-11-22T05:59:59Z'))).toEqual({ atMs: at('2026-11-22T06:00:00Z'), because: null });
    expect(due.next(at('2026-11-22T06:00:00Z'))?.atMs).toBe(at('2026-11-22T12:00:00Z'));
    // The clock may be set past that meanwhile.
    expect(due.changesAfterMs).toBe(MINUTE);
    expect(new DueTimes(captures, MINUTE, unknown).next(0)).toBeNull();
  });

  test('in a window, its quietest moment, with the reason', () => {
    const due = windowed(quietAt(3)).next(at('2026-11-21T12:00:00Z'));
    expect(shown(due?.atMs)).toBe('2026-11-22T03:00');
    expect(due?.because).toBe('the primary is forecast to be quietest then, at 20 % of its ceiling; in the window up to 60 %');
    expect(shown(windowed(quietAt(3)).next(at('2026-11-22T03:20:00Z'))?.atMs)).toBe('2026-11-22T03:20');
  });

  test('which is chosen anew as the forecast changes, until it comes', () => {
    let hour = 4;
    const due = windowed((...ahead) => quietAt(hour)(...ahead));
    expect(shown(due.next(at('2026-11-22T01:30:00Z'))?.atMs)).toBe('2026-11-22T04:00');
    hour = 2;
    expect(shown(due.next(at('2026-11-22T01:31:00Z'))?.atMs)).toBe('2026-11-22T02:00');
    expect(due.changesAfterMs).toBe(MINUTE);
  });

  test('and never after its end', () => {
    const ever = windowed((_, __, slots) => Float64Array.from({ length: slots }, (___, slot) => -slot));
    for (let minute = 0; minute < 240; minute++) {
      const nowMs = at('2026-11-22T01:00:00Z') + minute * MINUTE;
      expect(ever.next(nowMs)?.atMs).toBeLessThanOrEqual(at('2026-11-22T05:00:00Z'));
    }
  });

  test('without a forecast, the first moment of the window, or now in one that is open', () => {
    const due = windowed(unknown);
    expect(shown(due.next(at('2026-11-21T12:00:00Z'))?.atMs)).toBe('2026-11-22T01:00');
    expect(due.next(at('2026-11-22T01:10:00Z'))).toMatchObject({
      atMs: at('2026-11-22T01:10:00Z'),
      because: expect.stringContaining('not forecast'),
    });
  });

  test('once in a window, whoever asked for it; one that was missed is not made up for', () => {
    const due = windowed(quietAt(3));
    due.captured(at('2026-11-22T00:59:00Z'));
    expect(shown(due.next(at('2026-11-22T01:10:00Z'))?.atMs)).toBe('2026-11-22T03:00');
    due.captured(at('2026-11-22T01:05:00Z'));
    expect(shown(due.next(at('2026-11-22T01:10:00Z'))?.atMs)).toBe('2026-11-23T03:00');
    expect(shown(due.next(at('2026-11-22T05:00:00Z'))?.atMs)).toBe('2026-11-23T03:00');
  });

  test('one that failed is tried again after a while, as long as the window is open', () => {
    const due = windowed(unknown);
    due.captured(at('2026-11-22T01:00:00Z'));
    due.failed(at('2026-11-22T01:02:00Z'));
    expect(shown(due.next(at('2026-11-22T01:02:00Z'))?.atMs)).toBe('2026-11-22T01:17');
    expect(shown(due.next(at('2026-11-22T01:30:00Z'))?.atMs)).toBe('2026-11-22T01:30');
    due.captured(at('2026-11-22T04:47:00Z'));
    due.failed(at('2026-11-22T04:48:00Z'));
    expect(shown(due.next(at('2026-11-22T04:48:00Z'))?.atMs)).toBe('2026-11-23T01:00');
  });

  test('one that was due does not stand when another came first, and a clock that was years ahead takes no window', () => {
    const due = windowed(unknown);
    const next = due.next(at('2026-11-22T01:10:00Z'));
    expect(next === null || due.stands(next)).toBe(true);
    due.captured(at('2026-11-22T01:10:30Z'));
    expect(next === null || due.stands(next)).toBe(false);
    due.captured(at('2031-01-01T01:10:00Z'));
    expect(shown(due.next(at('2026-11-22T02:00:00Z'))?.atMs)).toBe('2026-11-22T02:00');
    due.captured(at('2026-11-22T02:00:00Z'));
    expect(shown(due.next(at('2026-11-22T02:01:00Z'))?.atMs)).toBe('2026-11-23T01:00');
  });

  test('windows may reach into the next day, and go by the clock of their zone', () => {
    const due = windowed(unknown, { from: '23:30', to: '02:00', timeZone: 'Europe/Berlin' });
    // Summer time ends in the night of 25 October: 02:00 is an hour later then.
    expect(due.next(at('2026-10-24T12:00:00Z'))?.atMs).toBe(at('2026-10-24T21:30:00Z'));
    expect(due.next(at('2026-10-24T23:59:00Z'))?.atMs).toBe(at('2026-10-24T23:59:00Z'));
    expect(due.next(at('2026-10-25T12:00:00Z'))?.atMs).toBe(at('2026-10-25T22:30:00Z'));
  });

  test('a window in the hour that clocks skip is the moment after it, and one from a time to the same is a day', () => {
    const skipped = windowed(quietAt(20), { from: '02:00', to: '02:30', timeZone: 'Europe/Berlin' });
    expect(shown(skipped.next(at('2027-03-27T12:00:00Z'))?.atMs)).toBe('2027-03-28T01:00');
    expect(shown(skipped.next(at('2027-03-28T01:00:00Z'))?.atMs)).toBe('2027-03-29T00:00');
    const always = windowed(quietAt(20), { from: '02:00', to: '02:00', timeZone: 'Europe/Berlin' });
    expect(shown(always.next(at('2027-03-26T12:00:00Z'))?.atMs)).toBe('2027-03-26T20:00');
  });
});

const MINIMAL = 'dataSet: shop\nprimary: sqlite:shop.db\nshadow: sqlite:shadow.db\ntables: ["*"]\n';

test.each([
  ['', 'stream-everything'],
  ['captures: { schedule: "0 * * * *" }', 'predictive'],
  ['captures: { schedule: "*/10 * * * *" }', 'predictive'],
  ['captures: { schedule: "*/5 * * * *" }', 'stream-everything'],
  ['captures: { schedule: "*/5 * * * *" }\nprediction: { day: 12h, interval: 30s }', 'predictive'],
  ['captures: { schedule: "* * * * *" }\nprediction: { policy: quiet-first }', 'quiet-first'],
  ['captures: { window: { from: "23:00", to: "05:00" } }', 'predictive'],
  ['captures: { window: { from: "23:00", to: "05:00" } }\nprediction: { policy: stream-everything }', 'stream-everything'],
])('without another policy, what moves ahead is planned where there is time for it: %s', (settings, policy) => {
  expect(policyOf(parseConfig(`${MINIMAL}${settings}\n`, '/data/foreshadow.yaml', {}))).toBe(policy);
});

test.each(['2026-11-22T10:01:00Z', '2026-11-22T10:58:00Z'])(
  'whenever it is asked, as at %s: captures close together have none',
  (moment) => {
    const config = parseConfig(`${MINIMAL}captures: { schedule: "0,5 * * * *", timeZone: UTC }\n`, '/data/foreshadow.yaml', {});
    expect(policyOf(config, new Date(moment))).toBe('stream-everything');
  },
);
