import type { DatabaseSync } from 'node:sqlite';
import fc from 'fast-check';

/** Random tables and statements for SQLite: what applications do, in the shapes that are hard to follow. */
export interface TableShape {
  readonly name: string;
  readonly key: 'integer' | 'text' | 'composite' | 'nullable' | 'none' | 'without-rowid';
  readonly unique: boolean;
}

export type Statement =
  | {
      readonly kind: 'put';
      readonly table: number;
      readonly id: number;
      readonly value: Value;
      readonly or: 'REPLACE' | 'IGNORE' | 'UPSERT';
    }
  | { readonly kind: 'update'; readonly table: number; readonly id: number; readonly value: Value }
  | { readonly kind: 'rekey'; readonly table: number; readonly id: number; readonly to: number }
  | { readonly kind: 'delete'; readonly table: number; readonly id: number }
  | { readonly kind: 'clear'; readonly table: number }
  | { readonly kind: 'rolled-back'; readonly table: number; readonly id: number };

export type Value = string | number | bigint | null | Uint8Array;

const COLUMNS: Readonly<Record<TableShape['key'], string>> = {
  integer: 'id INTEGER PRIMARY KEY, part TEXT, value, tag INTEGER',
  text: 'id TEXT NOT NULL PRIMARY KEY, part TEXT, value, tag INTEGER',
  composite: 'id INTEGER NOT NULL, part TEXT NOT NULL, value, tag INTEGER, PRIMARY KEY (id, part)',
  nullable: 'id TEXT PRIMARY KEY, part TEXT, value, tag INTEGER',
  none: 'id INTEGER, part TEXT, value, tag INTEGER',
  'without-rowid': 'id INTEGER NOT NULL, part TEXT, value, tag INTEGER, PRIMARY KEY (id)',
};

export function createTable({ name, key, unique }: TableShape): string[] {
  const suffix = key === 'without-rowid' ? ' WITHOUT ROWID' : '';
  const create = `CREATE TABLE "${name}" (${COLUMNS[key]})${suffix}`;
  return unique ? [create, `CREATE UNIQUE INDEX "${name} tag" ON "${name}" (tag)`] : [create];
}

export const tableShapes: fc.Arbitrary<TableShape[]> = fc
  .array(
    fc.record({
      key: fc.constantFrom<TableShape['key'][]>('integer', 'text', 'composite', 'nullable', 'none', 'without-rowid'),
      unique: fc.boolean(),
    }),
    { minLength: 1, maxLength: 3 },
  )
  .map((shapes) => shapes.map((shape, index) => ({ ...shape, name: `table ${index}` })));

const value: fc.Arbitrary<Value> = fc.oneof(
  fc.string({ maxLength: 12 }),
  fc.integer(),
  fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
  fc.double({ noNaN: true }),
  fc.constant(null),
  fc.uint8Array({ maxLength: 12 }),
);
const table = fc.nat({ max: 2 });
const id = fc.nat({ max: 12 });

export const statement: fc.Arbitrary<Statement> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({ kind: fc.constant('put' as const), table, id, value, or: fc.constantFrom('REPLACE', 'IGNORE', 'UPSERT') }),
  },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('update' as const), table, id, value }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('rekey' as const), table, id, to: id }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('delete' as const), table, id }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('clear' as const), table }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('rolled-back' as const), table, id }) },
);

/** Runs a statement as an application would; one that its own constraints refuse is simply refused. */
export function run(database: DatabaseSync, shapes: readonly TableShape[], each: Statement): void {
  const shape = shapes[each.table % shapes.length] as TableShape;
  const name = `"${shape.name}"`;
  const key = (number: number): Value =>
    shape.key === 'text' || shape.key === 'nullable' ? (number === 0 && shape.key === 'nullable' ? null : `key ${number}`) : number;
  try {
    switch (each.kind) {
      case 'put': {
        const columns = '(id, part, value, tag) VALUES (?, ?, ?, ?)';
        const upsert = shape.key === 'none' ? '' : ` ON CONFLICT DO UPDATE SET value = excluded.value`;
        const sql = each.or === 'UPSERT' ? `INSERT INTO ${name} ${columns}${upsert}` : `INSERT OR ${each.or} INTO ${name} ${columns}`;
        database.prepare(sql).run(key(each.id), `part ${each.id % 2}`, each.value, each.id % 7);
        break;
      }
      case 'update':
        database.prepare(`UPDATE ${name} SET value = ? WHERE id IS ?`).run(each.value, key(each.id));
        break;
      case 'rekey':
        database.prepare(`UPDATE OR REPLACE ${name} SET id = ? WHERE id IS ?`).run(key(each.to), key(each.id));
        break;
      case 'delete':
        database.prepare(`DELETE FROM ${name} WHERE id IS ?`).run(key(each.id));
        break;
      case 'clear':
        database.exec(`DELETE FROM ${name}`);
        break;
      case 'rolled-back':
        database.exec('BEGIN');
        database.prepare(`DELETE FROM ${name} WHERE id IS NOT ?`).run(key(each.id));
        database.exec('ROLLBACK');
        break;
    }
  } catch (error) {
    if (!(error instanceof Error && /constraint/i.test(error.message))) throw error;
  }
}

/** Every row of every table, exactly: storage classes and bytes. */
export function contents(database: DatabaseSync, shapes: readonly TableShape[]): Record<string, string[]> {
  const tables: Record<string, string[]> = {};
  for (const { name } of shapes) {
    const columns = ['id', 'part', 'value', 'tag'].map((column) => `quote("${column}")`).join(" || '|' || ");
    const rows = database.prepare(`SELECT ${columns} AS row FROM "${name}"`).all() as Array<{ row: string }>;
    tables[name] = rows.map(({ row }) => row).toSorted();
  }
  return tables;
}
