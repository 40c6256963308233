import { isIP } from 'node:net';
import { type ErrorCode, ForeshadowError, messageOf } from '../../model/errors.ts';

/** Which end a connection leads to: it decides the codes of its errors. */
export type Side = 'primary' | 'shadow';

/** Host, port and database: how messages name a server. Never the password. */
export function placeOf(url: string, database?: string): string {
  try {
    const parsed = new URL(url);
    const host = parsed.searchParams.get('host') ?? parsed.hostname;
    const bare = isIP(host.replace(/^\[|\]$/g, '')) === 6 && !host.startsWith('[') ? `[${host}]` : host;
    const name = database ?? decodeURIComponent(parsed.pathname.slice(1));
    return `${bare}:${parsed.port === '' ? '5432' : parsed.port}/${name}`;
  } catch {
    return 'the given URL';
  }
}

function userOf(url: string): string {
  try {
    return decodeURIComponent(new URL(url).username);
  } catch {
    return '';
  }
}

/** SQLSTATE or the system's error code; empty if it has none. */
export function codeOf(error: unknown): string {
  if (error instanceof AggregateError && error.errors.length > 0) return codeOf(error.errors[0]);
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' ? code : '';
}

interface Place {
  readonly name: string;
  readonly user: string;
}

interface Known {
  readonly matches: (code: string, text: string) => boolean;
  readonly kind: 'UNREACHABLE' | 'ACCESS' | 'SETTING';
  readonly says: (place: Place) => string;
  readonly remedy: string | ((place: Place) => string);
  /** What somebody else may put right while we run is tried again. */
  readonly retry: 'later' | 'never';
}

function anyOf(...codes: readonly string[]): (code: string) => boolean {
  return (code) => codes.includes(code);
}

/** The first that matches is what is told. */
const KNOWN: readonly Known[] = [
  {
    matches: (_, text) => /no pg_hba.conf entry .*(no encryption|SSL off)/.test(text),
    kind: 'ACCESS',
    says: ({ name, user }) => `${name} has no rule in pg_hba.conf that lets user "${user}" in without TLS`,
    remedy:
      'If it requires TLS, add sslmode=require to the URL, or better sslmode=verify-full&sslrootcert=FILE with the certificate of its authority; else add a rule for this user, database and address, and reload the server.',
    retry: 'later',
  },
  {
    matches: (code, text) => code === '28000' && text.includes('pg_hba'),
    kind: 'ACCESS',
    says: ({ name, user }) => `${name} has no rule in pg_hba.conf that lets user "${user}" in from here`,
    remedy: 'Add a rule for this user, database and address to pg_hba.conf, and reload the server.',
    retry: 'later',
  },
  {
    matches: (code, text) => code === '28P01' || code === '28000' || /password must be a string|SASL/.test(text),
    kind: 'ACCESS',
    says: ({ name, user }) => `${name} does not let user "${user}" in`,
    remedy: 'Check user and password in the URL. The config and its ${VARIABLES} are read at the start only: restart after changing them.',
    retry: 'later',
  },
  {
    matches: anyOf('CERT_HAS_EXPIRED', 'CERT_NOT_YET_VALID'),
    kind: 'ACCESS',
    says: ({ name }) => `${name} shows a TLS certificate that has expired or is not valid yet`,
    remedy: "Renew the server's certificate, and check the clocks of both machines.",
    retry: 'later',
  },
  {
    matches: anyOf('ERR_TLS_CERT_ALTNAME_INVALID'),
    kind: 'ACCESS',
    says: ({ name }) => `${name} shows a TLS certificate made for another host`,
    remedy:
      'Use a host name that the certificate lists, have a certificate made for this one, or use sslmode=verify-ca if the name does not matter.',
    retry: 'later',
  },
  {
    matches: (code) => /CERT|UNABLE_TO_|SELF_SIGNED/.test(code) && !code.startsWith('ERR_'),
    kind: 'ACCESS',
    says: ({ name }) => `${name} shows a TLS certificate that no trusted authority has signed`,
    remedy:
      'Give the certificate of the authority that signed it: sslrootcert=FILE in the URL. (sslmode=require encrypts without checking who is there.)',
    retry: 'later',
  },
  {
    matches: (_, text) => /does not support SSL/.test(text),
    kind: 'ACCESS',
    says: ({ name }) => `${name} speaks no TLS, which sslmode demands`,
    remedy: 'Turn TLS on at the server (ssl = on, with a certificate), or use sslmode=prefer or disable.',
    retry: 'later',
  },
  {
    matches: (code, text) => code === '42501' && /replication|WAL sender/i.test(text),
    kind: 'ACCESS',
    says: ({ name, user }) => `${name} does not let user "${user}" replicate`,
    remedy: ({ user }) => `Run ALTER ROLE "${user}" REPLICATION (on managed servers: grant the provider's replication role).`,
    retry: 'later',
  },
  {
    matches: anyOf('42501'),
    kind: 'ACCESS',
    says: ({ name, user }) => `${name} refuses user "${user}"`,
    remedy: ({ user }) => `Grant what is missing to "${user}"; \`foreshadow doctor\` lists it.`,
    retry: 'never',
  },
  {
    matches: anyOf('3D000'),
    kind: 'UNREACHABLE',
    says: ({ name }) => `${name} does not exist`,
    remedy: 'Create the database, or correct its name in the URL.',
    retry: 'never',
  },
  {
    matches: (code, text) => code === '42704' && /publication .* does not exist/.test(text),
    kind: 'SETTING',
    says: ({ name }) => `${name} has lost the publication of the data set`,
    remedy: 'Leave the publication alone. It is made anew, and every table is resynced by comparison.',
    retry: 'later',
  },
  {
    matches: anyOf('53300'),
    kind: 'UNREACHABLE',
    says: ({ name }) => `${name} has no connection left`,
    remedy:
      'End connections that nobody needs, or raise max_connections (for tracking: max_wal_senders) and restart the server. A running Foreshadow tries again by itself.',
    retry: 'later',
  },
  {
    matches: (code, text) => (code === '55000' && /recovery|standby|synchronized from/.test(text)) || code === '25006',
    kind: 'SETTING',
    says: ({ name }) => `${name} is a standby or read-only`,
    remedy: 'Give the URL of its primary. After a failover: promote this one, or lead the URL to the new primary.',
    retry: 'later',
  },
];

