import { escaped, excerpt } from '../../runtime/texts.ts';

/** A member of a JSON object: its key, unescaped, and its value as written: `24.0`, `"a\u0062"`, `{}`. */
export interface JsonField {
  readonly key: string;
  readonly raw: string;
  /** Where in the text the key begins, and where the value. */
  readonly keyAt: number;
  readonly at: number;
}

/** Go's decoder refuses deeper nesting, so this one does too: both accept and refuse the same texts. */
const maxDepth = 10_000;

/** A text that is not a JSON object. `message`: the first problem, its place and the text around it. */
export class JsonError extends Error {
  /** What mends this problem alone: everything else in the text stays. */
  readonly remedy: string | undefined;
  /** The problem without its place, and the place, where there is one. */
  readonly problem: string;
  readonly at: number | undefined;

  constructor(problem: string, remedy?: string, place?: { readonly at: number; readonly text: string }) {
    super(place === undefined ? problem : `${problem} (${place.text})`);
    this.name = 'JsonError';
    this.remedy = remedy;
    this.problem = problem;
    this.at = place?.at;
  }
}

/**
 * Returns the members of the JSON object `text` in their order, with duplicates. Go's decoder assigns them
 * one after the other and looks at the spelling of a number; JSON.parse keeps neither.
 *
 * Throws {@link JsonError} when `text` is not JSON, is not an object, or is nested deeper than Go allows.
 */
export function jsonFields(text: string): readonly JsonField[] {
  const { fields, isObject, depth, fault } = scan(text);
  if (fault !== undefined) throw fault;
  if (!isObject)
    throw new JsonError('it is JSON, but not an object in braces', 'Write its keys and values in braces.');
  if (depth > maxDepth) throw new JsonError(`it is nested more than ${maxDepth} levels deep`);
  return fields;
}

/**
 * Says in words why a text is not JSON (RFC 8259); undefined when it is. The engine's own messages differ
 * from version to version, and name tokens rather than mistakes.
 */
export function jsonFault(text: string): JsonError | undefined {
  return text.trim() === '' ? new JsonError('it is empty', 'Fill it.') : scan(text).fault;
}

/** The string that the JSON text `raw` stands for, unescaped; undefined when it is another kind of value. */
export function jsonString(raw: string): string | undefined {
  const value: unknown = JSON.parse(raw);
  return typeof value === 'string' ? value : undefined;
}

/**
 * Folds case as Go's encoding/json does when it looks for a field: ASCII letters, and the two characters that
 * Unicode folds into ASCII ones (long s, Kelvin sign). JavaScript's own case mappings fold more.
 */
export function foldKey(key: string): string {
  return key.replaceAll(/[A-Z\u017f\u212a]/g, (letter) => {
    if (letter === '\u017f') return 's';
    return letter === '\u212a' ? 'k' : letter.toLowerCase();
  });
}

type Expected = 'key' | 'colon' | 'value' | 'comma' | 'end';

const blanks = /[ \t\n\r]*/y;
const scalar = /(?:true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?)(?![^\s,{}[\]"'])/y;
/** A string up to its closing quotes, or to the first character that JSON does not allow in it. */
const openString = /"(?:[ !#-[\]-\uffff]|\\(?:["\\/bfnrt]|u[\da-fA-F]{4}))*/y;

/**
 * Looks at each token once, without recursion, because a text from outside may nest a million levels deep.
 * Finds the members of the outermost object and the greatest depth, or the first fault.
 */
