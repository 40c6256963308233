/** The parts of a CREATE INDEX statement that the schema's pragmas do not tell: expressions and the condition. */
export interface IndexSql {
  /** The text of each term, without COLLATE, ASC and DESC. */
  readonly terms: readonly string[];
  /** The condition of a partial index. */
  readonly where: string | null;
  /** The table's columns that the text mentions: at least those the index depends on. */
  readonly mentions: readonly string[];
}

interface Token {
  readonly text: string;
  readonly kind: 'space' | 'word' | 'quoted' | 'string' | 'other';
}

// Comments count as space. A quoted name is "a", `a` or [a]; a doubled quote inside stands for one.
const TOKENS =
  /(?<space>\s+|--[^\n]*|\/\*[\s\S]*?(?:\*\/|$))|(?<string>'(?:[^']|'')*')|(?<quoted>"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\])|(?<word>[\p{L}_$\u{80}-\u{10ffff}\d][\p{L}_$\u{80}-\u{10ffff}\d]*)|(?<other>[\s\S])/gu;

/**
 * Takes apart a CREATE INDEX as `sqlite_schema` holds it (SQLite has parsed it before, so it is sound).
 *
 * "x" in double quotes that names no column is a string to SQLite, but only where the connection allows it. Such words are
 * rewritten as strings, because the text goes into triggers that any program's connection compiles.
 */
export function parseIndexSql(sql: string, columns: readonly string[]): IndexSql {
  const tokens = tokenize(sql);
  const named = new Map(columns.map((column) => [column.toLowerCase(), column]));
  const open = tokens.findIndex((token) => token.text === '(');
  const close = closing(tokens, open);
  const terms = splitTerms(tokens.slice(open + 1, close)).map((term) => render(stripOrder(term), named));
  const rest = tokens.slice(close + 1);
  const at = rest.findIndex((token) => isWord(token, 'WHERE'));
  const mentions = new Set<string>();
  for (const token of tokens.slice(open)) {
    const column = named.get(nameOf(token).toLowerCase());
    if (column !== undefined) mentions.add(column);
  }
  return { terms, where: at < 0 ? null : render(rest.slice(at + 1), named), mentions: [...mentions] };
}

function tokenize(sql: string): Token[] {
  return [...sql.matchAll(TOKENS)].map((match) => {
    const kind = Object.entries(match.groups ?? {}).find(([, text]) => text !== undefined)?.[0] ?? 'other';
    return { text: match[0], kind: kind as Token['kind'] };
  });
}

function closing(tokens: readonly Token[], open: number): number {
  let depth = 0;
  for (let i = open; i < tokens.length; i++) {
    const text = tokens[i]?.text;
    if (text === '(') depth++;
    else if (text === ')' && --depth === 0) return i;
  }
  return tokens.length;
}

function splitTerms(tokens: readonly Token[]): Token[][] {
  const terms: Token[][] = [[]];
  let depth = 0;
  for (const token of tokens) {
    if (token.text === '(') depth++;
    else if (token.text === ')') depth--;
    if (token.text === ',' && depth === 0) terms.push([]);
    else terms.at(-1)?.push(token);
  }
  return terms;
}

/** Cuts ASC, DESC and a trailing COLLATE, which belong to the index and not to the expression. */
function stripOrder(term: readonly Token[]): Token[] {
  const tokens = trimEnd(term);
  const last = tokens.at(-1);
  const bare = isWord(last, 'ASC') || isWord(last, 'DESC') ? trimEnd(tokens.slice(0, -1)) : tokens;
  const beforeName = trimEnd(bare.slice(0, -1));
  return isWord(beforeName.at(-1), 'COLLATE') ? trimEnd(beforeName.slice(0, -1)) : bare;
}

function trimEnd(tokens: readonly Token[]): Token[] {
  return tokens.slice(0, tokens.findLastIndex((token) => token.kind !== 'space') + 1);
}

function render(tokens: readonly Token[], columns: ReadonlyMap<string, string>): string {
  return tokens
    .map((token) => {
      if (token.kind === 'space') return ' ';
      if (!token.text.startsWith('"') || columns.has(nameOf(token).toLowerCase())) return token.text;
      return `'${nameOf(token).replaceAll("'", "''")}'`;
    })
    .join('')
    .trim();
}

function isWord(token: Token | undefined, word: string): boolean {
  return token?.kind === 'word' && token.text.toUpperCase() === word;
}

function nameOf(token: Token): string {
  if (token.kind === 'word') return token.text;
  if (token.kind !== 'quoted') return '';
  const quote = token.text[0] as string;
  const inner = token.text.slice(1, -1);
  return quote === '[' ? inner : inner.replaceAll(quote + quote, quote);
}
