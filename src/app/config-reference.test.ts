import { expect, test } from 'vitest';
import { configJsonSchema } from './config-keys.ts';
import { configReferencePage } from './config-reference.ts';

// `npx vitest run src/app/config-reference.test.ts -u` writes both anew.
test('the reference page says what the schema says', async () => {
  await expect(configReferencePage()).toMatchFileSnapshot('../../docs/reference/config.md');
});

test('so does the JSON Schema for editors', async () => {
  await expect(`${JSON.stringify(configJsonSchema(), null, 2)}\n`).toMatchFileSnapshot('../../docs/reference/config.schema.json');
});
