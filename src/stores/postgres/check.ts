import { type Finding, ForeshadowError } from '../../model/errors.ts';
import { type Selection, selects } from '../../model/selection.ts';
import { identifier, literal, placeOf } from './connection.ts';
import { ask, type CatalogTable, obstacle, qualifiedName, readTables, tableName } from './describe.ts';
import { readServerState } from './installation.ts';
import { publishedTables } from './publication.ts';
import type { Wire } from './wire.ts';

interface Settings {
  readonly version: number;
  readonly versionText: string;
  readonly walLevel: string;
  readonly slotsMax: number;
  readonly slots: number;
  readonly sendersMax: number;
  readonly senders: number;
  readonly recovering: boolean;
  readonly replication: boolean;
  readonly create: boolean;
  readonly slotKeep: string;
  readonly user: string;
  readonly database: string;
  readonly mine: boolean;
  readonly published: boolean;
}

interface CheckOptions {
  readonly url: string;
  readonly selection: Selection;
}

const OLDEST_VERSION = 140_000;

/** What would stand in the way of tracking, and what to run so that it does not. Changes nothing. */
export async function checkPrimary(wire: Wire, name: string, options: CheckOptions, signal: AbortSignal): Promise<Finding[]> {
  const [settings] = await ask<Settings>(wire, settingsQuery(name), signal);
  if (settings === undefined) throw new Error('the primary answered a question about itself with nothing');
  const place = placeOf(options.url);
  const findings = [...checkServer(settings, place), ...checkRole(settings, place)];
  if (!settings.recovering) findings.push(...(await checkSlot(wire, name, signal)));
  const tables = await readTables(wire, options.selection, signal);
  if (tables.length === 0) {
    findings.push({
      severity: 'error',
      code: 'TABLE_MISSING',
      subject: options.selection.include.join(', '),
      message: `No table of ${place} matches the patterns of the data set.`,
      remedy: 'Correct `tables` in the configuration: PostgreSQL tables are named schema.table, as in public.*.',
    });
  }
  const published = new Set(await publishedTables(wire, [name], signal));
  for (const table of tables) findings.push(...checkTable(table, settings, published.has(table.oid) ? name : null));
  findings.push(...(await outsiders(wire, options.selection, place, signal)));
  return findings;
}

/** A slot of our name that is somebody else's. */
async function checkSlot(wire: Wire, name: string, signal: AbortSignal): Promise<Finding[]> {
  try {
    await readServerState(wire, name, signal);
    return [];
  } catch (error) {
    if (!(error instanceof ForeshadowError)) throw error;
    return [{ severity: 'error', code: error.code, subject: name, message: error.message, remedy: error.remedy }];
  }
}

function settingsQuery(name: string): string {
  return `SELECT current_setting('server_version_num')::int AS version, current_setting('server_version') AS "versionText",
    current_setting('wal_level') AS "walLevel", current_setting('max_replication_slots')::int AS "slotsMax",
    (SELECT count(*) FROM pg_replication_slots) AS slots, current_setting('max_wal_senders')::int AS "sendersMax",
    (SELECT count(*) FROM pg_stat_replication) AS senders, pg_is_in_recovery() AS recovering,
    (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user) AS replication,
    has_database_privilege(current_database(), 'CREATE') AS create, current_setting('max_slot_wal_keep_size') AS "slotKeep",
    current_user AS user, current_database() AS database,
    EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = ${literal(name)}) AS mine,
    EXISTS (SELECT FROM pg_publication WHERE pubname = ${literal(name)}) AS published`;
}

function checkServer(settings: Settings, place: string): Finding[] {
  const findings: Finding[] = [];
  const add = (code: string, message: string, remedy: string): void => {
    findings.push({ severity: 'error', code, subject: place, message, remedy });
  };
  if (settings.version < OLDEST_VERSION) {
    add(
      'VERSION_UNSUPPORTED',
      `The primary runs PostgreSQL ${settings.versionText}; 14 is the oldest supported.`,
      'Upgrade the primary to 14 or later.',
    );
  }
  if (settings.recovering) {
    add('PRIMARY_SETTING', 'The primary is a standby: a publication cannot be made on it.', 'Give the URL of its own primary.');
  }
  if (settings.walLevel !== 'logical') {
    const remedy = 'Run ALTER SYSTEM SET wal_level = logical, and restart the server.';
    add('PRIMARY_SETTING', `wal_level is ${settings.walLevel}; changes can be tracked only with logical.`, remedy);
  }
  if (!settings.mine && settings.slots >= settings.slotsMax) {
    const remedy = 'Run ALTER SYSTEM SET max_replication_slots to a higher number and restart, or drop a slot nobody reads.';
    add('PRIMARY_SETTING', `All ${settings.slotsMax} replication slots (max_replication_slots) are in use.`, remedy);
  }
  if (!settings.mine && settings.senders >= settings.sendersMax) {
    const remedy = 'Run ALTER SYSTEM SET max_wal_senders to a higher number, and restart the server.';
    add('PRIMARY_SETTING', `All ${settings.sendersMax} replication connections (max_wal_senders) are in use.`, remedy);
  }
  if (findings.length === 0) {
    const message = `PostgreSQL ${settings.versionText}, wal_level logical, ${settings.slotsMax - settings.slots} replication slots free.`;
    findings.push({ severity: 'ok', code: 'PRIMARY_SETTING', subject: place, message, remedy: null });
    if (settings.slotKeep === '-1') {
      findings.push({
        severity: 'warning',
        code: 'PRIMARY_SETTING',
        subject: place,
        message: 'max_slot_wal_keep_size is unlimited: while Foreshadow does not run, its slot keeps all of the log.',
        remedy: 'Set max_slot_wal_keep_size to what the disk can spare; past it Foreshadow resyncs by comparison.',
      });
    }
  }
  return findings;
}

