import fc from 'fast-check';

/**
 * Random values of every type a PostgreSQL server ships with, as text that its input function takes. A type is one that a column
 * may have; what is missing here must be named in `types.postgres.test.ts` with the reason.
 */
export type TextValues = fc.Arbitrary<string>;

const { constantFrom, integer, bigInt, oneof, array, tuple, nat } = fc;

/** Characters of all planes; no NUL, which no text of PostgreSQL has, and no halves of pairs. */
const words = (max: number): TextValues =>
  fc
    .string({
      unit: oneof(
        constantFrom(...Array.from('aZ09 \t\n\r\\"\'{},()[]|&!:*%$;')),
        fc.string({ unit: 'grapheme', minLength: 1, maxLength: 1 }),
      ),
      maxLength: max,
    })
    .map((text) => Array.from(text.replaceAll('\0', '').toWellFormed()).slice(0, max).join(''));
const ascii = (max: number): TextValues => fc.stringMatching(new RegExp(`^[a-z]{1,${max}}$`));

const whole = (bits: bigint, ...edges: string[]): TextValues =>
  oneof(
    bigInt({ min: -(1n << (bits - 1n)), max: (1n << (bits - 1n)) - 1n }).map(String),
    integer({ min: -9, max: 9 }).map(String),
    constantFrom(String(-(1n << (bits - 1n))), String((1n << (bits - 1n)) - 1n), ...edges),
  );
const natural = (bits: bigint): TextValues =>
  oneof(bigInt({ min: 0n, max: (1n << bits) - 1n }).map(String), constantFrom('0', String((1n << bits) - 1n)));

const numberText = (value: number): string => (Object.is(value, -0) ? '-0' : String(value));
const float8 = oneof(
  fc.double(),
  constantFrom(0, -0, NaN, Infinity, -Infinity, 5e-324, 1.7976931348623157e308, 1e15, 1e14, 1e-4, 1e-5, 0.1),
).map(numberText);
const float4 = oneof(fc.float(), constantFrom(0, -0, NaN, Infinity, -Infinity, 1.401298464324817e-45, 1e6, 1e5, 0.1)).map((value) =>
  numberText(Math.fround(value)),
);
const finite = fc.double({ noNaN: true, noDefaultInfinity: true, min: -1e100, max: 1e100 }).map(numberText);

const digits = (min: number, max: number): TextValues => array(nat(9), { minLength: min, maxLength: max }).map((list) => list.join(''));
const numeric = oneof(
  {
    weight: 20,
    arbitrary: tuple(constantFrom('', '-'), digits(1, 40), digits(0, 40)).map(([sign, left, right]) => `${sign}${left}.${right}`),
  },
  {
    weight: 20,
    arbitrary: tuple(integer({ min: -99, max: 99 }), integer({ min: -300, max: 300 })).map(
      ([mantissa, exponent]) => `${mantissa}e${exponent}`,
    ),
  },
  { weight: 20, arbitrary: constantFrom('NaN', 'Infinity', '-Infinity', '0', '0.00', '1.0', '1.00', '10000', '99990000') },
  { weight: 1, arbitrary: constantFrom(`1${'0'.repeat(131_071)}`, `0.${'0'.repeat(16_382)}1`, `-0.${'0'.repeat(16_383)}`) },
);

const pad = (value: number, width = 2): string => String(value).padStart(width, '0');
const day = (years: [number, number]): fc.Arbitrary<{ text: string; bc: string }> =>
  tuple(
    oneof(integer({ min: 1900, max: 2100 }), integer({ min: years[0], max: years[1] })),
    integer({ min: 1, max: 12 }),
    integer({ min: 1, max: 28 }),
  ).map(([year, month, at]) => ({
    text: `${pad(year > 0 ? year : 1 - year, 4)}-${pad(month)}-${pad(at)}`,
    bc: year > 0 ? '' : ' BC',
  }));
const clock = oneof(
  tuple(nat(23), nat(59), nat(59), oneof(nat(999_999), constantFrom(0))).map(
    ([hour, minute, second, micros]) => `${pad(hour)}:${pad(minute)}:${pad(second)}.${pad(micros, 6)}`,
  ),
  constantFrom('00:00:00', '23:59:59.999999'),
);
const zone = tuple(constantFrom('+', '-'), nat(15), nat(59), nat(59)).map(
  ([sign, hour, minute, second]) => `${sign}${pad(hour)}:${pad(minute)}:${pad(second)}`,
);
const stamp = (infix: TextValues): TextValues =>
  oneof(
    {
      weight: 9,
      arbitrary: tuple(day([-4711, 294_275]), clock, infix).map(([{ text, bc }, time, after]) => `${text} ${time}${after}${bc}`),
    },
    { weight: 1, arbitrary: constantFrom('infinity', '-infinity', '4713-11-24 00:00:00 BC') },
  );
