/** The few file operations the core needs. Errors are Node's own system errors (`code`: ENOENT, EACCES, ENOSPC, …). */
export interface Files {
  /** The file's text, or undefined when there is none at `path`. Throws every other error. */
  readText(path: string): Promise<string | undefined>;
  /**
   * Replaces `path` by `content` so that a reader, or a crash at any point, sees the old file or the new one and never
   * a part: a temporary file beside it is written, fsynced, given `mode` whatever the umask, and renamed; the folder is
   * fsynced too. A symbolic link at `path` is replaced, not followed. Missing folders are created 0755. On failure the
   * temporary file is removed and nothing has changed.
   */
  writeAtomic(path: string, content: string, mode: number): Promise<void>;
  /**
   * Writes to the file that is there, without replacing it and without any of the promises of `writeAtomic`: for the kernel's
   * settings below /proc/sys, which look like files. Nothing is created: ENOENT when there is none.
   */
  writeInPlace(path: string, content: string): Promise<void>;
  /**
   * Calls `onChange` when something happens to `path`, or to the folder it is in, until the returned function is called; more often
   * than needed, and perhaps not at all where the system cannot tell: whoever has to know looks now and then, too. What comes after the
   * first call is told only of what is watched then: when the folder comes or goes, watch again. Never throws.
   */
  watch(path: string, onChange: () => void): () => void;
}