function checkRole(settings: Settings, place: string): Finding[] {
  const user = identifier(settings.user);
  const findings: Finding[] = [];
  if (!settings.replication) {
    findings.push({
      severity: 'error',
      code: 'PRIMARY_ACCESS',
      subject: place,
      message: `The user ${user} may not replicate.`,
      remedy: `Run ALTER ROLE ${user} REPLICATION (on managed servers: grant the provider's replication role).`,
    });
  }
  if (!settings.published && !settings.create) {
    findings.push({
      severity: 'error',
      code: 'PRIMARY_ACCESS',
      subject: place,
      message: `The user ${user} may not make a publication.`,
      remedy: `Run GRANT CREATE ON DATABASE ${identifier(settings.database)} TO ${user}.`,
    });
  }
  return findings;
}

/** `publication`: ours, if the table is in it. */
function checkTable(table: CatalogTable, settings: Settings, publication: string | null): Finding[] {
  const user = identifier(settings.user);
  const findings: Finding[] = [];
  const found = obstacle(table);
  if (found !== null) {
    findings.push({
      severity: 'error',
      code: found.code,
      subject: table.table,
      message: `${table.table} cannot be tracked: ${found.message}.`,
      remedy: publication === null ? found.remedy : `${found.remedy} ${release(table, publication)}`,
    });
  }
  if (table.insertOnly) {
    findings.push({
      severity: 'warning',
      code: 'TABLE_INSERT_ONLY',
      subject: table.table,
      message: `Of ${table.table} inserts and TRUNCATE are followed, as policy says: captures keep rows that were updated or deleted as they were inserted.`,
      remedy: publication === null ? 'Give it a key, or REPLICA IDENTITY FULL, to have it followed whole.' : release(table, publication),
    });
  }
  if (!table.readable) {
    findings.push({
      severity: 'error',
      code: 'PRIMARY_ACCESS',
      subject: table.table,
      message: `The user ${user} may not read ${table.table}.`,
      remedy: `Run GRANT USAGE ON SCHEMA ${identifier(table.schema)} TO ${user}; GRANT SELECT ON ${qualifiedName(table)} TO ${user}.`,
    });
  }
  if (table.veiled) {
    findings.push({
      severity: 'error',
      code: 'PRIMARY_ACCESS',
      subject: table.table,
      message: `Row security hides rows of ${table.table} from the user ${user}.`,
      remedy: `Run ALTER ROLE ${user} BYPASSRLS, or exclude the table.`,
    });
  }
  if (!table.owned && !settings.published) {
    findings.push({
      severity: 'error',
      code: 'PRIMARY_ACCESS',
      subject: table.table,
      message: `The user ${user} does not own ${table.table}, and only its owner may publish it.`,
      remedy: `Run GRANT of the owner's role to ${user}; or have the owner make the publication, see the guide.`,
    });
  }
  return findings;
}

/** It became such while nothing ran that would have let go of it. */
function release(table: CatalogTable, publication: string): string {
  const drop = `ALTER PUBLICATION ${identifier(publication)} DROP TABLE ${qualifiedName(table)}`;
  return `Until then run ${drop}: the server may refuse updates of a published table without an identity.`;
}

/** What holds data and is not followed: foreign tables that the patterns name, and large objects. */
async function outsiders(wire: Wire, selection: Selection, place: string, signal: AbortSignal): Promise<Finding[]> {
  const found = await ask<{ schema: string; name: string }>(
    wire,
    `SELECT n.nspname AS schema, c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'f'`,
    signal,
  );
  const findings: Finding[] = found
    .map(({ schema, name }) => tableName(schema, name))
    .filter((table) => selects(selection, table))
    .map((table) => ({
      severity: 'warning',
      code: 'TABLE_FOREIGN',
      subject: table,
      message: `${table} is a foreign table: its rows are elsewhere, and it is left out.`,
      remedy: 'Exclude it, or shadow the database that holds it.',
    }));
  const [large] = await wire.query('SELECT EXISTS (SELECT FROM pg_largeobject_metadata)', signal);
  if (large?.rows[0]?.[0] === 't') {
    findings.push({
      severity: 'warning',
      code: 'LARGE_OBJECTS',
      subject: place,
      message: `The database has large objects: logical decoding does not see them, and no capture holds them. Columns with their numbers are followed.`,
      remedy: 'Keep such data in columns of type bytea, or save it by other means (pg_dump --large-objects).',
    });
  }
  return findings;
}
