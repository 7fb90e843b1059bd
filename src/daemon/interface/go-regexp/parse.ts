import { bracketClass, characterTest, escapedCharacter, escapedClass } from './sets.ts';
import { type Assertion, Cursor, type Flags, GoRegexpError, type Node } from './syntax.ts';

/** As in Go: groups in groups, one count, and the product of the counts of repeats in repeats. */
const deepest = 1_000;
const highestCount = 1_000;

/** The parts of a group read so far: finished alternatives, and the one under way. */
interface Group {
  readonly options: Node[];
  parts: Node[];
  /** Flags in force outside, which return at its end. */
  readonly outerFlags: Flags;
  readonly start: number;
}

/**
 * Takes a pattern of Go's `regexp` package (RE2's syntax with Perl's additions) apart. Throws {@link GoRegexpError} for what
 * Go refuses, lookaround and backreferences among it.
 */
export function parseGoRegexp(pattern: string): Node {
  return new Parser(pattern).parse();
}

class Parser {
  readonly #cursor: Cursor;
  readonly #names = new Set<string>();
  readonly #groups: Group[] = [];
  #group: Group;
  #flags: Flags = { ignoreCase: false, multiline: false, dotAll: false };
  /** Where the repeat began that was read last; undefined when something else was. */
  #lastRepeat: number | undefined;

  constructor(pattern: string) {
    this.#cursor = new Cursor(pattern);
    this.#group = { options: [], parts: [], outerFlags: this.#flags, start: 0 };
  }

  parse(): Node {
    const cursor = this.#cursor;
    while (!cursor.done) {
      if (this.#repeat()) continue;
      this.#lastRepeat = undefined;
      if (cursor.take('|')) this.#endOption();
      else if (cursor.peek() === '(') this.#open();
      else if (cursor.take(')')) this.#close();
      else this.#atom();
    }
    if (this.#groups.length > 0) throw new GoRegexpError('missing closing )', cursor.pattern);
    return endOf(this.#group);
  }

  #add(node: Node): void {
    this.#group.parts.push(node);
  }

  #addCharacter(character: string): void {
    this.#add({ kind: 'set', has: characterTest(character, this.#flags.ignoreCase) });
  }

  #endOption(): void {
    this.#group.options.push({ kind: 'sequence', parts: this.#group.parts });
    this.#group.parts = [];
  }

