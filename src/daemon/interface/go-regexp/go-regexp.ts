import { parseGoRegexp } from './parse.ts';
import { Program } from './program.ts';

export { GoRegexpError } from './syntax.ts';

export interface GoRegexp {
  /** Whether the text has a match anywhere in it. */
  matches(text: string): boolean;
}

/**
 * A pattern of Go's `regexp` package, as flanneld takes them: everything that is legal there means the same here, and what
 * Go refuses is refused by name. A match takes time linear in the text. Throws {@link GoRegexpError}.
 */
export function compileGoRegexp(pattern: string): GoRegexp {
  return new Program(parseGoRegexp(pattern), pattern);
}
