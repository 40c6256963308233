import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Cluster } from './postgres-cluster.ts';
import { shopTemplate, SlotWorld } from './slot-world.ts';

const run = promisify(execFile);
const openssl = await run('openssl', ['version']).then(
  () => true,
  () => false,
);

let directory: string;
let template: Cluster;
let world: SlotWorld;

/** Makes `<name>.crt` and `<name>.key`, signed by an authority made here. */
async function certificate(name: string, signer: string, alternative: string, days = 10): Promise<void> {
  const file = (suffix: string): string => join(directory, `${name}.${suffix}`);
  await run('openssl', ['req', '-newkey', 'rsa:2048', '-nodes', '-keyout', file('key'), '-out', file('csr'), '-subj', '/CN=shop']);
  await writeFile(file('ext'), `subjectAltName=${alternative}`);
  const by = ['-CA', join(directory, `${signer}.crt`), '-CAkey', join(directory, `${signer}.key`), '-CAcreateserial'];
  await run('openssl', ['x509', '-req', '-in', file('csr'), ...by, '-days', String(days), '-extfile', file('ext'), '-out', file('crt')]);
}

async function authority(name: string): Promise<void> {
  const [key, crt] = [join(directory, `${name}.key`), join(directory, `${name}.crt`)];
  await run('openssl', [
    'req',
    '-x509',
    '-newkey',
    'rsa:2048',
    '-nodes',
    '-keyout',
    key,
    '-out',
    crt,
    '-subj',
    `/CN=${name}`,
    '-days',
    '10',
  ]);
}

/** The server shows this certificate from now on. */
async function shows(name: string): Promise<void> {
  for (const suffix of ['crt', 'key'])
    await world.cluster.put(`server.${suffix}`, await readFile(join(directory, `${name}.${suffix}`), 'utf8'));
  await world.cluster.reload();
}

function use(parameters: string): void {
  world.url = world.cluster.urlThrough(world.proxy.port, parameters);
}

function verifying(mode: string, ca = 'authority'): string {
  return `?sslmode=${mode}&sslrootcert=${join(directory, `${ca}.crt`)}`;
}

async function refusal(): Promise<{ message: string; remedy: string | null; code: string } | undefined> {
  return (await world.doctor()).find(({ severity, code }) => severity === 'error' && code.startsWith('PRIMARY'));
}

describe.skipIf(!openssl)('TLS (needs the openssl command)', () => {
  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'foreshadow-tls-'));
    await Promise.all([authority('authority'), authority('stranger')]);
    await certificate('right', 'authority', 'IP:127.0.0.1');
    await certificate('elsewhere', 'authority', 'DNS:elsewhere.example,DNS:localhost');
    await certificate('expired', 'authority', 'IP:127.0.0.1', -1);
    template = await shopTemplate();
    world = await SlotWorld.create(template);
    const rules = await readFile(join(world.cluster.data, 'pg_hba.conf'), 'utf8');
    await world.cluster.put('pg_hba.conf', `${rules.replace(/^host /gm, 'hostssl ')}\nhost all postgres 127.0.0.1/32 scram-sha-256\n`);
    await shows('right');
    await world.cluster.sql('ALTER SYSTEM SET ssl = on');
    await world.cluster.reload();
  });
  afterAll(async () => {
    await world[Symbol.asyncDispose]();
    await template[Symbol.asyncDispose]();
    await rm(directory, { recursive: true });
  });

  test.each(['require', 'verify-ca', 'verify-full'])('sslmode=%s tracks, captures and proves over TLS', async (mode) => {
    await shows('right');
    use(mode === 'require' ? '?sslmode=require' : verifying(mode));
    await world.run();
    await world.write(1);
    await world.proves();
    const plain = await world.cluster.sql(`SELECT a.pid FROM pg_stat_activity a JOIN pg_stat_ssl s USING (pid)
      WHERE a.application_name LIKE 'foreshadow%' AND NOT s.ssl`);
    expect(plain).toEqual([]);
    await world.stop();
  });

  test.each([
    ['an authority that is not the one', 'right', () => verifying('verify-full', 'stranger'), /no trusted authority/, /sslrootcert/],
    ['an authority that is not given', 'right', () => '?sslmode=verify-full', /no trusted authority/, /sslrootcert/],
    ['another host', 'elsewhere', () => verifying('verify-full'), /made for another host/, /verify-ca/],
    ['a certificate out of date', 'expired', () => verifying('verify-full'), /expired/, /Renew/],
    ['a file that is not there', 'right', () => '?sslmode=verify-ca&sslrootcert=/nowhere/ca.crt', /sslrootcert.*cannot be read/, /Correct/],
  ])('%s is named', async (_, shown, parameters, message, remedy) => {
    await shows(shown);
    use(parameters());
    const found = (await world.doctor()).find(({ severity }) => severity === 'error');
    expect(found?.message).toMatch(message);
    expect(found?.remedy).toMatch(remedy);
    expect(JSON.stringify(found)).not.toContain(new URL(world.url).password);
    const system = await world.openSystem();
    await expect(system.capture(() => {}, AbortSignal.timeout(10_000))).rejects.toMatchObject({ message: expect.stringMatching(message) });
    await system[Symbol.asyncDispose]();
  });

  test('another host passes where only the authority matters', async () => {
    await shows('elsewhere');
    use(verifying('verify-ca'));
    expect(await refusal()).toBeUndefined();
  });

  test('a server that requires TLS, and a URL without', async () => {
    world.url = world.cluster.urlOf('tracker', 'right', world.proxy.port, '?sslmode=disable');
    const found = await refusal();
    expect(found?.message).toMatch(/no rule in pg_hba.conf that lets user "tracker" in without TLS/);
    expect(found?.remedy).toMatch(/sslmode=require/);
  });

  test('a server without TLS, and a URL that demands it', async () => {
    await world.cluster.sql('ALTER SYSTEM SET ssl = off');
    await world.cluster.reload();
    use('?sslmode=require');
    const found = await refusal();
    expect(found?.message).toMatch(/speaks no TLS/);
    expect(found?.remedy).toMatch(/ssl = on/);
  });
});
