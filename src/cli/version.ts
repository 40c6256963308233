import { readFileSync } from 'node:fs';

/** As `package.json` has it; it lies two folders up from here, in a checkout (src/cli) and as published (dist/cli). */
export function version(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}
