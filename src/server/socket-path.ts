import { createHash } from 'node:crypto';
import { chmod, lstat, mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { ForeshadowError } from '../model/errors.ts';

/** `sun_path` holds 104 bytes on macOS and 108 on Linux, the closing NUL included; a longer path would be cut off silently. */
const PATH_BYTES_MAX = 103;

/** Where the socket of a data set lives: in its state directory, or under a short path that stands for it. */
export function socketPath(stateDirectory: string): string {
  const beside = join(stateDirectory, 'foreshadow.sock');
  if (Buffer.byteLength(beside) <= PATH_BYTES_MAX) return beside;
  const hash = createHash('sha256').update(stateDirectory).digest('hex').slice(0, 16);
  return join(tmpdir(), `foreshadow-${process.getuid?.() ?? 'user'}`, `${hash}.sock`);
}

/**
 * Makes the socket's directory, open to this user only. In a directory that everybody may write to (the short path), another user
 * could have made it first: then it is refused.
 */
export async function prepareSocketDirectory(path: string): Promise<void> {
  const directory = dirname(path);
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const found = await lstat(directory);
  const mine = process.getuid === undefined || found.uid === process.getuid();
  if (!found.isDirectory() || !mine) {
    throw new ForeshadowError('USAGE', `${directory}, where the socket belongs, is not a directory of this user`, {
      remedy: 'remove it, or run as the user it belongs to',
    });
  }
  if ((found.mode & 0o077) !== 0) await chmod(directory, 0o700);
}
