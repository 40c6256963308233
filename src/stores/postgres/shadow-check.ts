import type { Finding } from '../../model/errors.ts';
import type { TableSchema } from '../../model/schema.ts';
import { identifier, placeOf } from './connection.ts';
import { unguarded } from './guard.ts';
import { OWN_SCHEMA, splitName } from './layout.ts';
import { occupiedTables } from './mirror.ts';
import { allLiveLayouts } from './segments.ts';
import { guardPass } from './shadow-connections.ts';
import type { Wire } from './wire.ts';

export const MAJOR_VERSION = "SELECT current_setting('server_version_num')::int / 10000";
const VERSION_MIN = 14;

/** `Shadow.check`. */
export async function checkShadow(wire: Wire, url: string, tables: readonly TableSchema[]): Promise<Finding[]> {
  const place = placeOf(url);
  const findings: Finding[] = [];
  const add = (severity: Finding['severity'], code: string, subject: string, message: string, remedy: string | null = null): void => {
    findings.push({ severity, code, subject, message, remedy });
  };
  const [basics] = await wire.query(
    `SELECT current_setting('server_version'), current_setting('server_version_num')::int / 10000, current_user,
       has_database_privilege(current_database(), 'CREATE'), has_database_privilege(current_database(), 'TEMP'), current_database(),
       pg_is_in_recovery()`,
  );
  const [version, major, user, mayCreate, mayTemp, database, standby] = (basics?.rows[0] ?? []) as string[];
  if (Number(major) < VERSION_MIN) {
    add(
      'error',
      'VERSION_UNSUPPORTED',
      place,
      `PostgreSQL ${version} is too old to be a shadow`,
      `Use PostgreSQL ${VERSION_MIN} or newer.`,
    );
  } else add('ok', 'SHADOW_VERSION', place, `PostgreSQL ${version}`);
  if (standby === 't')
    add('error', 'SHADOW_ACCESS', place, 'The server is a standby and accepts no writes', 'Use a server that is not a replica.');
  const on = `ON DATABASE ${identifier(database as string)} TO ${identifier(user as string)}`;
  if (mayCreate !== 't') {
    add('error', 'SHADOW_ACCESS', place, `User ${user} may not create schemas in database ${database}`, `GRANT CREATE ${on}`);
  }
  if (mayTemp !== 't') {
    add('error', 'SHADOW_ACCESS', place, `User ${user} may not create temporary tables in database ${database}`, `GRANT TEMPORARY ${on}`);
  }
  for (const schema of new Set(tables.map(({ table }) => splitName(table).schema))) {
    const [found] = await wire.query(
      `SELECT has_schema_privilege(oid, 'CREATE'), pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = '${schema.replaceAll("'", "''")}'`,
    );
    const [create, owns] = found?.rows[0] ?? ['t', 't'];
    if (create !== 't') {
      const grant = `GRANT CREATE ON SCHEMA ${identifier(schema)} TO ${identifier(user as string)}`;
      add('error', 'SHADOW_ACCESS', schema, `User ${user} may not create tables in schema ${schema}`, grant);
    } else if (owns !== 't') {
      add(
        'warning',
        'SHADOW_QUERY',
        schema,
        `User ${user} does not own schema ${schema}, so captures cannot be queried by SQL`,
        `ALTER SCHEMA ${identifier(schema)} OWNER TO ${identifier(user as string)}`,
      );
    }
  }
  const occupied = await occupiedTables(
    wire,
    tables.map(({ table }) => table),
  );
  for (const table of occupied) {
    add(
      'error',
      'SHADOW_OCCUPIED',
      table,
      `Table ${table} of the shadow was not made by Foreshadow`,
      'Use an empty database, or drop or rename the table.',
    );
  }
  findings.push(...(await missingGuards(wire)));
  if ((await guardPass(wire)) === 'replica') add('ok', 'SHADOW_GUARD', place, 'The guard is passed by session_replication_role = replica');
  else {
    const grant = `GRANT SET ON PARAMETER session_replication_role TO ${identifier(user as string)}`;
    const remedy = Number(major) >= 15 ? `For a cheaper apply: ${grant}` : null;
    add('ok', 'SHADOW_GUARD', place, 'The guard is passed by a setting of the session', remedy);
  }
  return findings;
}

async function missingGuards(wire: Wire): Promise<Finding[]> {
  const [prepared] = await wire.query(`SELECT to_regclass('${OWN_SCHEMA}.progress') IS NOT NULL`);
  if (prepared?.rows[0]?.[0] !== 't') return [];
  return (await unguarded(wire, await allLiveLayouts(wire))).map(({ segment }) => ({
    severity: 'warning',
    code: 'GUARD_MISSING',
    subject: segment.table,
    message: `Triggers that guard ${segment.table} in the shadow are gone or disabled: writes by other programs were taken for ours`,
    remedy: 'The next capture or start puts them up again and compares the whole table.',
  }));
}
