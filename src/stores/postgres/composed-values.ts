/**
 * Values made of parts, from PostgreSQL's binary send format to the text the server would write
 * (https://www.postgresql.org/docs/current/datatype.html; the layouts are those of the types' send functions).
 */

/** A type's value as text. */
export type AsText = (bytes: Buffer) => string;

/** As the server writes a float8: the fewest digits that are the same number, with an exponent from 1e15 on and below 1e-4. */
export function floatText(value: number): string {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? 'NaN' : value > 0 ? 'Infinity' : '-Infinity';
  if (Object.is(value, -0)) return '-0';
  const [mantissa, exponentText] = value.toExponential().split('e') as [string, string];
  const exponent = Number(exponentText);
  if (value === 0 || (exponent >= -4 && exponent < 15)) {
    // JavaScript writes these without an exponent, too, but for the smallest.
    return exponent >= -6 ? String(value) : value.toFixed(20);
  }
  return `${mantissa}e${exponent < 0 ? '-' : '+'}${String(Math.abs(exponent)).padStart(2, '0')}`;
}

const pointAt = (bytes: Buffer, at: number): string => `(${floatText(bytes.readDoubleBE(at))},${floatText(bytes.readDoubleBE(at + 8))})`;
const pointsFrom = (bytes: Buffer, at: number): string =>
  Array.from({ length: bytes.readInt32BE(at) }, (_, index) => pointAt(bytes, at + 4 + 16 * index)).join(',');

export const GEOMETRY: Readonly<Record<string, AsText>> = {
  point: (bytes) => pointAt(bytes, 0),
  lseg: (bytes) => `[${pointAt(bytes, 0)},${pointAt(bytes, 16)}]`,
  box: (bytes) => `${pointAt(bytes, 0)},${pointAt(bytes, 16)}`,
  line: (bytes) => `{${[0, 8, 16].map((at) => floatText(bytes.readDoubleBE(at))).join(',')}}`,
  circle: (bytes) => `<${pointAt(bytes, 0)},${floatText(bytes.readDoubleBE(16))}>`,
  path: (bytes) => (bytes[0] === 0 ? `[${pointsFrom(bytes, 1)}]` : `(${pointsFrom(bytes, 1)})`),
  polygon: (bytes) => `(${pointsFrom(bytes, 0)})`,
};

const EMPTY = 0x01;
const LOWER_INCLUSIVE = 0x02;
const UPPER_INCLUSIVE = 0x04;
const LOWER_INFINITE = 0x08;
const UPPER_INFINITE = 0x10;

