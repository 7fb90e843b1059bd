import { type CharacterTest, type Cursor, GoRegexpError } from './syntax.ts';

/** Go's classes are ASCII, whatever the flags; the text is the inside of a JavaScript class. */
const perlClasses: Readonly<Record<string, string>> = { d: '0-9', s: '\\t\\n\\f\\r ', w: '0-9A-Za-z_' };

const posixClasses: Readonly<Record<string, string>> = {
  alnum: '0-9A-Za-z',
  alpha: 'A-Za-z',
  ascii: '\\x00-\\x7f',
  blank: '\\t ',
  cntrl: '\\x00-\\x1f\\x7f',
  digit: '0-9',
  graph: '!-~',
  lower: 'a-z',
  print: ' -~',
  punct: '!-\\/:-@\\[-`\\{-~',
  space: '\\t-\\r ',
  upper: 'A-Z',
  word: '0-9A-Za-z_',
  xdigit: '0-9A-Fa-f',
};

const controls: Readonly<Record<string, number>> = { a: 7, f: 12, n: 10, r: 13, t: 9, v: 11 };

/** What another dialect means by an escape that Go does not know. */
const foreign: Readonly<Record<string, string>> = {
  Z: 'use \\z for the end of the text',
  G: 'Go has no \\G',
  C: 'Go has no single bytes here',
  c: 'Go has no control escapes; use \\x01 and the like',
  k: 'Go has no backreferences',
  u: 'use \\x{…}',
  K: 'Go has no \\K',
  R: 'use (?:\\r\\n|\\n)',
  h: 'use [[:blank:]]',
};

/**
 * A test for the characters of a JavaScript class. Case is ignored by simple folding, as in Go; what is negated is the whole
 * folded set.
 */
function classTest(inside: string, options: { ignoreCase: boolean; negated?: boolean }): CharacterTest {
  const expression = new RegExp(`^[${inside}]$`, options.ignoreCase ? 'iu' : 'u');
  const { negated = false } = options;
  return (character) => expression.test(character) !== negated;
}

function rangeTest(from: number, to: number, ignoreCase: boolean): CharacterTest {
  const hex = (point: number) => `\\u{${point.toString(16)}}`;
  return classTest(`${hex(from)}-${hex(to)}`, { ignoreCase });
}

/** The set of this one character. */
export function characterTest(character: string, ignoreCase: boolean): CharacterTest {
  if (!ignoreCase) return (other) => other === character;
  const point = character.codePointAt(0) ?? 0;
  return rangeTest(point, point, true);
}

/** `\d`, `\W`, `\pL`, `\P{Greek}`, …; undefined when something else comes next. Throws {@link GoRegexpError}. */
export function escapedClass(cursor: Cursor, ignoreCase: boolean): CharacterTest | undefined {
  const perl = cursor.match(/\\([dswDSW])/y)?.[1];
  if (perl !== undefined) {
    const small = perl.toLowerCase();
    return classTest(perlClasses[small] ?? '', { ignoreCase, negated: perl !== small });
  }
  const start = cursor.at;
  const unicode = cursor.match(/\\([pP])(?:\{(\^?)([^}]*)\}|([^{]))/uy);
  if (unicode === null) return undefined;
  const [text, letter, caret = '', long, short = ''] = unicode;
  const negated = (letter === 'P') !== (caret === '^');
  const inside = propertyClass(long ?? short);
  if (inside === undefined) {
    cursor.at = start;
    throw new GoRegexpError('invalid character class range', text);
  }
  return classTest(inside, { ignoreCase, negated });
}

/** A Unicode category or script by Go's names, which JavaScript shares. */
function propertyClass(name: string): string | undefined {
  if (!/^\w+$/.test(name)) return undefined;
  const forms = name === 'Any' ? ['\\p{Any}'] : [`\\p{gc=${name}}`, `\\p{sc=${name}}`];
  return forms.find((form) => isClass(form));
}

