/** The public API: open a data set from its config, and ask of it what the commands do. */
export { loadConfig, redactUrl } from './app/config.ts';
export type { Config } from './app/config.ts';
export { doctor, uninstall } from './app/doctor.ts';
export type { LocalSystem, Log, SystemOptions } from './app/local-system.ts';
export type * from './app/operations.ts';
export { openSystem } from './app/system.ts';
export { ForeshadowError } from './model/errors.ts';
export type { ErrorCode, Finding } from './model/errors.ts';
export type { Coverage, Diagnosis, RowCounts, Verdict } from './model/capture.ts';
export { openRemote } from './server/client.ts';