/** Flags, then the bounds that there are, each with its length before it. */
export function rangeText(bytes: Buffer, bound: AsText): string {
  const flags = bytes[0] as number;
  if ((flags & EMPTY) !== 0) return 'empty';
  let at = 1;
  const next = (): string => {
    const length = bytes.readInt32BE(at);
    const text = bound(bytes.subarray(at + 4, at + 4 + length));
    at += 4 + length;
    return text === '' || /["\\()[\], \t\n\r\v\f]/.test(text) ? `"${text.replaceAll(/["\\]/g, '$&$&')}"` : text;
  };
  const lower = (flags & LOWER_INFINITE) === 0 ? next() : '';
  const upper = (flags & UPPER_INFINITE) === 0 ? next() : '';
  return `${(flags & LOWER_INCLUSIVE) === 0 ? '(' : '['}${lower},${upper}${(flags & UPPER_INCLUSIVE) === 0 ? ')' : ']'}`;
}

export function multirangeText(bytes: Buffer, bound: AsText): string {
  const ranges: string[] = [];
  let at = 4;
  for (let left = bytes.readInt32BE(0); left > 0; left--) {
    const length = bytes.readInt32BE(at);
    ranges.push(rangeText(bytes.subarray(at + 4, at + 4 + length), bound));
    at += 4 + length;
  }
  return `{${ranges.join(',')}}`;
}

const quotedLexeme = (lexeme: string): string => `'${lexeme.replaceAll(/['\\]/g, '$&$&')}'`;

function zeroEnded(bytes: Buffer, at: number): { text: string; next: number } {
  const end = bytes.indexOf(0, at);
  return { text: bytes.toString('utf8', at, end), next: end + 1 };
}

/** Lexemes, each with its positions: 14 bits, and 2 for the weight. */
export function tsvectorText(bytes: Buffer): string {
  const words: string[] = [];
  let at = 4;
  for (let left = bytes.readInt32BE(0); left > 0; left--) {
    const lexeme = zeroEnded(bytes, at);
    const count = bytes.readUInt16BE(lexeme.next);
    at = lexeme.next + 2;
    const positions = Array.from({ length: count }, (_, index) => bytes.readUInt16BE(at + 2 * index)).map(
      (packed) => `${packed & 0x3fff}${['', 'C', 'B', 'A'][packed >> 14]}`,
    );
    at += 2 * count;
    words.push(quotedLexeme(lexeme.text) + (count > 0 ? `:${positions.join(',')}` : ''));
  }
  return words.join(' ');
}

const NOT = 1;
const PHRASE = 4;
const OPERATORS: Readonly<Record<number, { readonly sign: string; readonly priority: number }>> = {
  [NOT]: { sign: '!', priority: 4 },
  2: { sign: '&', priority: 2 },
  3: { sign: '|', priority: 1 },
  [PHRASE]: { sign: '<->', priority: 3 },
};

/** Operators stand before their operands, the right one first. */
export function tsqueryText(bytes: Buffer): string {
  let at = 4;
  const item = (parentPriority: number, rightOfPhrase: boolean): string => {
    const kind = bytes[at++];
    if (kind === 1) {
      const weights = bytes[at++] as number;
      const prefix = bytes[at++] === 1 ? '*' : '';
      const lexeme = zeroEnded(bytes, at);
      at = lexeme.next;
      const flags = prefix + ['A', 'B', 'C', 'D'].filter((_, index) => (weights & (8 >> index)) !== 0).join('');
      return quotedLexeme(lexeme.text) + (flags === '' ? '' : `:${flags}`);
    }
    const code = bytes[at++] as number;
    const operator = OPERATORS[code];
    if (operator === undefined) throw new RangeError(`a tsquery with an unknown operator ${code}`);
    const { priority } = operator;
    let { sign } = operator;
    const inParentheses = priority < parentPriority || (code === PHRASE && rightOfPhrase);
    let text: string;
    if (code === NOT) text = `!${item(priority, false)}`;
    else {
      if (code === PHRASE) {
        const distance = bytes.readUInt16BE(at);
        at += 2;
        if (distance !== 1) sign = `<${distance}>`;
      }
      const right = item(priority, code === PHRASE);
      text = `${item(priority, false)} ${sign} ${right}`;
    }
    return inParentheses ? `( ${text} )` : text;
  };
  return bytes.readInt32BE(0) === 0 ? '' : item(-1, false);
}

/** Number of transactions in progress, xmin, xmax, then those. */
export function snapshotText(bytes: Buffer): string {
  const running = Array.from({ length: bytes.readInt32BE(0) }, (_, index) => bytes.readBigUInt64BE(20 + 8 * index));
  return `${bytes.readBigUInt64BE(4)}:${bytes.readBigUInt64BE(12)}:${running.join(',')}`;
}

/** Hundredths, as the server writes them under the locale C. */
export function moneyText(bytes: Buffer): string {
  const amount = bytes.readBigInt64BE(0);
  const size = String(amount < 0n ? -amount : amount).padStart(3, '0');
  const whole = size.slice(0, -2).replaceAll(/\B(?=(\d{3})+$)/g, ',');
  return `${amount < 0n ? '-' : ''}$${whole}.${size.slice(-2)}`;
}

/** Of an hstore: the number of pairs, then each key and value with its length before it; -1 is NULL. */
export function hstoreText(bytes: Buffer): string {
  let at = 4;
  const next = (): string => {
    const length = bytes.readInt32BE(at);
    at += 4;
    if (length < 0) return 'NULL';
    at += length;
    return `"${bytes.toString('utf8', at - length, at).replaceAll(/["\\]/g, String.raw`\$&`)}"`;
  };
  return Array.from({ length: bytes.readInt32BE(0) }, () => `${next()}=>${next()}`).join(', ');
}

/** Family (2 IPv4, 3 IPv6), bits of the mask, whether cidr, length, address. */
export function addressText(bytes: Buffer, network: boolean): string {
  const mask = bytes[1] as number;
  const octets = bytes.subarray(4);
  if (bytes[0] === 2) return octets.join('.') + (mask === 32 && !network ? '' : `/${mask}`);
  return groupsText(octets) + (mask === 128 && !network ? '' : `/${mask}`);
}

/** The longest run of zeros left out, as RFC 5952 has it, and an IPv4 address inside written as one. */
function groupsText(octets: Buffer): string {
  const groups = Array.from({ length: 8 }, (_, index) => octets.readUInt16BE(2 * index).toString(16));
  let best = { from: 0, length: 0 };
  for (let from = 0; from < 8; from++) {
    let length = 0;
    while (from + length < 8 && groups[from + length] === '0') length++;
    if (length > best.length) best = { from, length };
  }
  if (best.length < 2) return groups.join(':');
  const encapsulated = best.from === 0 && (best.length === 6 || (best.length === 5 && groups[5] === 'ffff'));
  const after = encapsulated ? [...groups.slice(best.length, 6), octets.subarray(12).join('.')] : groups.slice(best.from + best.length);
  return `${groups.slice(0, best.from).join(':')}::${after.join(':')}`;
}