const dates = oneof(
  { weight: 9, arbitrary: day([-4711, 5_874_896]).map(({ text, bc }) => text + bc) },
  { weight: 1, arbitrary: constantFrom('infinity', '-infinity', '5874897-12-31', '4713-11-24 BC', '2000-02-29', '1900-02-28') },
);

const int32 = integer({ min: -2_147_483_648, max: 2_147_483_647 });
const interval = oneof(
  tuple(
    oneof(int32, nat(40), constantFrom(0)),
    oneof(int32, integer({ min: -9, max: 9 })),
    constantFrom('', '-'),
    oneof(nat(2_000_000_000), nat(30)),
    nat(59),
    nat(59_999_999),
  ).map(
    ([months, days, sign, hours, minutes, micros]) =>
      `${months} mons ${days} days ${sign}${pad(hours)}:${pad(minutes)}:${(micros / 1e6).toFixed(6).padStart(9, '0')}`,
  ),
  constantFrom('0', '1 day', '24:00:00', '-1 mon +30 days', '1 year 2 mons'),
);

const mask = (address: bigint, bits: number, kept: number): bigint => (address >> BigInt(bits - kept)) << BigInt(bits - kept);
const v4 = (address: bigint): string => [24n, 16n, 8n, 0n].map((shift) => String((address >> shift) & 255n)).join('.');
const v6 = (address: bigint): string =>
  Array.from({ length: 8 }, (_, index) => ((address >> BigInt(112 - 16 * index)) & 0xffffn).toString(16)).join(':');
const address = (network: boolean): TextValues =>
  oneof(
    tuple(bigInt({ min: 0n, max: (1n << 32n) - 1n }), nat(32)).map(([at, kept]) => `${v4(network ? mask(at, 32, kept) : at)}/${kept}`),
    tuple(
      oneof(
        bigInt({ min: 0n, max: (1n << 128n) - 1n }),
        array(constantFrom(0n, 0n, 1n, 0xffffn), { minLength: 8, maxLength: 8 }).map((groups) =>
          groups.reduce<bigint>((sum, group) => (sum << 16n) | group, 0n),
        ),
      ),
      nat(128),
    ).map(([at, kept]) => `${v6(network ? mask(at, 128, kept) : at)}/${kept}`),
    constantFrom('::/0', '::1/128', '::ffff:0:0/96', '::ffff:1.2.3.4/128', '::1.2.3.4/128', '0.0.0.0/0'),
  );

const hex = (bytes: number): TextValues =>
  fc.uint8Array({ minLength: bytes, maxLength: bytes }).map((list) => Buffer.from(list).toString('hex'));
const bits = (min: number, max: number): TextValues => fc.stringMatching(new RegExp(`^[01]{${min},${max}}$`));

const json = fc
  .jsonValue({ stringUnit: 'grapheme' })
  .map((value) => JSON.stringify(value).replaceAll(String.raw`\u0000`, '').toWellFormed());
