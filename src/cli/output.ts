import { explanationOf } from '../runtime/errors.ts';
import { escapeControls, oneLine } from '../runtime/texts.ts';
import { RegistryError } from '../subnet/registry/registry.ts';

/** 0 fine, 1 a problem was found, 2 wrong usage, 3 etcd could not be asked. */
export type ExitCode = 0 | 1 | 2 | 3;

/** Where a command prints, and how. */
export interface Output {
  readonly out: (line: string) => void;
  readonly err: (line: string) => void;
  /** One JSON document on `out` instead of text. */
  readonly json: boolean;
  /** `out` is a terminal that shows colours. */
  readonly colors: boolean;
}

/** Prints one JSON document on one line. */
export function printJson({ out }: Pick<Output, 'out'>, value: object): void {
  out(escapeControls(JSON.stringify(value)));
}

/** Why a command did not do what it was asked for; for programs, beside the codes of errors. */
export type ComplaintCode =
  | 'BLIND'
  | 'CONFIG_MISSING'
  | 'CONFIG_UNUSABLE'
  | 'EDITOR_FAILED'
  | 'NOBODY_TO_ASK'
  | 'NOT_RESERVED'
  | 'NO_SUCH_LEASE'
  | 'NO_SUCH_RESERVATION'
  | 'RACE_LOST'
  | 'UNREADABLE';

/** Says why a command did not do what it was asked for, as JSON where that is wanted. */
export function complain(output: Output, text: string, code: ComplaintCode | RegistryError): void {
  if (!output.json) return output.err(text);
  printJson(output, { error: text, code: typeof code === 'string' ? code : code.code });
}

/** What `ask` resolves to; 3 where etcd cannot be asked, after saying why. Rejects only with `signal.reason`. */
export async function askingEtcd(
  output: Output,
  signal: AbortSignal,
  ask: () => Promise<ExitCode>,
): Promise<ExitCode> {
  try {
    return await ask();
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof RegistryError)) throw error;
    complain(output, oneLine(explanationOf(error)), error);
    return 3;
  }
}

const codes = { bold: 1, dim: 2, red: 31, green: 32, yellow: 33 } as const;

/** The text in a colour, where colours are shown. */
export function paint({ colors }: Pick<Output, 'colors'>, color: keyof typeof codes, text: string): string {
  return colors && text !== '' ? `\u001b[${codes[color]}m${text}\u001b[0m` : text;
}

/** The widest line; a terminal of a rack console has no more. */
const lineWidth = 80;

/** The text as lines of 80 columns; the second and later ones indented by so many blanks. A longer word stays whole. */
export function wrapped(text: string, indent: number): readonly string[] {
  const [lead = ''] = /^ */.exec(text) ?? [];
  const lines: string[] = [];
  let line = lead;
  for (const word of text.slice(lead.length).split(' ')) {
    const isFirst = line.trim() === '';
    const longer = isFirst ? line + word : `${line} ${word}`;
    if (!isFirst && longer.length > lineWidth) {
      lines.push(line.trimEnd());
      line = ' '.repeat(indent) + word;
    } else line = longer;
  }
  return [...lines, line];
}
