import type { ColumnSchema, TableSchema } from '../../model/schema.ts';
import { type Cell, cellsOf, type KeyTuple, type Tuple } from '../../model/tuple.ts';
import type { ValueCodec } from '../../model/values.ts';
import {
  addressText,
  floatText,
  GEOMETRY,
  hstoreText,
  moneyText,
  multirangeText,
  rangeText,
  snapshotText,
  tsqueryText,
  tsvectorText,
} from './composed-values.ts';
import { dateText, intervalText, timestampText, timeText, zoneText } from './dates.ts';

/**
 * Values from PostgreSQL's binary send format, by the name of the column's type as `format_type` writes it. Only for showing.
 */
export const postgresValues: ValueCodec = {
  row: (table: TableSchema, row: Tuple) => named(table.columns, cellsOf(row)),
  key: (table: TableSchema, key: KeyTuple) => {
    const columns = table.key.map((index) => table.columns[index] as ColumnSchema);
    const cells = cellsOf(key);
    return Object.fromEntries(columns.map((column, index) => [column.name, shown(column.shownAs ?? column.type, cells[index])]));
  },
};

function named(columns: readonly ColumnSchema[], cells: readonly Cell[]): Record<string, unknown> {
  const pairs: [string, unknown][] = [];
  for (const [index, column] of columns.entries()) {
    const cell = cells[index];
    if (!column.hidden && cell !== undefined) pairs.push([column.name, shown(column.shownAs ?? column.type, cell)]);
  }
  return Object.fromEntries(pairs);
}

/** The value of a cell of a type. Bytes that are not a value of it (another server's extension) are shown as bytes. */
export function shown(type: string, cell: Cell): unknown {
  if (cell === null || cell === undefined) return null;
  try {
    return decoderOf(plainType(type))(cell);
  } catch (error) {
    if (error instanceof RangeError) return hex(cell);
    throw error;
  }
}

/** Without schema pg_catalog and modifiers: `timestamp(3) without time zone` is `timestamp without time zone`. */
function plainType(type: string): string {
  const plain = type.replace(/^pg_catalog\./, '').replace(/\([\d, -]+\)/, '');
  return plain.startsWith('interval') ? plain.replace(/^interval[^[]*/, 'interval') : plain;
}

type Decoder = (bytes: Buffer) => unknown;

const text: Decoder = (bytes) => bytes.toString('utf8');

/** Text with the number of its format before it. */
function afterVersion(bytes: Buffer): string {
  return bytes.toString('utf8', 1);
}

const DECODERS: Readonly<Record<string, Decoder>> = {
  boolean: (bytes) => bytes[0] === 1,
  smallint: (bytes) => bytes.readInt16BE(0),
  integer: (bytes) => bytes.readInt32BE(0),
  bigint: (bytes) => integer(bytes.readBigInt64BE(0)),
  oid: (bytes) => bytes.readUInt32BE(0),
  real: (bytes) => float(shortest(bytes.readFloatBE(0))),
  'double precision': (bytes) => float(bytes.readDoubleBE(0)),
  numeric,
  money: moneyText,
  text,
  'character varying': text,
  character: text,
  bpchar: text,
  '"char"': (bytes) => singleByte(bytes[0] as number),
  name: text,
  xml: text,
  refcursor: text,
  json: text,
  jsonb: afterVersion,
  uuid: (bytes) => bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5'),
  bytea: hex,
  date: (bytes) => dateText(bytes.readInt32BE(0)),
  'time without time zone': (bytes) => timeText(bytes.readBigInt64BE(0)),
  'time with time zone': (bytes) => timeText(bytes.readBigInt64BE(0)) + zoneText(-bytes.readInt32BE(8)),
  'timestamp without time zone': (bytes) => timestampText(bytes.readBigInt64BE(0), ''),
  'timestamp with time zone': (bytes) => timestampText(bytes.readBigInt64BE(0), '+00'),
  interval: (bytes) => intervalText(bytes.readBigInt64BE(0), bytes.readInt32BE(8), bytes.readInt32BE(12)),
  inet: (bytes) => addressText(bytes, false),
  cidr: (bytes) => addressText(bytes, true),
  macaddr: (bytes) => bytes.toString('hex').replace(/(..)(?!$)/g, '$1:'),
  macaddr8: (bytes) => bytes.toString('hex').replace(/(..)(?!$)/g, '$1:'),
  pg_lsn: (bytes) => `${bytes.readUInt32BE(0).toString(16).toUpperCase()}/${bytes.readUInt32BE(4).toString(16).toUpperCase()}`,
  'bit varying': bits,
  bit: bits,
  jsonpath: afterVersion,
  xid: (bytes) => bytes.readUInt32BE(0),
  cid: (bytes) => bytes.readUInt32BE(0),
  xid8: (bytes) => integer(bytes.readBigUInt64BE(0)),
  tid: (bytes) => `(${bytes.readUInt32BE(0)},${bytes.readUInt16BE(4)})`,
  pg_snapshot: snapshotText,
  txid_snapshot: snapshotText,
  int2vector: (bytes) => vectorText(bytes, (at) => bytes.readInt16BE(at)),
  oidvector: (bytes) => vectorText(bytes, (at) => bytes.readUInt32BE(at)),
  tsvector: tsvectorText,
  tsquery: tsqueryText,
  ...GEOMETRY,
};

/** An array of one dimension, each element with its length before it. */
function vectorText(bytes: Buffer, read: (at: number) => number): string {
  let at = 20;
  return Array.from({ length: bytes.readInt32BE(12) }, () => {
    const value = read(at + 4);
    at += 4 + bytes.readInt32BE(at);
    return value;
  }).join(' ');
}

/** What ranges of the server's are made of. */
const RANGES: Readonly<Record<string, string>> = {
  int4: 'integer',
  int8: 'bigint',
  num: 'numeric',
  ts: 'timestamp without time zone',
  tstz: 'timestamp with time zone',
  date: 'date',
};

/** Of extensions, whatever schema they lie in. */
const EXTENSIONS: Readonly<Record<string, Decoder>> = {
  hstore: hstoreText,
  ltree: afterVersion,
  lquery: afterVersion,
  ltxtquery: afterVersion,
};

function decoderOf(type: string): Decoder {
  if (type.endsWith('[]')) return (bytes) => arrayValue(bytes, type.slice(0, -2));
  const known = DECODERS[type];
  if (known !== undefined) return known;
  const [, subtype, multi] = /^(\w+?)(multi)?range$/.exec(type) ?? [];
  const bound = RANGES[subtype ?? ''];
  if (bound !== undefined) {
    const read = multi === undefined ? rangeText : multirangeText;
    return (bytes) => read(bytes, (part) => String(shown(bound, part)));
  }
  return EXTENSIONS[type.slice(type.lastIndexOf('.') + 1)] ?? hex;
}

function integer(value: bigint): number | string {
  return Number.isSafeInteger(Number(value)) ? Number(value) : value.toString();
}

/** JSON has no NaN, no infinities, and no zero with a sign. */
function float(value: number): number | string {
  return Number.isFinite(value) && !Object.is(value, -0) ? value : floatText(value);
}

/** A byte beyond ASCII is no character of any encoding. */
function singleByte(byte: number): string {
  if (byte === 0) return '';
  return byte < 128 ? String.fromCharCode(byte) : `\\${byte.toString(8)}`;
}

/** The number with the fewest digits that is the same one in four bytes. */
function shortest(value: number): number {
  if (value === 0) return value;
  for (let digits = 1; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === value) return short;
  }
  return Number(value.toPrecision(9));
}