  #atom(): void {
    const cursor = this.#cursor;
    const { ignoreCase, multiline, dotAll } = this.#flags;
    const assertion = (what: Assertion) => this.#add({ kind: 'assertion', what });
    if (cursor.peek() === '[') return this.#add({ kind: 'set', has: bracketClass(cursor, ignoreCase) });
    if (cursor.take('.')) return this.#add({ kind: 'set', has: (character) => dotAll || character !== '\n' });
    if (cursor.take('^')) return assertion(multiline ? 'line-start' : 'text-start');
    if (cursor.take('$')) return assertion(multiline ? 'line-end' : 'text-end');
    if (cursor.peek() !== '\\') return this.#addCharacter(cursor.next());
    if (cursor.take('\\A')) return assertion('text-start');
    if (cursor.take('\\z')) return assertion('text-end');
    if (cursor.take('\\b')) return assertion('word-boundary');
    if (cursor.take('\\B')) return assertion('no-word-boundary');
    if (cursor.take('\\Q')) return this.#quoted();
    const has = escapedClass(cursor, ignoreCase);
    if (has !== undefined) return this.#add({ kind: 'set', has });
    this.#addCharacter(escapedCharacter(cursor));
  }

  /** Up to `\E`, or to the end. */
  #quoted(): void {
    const [text = ''] = this.#cursor.match(/.*?(?=\\E)|.*/sy) ?? [];
    for (const character of text) this.#addCharacter(character);
    this.#cursor.take('\\E');
  }

  #open(): void {
    const cursor = this.#cursor;
    const start = cursor.at;
    const outerFlags = this.#flags;
    cursor.take('(');
    if (cursor.peek() === '?' && this.#openSpecial(start)) return;
    if (this.#groups.length >= deepest)
      throw new GoRegexpError('expression nests too deeply', cursor.pattern);
    this.#groups.push(this.#group);
    this.#group = { options: [], parts: [], outerFlags, start };
  }

  /** What follows `(?`; returns whether it was flags alone, and no group. */
  #openSpecial(start: number): boolean {
    const cursor = this.#cursor;
    const look = cursor.match(/\?<?[=!]/y);
    if (look !== null) throw new GoRegexpError('Go has no lookahead or lookbehind', `(${look[0]}`);
    if (/^\?P?</.test(cursor.rest)) {
      this.#named(start);
      return false;
    }
    const found = cursor.match(/\?([imsU]*)(?:-([imsU]+))?([:)])/y);
    if (found === null) {
      const [text = '('] = /^\(\?[^:)]*[:)]?/su.exec(cursor.pattern.slice(start)) ?? [];
      throw new GoRegexpError('invalid or unsupported Perl syntax', text);
    }
    const [, on = '', off = '', end] = found;
    const flag = (letter: string, now: boolean) => (now || on.includes(letter)) && !off.includes(letter);
    this.#flags = {
      ignoreCase: flag('i', this.#flags.ignoreCase),
      multiline: flag('m', this.#flags.multiline),
      dotAll: flag('s', this.#flags.dotAll),
    };
    return end === ')';
  }

  #named(start: number): void {
    const name = this.#cursor.match(/\?P?<(\w+)>/y)?.[1];
    if (name !== undefined && !this.#names.has(name)) {
      this.#names.add(name);
      return;
    }
    const what = name === undefined ? 'invalid named capture' : 'duplicate capture group name';
    throw new GoRegexpError(what, this.#cursor.pattern.slice(start));
  }

  #close(): void {
    const outer = this.#groups.pop();
    if (outer === undefined) throw new GoRegexpError('unexpected )', this.#cursor.pattern);
    const node = endOf(this.#group);
    this.#flags = this.#group.outerFlags;
    this.#group = outer;
    this.#add(node);
  }

  /** Reads a repeat and applies it to what stands before it; false when something else comes next. */
  #repeat(): boolean {
    const cursor = this.#cursor;
    const start = cursor.at;
    const counts = readCounts(cursor);
    if (counts === undefined) return false;
    cursor.take('?');
    const text = cursor.pattern.slice(start, cursor.at);
    if (this.#lastRepeat !== undefined) {
      const both = cursor.pattern.slice(this.#lastRepeat, cursor.at);
      throw new GoRegexpError('invalid nested repetition operator', both);
    }
    const node = this.#group.parts.pop();
    if (node === undefined) throw new GoRegexpError('missing argument to repetition operator', text);
    const { min, max } = counts;
    const repeat: Node = { kind: 'repeat', node, min, max };
    const tooHigh = [min, max].some((count) => Number.isFinite(count) && count > highestCount);
    if (tooHigh || min > max || !countsFit(repeat, highestCount)) {
      throw new GoRegexpError('invalid repeat count', text);
    }
    this.#add(repeat);
    this.#lastRepeat = start;
    return true;
  }
}

function endOf({ options, parts }: Group): Node {
  const last: Node = { kind: 'sequence', parts };
  return options.length === 0 ? last : { kind: 'choice', options: [...options, last] };
}

function readCounts(cursor: Cursor): { readonly min: number; readonly max: number } | undefined {
  if (cursor.take('*')) return { min: 0, max: Number.POSITIVE_INFINITY };
  if (cursor.take('+')) return { min: 1, max: Number.POSITIVE_INFINITY };
  if (cursor.take('?')) return { min: 0, max: 1 };
  // Anything else in braces, and a number with a leading zero, is plain text.
  const found = cursor.match(/\{(0|[1-9]\d*)(,(0|[1-9]\d*)?)?\}/y);
  if (found === null) return undefined;
  const [, min = '', comma, max] = found;
  return {
    min: Number(min),
    max: comma === undefined ? Number(min) : Number(max ?? Number.POSITIVE_INFINITY),
  };
}

/** Whether counts within counts multiply to no more than `limit`: they are written out for matching. */
function countsFit(node: Node, limit: number): boolean {
  if (node.kind === 'sequence') return node.parts.every((part) => countsFit(part, limit));
  if (node.kind === 'choice') return node.options.every((option) => countsFit(option, limit));
  if (node.kind !== 'repeat') return true;
  const times = Number.isFinite(node.max) ? node.max : node.min;
  if (times === 0 && Number.isFinite(node.max)) return true;
  return times <= limit && countsFit(node.node, Math.floor(limit / Math.max(times, 1)));
}