const rawJson = oneof(
  json,
  fc.tuple(json, constantFrom(' ', '\n\t', '')).map(([value, space]) => `${space}{"b"${space}:${space}${value},"a":1.50,"a":2}${space}`),
  constantFrom('null', '1e400', '"\\u00e4\\u0041"', '-0'),
);
const quoted = (text: string): string => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`;
const lexeme = words(6).filter((text) => text !== '');
const tsvector = array(tuple(lexeme, array(tuple(integer({ min: 1, max: 16_383 }), constantFrom('', 'A', 'B', 'C')), { maxLength: 4 })), {
  maxLength: 6,
}).map((list) =>
  list
    .map(([word, at]) => quoted(word) + (at.length === 0 ? '' : `:${at.map(([position, weight]) => `${position}${weight}`).join(',')}`))
    .join(' '),
);
const tsquery = fc.letrec<{ query: string }>((tie) => ({
  query: oneof(
    { depthSize: 'small', withCrossShrink: true },
    tuple(lexeme, constantFrom('', ':*', ':AB', ':*D')).map(([word, flags]) => quoted(word) + flags),
    tuple(tie('query'), constantFrom('&', '|', '<->', '<7>'), tie('query')).map(
      ([left, operator, right]) => `(${left} ${operator} ${right})`,
    ),
    tie('query').map((query) => `!(${query})`),
  ),
})).query;

const point = tuple(float8, float8).map(([x, y]) => `(${x},${y})`);
const points = (min: number): TextValues => array(point, { minLength: min, maxLength: 5 }).map((list) => list.join(','));
const snapshot = tuple(integer({ min: 1, max: 2_000_000_000 }), array(nat(50), { maxLength: 6 })).map(([from, gaps]) => {
  const running: number[] = [];
  for (const gap of gaps) running.push((running.at(-1) ?? from) + gap + 1);
  return `${from}:${(running.at(-1) ?? from) + 1}:${running.join(',')}`;
});

/** A range of values that come in ascending pairs. */
export function ranges(pair: fc.Arbitrary<readonly [string, string]>): TextValues {
  const edge = (value: string): string => (value === '' ? '' : `"${value.replaceAll('\\', '\\\\').replaceAll('"', '""')}"`);
  return oneof(
    {
      weight: 8,
      arbitrary: tuple(constantFrom('[', '('), pair, constantFrom(']', ')'), constantFrom(3, 3, 3, 1, 2, 0)).map(
        ([open, [low, high], close, known]) => `${open}${known & 1 ? edge(low) : ''},${known & 2 ? edge(high) : ''}${close}`,
      ),
    },
    { weight: 1, arbitrary: constantFrom('empty', '(,)') },
  );
}
export const several = (range: TextValues): TextValues => array(range, { maxLength: 4 }).map((list) => `{${list.join(',')}}`);
const ascending = <Value>(
  value: fc.Arbitrary<Value>,
  compare: (a: Value, b: Value) => number,
  text: (value: Value) => string,
): fc.Arbitrary<readonly [string, string]> => tuple(value, value).map((both) => both.toSorted(compare).map(text) as [string, string]);

const int4Pair = ascending(integer({ min: -1_000_000, max: 1_000_000 }), (a, b) => a - b, String);
const int8Pair = ascending(bigInt({ min: -(1n << 62n), max: 1n << 62n }), (a, b) => (a < b ? -1 : 1), String);
const numPair = tuple(int8Pair, digits(0, 5))
  .map(([[low, high], fraction]) => [low, `${high}.${fraction}`.replace(/^-0\./, '0.')] as const)
  .filter(([low, high]) => Number(low) < Number(high));
const at = (days: number): Date => new Date(Date.UTC(2000, 0, 1) + days * 86_400_000);
const dayPair = ascending(
  integer({ min: -300_000, max: 2_000_000 }),
  (a, b) => a - b,
  (days) => at(days).toISOString().slice(0, 10).replace(/^\+0*/, ''),
);
const stampPair = dayPair.map(([low, high]) => [`${low} 01:02:03.000004`, `${high} 23:59:59.5`] as const);
export const floatPair = ascending(fc.double({ noNaN: true }), (a, b) => a - b, numberText);

const int4range = ranges(int4Pair);
const int8range = ranges(int8Pair);
const numrange = ranges(numPair);
const tsrange = ranges(stampPair);
const daterange = ranges(dayPair);

