import { explanationOf } from '../../runtime/errors.ts';
import { oneLine } from '../../runtime/texts.ts';

/** What one check has found. `note`: works, but should be known; `problem`: containers cannot talk, or soon will not. */
export interface Finding {
  readonly level: 'ok' | 'note' | 'problem';
  readonly text: string;
  /** What to do about it. */
  readonly remedy?: string;
}

export const ok = (text: string): Finding => ({ level: 'ok', text });
export const note = (text: string, remedy?: string): Finding => finding('note', text, remedy);
export const problem = (text: string, remedy?: string): Finding => finding('problem', text, remedy);

function finding(level: Finding['level'], text: string, remedy: string | undefined): Finding {
  return { level, text, ...(remedy === undefined ? {} : { remedy }) };
}

/** A check that itself fails is a problem, with its explanation. */
export function failed(what: string, error: unknown): Finding {
  return problem(`${what}: ${explanationOf(error)}`);
}

/** What `check` finds; when it fails, that it does. Rejects only with `signal.reason`. */
export async function attempt(
  what: string,
  signal: AbortSignal,
  check: () => Promise<readonly Finding[]>,
): Promise<readonly Finding[]> {
  try {
    return await check();
  } catch (error) {
    signal.throwIfAborted();
    return [failed(what, error)];
  }
}

const marks: Readonly<Record<Finding['level'], string>> = {
  ok: 'ok     ',
  note: 'note   ',
  problem: 'PROBLEM',
};

/** A finding as it is printed: one line, and one more for the remedy. Values from etcd cannot move the cursor. */
export function linesOf({ level, text, remedy }: Finding): readonly string[] {
  const line = `${marks[level]}  ${oneLine(text)}`;
  return remedy === undefined ? [line] : [line, `         → ${oneLine(remedy)}`];
}

/** The first few of a list, and how many more there are. */
export function few(items: readonly string[], most = 5): string {
  const rest = items.length - most;
  return items.slice(0, most).join(', ') + (rest > 0 ? ` and ${rest} more` : '');
}