function isClass(inside: string): boolean {
  try {
    return new RegExp(`[${inside}]`, 'u').source !== '';
  } catch {
    return false;
  }
}

/** The character that an escape (`\x2e`, `\.`, `\012`, `\t`) stands for. Throws {@link GoRegexpError}. */
export function escapedCharacter(cursor: Cursor): string {
  const octal = cursor.match(/\\(0[0-7]{0,2}|[1-7][0-7]{1,2})/y)?.[1];
  if (octal !== undefined) return String.fromCodePoint(Number.parseInt(octal, 8));
  const hex = cursor.match(/\\x(?:([\da-fA-F]{2})|\{([\da-fA-F]+)\})/y);
  if (hex !== null) {
    const point = Number.parseInt(hex[1] ?? hex[2] ?? '', 16);
    if (point > 0x10ffff) throw new GoRegexpError('invalid escape sequence', hex[0]);
    return String.fromCodePoint(point);
  }
  const control = cursor.match(/\\([afnrtv])/y)?.[1];
  if (control !== undefined) return String.fromCodePoint(controls[control] ?? 0);
  const literal = cursor.match(/\\([^0-9A-Za-z\P{ASCII}])/uy)?.[1];
  if (literal !== undefined) return literal;
  const letter = String.fromCodePoint(cursor.pattern.codePointAt(cursor.at + 1) ?? 0x20);
  if (cursor.rest === '\\')
    throw new GoRegexpError('trailing backslash at end of expression', cursor.pattern);
  const why = /[1-9]/.test(letter) ? 'Go has no backreferences' : foreign[letter];
  const what = why === undefined ? 'invalid escape sequence' : `invalid escape sequence (${why})`;
  throw new GoRegexpError(what, `\\${letter}`);
}

/** A class in brackets, the cursor being on `[`. Throws {@link GoRegexpError}. */
export function bracketClass(cursor: Cursor, ignoreCase: boolean): CharacterTest {
  const start = cursor.at;
  cursor.take('[');
  const negated = cursor.take('^');
  const tests: CharacterTest[] = [];
  // A bracket that comes first is a character.
  while (tests.length === 0 || cursor.peek() !== ']') {
    if (cursor.done) throw new GoRegexpError('missing closing ]', cursor.pattern.slice(start));
    tests.push(
      posixClass(cursor, ignoreCase) ?? escapedClass(cursor, ignoreCase) ?? range(cursor, ignoreCase, start),
    );
  }
  cursor.take(']');
  return (character) => tests.some((test) => test(character)) !== negated;
}

function posixClass(cursor: Cursor, ignoreCase: boolean): CharacterTest | undefined {
  const found = cursor.match(/\[:(.*?):\]/sy);
  if (found === null) return undefined;
  const [text, name = ''] = found;
  const negated = name.startsWith('^');
  const inside = posixClasses[negated ? name.slice(1) : name];
  if (inside === undefined) throw new GoRegexpError('invalid character class range', text);
  return classTest(inside, { ignoreCase, negated });
}

function range(cursor: Cursor, ignoreCase: boolean, start: number): CharacterTest {
  const rangeStart = cursor.at;
  const from = classCharacter(cursor, start);
  if (!/^-[^\]]/su.test(cursor.rest)) return characterTest(from, ignoreCase);
  cursor.take('-');
  const to = classCharacter(cursor, start);
  const [first = 0, last = 0] = [from.codePointAt(0), to.codePointAt(0)];
  if (last < first) {
    throw new GoRegexpError('invalid character class range', cursor.pattern.slice(rangeStart, cursor.at));
  }
  return rangeTest(first, last, ignoreCase);
}

function classCharacter(cursor: Cursor, start: number): string {
  if (cursor.done) throw new GoRegexpError('missing closing ]', cursor.pattern.slice(start));
  return cursor.peek() === '\\' ? escapedCharacter(cursor) : cursor.next();
}
