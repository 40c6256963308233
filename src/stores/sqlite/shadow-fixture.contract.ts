import { rmSync } from 'node:fs';
import { join } from 'node:path';
import type { TableName, TableSchema } from '../../model/schema.ts';
import type { ForeignWrite, ShadowFixture, SimpleColumn, SimpleValue } from '../../shadowing/shadow.contract.ts';
import { packValues } from './cell.ts';
import { openSqlite, quoteIdentifier } from './connection.ts';
import { openSqliteShadow } from './shadow.ts';

/** An empty SQLite shadow in a directory of its own, which goes with it. */
export async function openSqliteFixture(directory: string): Promise<ShadowFixture & { readonly path: string }> {
  const path = join(directory, 'shadow.db');
  const url = `sqlite:${path}`;
  const { shadow, catalog } = await openSqliteShadow(url);
  return {
    path,
    shadow,
    catalog,
    speaksSql: true,
    schema: simpleSchema,
    tuple: (values) => packValues(values),
    foreign: async (table, write) => {
      using db = openSqlite(path, { role: 'shadow' });
      const { sql, values } = statementOf(table, write);
      db.prepare(sql).run(...values);
      await Promise.resolve();
    },
    occupy: async (table) => {
      using db = openSqlite(path, { role: 'shadow', create: true });
      db.exec(`CREATE TABLE ${quoteIdentifier(table.table)} (theirs TEXT)`);
      await Promise.resolve();
    },
    another: async () => await openSqliteShadow(url),
    remove: async () => {
      rmSync(directory, { recursive: true, force: true });
      await Promise.resolve();
    },
  };
}

function simpleSchema(name: string, columns: readonly SimpleColumn[], key: readonly string[]): TableSchema {
  const definitions = columns.map((column) => `${quoteIdentifier(column.name)} ${column.type === 'integer' ? 'INTEGER' : 'TEXT'}`);
  const keys = key.map(quoteIdentifier).join(', ');
  return {
    table: name as TableName,
    columns: columns.map((column) => ({
      name: column.name,
      type: column.type === 'integer' ? 'INTEGER' : 'TEXT',
      nullable: !key.includes(column.name),
      generated: false,
      hidden: false,
    })),
    key: key.map((each) => columns.findIndex((column) => column.name === each)),
    keyOrderShared: true,
    shape: JSON.stringify([columns, key]),
    create: [{ object: `table ${name}`, sql: `CREATE TABLE ${name} (${definitions.join(', ')}, PRIMARY KEY (${keys}))`, mayFail: false }],
    finish: [],
  };
}

function statementOf(table: TableSchema, write: ForeignWrite): { sql: string; values: SimpleValue[] } {
  const name = quoteIdentifier(table.table);
  const columns = table.columns.map((column) => quoteIdentifier(column.name));
  const where = table.key.map((index) => `${columns[index]} IS ?`).join(' AND ');
  switch (write.kind) {
    case 'insert':
      return { sql: `INSERT INTO ${name} (${columns.join(', ')}) VALUES (${columns.map(() => '?').join(', ')})`, values: [...write.row] };
    case 'update':
      return {
        sql: `UPDATE ${name} SET ${columns.map((column) => `${column} = ?`).join(', ')} WHERE ${where}`,
        values: [...write.row, ...write.key],
      };
    case 'delete':
      return { sql: `DELETE FROM ${name} WHERE ${where}`, values: [...write.key] };
    case 'delete-all':
      return { sql: `DELETE FROM ${name}`, values: [] };
  }
}