function scan(text: string) {
  const fields: JsonField[] = [];
  /** The brackets that have to close the open ones, the outermost first. */
  const open: string[] = [];
  let [depth, key, keyAt, valueAt] = [0, '', 0, 0];
  let expected: Expected = 'value';
  let previous = 'start';
  let at = endOf(blanks, text, 0);
  const isObject = text[at] === '{';
  while (at < text.length || expected !== 'end') {
    const token = tokenAt(text, at);
    const next = follow(token, expected, previous, open);
    if (next === undefined)
      return { fields, isObject, depth, fault: faultAt(text, at, expected, previous, open.at(-1)) };
    const end = at + token.length;
    depth = Math.max(depth, open.length);
    if (open.length === 1 && isObject) {
      if (next === 'colon') [key, keyAt] = [String(JSON.parse(token)), at];
      else if (token === ':') valueAt = endOf(blanks, text, end);
      else if (next === 'comma') fields.push({ key, raw: text.slice(valueAt, end), keyAt, at: valueAt });
    }
    [expected, previous] = [next, token];
    at = endOf(blanks, text, end);
  }
  return { fields, isObject, depth };
}

/** The token at `at`; empty when there is none, or none that JSON knows. */
function tokenAt(text: string, at: number): string {
  const character = text[at] ?? '';
  if ('{}[],:'.includes(character)) return character;
  const end = endOf(character === '"' ? openString : scalar, text, at);
  if (character !== '"') return text.slice(at, end);
  return text[end] === '"' ? text.slice(at, end + 1) : '';
}

function endOf(pattern: RegExp, text: string, at: number): number {
  pattern.lastIndex = at;
  return pattern.test(text) ? pattern.lastIndex : at;
}

/** Opens or closes a bracket in `open`. Returns what has to follow; undefined for a misplaced token. */
function follow(token: string, expected: Expected, previous: string, open: string[]): Expected | undefined {
  const after = () => (open.length > 0 ? 'comma' : 'end');
  const inside = () => (open.at(-1) === '}' ? 'key' : 'value');
  if (token === open.at(-1) && (expected === 'comma' || previous === '{' || previous === '[')) {
    open.pop();
    return after();
  }
  if (expected === 'comma') return token === ',' ? inside() : undefined;
  if (expected === 'colon') return token === ':' ? 'value' : undefined;
  if (expected === 'key') return token.startsWith('"') ? 'colon' : undefined;
  if (expected === 'end' || ',:}]'.includes(token)) return undefined;
  if (token !== '{' && token !== '[') return after();
  open.push(token === '{' ? '}' : ']');
  return inside();
}

