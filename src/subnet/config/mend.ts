import { type JsonError, jsonFault } from './json.ts';

/** What is wrong with the syntax of a text, and the text with that mended, as far as it can be. */
export interface Mended {
  readonly faults: readonly JsonError[];
  /** JSON. All in it stands where it stood, line by line and column by column. Undefined where no mending is safe. */
  readonly text: string | undefined;
}

/** More say nothing new. */
const mostFaults = 20;

/**
 * Finds the faults of syntax of a text, one behind the other: mends each that people usually make (commas too
 * many or too few, comments, quotes of another kind, Python's words) and looks on. The mended text is for
 * looking alone; nobody stores it.
 */
export function mendJson(given: string): Mended {
  const faults: JsonError[] = [];
  let text = given;
  for (;;) {
    const fault = jsonFault(text);
    if (fault === undefined) return { faults, text };
    faults.push(fault);
    const mended = faults.length < mostFaults ? mend(text, fault) : undefined;
    if (mended === undefined) return { faults, text: undefined };
    text = mended;
  }
}

/** Each mistake: what is in its place, and what to read in its stead, of the same length. The first that fits counts. */
const repairs: readonly (readonly [pattern: RegExp, instead: (found: string) => string])[] = [
  [/\/\/[^\n]*|#[^\n]*|\/\*[^]*?\*\//y, (comment) => comment.replaceAll(/[^\n]/g, ' ')],
  [/'[^'"\n\\]*'/y, (quoted) => `"${quoted.slice(1, -1)}"`],
  [
    /[\u2018-\u201f\u00ab\u00bb\u2039\u203a\uff02`][^"\n\\]*?[\u2018-\u201f\u00ab\u00bb\u2039\u203a\uff02`]/y,
    (quoted) => `"${quoted.slice(1, -1)}"`,
  ],
  [/,/y, () => ' '],
  [/(?:true|false|null)(?![^\s,}\]])/iy, (word) => word.toLowerCase()],
  [/none(?![^\s,}\]])/iy, () => 'null'],
  [/(?! )\p{Z}/uy, (space) => ' '.repeat(space.length)],
];

function mend(text: string, { at, problem }: JsonError): string | undefined {
  if (at === undefined) return undefined;
  if (problem.startsWith('there is no comma before')) return withComma(text, at);
  // The whole text is in quotes, as a shell or a YAML file may leave it.
  if (problem === 'it is in single quotes' && /'\s*$/.test(text))
    return text.replace(/^(\s*)'([^]*)'(\s*)$/, '$1 $2 $3');
  for (const [pattern, instead] of repairs) {
    pattern.lastIndex = at;
    const found = pattern.exec(text)?.[0];
    if (found !== undefined) return text.slice(0, at) + instead(found) + text.slice(at + found.length);
  }
  return undefined;
}

/** Puts the comma in the place of a blank before it, one that ends no line. */
function withComma(text: string, at: number): string | undefined {
  const [blanks = ''] = /[ \t\r\n]*$/.exec(text.slice(0, at)) ?? [];
  const place = blanks.search(/[ \t]/);
  if (place < 0) return undefined;
  const comma = at - blanks.length + place;
  return `${text.slice(0, comma)},${text.slice(comma + 1)}`;
}
