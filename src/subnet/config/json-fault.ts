import { escaped, excerpt } from '../../runtime/texts.ts';

/** The first thing in a text that JSON does not allow. */
export interface JsonFault {
  /** What it is, where, and the text around it; one line without a full stop. */
  readonly text: string;
  /** What to do about this fault alone: everything else in the text is to stay. */
  readonly remedy: string;
}

interface Found {
  readonly problem: string;
  readonly remedy: string;
}

/** What may come next. */
type Expected = 'value' | 'key' | 'colon' | 'comma' | 'end';

type Last = 'nothing' | 'opening' | 'key' | 'colon' | 'value' | 'comma';

/** So much of the text is shown before and behind the fault. */
const shownBefore = 30;
const shownBehind = 30;

/**
 * Says in words what keeps a text from being JSON (RFC 8259); undefined when nothing does. The engine's own messages differ from version
 * to version, and name tokens rather than mistakes. Uses no recursion, and looks at each character once.
 */
export function jsonFault(text: string): JsonFault | undefined {
  if (text.trim() === '') return { text: 'it is empty', remedy: 'Fill it.' };
  const scanner = new Scanner(text);
  const found = scanner.scan();
  if (found === undefined) return undefined;
  const { problem, remedy } = found;
  return { text: `${problem} (${placeOf(text, scanner.at)})`, remedy };
}

/** `line 3, column 7, near: …`; of one line the column alone. */
function placeOf(text: string, at: number): string {
  const before = text.slice(0, at).split('\n');
  const column = (before.at(-1) ?? '').length + 1;
  const place = text.trimEnd().includes('\n')
    ? `line ${before.length}, column ${column}`
    : `character ${column}`;
  const start = Math.max(0, at - shownBefore);
  const near = excerpt(text.slice(start, at + shownBehind), shownBefore + shownBehind);
  const more = at + shownBehind < text.length ? '…' : '';
  return `${place}, near: ${start > 0 ? '…' : ''}${near}${more}`;
}

/** Words of other languages for what JSON writes otherwise. */
const otherWords: ReadonlyMap<string, string> = new Map(
  Object.entries({
    True: 'true',
    TRUE: 'true',
    yes: 'true',
    on: 'true',
    False: 'false',
    FALSE: 'false',
    no: 'false',
    off: 'false',
    None: 'null',
    NULL: 'null',
    nil: 'null',
    undefined: 'null',
  }),
);

const removeComma = 'Remove the comma.';
const useQuotes = 'Use double quotes (").';
const noValue: Found = { problem: 'a key has no value', remedy: 'Give it one, or remove the key.' };

class Scanner {
  at = 0;
  readonly #text: string;
  /** The closing brackets that are owed. */
  readonly #open: ('}' | ']')[] = [];
  #expected: Expected = 'value';
  #last: Last = 'nothing';

  constructor(text: string) {
    this.#text = text;
  }

