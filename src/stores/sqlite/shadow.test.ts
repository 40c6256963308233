import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describeCatalog } from '../../capture/catalog.contract.ts';
import { describeShadow } from '../../shadowing/shadow.contract.ts';
import { openSqliteFixture } from './shadow-fixture.contract.ts';

const directories: string[] = [];

async function open(): Promise<Awaited<ReturnType<typeof openSqliteFixture>>> {
  const directory = mkdtempSync(join(tmpdir(), 'foreshadow-shadow-'));
  directories.push(directory);
  return await openSqliteFixture(directory);
}

process.once('exit', () => {
  for (const directory of directories) rmSync(directory, { recursive: true, force: true });
});

describeShadow('sqlite', open);
describeCatalog('sqlite', open);
