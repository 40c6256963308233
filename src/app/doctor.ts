import { type Finding, ForeshadowError } from '../model/errors.ts';
import type { TableSchema } from '../model/schema.ts';
import { type Config, redactUrl } from './config.ts';
import type { SystemOptions } from './local-system.ts';
import type { DoctorReport, RetainedReport } from './operations.ts';
import { indexFinding, slotFindings, unmirroredIndexes } from './reports.ts';
import { glanceAtRetained, isScarce } from './retained.ts';
import { openPrimary, openShadow } from './stores.ts';

/** What stands in the way, each finding with a remedy. Changes nothing; an end that cannot be reached is a finding too. */
export async function doctor(config: Config, signal: AbortSignal): Promise<DoctorReport> {
  const findings: Finding[] = [];
  let primaryIdentity: string | null = null;
  let tables: readonly TableSchema[] = [];
  let retained: RetainedReport | null = null;
  await attempt(findings, redactUrl(config.primary), async () => {
    await using primary = await openPrimary(config, async () => new Set());
    findings.push(...(await primary.check(signal)));
    primaryIdentity = await primary.identity(signal);
    ({ tables } = await primary.describe(signal));
    if (tables.length === 0) findings.push(noTables(config));
    retained = await glanceAtRetained(primary, signal);
    if (retained !== null) findings.push(...slotFindings(retained, isScarce(retained)));
  });
  await attempt(findings, redactUrl(config.shadow), async () => {
    const opened = await openShadow(config);
    await using shadow = opened.shadow;
    if (primaryIdentity !== null && (await shadow.identity(signal)) === primaryIdentity) findings.push(sameDatabase(config));
    else findings.push(...(await shadow.check(tables, signal)));
    if (await opened.catalog.exists()) findings.push(...(await unmirroredIndexes(opened.catalog)).map(indexFinding));
  });
  return { findings, retained };
}

async function attempt(findings: Finding[], subject: string, ask: () => Promise<void>): Promise<void> {
  try {
    await ask();
  } catch (error) {
    if (!(error instanceof ForeshadowError)) throw error;
    findings.push({ severity: 'error', code: error.code, subject, message: error.message, remedy: error.remedy });
  }
}

function noTables(config: Config): Finding {
  return {
    severity: 'error',
    code: 'TABLE_MISSING',
    subject: 'tables',
    message: `no table of the primary matches ${config.selection.include.join(', ')}`,
    remedy: 'Correct `tables` (or `policy.exclude`) in the config; * stands for any run of characters.',
  };
}

function sameDatabase(config: Config): Finding {
  return {
    severity: 'error',
    code: 'SHADOW_IS_PRIMARY',
    subject: redactUrl(config.shadow),
    message: 'the shadow is the primary itself',
    remedy: 'Give the shadow a database of its own, best on another machine.',
  };
}

/** Takes away what was installed on the primary. Idempotent. The shadow and its captures stay. */
export async function uninstall(config: Config, options: SystemOptions, signal: AbortSignal): Promise<void> {
  await using primary = await openPrimary(config, async () => new Set());
  await using claimed = new AsyncDisposableStack();
  try {
    const { catalog, shadow } = await openShadow(config);
    claimed.use(shadow);
    // Refused while another instance lives: it would go on tracking what is no longer there.
    if (await catalog.exists()) await shadow.claim(`foreshadow uninstall, process ${process.pid}`);
  } catch (error) {
    if (!(error instanceof ForeshadowError) || error.code === 'ALREADY_RUNNING') throw error;
    // A shadow that is gone must not keep the primary holding on to its log.
    options.log('warn', 'the shadow could not be asked whether another instance runs', { reason: error.message });
  }
  await primary.uninstall(signal);
  options.log('info', 'uninstalled', { primary: redactUrl(config.primary) });
}