/** Not reachable now; may be soon. */
const GONE = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENOTFOUND',
  'EAI_AGAIN',
  'ETIMEDOUT',
  'EPIPE',
  'ENOENT',
]);
const GONE_STATES = new Set(['57P01', '57P02', '57P03', '08000', '08001', '08003', '08004', '08006', '57P05']);
const GONE_TEXTS =
  /timeout expired|Connection terminated|connection was closed|socket disconnected|not queryable|Client was closed|has not answered/i;
/** Serialization failure, deadlock, lock not available, object in use, cannot connect now, out of memory or disk. */
const RETRYABLE = new Set(['40001', '40P01', '55P03', '55006', '53100', '53200', '57014']);

/**
 * The ForeshadowError for what went wrong on a connection: PRIMARY_UNREACHABLE, PRIMARY_ACCESS, PRIMARY_SETTING (or those of the
 * shadow), else QUERY_FAILED with the server's message. A ForeshadowError is passed through.
 */
export function failureOf(error: unknown, url: string, side: Side, database?: string): ForeshadowError {
  if (error instanceof ForeshadowError) return error;
  const code = codeOf(error);
  const text = messageOf(error);
  const place: Place = { name: `The ${side} at ${placeOf(url, database)}`, user: userOf(url) };
  const known = KNOWN.find(({ matches }) => matches(code, text));
  if (known !== undefined) {
    const remedy = typeof known.remedy === 'string' ? known.remedy : known.remedy(place);
    const options = { remedy, retry: known.retry, cause: error };
    return new ForeshadowError(errorCode(side, known.kind), `${known.says(place)}: ${text}`, options);
  }
  if (GONE.has(code) || GONE_STATES.has(code) || GONE_TEXTS.test(text)) {
    return new ForeshadowError(errorCode(side, 'UNREACHABLE'), `${place.name} cannot be reached: ${text}`, {
      remedy: 'Check host and port in the URL, and that the server is running and accepts connections from here.',
      retry: 'later',
      cause: error,
    });
  }
  return new ForeshadowError('QUERY_FAILED', `${place.name} reports: ${text}`, {
    remedy: "The server's log tells more. `foreshadow doctor` checks both ends.",
    retry: RETRYABLE.has(code) ? 'later' : 'never',
    cause: error,
  });
}

/** Reading the catalog failed beside the stream of changes. That may pass: a table may be dropped while it is read. */
export function catalogTrouble(error: unknown): ForeshadowError {
  if (error instanceof ForeshadowError && error.retry === 'later') return error;
  return new ForeshadowError('QUERY_FAILED', `The catalog of the primary could not be read: ${messageOf(error)}`, {
    remedy: "It is tried again. The server's log tells more.",
    retry: 'later',
    cause: error,
  });
}

function errorCode(side: Side, kind: Known['kind']): ErrorCode {
  if (side === 'primary') return `PRIMARY_${kind}`;
  return kind === 'UNREACHABLE' ? 'SHADOW_UNREACHABLE' : 'SHADOW_ACCESS';
}
