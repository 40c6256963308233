import { expect, test } from 'vitest';
import { cliReferencePage } from './cli-reference.ts';

// `npx vitest run src/cli/cli-reference.test.ts -u` writes it anew.
test('the reference page says what the commands say', async () => {
  await expect(cliReferencePage()).toMatchFileSnapshot('../../docs/reference/cli.md');
});
