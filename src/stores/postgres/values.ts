import type { ColumnSchema, TableSchema } from '../../model/schema.ts';
import { type Cell, cellsOf, type KeyTuple, type Tuple } from '../../model/tuple.ts';
import type { ValueCodec } from '../../model/values.ts';
import { dateText, intervalText, timestampText, timeText, zoneText } from './dates.ts';

/**
 * Values from PostgreSQL's binary send format, by the name of the column's type as `format_type` writes it. Only for showing.
 */
export const postgresValues: ValueCodec = {
  row: (table: TableSchema, row: Tuple) => named(table.columns, cellsOf(row)),
  key: (table: TableSchema, key: KeyTuple) => {
    const columns = table.key.map((index) => table.columns[index] as ColumnSchema);
    const cells = cellsOf(key);
    return Object.fromEntries(columns.map((column, index) => [column.name, shown(column.type, cells[index])]));
  },
};

function named(columns: readonly ColumnSchema[], cells: readonly Cell[]): Record<string, unknown> {
  const pairs: [string, unknown][] = [];
  for (const [index, column] of columns.entries()) {
    const cell = cells[index];
    if (!column.hidden && cell !== undefined) pairs.push([column.name, shown(column.type, cell)]);
  }
  return Object.fromEntries(pairs);
}

/** The value of a cell of a type. Bytes that are not a value of it (another server's extension) are shown as bytes. */
export function shown(type: string, cell: Cell): unknown {
  if (cell === null || cell === undefined) return null;
  const plain = plainType(type);
  const decode = plain.endsWith('[]') ? (bytes: Buffer) => arrayValue(bytes, plain.slice(0, -2)) : (DECODERS[plain] ?? unknownValue);
  try {
    return decode(cell);
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

const DECODERS: Readonly<Record<string, Decoder>> = {
  boolean: (bytes) => bytes[0] === 1,
  smallint: (bytes) => bytes.readInt16BE(0),
  integer: (bytes) => bytes.readInt32BE(0),
  bigint: (bytes) => integer(bytes.readBigInt64BE(0)),
  oid: (bytes) => bytes.readUInt32BE(0),
  real: (bytes) => float(shortest(bytes.readFloatBE(0))),
  'double precision': (bytes) => float(bytes.readDoubleBE(0)),
  numeric,
  money: (bytes) => integer(bytes.readBigInt64BE(0)),
  text,
  'character varying': text,
  character: text,
  bpchar: text,
  '"char"': text,
  name: text,
  xml: text,
  json: text,
  jsonb: (bytes) => bytes.toString('utf8', 1), // a version number comes first
  uuid: (bytes) => bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5'),
  bytea: hex,
  date: (bytes) => dateText(bytes.readInt32BE(0)),
  'time without time zone': (bytes) => timeText(bytes.readBigInt64BE(0)),
  'time with time zone': (bytes) => timeText(bytes.readBigInt64BE(0)) + zoneText(-bytes.readInt32BE(8)),
  'timestamp without time zone': (bytes) => timestampText(bytes.readBigInt64BE(0), ''),
  'timestamp with time zone': (bytes) => timestampText(bytes.readBigInt64BE(0), '+00'),
  interval: (bytes) => intervalText(bytes.readBigInt64BE(0), bytes.readInt32BE(8), bytes.readInt32BE(12)),
  inet: (bytes) => address(bytes, false),
  cidr: (bytes) => address(bytes, true),
  macaddr: (bytes) => bytes.toString('hex').replace(/(..)(?!$)/g, '$1:'),
  macaddr8: (bytes) => bytes.toString('hex').replace(/(..)(?!$)/g, '$1:'),
  pg_lsn: (bytes) => `${bytes.readUInt32BE(0).toString(16).toUpperCase()}/${bytes.readUInt32BE(4).toString(16).toUpperCase()}`,
  'bit varying': bits,
  bit: bits,
};

function integer(value: bigint): number | string {
  return Number.isSafeInteger(Number(value)) ? Number(value) : value.toString();
}

/** JSON has no NaN and no infinities. */
function float(value: number): number | string {
  return Number.isFinite(value) ? value : String(value);
}

/** The number with the fewest digits that is the same one in four bytes. */
function shortest(value: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === value) return short;
  }
  return Number(value.toPrecision(9));
}

function hex(bytes: Buffer): string {
  return `\\x${bytes.toString('hex')}`;
}

/** The label of an enum and most types of extensions are sent as text; what does not read as text is shown as bytes. */
function unknownValue(bytes: Buffer): string {
  const read = bytes.toString('utf8');
  // eslint-disable-next-line no-control-regex -- control characters are what tells other formats from text
  return read.includes('\ufffd') || /[\u0000-\u0008\u000b\u000c\u000e-\u001f]/.test(read) ? hex(bytes) : read;
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

/** int32 dimensions, flags, element type; a length and lower bound for each; then elements. */
function arrayValue(bytes: Buffer, elementType: string): unknown {
  const dimensions = bytes.readInt32BE(0);
  const lengths = Array.from({ length: dimensions }, (_, index) => bytes.readInt32BE(12 + 8 * index));
  let at = 12 + 8 * dimensions;
  const read = (depth: number): unknown =>
    Array.from({ length: lengths[depth] ?? 0 }, () => {
      if (depth < dimensions - 1) return read(depth + 1);
      const length = bytes.readInt32BE(at);
      at += 4;
      if (length === -1) return null;
      const element = bytes.subarray(at, at + length);
      at += length;
      return shown(elementType, element);
    });
  return dimensions === 0 ? [] : read(0);
}

/** Family (2 IPv4, 3 IPv6), bits of the mask, whether cidr, length, address. */
function address(bytes: Buffer, network: boolean): string {
  const mask = bytes[1] as number;
  const octets = bytes.subarray(4);
  if (bytes[0] === 2) return octets.join('.') + (mask === 32 && !network ? '' : `/${mask}`);
  const groups = Array.from({ length: 8 }, (_, index) => octets.readUInt16BE(2 * index).toString(16));
  return compressed(groups) + (mask === 128 && !network ? '' : `/${mask}`);
}

/** The longest run of zeros left out, as RFC 5952 has it. */
function compressed(groups: readonly string[]): string {
  let best = { from: 0, length: 0 };
  for (let from = 0; from < 8; from++) {
    let length = 0;
    while (from + length < 8 && groups[from + length] === '0') length++;
    if (length > best.length) best = { from, length };
  }
  if (best.length < 2) return groups.join(':');
  return `${groups.slice(0, best.from).join(':')}::${groups.slice(best.from + best.length).join(':')}`;
}

/** int32 number of bits, then bytes. */
function bits(bytes: Buffer): string {
  let read = '';
  for (const byte of bytes.subarray(4)) read += byte.toString(2).padStart(8, '0');
  return read.slice(0, bytes.readInt32BE(0));
}
