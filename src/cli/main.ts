import type { Systems } from '../app/local-system.ts';
import { countBuffersWithHeap } from '../app/memory.ts';
import { EXIT } from './failure.ts';
import { Output } from './output.ts';
import { runProgram } from './program.ts';

/** Loaded only when a command needs them: help and mistakes stay quick. */
async function systems(): Promise<Systems> {
  const [{ openSystem }, { doctor, uninstall }] = await Promise.all([import('../app/system.ts'), import('../app/doctor.ts')]);
  return { openSystem, doctor, uninstall };
}

const SAME_SIGNAL_MS = 200;

/** Runs the process's command line and sets its exit code. */
export async function main(): Promise<void> {
  countBuffersWithHeap();
  const out = new Output(process.stdout);
  const err = new Output(process.stderr);
  const interrupted = new AbortController();
  let interruptedAtMs = 0;
  const onSignal = (): void => {
    // The second Ctrl-C means now; one that comes at once is the same, handed on by the process in front of this one.
    if (interrupted.signal.aborted && performance.now() - interruptedAtMs > SAME_SIGNAL_MS) process.exit(EXIT.interrupted);
    if (!interrupted.signal.aborted) interruptedAtMs = performance.now();
    interrupted.abort();
  };
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);
  out.closed.addEventListener('abort', () => interrupted.abort(out.closed.reason));
  const exit = await runProgram(process.argv.slice(2), {
    env: process.env,
    directory: process.cwd(),
    out,
    err,
    signal: interrupted.signal,
    systems,
  });
  await out.flush();
  await err.flush();
  process.exitCode = exit;
  process.off('SIGINT', onSignal);
  process.off('SIGTERM', onSignal);
}
