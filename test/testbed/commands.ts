import { execFile } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';

/** Runs a command in a namespace; resolves to its standard output, rejects with its standard error in the message. */
export function exec(namespace: string, ...argv: string[]): Promise<string> {
  return run('nsenter', [`--net=/run/netns/${namespace}`, '--', ...argv]);
}

/** Runs `ip -batch` in a namespace with these lines (each without the leading `ip`). */
export function ipBatch(namespace: string, lines: readonly string[]): Promise<string> {
  const argv = [`--net=/run/netns/${namespace}`, '--', 'ip', '-batch', '-'];
  return run('nsenter', argv, `${lines.join('\n')}\n`);
}

/** The words as a shell takes them, whatever is in them. */
export function quoted(...words: readonly string[]): string {
  return words.map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(' ');
}

/** Between two looks at a condition. */
const SHORTEST_PAUSE_MS = 5;
const LONGEST_PAUSE_MS = 100;

/**
 * Waits until `condition` holds, polled; rejects with `message` after `timeoutMs`. Between two looks it pauses for as long as one
 * takes: most start a process, and what they wait for needs the CPU, as do the tests beside.
 */
export async function until(
  condition: () => boolean | Promise<boolean>,
  timeoutMs: number,
  message: string | (() => string) = 'condition not met',
): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const lookedMs = performance.now();
    if (await condition()) return;
    const now = performance.now();
    if (now > deadline) {
      throw new Error(`${typeof message === 'string' ? message : message()} (after ${timeoutMs} ms)`);
    }
    await sleep(Math.min(LONGEST_PAUSE_MS, Math.max(SHORTEST_PAUSE_MS, now - lookedMs)));
  }
}

/** Waits until what `read` gives is exactly `wanted`, line by line; rejects with both, and with what `more` says, after `timeoutMs`. */
export async function untilLines(
  read: () => Promise<readonly string[]>,
  wanted: readonly string[],
  timeoutMs: number,
  more: () => string = () => '',
): Promise<void> {
  let seen: readonly string[] = [];
  const same = async () => {
    seen = await read();
    return seen.join('\n') === wanted.join('\n');
  };
  await until(same, timeoutMs, () => `wanted:\n${wanted.join('\n')}\nfound:\n${seen.join('\n')}\n${more()}`);
}

/** Runs a command with `input` on its standard input; see {@link exec}. */
export function run(command: string, argv: string[], input?: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = execFile(command, argv, { maxBuffer: 256 << 20 }, (error, stdout, stderr) => {
      if (error === null) resolve(stdout);
      else
        reject(
          new Error(
            `${command} ${argv.join(' ')}: ${stderr.trim() || `it ended with ${error.signal ?? error.code}`}`,
            { cause: error },
          ),
        );
    });
    // A command may end without reading its input; what it says then is in its standard error.
    child.stdin?.on('error', () => undefined);
    child.stdin?.end(input);
  });
}
