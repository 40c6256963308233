import { parentPort } from 'node:worker_threads';
import { messageOf } from '../model/errors.ts';
import { answer } from './challenger-models.ts';
import type { Question, Reply } from './challengers.ts';

/** The thread in which challengers compute: one question, one reply, in order. */
parentPort?.on('message', (question: Question) => {
  const begun = process.threadCpuUsage();
  const reply = (said: Pick<Reply, 'answer' | 'failure'>) => {
    const { user, system } = process.threadCpuUsage(begun);
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- threads have no origins
    parentPort?.postMessage({ ...said, cpuMs: (user + system) / 1000 });
  };
  try {
    reply({ answer: answer(question), failure: null });
  } catch (error) {
    reply({ answer: null, failure: messageOf(error) });
  }
});
