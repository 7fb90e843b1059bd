/** Options of {@link FlannelError}. */
export interface FlannelErrorOptions {
  /** What the user can do about it, one sentence. */
  readonly remedy?: string;
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

/** The text of anything thrown, for a log line. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** As {@link messageOf}, followed by what can be done about it, when that is known. */
export function explanationOf(error: unknown): string {
  const remedy = error instanceof FlannelError ? error.remedy : undefined;
  return remedy === undefined ? messageOf(error) : `${messageOf(error)}. ${remedy}`;
}
