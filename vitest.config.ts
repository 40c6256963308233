import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['src/**/*.test.ts', 'test/**/*.test.ts'],
    globalSetup: ['test/postgres-setup.ts'],
    // No test says how long something may take; these end what hangs, on slow machines too.
    testTimeout: 180_000,
    hookTimeout: 180_000,
    // More than the cores: much of a test is waiting for a server (on two cores 742 s instead of 870).
    maxWorkers: 3,
  },
});
