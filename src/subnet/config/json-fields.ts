import { messageOf } from '../../runtime/errors.ts';
import { jsonFault } from './json-fault.ts';

/** One member of a JSON object: its key, unescaped, and its value as it was written, e.g. `24.0`, `"a\u0062"`, `{}`. */
export interface JsonField {
  readonly key: string;
  readonly raw: string;
}

/** Go's decoder refuses deeper nesting; so do we, to accept and refuse the same texts. */
const maxDepth = 10_000;

/** A text that is no JSON object. `message` says in words why. */
export class JsonError extends Error {
  readonly remedy: string | undefined;

  constructor(message: string, remedy?: string) {
    super(message);
    this.name = 'JsonError';
    this.remedy = remedy;
  }
}

/**
 * The members of the JSON object `text`, in their order, duplicates included: Go's decoder assigns them one after the
 * other and looks at how a number is written, both of which JSON.parse's result no longer tells.
 *
 * Throws {@link JsonError} when `text` is no JSON, no object, or nested deeper than Go allows. Uses no recursion.
 */
export function jsonFields(text: string): JsonField[] {
  checkSyntax(text); // From here on the text is known to be well-formed, and finding the members is a matter of counting.
  const fields: JsonField[] = [];
  let at = skipSpace(text, 0);
  if (text[at] !== '{')
    throw new JsonError('it is JSON, but not an object in braces', 'Write its keys and values in braces.');
  at = skipSpace(text, at + 1);
  while (text[at] === '"') {
    const keyEnd = stringEnd(text, at);
    const valueStart = skipSpace(text, skipSpace(text, keyEnd) + 1);
    const valueEnd = endOfValue(text, valueStart);
    const key: unknown = JSON.parse(text.slice(at, keyEnd));
    fields.push({ key: String(key), raw: text.slice(valueStart, valueEnd).trimEnd() });
    at = skipSpace(text, valueEnd + 1);
  }
  return fields;
}

/** JSON.parse decides; what it says of its reasons differs between versions of Node. */
function checkSyntax(text: string): void {
  try {
    JSON.parse(text);
  } catch (error) {
    const fault = jsonFault(text);
    throw new JsonError(fault?.text ?? messageOf(error), fault?.remedy);
  }
}

/** The string that `raw` is, unescaped; undefined when it is another kind of value. */
export function jsonString(raw: string): string | undefined {
  const value: unknown = JSON.parse(raw);
  return typeof value === 'string' ? value : undefined;
}

/**
 * Folds case as Go's encoding/json does when it looks for a field: ASCII letters, and the two characters that Unicode
 * folds into ASCII ones (long s, Kelvin sign). JavaScript's own case mappings fold more.
 */
export function foldKey(key: string): string {
  return key.replaceAll(/[A-Z\u017f\u212a]/g, (letter) => {
    if (letter === '\u017f') return 's';
    return letter === '\u212a' ? 'k' : letter.toLowerCase();
  });
}

function skipSpace(text: string, from: number): number {
  let at = from;
  while (at < text.length && text.charCodeAt(at) <= 0x20) at++;
  return at;
}

/** The position after the string whose opening quote is at `start`. */
function stringEnd(text: string, start: number): number {
  let at = start + 1;
  while (at < text.length && text[at] !== '"') at += text[at] === '\\' ? 2 : 1;
  return at + 1;
}

/** The position of the comma or brace that follows the value at `start`. */
function endOfValue(text: string, start: number): number {
  let depth = 1; // The object around it counts.
  let at = start;
  for (;;) {
    const character = text[at];
    if (character === '"') {
      at = stringEnd(text, at);
      continue;
    }
    if (depth === 1 && (character === ',' || character === '}' || character === undefined)) return at;
    if (character === '{' || character === '[') depth++;
    else if (character === '}' || character === ']') depth--;
    if (depth > maxDepth) throw new JsonError(`it is nested more than ${maxDepth} levels deep`);
    at++;
  }
}
