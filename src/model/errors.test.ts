import { expect, test } from 'vitest';
import { ForeshadowError, isAbort, messageOf } from './errors.ts';

test('an error says what is at fault, what to do, and why', () => {
  const cause = new Error('disk full');
  const error = new ForeshadowError('JOURNAL_ACCESS', 'no space left for the journal x', { remedy: 'Free space.', cause });
  expect(error).toMatchObject({ name: 'ForeshadowError', code: 'JOURNAL_ACCESS', remedy: 'Free space.', retry: 'never', cause });
  expect(new ForeshadowError('USAGE', 'm', { remedy: 'r', retry: 'later' }).retry).toBe('later');
  expect('cause' in new ForeshadowError('USAGE', 'm', { remedy: 'r' })).toBe(false);
});

test.each([
  [new Error('plain'), 'plain'],
  [new TypeError(''), 'TypeError'],
  [new AggregateError([new Error('::1 refused'), new Error('127.0.0.1 refused')]), '::1 refused; 127.0.0.1 refused'],
  [new AggregateError([new Error('x')], 'both failed'), 'both failed'],
  ['text', 'text'],
  [undefined, 'undefined'],
])('the message of an error is never empty (%#)', (error, expected) => {
  expect(messageOf(error)).toBe(expected);
});

test('an abort is told from a failure', async () => {
  const controller = new AbortController();
  controller.abort();
  expect(isAbort(controller.signal.reason)).toBe(true);
  expect(isAbort(Object.assign(new Error('stopped'), { code: 'ABORT_ERR' }))).toBe(true);
  expect(isAbort(new Error('aborted'))).toBe(false);
  expect(isAbort('AbortError')).toBe(false);
});