/** By the type's name, with a modifier where that matters. Types of pg_catalog, as `pg_type.typname` has them. */
export const BUILT_IN: Readonly<Record<string, TextValues>> = {
  bool: constantFrom('t', 'f'),
  int2: whole(16n),
  int4: whole(32n),
  int8: whole(64n, '9007199254740991', '9007199254740992', '9007199254740993', '-9007199254740993'),
  float4,
  float8,
  numeric,
  money: bigInt({ min: -(1n << 63n), max: (1n << 63n) - 1n }).map((cents) => {
    const size = String(cents < 0n ? -cents : cents).padStart(3, '0');
    return `${cents < 0n ? '-' : ''}${size.slice(0, -2)}.${size.slice(-2)}`;
  }),
  text: words(30),
  varchar: words(30),
  bpchar: words(10).map((text) => `${text}  `),
  name: words(15),
  char: constantFrom('', 'a', 'Z', ' ', '0', '"', '\\'),
  bytea: fc.uint8Array({ maxLength: 40 }).map((list) => `\\x${Buffer.from(list).toString('hex')}`),
  date: dates,
  time: oneof(clock, constantFrom('24:00:00')),
  timetz: tuple(oneof(clock, constantFrom('24:00:00')), zone).map((parts) => parts.join('')),
  timestamp: stamp(constantFrom('')),
  timestamptz: stamp(zone),
  interval,
  json: rawJson,
  jsonb: oneof(json, constantFrom('null', '1.00', '1.0', '{"b":1.500,"a":[null,{}]}')),
  jsonpath: tuple(constantFrom('', 'strict '), ascii(5), nat(9)).map(
    ([mode, key, index]) => `${mode}$.${key}[${index} to last]?(@."ä b" > ${index}.50 && exists(@.x))`,
  ),
  xml: oneof(
    constantFrom('', '<a/>', '<?xml version="1.0" encoding="UTF-8"?><a>ä</a>', 'plain &amp; text', '<a><!-- b --><![CDATA[<]]></a>'),
    words(8).map((text) => `<a b="1">${text.replaceAll(/[<>&\r]|[^\P{C}\t\n]/gu, '')}</a>`),
  ),
  uuid: hex(16),
  inet: address(false),
  cidr: address(true),
  macaddr: hex(6),
  macaddr8: hex(8),
  'bit(9)': bits(9, 9),
  varbit: bits(0, 40),
  oid: natural(32n),
  xid: natural(32n),
  cid: natural(32n),
  xid8: natural(64n),
  tid: tuple(bigInt({ min: 0n, max: (1n << 32n) - 1n }), nat(65_535)).map(([block, offset]) => `(${block},${offset})`),
  pg_lsn: tuple(nat(0xffff_fff), nat(0xffff_fff)).map(([high, low]) => `${high.toString(16)}/${low.toString(16)}`),
  pg_snapshot: snapshot,
  txid_snapshot: snapshot,
  refcursor: words(9),
  // PostgreSQL cannot read its own binary form of an empty vector: the table is halted by name.
  int2vector: array(integer({ min: -32_768, max: 32_767 }), { minLength: 1, maxLength: 6 }).map((list) => list.join(' ')),
  oidvector: array(natural(32n), { minLength: 1, maxLength: 6 }).map((list) => list.join(' ')),
  tsvector,
  tsquery,
  point,
  line: tuple(finite, finite).map(([b, c]) => `{1,${b},${c}}`),
  lseg: tuple(point, point).map(([a, b]) => `[${a},${b}]`),
  box: tuple(point, point).map(([a, b]) => `${a},${b}`),
  path: tuple(points(1), fc.boolean()).map(([list, open]) => (open ? `[${list}]` : `(${list})`)),
  polygon: points(1).map((list) => `(${list})`),
  circle: tuple(point, fc.double({ min: 0, noNaN: true })).map(([center, radius]) => `<${center},${radius}>`),
  int4range,
  int8range,
  numrange,
  tsrange,
  tstzrange: tsrange,
  daterange,
  int4multirange: several(int4range),
  int8multirange: several(int8range),
  nummultirange: several(numrange),
  tsmultirange: several(tsrange),
  tstzmultirange: several(tsrange),
  datemultirange: several(daterange),
  aclitem: constantFrom('=r/postgres', 'postgres=a*r/postgres', 'postgres=/postgres', 'pg_monitor=arwdDxt/postgres'),
};

/** An element of an array or a field of a composite, quoted as its text needs. */
const part = (text: string): string => `"${text.replaceAll(/["\\]/g, String.raw`\$&`)}"`;
const nullable = (value: TextValues, text: (value: string) => string): TextValues =>
  oneof({ weight: 5, arbitrary: value.map(text) }, { weight: 1, arbitrary: constantFrom('NULL') });

/** Arrays of up to two dimensions, some with NULLs, some whose bounds do not begin with 1. */
export function arrays(element: TextValues, delimiter = ','): TextValues {
  const item = nullable(element, part);
  const list = (length: number): TextValues =>
    array(item, { minLength: length, maxLength: length }).map((items) => `{${items.join(delimiter)}}`);
  const bounds = (low: number, length: number): string => `[${low}:${low + length - 1}]`;
  return oneof(
    constantFrom('{}'),
    nat(4).chain((length) => list(length + 1)),
    tuple(integer({ min: -5, max: 9 }), nat(3)).chain(([low, length]) =>
      list(length + 1).map((text) => `${bounds(low, length + 1)}=${text}`),
    ),
    tuple(nat(2), nat(2), integer({ min: -3, max: 3 })).chain(([outer, inner, low]) =>
      array(list(inner + 1), { minLength: outer + 1, maxLength: outer + 1 }).map(
        (rows) => `${bounds(low, outer + 1)}${bounds(0, inner + 1)}={${rows.join(delimiter)}}`,
      ),
    ),
  );
}

/** A composite with these fields. */
export const composites = (...fields: readonly TextValues[]): TextValues =>
  tuple(...fields.map((field) => oneof({ weight: 5, arbitrary: field.map(part) }, { weight: 1, arbitrary: constantFrom('') }))).map(
    (parts) => `(${parts.join(',')})`,
  );