/** A key ends at a colon; a value may contain colons, as addresses do. */
const keyWord = /[^\s,:{}[\]"']+|[^]/uy;
const word = /[^\s,{}[\]"']+|[^]/uy;

/**
 * Each fault: after which token or before which expected one ('': anywhere; `quotes`: inside a string), the
 * text in that place (% in the words), the words, the remedy. The first that matches counts.
 */
const rules: readonly (readonly [when: string, pattern: RegExp, problem: string, remedy: string])[] = [
  ['quotes', /$/y, 'the quotes are never closed', 'Close the quotes.'],
  ['quotes', /[\n\r]/y, 'a line ends between quotes', 'Remove the line break.'],
  ['quotes', /\\[^]?/y, '% between quotes means nothing to JSON', 'Remove it from between the quotes.'],
  ['quotes', /[^]/y, 'there is the character % between quotes', 'Remove it from between the quotes.'],
  ['', /$/y, 'the text ends before its closing %: it is cut off', 'Store the whole text, to its end.'],
  [
    '',
    /^\ufeff/y,
    'it begins with a byte order mark (BOM)',
    String.raw`Store it without: sed -i '1s/^\xEF\xBB\xBF//' FILE, then etcdctl put KEY < FILE.`,
  ],
  ['', /^'/y, 'it is in single quotes', 'Remove the single quotes around it.'],
  ['', /'/y, 'there are single quotes where JSON needs double quotes', 'Use double quotes.'],
  [
    '',
    /[\u2018-\u201f\u00ab\u00bb\u2039\u203a\uff02`]/y,
    'there are quotes of another kind (%)',
    'Use double quotes (").',
  ],
  ['', /[/#]/y, 'there is a comment; JSON allows none', 'Remove the comment.'],
  ['', /[\p{Z}\p{C}]/uy, 'there is an odd space or invisible character (%)', 'Remove it, or write a space.'],
  ['', /(?!-)[\p{Pd}\u2212]/uy, 'there is a dash of another kind (%)', 'Write a plain hyphen (-).'],
  ['start', /[^]/y, 'it does not begin with an opening brace', 'Write its keys and values in braces.'],
  ['colon', /[},\]]/y, 'a key has no value', 'Give it one, or remove the key.'],
  [':', /[},\]]/y, 'a key has no value', 'Give it one, or remove the key.'],
  [',', /[}\]]/y, 'there is a comma too many before the closing %', 'Remove the comma.'],
  ['end', /[}\]]/y, 'there is a closing % too many', 'Remove it.'],
  ['', /[}\]]/y, 'the closing % does not match the bracket that is open', 'Close that bracket first.'],
  ['', /,/y, 'there is a comma too many', 'Remove the comma.'],
  ['colon', word, 'there is % where a colon belongs', 'Write a colon after the key.'],
  ['comma', /"/y, 'there is no comma before the next quotes', 'Write a comma between two members.'],
  ['comma', word, 'there is no comma before %', 'Write the comma, or the quotes that are missing before it.'],
  ['end', /[{["]/y, 'a second document follows the first', 'Remove what does not belong to it.'],
  ['end', /[^]/y, 'more text follows after the end', 'Remove what does not belong to it.'],
  ['key', /[{[]/y, 'there is a value where a key belongs', 'Write a key in double quotes before it.'],
  ['key', keyWord, 'the key % has no double quotes', 'Use double quotes (").'],
  ['', /:/y, 'there is a colon too many', 'Remove the colon.'],
  ['', /(?:true|yes|on)(?![^\s,}\]])/iy, '% is not a JSON word: write true', 'Write true.'],
  ['', /(?:false|no|off)(?![^\s,}\]])/iy, '% is not a JSON word: write false', 'Write false.'],
  ['', /(?:none|null|nil|undefined)(?![^\s,}\]])/iy, '% is not a JSON word: write null', 'Write null.'],
  [
    '',
    /[-+]?(?:0x[\da-f]+|\d+\.?\d*|\.\d+|NaN|Infinity)(?![^\s,}\]])/iy,
    '% is not a JSON number',
    'Write it in plain decimal digits.',
  ],
  ['', word, 'the value % has no double quotes', 'Use double quotes (").'],
];

function faultAt(text: string, at: number, expected: Expected, previous: string, closing = ''): JsonError {
  const isString = text[at] === '"' && (expected === 'key' || expected === 'value');
  const faultyAt = isString ? endOf(openString, text, at) : at;
  const states = isString ? ['quotes'] : ['', expected, previous];
  for (const [when, pattern, problem, remedy] of rules) {
    pattern.lastIndex = faultyAt;
    const found = states.includes(when) ? pattern.exec(text)?.[0] : undefined;
    if (found === undefined) continue;
    const shown = /^[^ -~]$/.test(found) ? escaped(found) : excerpt(found || closing, 30);
    // A comma too many stands before the bracket that shows it, open quotes before the end of the text.
    const shownAt = when === ',' ? text.lastIndexOf(',', at) : found === '' ? at : faultyAt;
    const place = { at: shownAt, text: placeOf(text, shownAt) };
    return new JsonError(
      problem.replace('%', () => shown),
      remedy,
      place,
    );
  }
  throw new RangeError(`no rule matches: ${excerpt(text.slice(faultyAt))}`);
}

/** How many characters before and after a fault are shown. */
const shownAround = 30;

/** `line 3, column 7, near: …`; for a text of one line `character 7, near: …`. */
function placeOf(text: string, at: number): string {
  const before = text.slice(0, at).split('\n');
  const column = (before.at(-1) ?? '').length + 1;
  const lead = text.trimEnd().includes('\n') ? `line ${before.length}, column` : 'character';
  const start = Math.max(0, at - shownAround);
  const near = excerpt(text.slice(start, at + shownAround), 2 * shownAround);
  const more = at + shownAround < text.length ? '…' : '';
  return `${lead} ${column}, near: ${start > 0 ? '…' : ''}${near}${more}`;
}
