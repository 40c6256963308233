import { describe } from 'vitest';
import { describeCatalog } from '../../capture/catalog.contract.ts';
import type { TableName, TableSchema } from '../../model/schema.ts';
import { type Cell, packTuple } from '../../model/tuple.ts';
import type { ForeignWrite, SimpleColumn, SimpleValue } from '../../shadowing/shadow-session.contract.ts';
import { describeForeignWrites } from '../../shadowing/shadow-foreign.contract.ts';
import { describeShadowModel } from '../../shadowing/shadow-model.contract.ts';
import { describeShadow, type ShadowFixture } from '../../shadowing/shadow.contract.ts';
import { createDatabase } from '../../../test/postgres.ts';
import { identifier } from './connection.ts';
import { qualified } from './layout.ts';
import { openPostgresShadow } from './shadow.ts';

function tableSchema(name: string, columns: readonly SimpleColumn[], key: readonly string[]): TableSchema {
  return {
    table: `public.${name}` as TableName,
    columns: columns.map((column) => ({
      name: column.name,
      type: column.type === 'integer' ? 'bigint' : 'text',
      nullable: !key.includes(column.name),
      generated: false,
      hidden: false,
    })),
    key: key.map((each) => columns.findIndex((column) => column.name === each)),
    keyOrderShared: true,
    shape: JSON.stringify([columns, key]),
    create: [],
    finish: [],
  };
}

function cellOf(value: SimpleValue): Cell {
  if (value === null) return null;
  if (typeof value === 'string') return Buffer.from(value);
  const bytes = Buffer.alloc(8);
  bytes.writeBigInt64BE(value);
  return bytes;
}

/** A statement as an ordinary program sends it. */
function foreignSql(table: TableSchema, write: ForeignWrite): { sql: string; values: SimpleValue[] } {
  const names = table.columns.map((column) => identifier(column.name));
  const keys = table.key.map((index) => names[index] as string);
  const where = (offset: number): string => keys.map((name, i) => `${name} = $${offset + i + 1}`).join(' AND ');
  const target = qualified(table.table);
  switch (write.kind) {
    case 'insert':
      return {
        sql: `INSERT INTO ${target} (${names.join(', ')}) VALUES (${names.map((_, i) => `$${i + 1}`).join(', ')})`,
        values: [...write.row],
      };
    case 'update':
      return {
        sql: `UPDATE ${target} SET ${names.map((name, i) => `${name} = $${i + 1}`).join(', ')} WHERE ${where(names.length)}`,
        values: [...write.row, ...write.key],
      };
    case 'delete':
      return { sql: `DELETE FROM ${target} WHERE ${where(0)}`, values: [...write.key] };
    case 'delete-all':
      return { sql: `DELETE FROM ${target}`, values: [] };
  }
}

/**
 * As a superuser on this server; or as a role of its own on an older one: then without RETURNING OLD, not as a replica, and by two
 * connections at a time.
 */
async function open(as: 'superuser' | 'plain'): Promise<ShadowFixture> {
  const database = await createDatabase();
  const role = `${database.name}_role`;
  if (as === 'plain') await database.run(`CREATE ROLE ${role} LOGIN PASSWORD 'plain'; ALTER DATABASE ${database.name} OWNER TO ${role}`);
  const another: ShadowFixture['another'] = () =>
    as === 'plain'
      ? openPostgresShadow(database.urlAs(role, 'plain'), { majorVersion: 17, laneWorkMin: 1 })
      : openPostgresShadow(database.url);
  const opened = await another();
  const other = await database.client();
  return {
    ...opened,
    speaksSql: true,
    schema: tableSchema,
    tuple: (values) => packTuple(values.map(cellOf)),
    foreign: async (table, write) => {
      const { sql, values } = foreignSql(table, write);
      await other.query(sql, values);
    },
    occupy: async (table) => {
      await other.query(`CREATE TABLE ${qualified(table.table)} (somebody text)`);
    },
    another,
    remove: async () => {
      if (as === 'plain') await database.run(`REASSIGN OWNED BY ${role} TO CURRENT_USER; DROP OWNED BY ${role}; DROP ROLE ${role}`);
      await database[Symbol.asyncDispose]();
    },
  };
}

describeShadow('postgres', () => open('superuser'));
describeCatalog('postgres', () => open('superuser'));
describe('as a plain role on an older server', () => {
  describeForeignWrites(() => open('plain'));
  describeShadowModel(() => open('plain'));
});
