import pino from 'pino';
import type { Log } from '../app/local-system.ts';
import type { Output } from './output.ts';
import { cell } from './words.ts';

export const LOG_LEVELS = ['debug', 'info', 'warn', 'error'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** Log lines: readable ones where a person watches, JSON otherwise. */
export function openLog(output: Output, level: LogLevel): Log {
  if (!output.terminal) {
    const logger = pino({ level, base: null, timestamp: pino.stdTimeFunctions.isoTime }, { write: (line: string) => output.note(line) });
    return (at, message, fields) => logger[at](fields ?? {}, message);
  }
  const least = LOG_LEVELS.indexOf(level);
  return (at, message, fields) => {
    if (LOG_LEVELS.indexOf(at) < least) return;
    const time = new Date().toTimeString().slice(0, 8);
    const rest = Object.entries(fields ?? {}).map(([name, value]) => ` ${name}=${cell(value)}`);
    output.note(`${time} ${at === 'info' ? '' : `${at}: `}${message}${rest.join('')}\n`);
  };
}
