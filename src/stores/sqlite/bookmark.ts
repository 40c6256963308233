import type { Bookmark } from '../../journal/journal.ts';
import { ForeshadowError } from '../../model/errors.ts';
import { commitEndOf, position } from '../../model/position.ts';
import type { LogMark } from './log.ts';

/** No row of the log carries this mark: a bookmark with it is one that the log cannot confirm. */
const UNKNOWN_MARK = -1n;

export function bookmark(mark: LogMark): Bookmark {
  return { at: position(mark.seq), evidence: JSON.stringify({ mark: mark.mark.toString() }) };
}

/** The row of the log that a bookmark speaks of. Evidence that is not ours never matches. */
export function markOf(from: Bookmark): LogMark {
  const seq = commitEndOf(from.at);
  try {
    const evidence = JSON.parse(from.evidence) as { mark?: unknown } | null;
    return { seq, mark: typeof evidence?.mark === 'string' ? BigInt(evidence.mark) : UNKNOWN_MARK };
  } catch (error) {
    if (error instanceof SyntaxError) return { seq, mark: UNKNOWN_MARK };
    throw error;
  }
}

export function notInstalled(path: string): ForeshadowError {
  return new ForeshadowError('NOT_INSTALLED', `changes of ${path} are not tracked: the triggers are not installed`, {
    remedy: 'Run foreshadow start, which installs them.',
  });
}
