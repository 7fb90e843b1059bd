import { FlannelError } from '../../runtime/errors.ts';
import { escapeControls } from '../../runtime/texts.ts';

/** What is wrong with a command line. */
export type UsageErrorKind =
  | 'SYNTAX'
  | 'UNKNOWN_COMMAND'
  | 'UNKNOWN_FLAG'
  | 'MISSING_VALUE'
  | 'BAD_VALUE'
  | 'REFUSED_MODE';

/**
 * The command line or the environment asks for something impossible. The message is one line that names the flag or the
 * variable, what was given and what is allowed; nothing has been touched yet.
 */
export class UsageError extends FlannelError {
  /** What the process ends with. */
  readonly exitCode = 2;

  constructor(kind: UsageErrorKind, message: string) {
    super(`USAGE_${kind}`, message);
  }
}

/**
 * Thrown by the parser of one value, which does not know whose value it is: the message says what is allowed ("must be …").
 * `shown` replaces the value in the report, for a value that must not be printed as it is.
 */
export class InvalidValue extends Error {
  readonly shown: string | undefined;

  constructor(rule: string, shown?: string) {
    super(rule);
    this.name = 'InvalidValue';
    this.shown = shown;
  }
}

const LONGEST_QUOTE = 100;

/** The text in quotes on one line: control characters escaped, the end of a very long one cut off. */
export function quote(text: string): string {
  const cut = text.length > LONGEST_QUOTE ? `${text.slice(0, LONGEST_QUOTE)}…` : text;
  return escapeControls(JSON.stringify(cut));
}
