import { join } from 'node:path';
import type { Catalog } from '../capture/catalog.ts';
import type { RestoreTarget } from '../capture/restore-target.ts';
import type { Journal } from '../journal/journal.ts';
import type { TransactionId } from '../model/change.ts';
import { ForeshadowError } from '../model/errors.ts';
import type { Position } from '../model/position.ts';
import type { TableSchema } from '../model/schema.ts';
import type { Shadow } from '../shadowing/shadow.ts';
import { type History, slotLengths } from '../tracking/history.ts';
import type { Primary } from '../tracking/primary.ts';
import { type Config, redactUrl } from './config.ts';
import { failpoint } from './failpoint.ts';

/** Opens stores by their URL. Each kind is imported only where it is used, so a driver loads only if it is configured. */
type Scheme = 'sqlite' | 'postgres';

export interface OpenShadow {
  readonly shadow: Shadow;
  readonly catalog: Catalog;
}

export function schemeOf(url: string): Scheme {
  if (url.startsWith('sqlite:')) return 'sqlite';
  if (url.startsWith('postgres:') || url.startsWith('postgresql:')) return 'postgres';
  throw new ForeshadowError('CONFIG_INVALID', `${redactUrl(url)} is no URL of a store that is built`, {
    remedy: 'Use sqlite:PATH or postgres://user@host/database.',
  });
}

/** Which transactions an earlier process journaled: asked where a snapshot may not show them yet. */
export type Journaled = (ids: readonly TransactionId[], upTo: Position) => Promise<ReadonlySet<TransactionId>>;

/** `owners` and `shapes`: see `PostgresPrimaryOptions`; left out by who only looks. */
export async function openPrimary(
  config: Config,
  journaled: Journaled,
  kept: { readonly owners?: () => Promise<readonly string[]>; readonly shapes?: () => Promise<readonly TableSchema[]> } = {},
): Promise<Primary> {
  if (schemeOf(config.primary) === 'sqlite') {
    const { openSqlitePrimary } = await import('../stores/sqlite/primary.ts');
    return openSqlitePrimary(config.primary, config.selection);
  }
  const { openPostgresPrimary } = await import('../stores/postgres/primary.ts');
  const { dataSet, selection } = config;
  return openPostgresPrimary({ url: config.primary, dataSet, selection, journaled, ...kept });
}

export async function openShadow(config: Config): Promise<OpenShadow> {
  if (schemeOf(config.shadow) !== schemeOf(config.primary)) {
    throw new ForeshadowError('NOT_BUILT', 'a shadow in another kind of store than the primary is not built yet', {
      remedy: 'Use a shadow of the same kind: sqlite with sqlite, postgres with postgres.',
    });
  }
  if (schemeOf(config.shadow) === 'sqlite') {
    const { openSqliteShadow } = await import('../stores/sqlite/shadow.ts');
    return openSqliteShadow(config.shadow);
  }
  const { openPostgresShadow } = await import('../stores/postgres/shadow.ts');
  return openPostgresShadow(config.shadow, { failpoint });
}

export async function openRestoreTarget(config: Config, url: string): Promise<RestoreTarget> {
  if (schemeOf(url) !== schemeOf(config.shadow)) {
    throw new ForeshadowError('NOT_BUILT', 'a restore into another kind of store than the shadow is not built yet', {
      remedy: `Restore into ${schemeOf(config.shadow)}, or take SQL with --to -.`,
    });
  }
  if (schemeOf(url) === 'sqlite') {
    const { openSqliteRestoreTarget } = await import('../stores/sqlite/restore-target.ts');
    return openSqliteRestoreTarget(url);
  }
  const { openPostgresRestoreTarget } = await import('../stores/postgres/restore-target.ts');
  return openPostgresRestoreTarget(url);
}

export async function openJournal(path: string): Promise<Journal> {
  const { openSqliteJournal } = await import('../stores/sqlite/journal.ts');
  return openSqliteJournal(path);
}

/** Beside the config, whatever stores the data set has. */
export async function openHistory(config: Config): Promise<History> {
  const { openSqliteHistory } = await import('../stores/sqlite/history.ts');
  return openSqliteHistory(historyPath(config), slotLengths(config.prediction.dayMs));
}

/** Where the file cannot be had: what is learned ends with the process. */
export async function openPassingHistory(config: Config): Promise<History> {
  const { openMemoryHistory } = await import('../stores/memory/history.ts');
  return openMemoryHistory(slotLengths(config.prediction.dayMs));
}

export function historyPath(config: Config): string {
  return join(config.stateDirectory, 'history.db');
}
