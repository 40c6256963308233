import { connect as connectSocket } from 'node:net';
import type { Client } from 'pg';

/**
 * Asks the server to cancel what a connection runs: a connection of its own that carries nothing but the process id and secret key.
 * Resolves when the server has closed it, having passed the request on. Never rejects: a statement that cannot be cancelled runs to
 * its end.
 */
export async function cancelStatement(client: Client): Promise<void> {
  const { processID, secretKey, host, port } = client as unknown as Record<'processID' | 'secretKey' | 'port', number> & { host: string };
  const request = Buffer.alloc(16);
  request.writeInt32BE(16, 0);
  request.writeInt32BE(80877102, 4); // the number of CancelRequest
  request.writeInt32BE(processID, 8);
  request.writeInt32BE(secretKey, 12);
  await new Promise<void>((resolve) => {
    const socket = host.startsWith('/') ? connectSocket(`${host}/.s.PGSQL.${port}`) : connectSocket(port, host);
    socket.setTimeout(5000, () => socket.destroy());
    socket.once('error', () => undefined); // `close` follows
    socket.once('close', () => resolve());
    socket.resume();
    socket.end(request);
  });
}