function hex(bytes: Buffer): string {
  return `\\x${bytes.toString('hex')}`;
}

/** int16 digits, weight, sign, scale; then digits to the base 10000. */
function numeric(bytes: Buffer): string {
  const count = bytes.readInt16BE(0);
  const weight = bytes.readInt16BE(2);
  const sign = bytes.readUInt16BE(4);
  const scale = bytes.readUInt16BE(6);
  if (sign === 0xc000) return 'NaN';
  if (sign === 0xd000) return 'Infinity';
  if (sign === 0xf000) return '-Infinity';
  const digit = (index: number): string => (index >= 0 && index < count ? String(bytes.readInt16BE(8 + 2 * index)) : '0').padStart(4, '0');
  let whole = '';
  for (let index = 0; index <= weight; index++) whole += digit(index);
  let fraction = '';
  for (let index = weight + 1; fraction.length < scale; index++) fraction += digit(index);
  const shownWhole = whole.replace(/^0+(?=.)/, '') || '0';
  return `${sign === 0x4000 ? '-' : ''}${shownWhole}${scale > 0 ? `.${fraction.slice(0, scale)}` : ''}`;
}

/**
 * int32 dimensions, flags, element type; a length and lower bound for each; then elements. Nested lists; but an array whose bounds do not
 * begin with 1 is the text the server writes, as a list would not show them.
 */
function arrayValue(bytes: Buffer, elementType: string): unknown {
  const dimensions = bytes.readInt32BE(0);
  const lengths = Array.from({ length: dimensions }, (_, index) => bytes.readInt32BE(12 + 8 * index));
  const lowest = lengths.map((_, index) => bytes.readInt32BE(16 + 8 * index));
  let at = 12 + 8 * dimensions;
  const read = (depth: number): unknown[] =>
    Array.from({ length: lengths[depth] ?? 0 }, () => {
      if (depth < dimensions - 1) return read(depth + 1);
      const length = bytes.readInt32BE(at);
      at += 4;
      if (length === -1) return null;
      const element = bytes.subarray(at, at + length);
      at += length;
      return shown(elementType, element);
    });
  if (dimensions === 0) return [];
  const values = read(0);
  if (lowest.every((bound) => bound === 1)) return values;
  const bounds = lengths.map((length, index) => `[${lowest[index]}:${(lowest[index] as number) + length - 1}]`);
  return `${bounds.join('')}=${arrayText(values, elementType === 'box' ? ';' : ',', dimensions)}`;
}

/** `dimensions` tells lists that are dimensions from those that are elements: a domain may be an array. */
function arrayText(values: readonly unknown[], delimiter: string, dimensions: number): string {
  const item = (value: unknown): string => {
    if (value === null) return 'NULL';
    if (Array.isArray(value) && dimensions > 1) return arrayText(value, delimiter, dimensions - 1);
    const plain = Array.isArray(value) ? arrayText(value, delimiter, Number.MAX_SAFE_INTEGER) : elementText(value);
    const bare = plain !== '' && plain.toUpperCase() !== 'NULL' && !/[{}"\\ \t\n\r\v\f]/.test(plain) && !plain.includes(delimiter);
    return bare ? plain : `"${plain.replaceAll(/["\\]/g, String.raw`\$&`)}"`;
  };
  return `{${values.map(item).join(delimiter)}}`;
}

function elementText(value: unknown): string {
  if (typeof value === 'boolean') return value ? 't' : 'f';
  return typeof value === 'number' && !Number.isSafeInteger(value) ? floatText(value) : String(value);
}

/** int32 number of bits, then bytes. */
function bits(bytes: Buffer): string {
  let read = '';
  for (const byte of bytes.subarray(4)) read += byte.toString(2).padStart(8, '0');
  return read.slice(0, bytes.readInt32BE(0));
}
