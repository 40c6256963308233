import { createHash } from 'node:crypto';
import { describeCatalog } from '../../capture/catalog.contract.ts';
import type { TableName, TableSchema } from '../../model/schema.ts';
import { type KeyTuple, type Tuple, identityOf, keyOfIdentity, keyTuple, packTuple } from '../../model/tuple.ts';
import type { ForeignWrite, ShadowFixture, SimpleColumn, SimpleValue } from '../../shadowing/shadow.contract.ts';
import { describeShadow } from '../../shadowing/shadow.contract.ts';
import type { Segment } from './segment.ts';
import { openMemoryShadow } from './shadow.ts';
import { MemoryStore } from './store.ts';
import { memoryCell } from './values.ts';

function schemaOf(name: string, columns: readonly SimpleColumn[], key: readonly string[]): TableSchema {
  return {
    table: name as TableName,
    columns: columns.map((column) => ({
      name: column.name,
      type: column.type,
      nullable: !key.includes(column.name),
      generated: false,
      hidden: false,
    })),
    key: key.map((column) => columns.findIndex((each) => each.name === column)),
    keyOrderShared: true,
    shape: createHash('sha256')
      .update(JSON.stringify([columns, key]))
      .digest('hex'),
    create: [],
    finish: [],
  };
}

function tupleOf(values: readonly SimpleValue[]): Tuple {
  return packTuple(values.map(memoryCell));
}

function writeForeign(segment: Segment, write: ForeignWrite): void {
  const standing = segment.standing();
  if (write.kind === 'delete-all') {
    for (const identity of standing.keys()) segment.writeForeign(keyOfIdentity(identity), null);
    return;
  }
  const key = write.kind === 'insert' ? null : (tupleOf(write.key) as KeyTuple);
  const row = write.kind === 'delete' ? null : tupleOf(write.row);
  // A statement that names a key that does not stand there changes nothing.
  if (key !== null && !standing.has(identityOf(key))) return;
  if (key !== null) segment.writeForeign(key, null);
  if (row !== null) segment.writeForeign(keyTuple(row, segment.schema.key), row);
}

async function open(): Promise<ShadowFixture> {
  const store = new MemoryStore();
  return {
    ...openMemoryShadow(store),
    speaksSql: false,
    schema: schemaOf,
    tuple: tupleOf,
    foreign: async ({ table }, write) => {
      writeForeign(store.segments.get(table)?.at(-1) as Segment, write);
    },
    occupy: async ({ table }) => {
      store.occupied.add(table);
    },
    another: async () => openMemoryShadow(store),
    remove: async () => {},
  };
}

describeShadow('memory', open);
describeCatalog('memory', open);
