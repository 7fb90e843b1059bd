import { writeSync } from 'node:fs';
import { codeOf } from '../runtime/errors.ts';

/** How long one line may wait for a reader that does not read. */
const PATIENCE_MS = 100;
const PAUSE_MS = 5;

/**
 * Returns a function that writes whole lines to a descriptor and is done when it returns. A log that cannot be written is no
 * reason to stop routing: when nobody reads (EPIPE), the disk is full or a non-blocking pipe stays full, lines are
 * dropped, and their number is written as soon as there is room again.
 *
 * `write` is fs.writeSync. `layout` makes of a line of JSON what the lines of this log look like.
 */
export function lineWriter(
  fd: number,
  write: (fd: number, bytes: Buffer) => number = writeSync,
  layout: (line: string) => string = (line) => line,
): (line: string) => void {
  let lost = 0;
  // The end of a line that went out in part: without it the next line would be glued to the first half.
  let unfinished = Buffer.alloc(0);
  return (line) => {
    const msg = `lines of this log were lost, because nobody read them: ${lost}`;
    const notice =
      lost === 0
        ? ''
        : layout(`${JSON.stringify({ level: 'warn', event: 'log-lines-lost', lines: lost, msg })}\n`);
    const text = Buffer.from(notice + line);
    // After a loss only one try: a reader that hangs must not cost us PATIENCE_MS for every line.
    const rest = writeAll(fd, Buffer.concat([unfinished, text]), write, lost === 0 ? PATIENCE_MS : 0);
    if (rest === 0) {
      lost = 0;
      unfinished = Buffer.alloc(0);
    } else if (rest >= text.length) {
      lost += 1;
      unfinished = unfinished.subarray(Math.max(0, unfinished.length - (rest - text.length)));
    } else {
      lost = 0;
      unfinished = Buffer.from(text.subarray(text.length - rest));
    }
  };
}

/** Writes what it can, and returns how many bytes at the end are left. */
function writeAll(
  fd: number,
  bytes: Buffer,
  write: (fd: number, bytes: Buffer) => number,
  patienceMs: number,
): number {
  let at = 0;
  let waitedMs = 0;
  while (at < bytes.length) {
    try {
      at += write(fd, bytes.subarray(at));
    } catch (error) {
      const full = codeOf(error) === 'EAGAIN';
      if (!full || waitedMs >= patienceMs) break;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, PAUSE_MS);
      waitedMs += PAUSE_MS;
    }
  }
  return bytes.length - at;
}
