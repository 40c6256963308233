/** OIDs of the types whose values are not shown as the text the server makes of them. */
const BOOL = 16;
const INT8 = 20;
const INT2 = 21;
const INT4 = 23;
const OID = 26;
const FLOAT4 = 700;
const FLOAT8 = 701;

/**
 * What a person is shown of a value the server gave as text: numbers where a JavaScript number is exact, booleans, and the server's text for
 * all else. Numerics stay text whatever their size: their scale is part of them.
 */
export function shownValue(type: number, text: string): unknown {
  switch (type) {
    case BOOL:
      return text === 't';
    case INT2:
    case INT4:
    case OID:
      return Number(text);
    case INT8: {
      const value = Number(text);
      return Number.isSafeInteger(value) ? value : text;
    }
    case FLOAT4:
    case FLOAT8: {
      const value = Number(text);
      // JSON has no NaN, no infinities, and no zero with a sign.
      return Number.isFinite(value) && !Object.is(value, -0) ? value : text;
    }
    default:
      return text;
  }
}

/**
 * What a person is shown of an array the server gave as text (https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO), nested as
 * its dimensions are. `delimiter` is a comma but for boxes.
 */
export function shownArray(element: number, delimiter: string, text: string): unknown {
  // Bounds other than 1 stand before, `[0:1]={…}`, and would not show in a list. oidvector and int2vector are arrays to the catalog, and
  // not in their text.
  if (!text.startsWith('{')) return text;
  let at = 0;
  const list = (): unknown[] => {
    const values: unknown[] = [];
    at += 1;
    while (text[at] !== '}') {
      values.push(text[at] === '{' ? list() : value());
      if (text[at] === delimiter) at += 1;
    }
    at += 1;
    return values;
  };
  const value = (): unknown => {
    if (text[at] === '"') {
      const quoted = /"((?:[^"\\]|\\.)*)"/sy;
      quoted.lastIndex = at;
      const [whole, inside] = quoted.exec(text) as unknown as [string, string];
      at += whole.length;
      return shownValue(element, inside.replace(/\\(.)/gs, '$1'));
    }
    const start = at;
    while (at < text.length && text[at] !== delimiter && text[at] !== '}') at += 1;
    const plain = text.slice(start, at);
    return plain === 'NULL' ? null : shownValue(element, plain);
  };
  return list();
}
