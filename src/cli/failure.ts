import type { Verdict } from '../model/capture.ts';
import { ForeshadowError, messageOf } from '../model/errors.ts';

/** What a script can rely on (DESIGN §6). */
export const EXIT = { done: 0, failed: 1, usage: 2, invalid: 16, inconclusive: 32, interrupted: 130 } as const;
export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

export function exitOf(verdict: Verdict): ExitCode {
  switch (verdict) {
    case 'VALID':
      return EXIT.done;
    case 'INVALID':
      return EXIT.invalid;
    case 'INCONCLUSIVE':
      return EXIT.inconclusive;
    default:
      return EXIT.failed;
  }
}

/** An error as it is told: `code` is an `ErrorCode`, INTERRUPTED, or INTERNAL for a fault of our own. */
export interface Failure {
  readonly code: string;
  readonly message: string;
  readonly remedy: string;
  readonly exit: ExitCode;
}

export function failureOf(error: unknown): Failure {
  if (error instanceof ForeshadowError) {
    const { code, message, remedy } = error;
    const usage = code === 'USAGE' || code === 'CONFIG_INVALID' || code === 'NOT_BUILT';
    return { code, message, remedy, exit: usage ? EXIT.usage : EXIT.failed };
  }
  return {
    code: 'INTERNAL',
    message: messageOf(error),
    remedy: 'this is a fault in Foreshadow: run it again with FORESHADOW_DEBUG=1 and report what it prints',
    exit: EXIT.failed,
  };
}

/** `error: … (CODE)` and `remedy: …`, for people. */
export function failureText(failure: Failure): string {
  return `error: ${failure.message} (${failure.code})\n${failure.remedy === '' ? '' : `remedy: ${failure.remedy}\n`}`;
}

/** For programs. */
export function failureJson(failure: Failure): string {
  return `${JSON.stringify({ error: { code: failure.code, message: failure.message, remedy: failure.remedy } })}\n`;
}
