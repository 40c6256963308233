/** Dates and times of PostgreSQL's binary format, counted from 2000-01-01, as the server writes them in the ISO style. */

const DAY_MICROS = 86_400_000_000n;
const DATE_INFINITY = 0x7fff_ffff;
const TIMESTAMP_INFINITY = (1n << 63n) - 1n;
/** Days from 0000-03-01 (of the calendar carried back before its invention) to 2000-01-01. */
const TO_MARCH_ZERO = 730_425;

/** `days` since 2000-01-01. */
export function dateText(days: number): string {
  if (days === DATE_INFINITY) return 'infinity';
  if (days === -DATE_INFINITY - 1) return '-infinity';
  const { year, text } = calendar(days);
  return year > 0 ? text : `${text} BC`;
}

export function timeText(micros: bigint): string {
  const seconds = micros / 1_000_000n;
  const fraction = micros % 1_000_000n;
  const parts = [seconds / 3600n, (seconds / 60n) % 60n, seconds % 60n].map((part) => String(part).padStart(2, '0'));
  return parts.join(':') + fractionText(fraction);
}

/** `micros` since 2000-01-01. */
export function timestampText(micros: bigint, zone: string): string {
  if (micros === TIMESTAMP_INFINITY) return 'infinity';
  if (micros === -TIMESTAMP_INFINITY - 1n) return '-infinity';
  let days = micros / DAY_MICROS;
  let time = micros % DAY_MICROS;
  if (time < 0n) {
    days -= 1n;
    time += DAY_MICROS;
  }
  const { year, text } = calendar(Number(days));
  return `${text} ${timeText(time)}${zone}${year > 0 ? '' : ' BC'}`;
}

/** Seconds east of Greenwich. */
export function zoneText(seconds: number): string {
  const size = Math.abs(seconds);
  const parts = [Math.floor(size / 3600), Math.floor(size / 60) % 60, size % 60];
  while (parts.length > 1 && parts.at(-1) === 0) parts.pop();
  return (seconds < 0 ? '-' : '+') + parts.map((part) => String(part).padStart(2, '0')).join(':');
}

export function intervalText(micros: bigint, days: number, months: number): string {
  if (micros === TIMESTAMP_INFINITY && days === DATE_INFINITY) return 'infinity';
  if (micros === -TIMESTAMP_INFINITY - 1n && days === -DATE_INFINITY - 1) return '-infinity';
  const parts: string[] = [];
  let negative = false;
  const add = (value: number, unit: string): void => {
    if (value === 0) return;
    // As the server does: a plus where it would otherwise seem to go on being negative.
    parts.push(`${negative && value > 0 ? '+' : ''}${value} ${unit}${value === 1 ? '' : 's'}`);
    negative = value < 0;
  };
  add(Math.trunc(months / 12), 'year');
  add(months % 12, 'mon');
  add(days, 'day');
  if (micros !== 0n || parts.length === 0) {
    const sign = micros < 0n ? '-' : negative ? '+' : '';
    parts.push(sign + timeText(micros < 0n ? -micros : micros));
  }
  return parts.join(' ');
}

function fractionText(micros: bigint): string {
  return micros === 0n ? '' : `.${String(micros).padStart(6, '0').replace(/0+$/, '')}`;
}

/** Year 0 is 1 BC. Months are counted from March, so that a leap day is the last of its year. */
function calendar(days: number): { year: number; text: string } {
  const at = days + TO_MARCH_ZERO;
  const era = Math.floor(at / 146_097);
  const dayOfEra = at - era * 146_097;
  const yearOfEra = Math.floor(
    (dayOfEra - Math.floor(dayOfEra / 1460) + Math.floor(dayOfEra / 36_524) - Math.floor(dayOfEra / 146_096)) / 365,
  );
  const dayOfYear = dayOfEra - (365 * yearOfEra + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100));
  const march = Math.floor((5 * dayOfYear + 2) / 153);
  const day = dayOfYear - Math.floor((153 * march + 2) / 5) + 1;
  const month = march < 10 ? march + 3 : march - 9;
  const year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0);
  const shownYear = year > 0 ? year : 1 - year;
  return { year, text: `${String(shownYear).padStart(4, '0')}-${pad(month)}-${pad(day)}` };
}

function pad(value: number): string {
  return String(value).padStart(2, '0');
}
