import { createServer } from 'node:net';
import type { TestProject } from 'vitest/node';
import { messageOf } from '../src/model/errors.ts';
import { type EmbeddedServer, startEmbeddedServer } from '../src/stores/postgres/embedded.ts';
import { testedServer } from './tested-server.ts';

declare module 'vitest' {
  export interface ProvidedContext {
    postgresSetupPort: number;
  }
}

/**
 * Runs once for all test files, in vitest's own process. It starts no server yet: it listens, and whoever asks first has it
 * started and is answered with its URL. A run without PostgreSQL tests costs nothing. With FORESHADOW_TEST_POSTGRES the servers of a run
 * are of another version: see `tested-server.ts`.
 */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  let server: Promise<EmbeddedServer> | null = null;
  const listener = createServer((socket) => {
    socket.on('error', () => undefined); // a test that was ended while it waited
    server ??= startEmbeddedServer(testedServer());
    server.then(
      ({ url }) => socket.end(url),
      (error: unknown) => socket.end(messageOf(error)),
    );
  });
  const port = await new Promise<number>((resolve) => {
    listener.listen(0, '127.0.0.1', () => resolve((listener.address() as { port: number }).port));
  });
  project.provide('postgresSetupPort', port);
  return async () => {
    listener.close();
    if (server !== null) await (await server).stop();
  };
}
