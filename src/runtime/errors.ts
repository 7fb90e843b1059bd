/** Options of {@link FlannelError}. */
export interface FlannelErrorOptions {
  /** What the user can do about it, one sentence. */
  readonly remedy?: string | undefined;
  readonly cause?: unknown;
}

/**
 * Base of the errors that reach a user: says what failed and why (`message`), what to do (`remedy`), and carries a
 * stable `code` for programs (upper case with underscores, never changed once released).
 */
export class FlannelError extends Error {
  readonly code: string;
  readonly remedy: string | undefined;

  constructor(code: string, message: string, options: FlannelErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = new.target.name;
    this.code = code;
    this.remedy = options.remedy;
  }
}

/** How many causes of causes are looked at: a chain may be a ring. */
const deepestCause = 5;

/** The text of anything thrown, for a log line. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The name that a system error carries (`ENOENT`), or one of ours; undefined for other errors. */
export function codeOf(error: unknown): string | undefined {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  return typeof code === 'string' ? code : undefined;
}

/** As {@link messageOf}, followed by what can be done about it, when that is known. */
export function explanationOf(error: unknown): string {
  const remedy = error instanceof FlannelError ? error.remedy : undefined;
  return remedy === undefined ? messageOf(error) : `${messageOf(error)}. ${remedy}`;
}

/** What the language and Node throw for a bug in the program. Errors of the system are plain Errors with a code. */
const bugTypes = [TypeError, RangeError, ReferenceError, SyntaxError];

/** Whether an error, or a cause of it, is a bug in the program: no wait will fix it, and only its stack tells where it is. */
export function isBug(error: unknown): boolean {
  for (let inner = error, depth = 0; inner instanceof Error && depth < deepestCause; depth++) {
    if (bugTypes.some((type) => inner instanceof type)) return true;
    inner = inner.cause;
  }
  return false;
}

const words: Readonly<Record<string, string>> = {
  EACCES: 'permission denied',
  EPERM: 'this process is not allowed to',
  ENOENT: 'there is no such file or folder',
  EISDIR: 'it is a folder',
  ENOTDIR: 'a part of its path is not a folder',
  EROFS: 'its file system is read-only',
  ENOSPC: 'no space is left there',
  EDQUOT: 'no space is left there by quota',
  ELOOP: 'its symbolic links form a loop',
  ENAMETOOLONG: 'its name is too long',
};

/**
 * Why the system refused something with a file, in words with the error's name behind: Node's own message names a system call, and its
 * paths are those of temporary files and folders. Of other errors the message.
 */
export function systemReason(error: unknown): string {
  const code = codeOf(error) ?? '';
  const known = words[code];
  return known === undefined ? messageOf(error).replace(/, [a-z]+ '.*$/s, '') : `${known} (${code})`;
}
