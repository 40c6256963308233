import { z } from 'zod';
import { ForeshadowError, messageOf } from '../model/errors.ts';
import type { ErrorCode } from '../model/errors.ts';

/**
 * HTTP over a unix socket. `GET /` tells who serves. `POST /NAME` with JSON arguments runs one operation and answers with lines of
 * JSON as it goes on: any number of progress and item lines, then one result, end or error line. An answer without one of those
 * three was cut off.
 */
export const PROTOCOL = 1;

const captureNumber = z.int().nonnegative();

/** The arguments of each operation. */
export const requests = {
  status: z.strictObject({}),
  capture: z.strictObject({}),
  captures: z.strictObject({}),
  validate: z.strictObject({ capture: captureNumber.nullable() }),
  diff: z.strictObject({ from: captureNumber, to: captureNumber }),
  diffRows: z.strictObject({ from: captureNumber, to: captureNumber }),
  query: z.strictObject({ capture: captureNumber, sql: z.string() }),
  restore: z.strictObject({ capture: captureNumber, to: z.string(), table: z.string().nullable() }),
  script: z.strictObject({ capture: captureNumber, table: z.string().nullable() }),
  rollback: z.strictObject({ to: captureNumber }),
  resume: z.strictObject({}),
  plan: z.strictObject({}),
  tail: z.strictObject({}),
} as const;

export type OperationName = keyof typeof requests;
export type OperationArguments<Name extends OperationName> = z.output<(typeof requests)[Name]>;

export function isOperationName(name: string): name is OperationName {
  return Object.hasOwn(requests, name);
}

/** Who serves, as `GET /` answers. */
export const greetingSchema = z.object({ protocol: z.number(), version: z.string(), dataSet: z.string(), pid: z.number() });
export type Greeting = z.output<typeof greetingSchema>;

export interface ProgressStep {
  readonly phase: string;
  readonly table: string | null;
  readonly done: number;
  readonly total: number | null;
  readonly unit: string;
}

export interface RemoteError {
  /** An `ErrorCode`, or INTERNAL for what no code foresaw. */
  readonly code: string;
  readonly message: string;
  readonly remedy: string;
  readonly retry: 'later' | 'never';
}

export type AnswerLine =
  | { readonly kind: 'progress'; readonly step: ProgressStep }
  | { readonly kind: 'item'; readonly item: unknown }
  | { readonly kind: 'result'; readonly result: unknown }
  | { readonly kind: 'end' }
  | { readonly kind: 'error'; readonly error: RemoteError };

export function toRemoteError(error: unknown): RemoteError {
  if (error instanceof ForeshadowError) return { code: error.code, message: error.message, remedy: error.remedy, retry: error.retry };
  return { code: 'INTERNAL', message: messageOf(error), remedy: '', retry: 'never' };
}

export function fromRemoteError(remote: RemoteError): Error {
  if (remote.code === 'INTERNAL') return new Error(remote.message);
  return new ForeshadowError(remote.code as ErrorCode, remote.message, { remedy: remote.remedy, retry: remote.retry });
}
