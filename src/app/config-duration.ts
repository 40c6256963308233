import { z } from 'zod';

const MS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000 } as const;
type DurationUnit = keyof typeof MS;

const UNIT_WORDS: Readonly<Record<string, DurationUnit>> = {
  millisecond: 'ms',
  milliseconds: 'ms',
  msec: 'ms',
  sec: 's',
  secs: 's',
  second: 's',
  seconds: 's',
  min: 'm',
  mins: 'm',
  minute: 'm',
  minutes: 'm',
  hr: 'h',
  hrs: 'h',
  hour: 'h',
  hours: 'h',
  day: 'd',
  days: 'd',
  week: 'w',
  weeks: 'w',
};

/** Milliseconds of `15m`, `1.5h`, `500ms`; or what should have been written. */
export function parseDuration(text: string): { readonly ms: number } | { readonly problem: string; readonly remedy: string } {
  const parts = /^\s*(\d+(?:\.\d+)?)\s*([\p{L}]*)\s*$/u.exec(text);
  if (parts === null) return { problem: `"${text}" is not a duration`, remedy: 'write a number with ms, s, m, h, d or w, such as 15m' };
  const amount = parts[1] as string;
  const unit = parts[2] as string;
  if (Object.hasOwn(MS, unit)) {
    const ms = Math.round(Number(amount) * MS[unit as DurationUnit]);
    if (text === text.trim() && !/\s/.test(text)) return { ms };
  }
  const meant = Object.hasOwn(MS, unit) ? unit : (UNIT_WORDS[unit.toLowerCase()] ?? null);
  if (meant !== null) return { problem: `"${text}" is not a duration`, remedy: `use ${amount}${meant}` };
  if (unit === '') return { problem: `"${text}" has no unit`, remedy: `write it with ms, s, m, h, d or w, such as ${amount}m` };
  return { problem: `"${text}" has the unknown unit "${unit}"`, remedy: `use ms, s, m, h, d or w, such as ${amount}m` };
}

export const duration = z
  .string()
  .transform((text, context) => {
    const parsed = parseDuration(text);
    if ('ms' in parsed) return parsed.ms;
    context.addIssue({ code: 'custom', message: parsed.problem, params: { remedy: parsed.remedy } });
    return z.NEVER;
  })
  .meta({ expects: 'a number with ms, s, m, h, d or w, such as 15m' });
