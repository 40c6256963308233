import { parentPort } from 'node:worker_threads';
import { messageOf } from '../model/errors.ts';
import { answer } from './challenger-models.ts';
import type { Question, Reply } from './challengers.ts';

/** The thread in which challengers compute: one question, one reply, in order. */
parentPort?.on('message', (question: Question) => {
  const begunMs = performance.now();
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- threads have no origins
  const reply = (said: Pick<Reply, 'answer' | 'failure'>) => parentPort?.postMessage({ ...said, elapsedMs: performance.now() - begunMs });
  try {
    reply({ answer: answer(question), failure: null });
  } catch (error) {
    reply({ answer: null, failure: messageOf(error) });
  }
});
