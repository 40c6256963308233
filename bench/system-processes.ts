import { type ChildProcess, fork } from 'node:child_process';
import { join } from 'node:path';
import type { CaptureListing, StatusReport } from '../src/app/operations.ts';
import type { PlanReport } from '../src/app/plan-report.ts';
import type { MeasuredCapture, SystemPlaces } from './systems.ts';

export type SystemOrder = 'run' | 'capture' | 'catch up' | 'status' | 'captures' | 'plan' | 'stop';
export type SystemReport = MeasuredCapture | StatusReport | PlanReport | readonly CaptureListing[] | null;
export type SystemAnswer =
  | { readonly done: SystemReport; readonly failed?: undefined }
  | { readonly failed: string; readonly done?: undefined };

/** A side in a process of its own, forked and ready to begin. */
export interface SideProcess extends AsyncDisposable {
  readonly process: ChildProcess;
  readonly pid: number;
  /** Throws where it ended by itself. */
  check(): void;
  /** Ends it, by force after a minute. Idempotent. */
  stop(): Promise<void>;
}

export interface SystemProcess extends SideProcess {
  /** What `foreshadow start` does; resolves when it has begun to open both ends. */
  run(): Promise<void>;
  capture(): Promise<MeasuredCapture>;
  /** Nothing has waited for the shadow for half a second. */
  caughtUp(): Promise<void>;
  status(): Promise<StatusReport>;
  captures(): Promise<readonly CaptureListing[]>;
  plan(): Promise<PlanReport>;
}

/** Orders are given one after the other. */
export async function startSystemProcess(places: SystemPlaces): Promise<SystemProcess> {
  const side = await forkSide('system-process.ts', places);
  const order = (text: SystemOrder): Promise<SystemReport> =>
    new Promise((resolve, reject) => {
      const ended = (code: number | null): void => reject(new Error(`Foreshadow ended by itself with ${code}`));
      side.process.once('exit', ended);
      side.process.once('message', (answer: SystemAnswer) => {
        side.process.off('exit', ended);
        if (answer.failed === undefined) resolve(answer.done);
        else reject(new Error(answer.failed));
      });
      side.process.send(text);
    });
  return {
    ...side,
    run: async () => void (await order('run')),
    capture: async () => (await order('capture')) as MeasuredCapture,
    caughtUp: async () => void (await order('catch up')),
    status: async () => (await order('status')) as StatusReport,
    captures: async () => (await order('captures')) as readonly CaptureListing[],
    plan: async () => (await order('plan')) as PlanReport,
  };
}

export async function forkSide(file: string, request: object): Promise<SideProcess> {
  const child = fork(join(import.meta.dirname, file), [JSON.stringify(request)]);
  let stopping = false;
  const ended = new Promise<void>((resolve) => {
    child.once('exit', () => resolve());
  });
  await new Promise<void>((resolve, reject) => {
    child.once('message', () => resolve());
    child.once('exit', (code) => reject(new Error(`${file} ended with ${code}`)));
  });
  const stop = async (): Promise<void> => {
    if (!stopping && child.connected) child.send('stop');
    stopping = true;
    const late = setTimeout(() => child.kill('SIGKILL'), 60_000);
    await ended;
    clearTimeout(late);
  };
  return {
    process: child,
    pid: child.pid as number,
    check: () => {
      if (!stopping && child.exitCode !== null) throw new Error(`${file} ended by itself with ${child.exitCode}`);
    },
    stop,
    [Symbol.asyncDispose]: stop,
  };
}
