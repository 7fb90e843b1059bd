import type * as Engine from 're2js';
import { excerpt } from '../../runtime/texts.ts';

// flanneld's --iface-regex has the syntax of Go's package regexp. JavaScript's own expressions mean other things (`$`, `\d` and
// `(?i)` among them) and may take hours on one IPv6 address; re2js is RE2, as Go's package is.

export interface GoRegexp {
  /** Whether the text has a match anywhere in it. Takes time linear in the text. */
  matches(text: string): boolean;
}

/** A pattern that Go would refuse; `message` says what is wrong and where. */
export class GoRegexpError extends Error {
  override readonly name = 'GoRegexpError';
}

let engine: typeof Engine | undefined;

/** To be awaited before the first pattern is compiled: the engine's tables cost tens of milliseconds, which few hosts need. */
export async function loadGoRegexp(): Promise<void> {
  engine ??= await import('re2js');
}

/** Throws {@link GoRegexpError}. */
export function compileGoRegexp(pattern: string): GoRegexp {
  if (engine === undefined) throw new Error('loadGoRegexp() comes first');
  try {
    const compiled = engine.RE2JS.compile(pattern);
    return { matches: (text) => compiled.matcher(text).find() };
  } catch (error) {
    if (error instanceof engine.RE2JSSyntaxException) throw new GoRegexpError(refusalOf(error, pattern));
    throw error;
  }
}

/** What people expect who know other dialects. */
const hints: readonly (readonly [where: RegExp, hint: string])[] = [
  [/^\(\?<?[=!]/, 'Go has no lookahead or lookbehind'],
  [/^\\[1-9k]/, 'Go has no backreferences'],
  [/^\\Z/, 'use \\z for the end of the text'],
  [/^\\u/, 'use \\x{…}'],
];

function refusalOf({ error, input }: Engine.RE2JSSyntaxException, pattern: string): string {
  const where = input ?? pattern;
  const hint = hints.find(([expression]) => expression.test(where))?.[1];
  return `${error}${hint === undefined ? '' : ` (${hint})`}: ${excerpt(where, 40)}`;
}
