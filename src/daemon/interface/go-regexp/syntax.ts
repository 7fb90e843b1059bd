import { excerpt } from '../../../runtime/excerpt.ts';

/** A regular expression, taken apart. */
export type Node =
  /** One character (code point) of a set. */
  | { readonly kind: 'set'; readonly has: CharacterTest }
  /** A condition on the place, which takes no character. */
  | { readonly kind: 'assertion'; readonly what: Assertion }
  | { readonly kind: 'sequence'; readonly parts: readonly Node[] }
  | { readonly kind: 'choice'; readonly options: readonly Node[] }
  /** `max` may be Infinity. Whether greedy or lazy is no matter to whether there is a match. */
  | { readonly kind: 'repeat'; readonly node: Node; readonly min: number; readonly max: number };

/** Whether a character, as a string of one code point, belongs to a set. */
export type CharacterTest = (character: string) => boolean;

export type Assertion =
  | 'text-start'
  | 'text-end'
  | 'line-start'
  | 'line-end'
  | 'word-boundary'
  | 'no-word-boundary';

/** The flags of `(?ims)` in force; `U` (ungreedy) is accepted and means nothing here. */
export interface Flags {
  readonly ignoreCase: boolean;
  readonly multiline: boolean;
  readonly dotAll: boolean;
}

/** A pattern that Go would refuse; `message` says what and where. */
export class GoRegexpError extends Error {
  constructor(what: string, where: string) {
    super(`${what}: ${excerpt(where, 40)}`);
    this.name = 'GoRegexpError';
  }
}

/** A place in a pattern, moved on by those who read it. */
export class Cursor {
  readonly pattern: string;
  at = 0;

  constructor(pattern: string) {
    this.pattern = pattern;
  }

  get rest(): string {
    return this.pattern.slice(this.at);
  }

  get done(): boolean {
    return this.at >= this.pattern.length;
  }

  /** The next character; '' at the end. */
  peek(): string {
    const point = this.pattern.codePointAt(this.at);
    return point === undefined ? '' : String.fromCodePoint(point);
  }

  next(): string {
    const character = this.peek();
    this.at += character.length;
    return character;
  }

  /** Moves past `text` if it comes next. */
  take(text: string): boolean {
    if (!this.pattern.startsWith(text, this.at)) return false;
    this.at += text.length;
    return true;
  }

  /** Moves past what the (sticky) expression matches here, and returns that match. */
  match(expression: RegExp): RegExpExecArray | null {
    expression.lastIndex = this.at;
    const found = expression.exec(this.pattern);
    this.at += found?.[0].length ?? 0;
    return found;
  }
}
