import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openShopDatabase } from './shop-database.ts';

/** Where a demonstration takes place: a directory of its own, and databases that are thrown away with it. */
export interface Places extends AsyncDisposable {
  readonly kind: 'sqlite' | 'postgres';
  readonly directory: string;
  readonly primary: string;
  readonly shadow: string;
  /** A database that does not exist yet. */
  readonly copy: string;
}

/** `keep` leaves the files; embedded servers live no longer than the demonstration either way. */
export async function openPlaces(kind: 'sqlite' | 'postgres', keep: boolean): Promise<Places> {
  const directory = await mkdtemp(join(tmpdir(), 'foreshadow-demo-'));
  await using undo = new AsyncDisposableStack();
  undo.defer(async () => {
    if (!keep) await rm(directory, { recursive: true, force: true });
  });
  if (kind === 'sqlite') {
    const moved = undo.move();
    return {
      kind,
      directory,
      primary: `sqlite:${join(directory, 'shop.db')}`,
      shadow: `sqlite:${join(directory, 'shadow.db')}`,
      copy: `sqlite:${join(directory, 'copy.db')}`,
      [Symbol.asyncDispose]: () => moved.disposeAsync(),
    };
  }
  // A development dependency, and large: loaded only when it is asked for.
  const { startEmbeddedServer } = await import('../../stores/postgres/embedded.ts');
  const [primary, shadow] = await Promise.all([startEmbeddedServer(), startEmbeddedServer()]);
  undo.use(primary);
  undo.use(shadow);
  await createDatabase(primary.url, 'shop');
  await createDatabase(shadow.url, 'shadow');
  const moved = undo.move();
  return {
    kind,
    directory,
    primary: withDatabase(primary.url, 'shop'),
    shadow: withDatabase(shadow.url, 'shadow'),
    copy: withDatabase(shadow.url, 'copy'),
    [Symbol.asyncDispose]: () => moved.disposeAsync(),
  };
}

async function createDatabase(server: string, name: string): Promise<void> {
  await using database = await openShopDatabase(server);
  await database.script(`CREATE DATABASE ${name}`);
}

function withDatabase(server: string, name: string): string {
  const url = new URL(server);
  url.pathname = `/${name}`;
  return url.href;
}
