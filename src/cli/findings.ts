import type { Finding } from '../model/errors.ts';
import type { Output } from './output.ts';

const WORDS = { ok: 'ok', warning: 'warning', error: 'error' } as const;

/** Findings as lines, with their remedies; the worst come last, where the eye is. */
export async function printFindings(output: Output, findings: readonly Finding[]): Promise<void> {
  const order = { ok: 0, warning: 1, error: 2 };
  for (const finding of findings.toSorted((a, b) => order[a.severity] - order[b.severity])) {
    await output.line(
      `${WORDS[finding.severity].padEnd(8)} ${finding.subject}: ${finding.message}${finding.severity === 'ok' ? '' : ` (${finding.code})`}`,
    );
    if (finding.remedy !== null) await output.line(`         remedy: ${finding.remedy}`);
  }
}

export function hasError(findings: readonly Finding[]): boolean {
  return findings.some((finding) => finding.severity === 'error');
}