  /** The first fault, which is then at `at`. */
  scan(): Found | undefined {
    for (;;) {
      while (' \t\n\r'.includes(this.#text[this.at] ?? 'x')) this.at++;
      const code = this.#text.codePointAt(this.at);
      if (code === undefined) return this.#atEnd();
      const found = this.#token(String.fromCodePoint(code));
      if (found !== undefined) return found;
    }
  }

  #atEnd(): Found | undefined {
    if (this.#expected === 'end') return undefined;
    return {
      problem: `the text ends before its closing ${nameOf(this.#open.at(-1))}: it is cut off`,
      remedy: 'Store the whole text, to its end.',
    };
  }

  #token(character: string): Found | undefined {
    if (character === '}' || character === ']') return this.#close(character);
    if (character === ',') return this.#comma();
    const strange = strangeCharacter(character, this.at);
    if (strange !== undefined) return strange;
    if (this.#expected === 'colon') return this.#colon(character);
    if (this.#expected === 'comma') return this.#noComma(character);
    if (this.#expected === 'end') {
      const isOther = '{["'.includes(character);
      return {
        problem: isOther ? 'a second document follows the first' : 'more text follows behind the end',
        remedy: 'Remove what does not belong to it.',
      };
    }
    if (character === '"') return this.#string();
    return this.#expected === 'key' ? this.#notAKey(character) : this.#value(character);
  }

  #close(character: '}' | ']'): Found | undefined {
    const name = nameOf(character);
    if (this.#open.length === 0)
      return {
        problem:
          this.#last === 'nothing'
            ? `it begins with a closing ${name}`
            : `there is a closing ${name} too many`,
        remedy: `Remove the ${name}.`,
      };
    if (this.#last === 'comma') {
      this.at = this.#text.lastIndexOf(',', this.at);
      return { problem: `there is a comma too many before the closing ${name}`, remedy: removeComma };
    }
    if (this.#last === 'key' || this.#last === 'colon') return noValue;
    const owed = this.#open.pop();
    if (owed !== character)
      return {
        problem: `there is a closing ${name} where a ${nameOf(owed)} has to come first`,
        remedy: `Close the ${nameOf(owed)} first.`,
      };
    return this.#step(1, 'value', this.#open.length > 0 ? 'comma' : 'end');
  }

  #comma(): Found | undefined {
    if (this.#expected === 'end') return { problem: 'a comma follows behind the end', remedy: removeComma };
    if (this.#last === 'key' || this.#last === 'colon') return noValue;
    if (this.#expected !== 'comma') return { problem: 'there is a comma too many', remedy: removeComma };
    return this.#step(1, 'comma', this.#open.at(-1) === '}' ? 'key' : 'value');
  }

  #colon(character: string): Found | undefined {
    if (character === ':') return this.#step(1, 'colon', 'value');
    return {
      problem: character === '=' ? 'there is = where a colon belongs' : 'there is no colon behind a key',
      remedy: 'Write a colon there.',
    };
  }

  #noComma(character: string): Found {
    if (character === ':')
      return { problem: 'there is a colon where a comma belongs', remedy: 'Write a comma there.' };
    return {
      problem: `there is no comma before ${character === '"' ? 'the next quotes' : this.#shownWord('value')}`,
      remedy: 'Write the comma, or the quotes that are missing before it.',
    };
  }

  #notAKey(character: string): Found {
    return '{['.includes(character)
      ? { problem: 'there is a value where a key belongs', remedy: 'Write a key in double quotes before it.' }
      : { problem: `the key ${this.#shownWord('key')} has no double quotes`, remedy: useQuotes };
  }

  #value(character: string): Found | undefined {
    if (character === '{' || character === '[') {
      this.#open.push(character === '{' ? '}' : ']');
      return this.#step(1, 'opening', character === '{' ? 'key' : 'value');
    }
    const word = this.#word('value');
    if (/^(?:true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?)$/.test(word))
      return this.#step(word.length, 'value', this.#open.length > 0 ? 'comma' : 'end');
    if (this.#last === 'nothing')
      return {
        problem: 'it does not begin with an opening brace',
        remedy: 'Write it as JSON, with braces around it and double quotes around keys and texts.',
      };
    if (character === ':') return { problem: 'there is a colon too many', remedy: 'Remove the colon.' };
    const meant = otherWords.get(word);
    if (meant !== undefined)
      return { problem: `${word} is no word of JSON: write ${meant}`, remedy: `Write ${meant}.` };
    const shown = this.#shownWord('value');
    return /^[-+]?(?:0x[\da-f]+|\d+\.?\d*|\.\d+|NaN|Infinity)$/i.test(word)
      ? { problem: `${shown} is no number as JSON writes them`, remedy: 'Write it in plain decimal digits.' }
      : { problem: `the value ${shown} has no double quotes`, remedy: useQuotes };
  }

  /** What is written without a break from here on; of a value colons are a part, as in addresses. */
  #word(of: 'key' | 'value'): string {
    const pattern = of === 'key' ? /[^\s,:{}[\]"']*/y : /[^\s,{}[\]"']*/y;
    pattern.lastIndex = this.at;
    return pattern.exec(this.#text)?.[0] ?? '';
  }

  #shownWord(of: 'key' | 'value'): string {
    return excerpt(this.#word(of) || (this.#text[this.at] ?? ''), 30);
  }

  #string(): Found | undefined {
    const start = this.at;
    for (let at = start + 1; ; at++) {
      const character = this.#text[at];
      if (character === undefined)
        return { problem: 'quotes are opened and never closed', remedy: 'Close the quotes.' };
      if (character === '"') {
        return this.#expected === 'key'
          ? this.#step(at + 1 - start, 'key', 'colon')
          : this.#step(at + 1 - start, 'value', this.#open.length > 0 ? 'comma' : 'end');
      }
      if (character >= ' ' && character !== '\\') continue;
      const problem = faultBetweenQuotes(this.#text, at);
      if (problem !== undefined) {
        this.at = at;
        return { problem, remedy: 'Remove it from between the quotes.' };
      }
      at++;
    }
  }

  #step(by: number, last: Last, expected: Expected): undefined {
    this.at += by;
    this.#last = last;
    this.#expected = expected;
  }
}

/** What is wrong with a control character or a backslash; undefined for a backslash that JSON knows. */
function faultBetweenQuotes(text: string, at: number): string | undefined {
  const character = text[at] ?? '';
  if (character === '\n' || character === '\r') return 'a line ends between quotes';
  if (character < ' ') return `there is the character ${escaped(character)} between quotes`;
  const known = /\\(?:["\\/bfnrt]|u[\da-fA-F]{4})/y;
  known.lastIndex = at;
  return known.test(text)
    ? undefined
    : `${excerpt(text.slice(at, at + 2))} between quotes means nothing to JSON`;
}

function nameOf(bracket: '}' | ']' | undefined): string {
  return bracket === ']' ? 'bracket' : 'brace';
}

/** Characters that look like JSON's, or come along unseen. */
function strangeCharacter(character: string, at: number): Found | undefined {
  const shown = escaped(character);
  if (character === '\ufeff') {
    return at === 0
      ? {
          problem: 'it begins with a byte order mark (BOM)',
          remedy: String.raw`Store it without: sed -i '1s/^\xEF\xBB\xBF//' FILE, then etcdctl put KEY < FILE.`,
        }
      : { problem: `there is a byte order mark (${shown}) in it`, remedy: 'Remove it.' };
  }
  if (character === "'")
    return at === 0
      ? { problem: 'it is in single quotes', remedy: 'Remove the single quotes around it.' }
      : { problem: 'there are single quotes where JSON has double ones', remedy: 'Use double quotes.' };
  if (/[\u2018-\u201f\u00ab\u00bb\u2039\u203a\uff02\u0060]/.test(character))
    return { problem: `there are quotes of another kind (${shown}) where JSON has "`, remedy: useQuotes };
  if (character === '/' || character === '#')
    return { problem: 'there is a comment, and JSON has none', remedy: 'Remove the comment.' };
  if (/[\p{Z}\p{C}]/u.test(character))
    return {
      problem: `there is a blank or an invisible character (${shown})`,
      remedy: 'Remove it, or write a plain blank.',
    };
  if (/[\p{Pd}\u2212]/u.test(character) && character !== '-')
    return { problem: `there is a dash of another kind (${shown})`, remedy: 'Write a plain hyphen (-).' };
  return undefined;
}
