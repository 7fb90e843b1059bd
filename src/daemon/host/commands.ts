import { execFile } from 'node:child_process';
import process from 'node:process';
import { CommandError, type Commands } from '../../runtime/effects.ts';

/** A rule set of ten thousand rules is about a megabyte. */
const LONGEST_OUTPUT_BYTES = 64 << 20;

/** Where Debian and CentOS keep programs for administrators: the PATH of cron, su or a container may lack them. */
const SYSTEM_FOLDERS = ['/usr/sbin', '/sbin', '/usr/bin', '/bin'];

/** This host's programs. `folders` are searched before PATH. */
export function systemCommands(folders: readonly string[] = []): Commands {
  const path = [...folders, process.env['PATH'], ...SYSTEM_FOLDERS].filter(Boolean).join(':');
  const run: Commands['run'] = (program, args, { stdin, timeoutMs }, signal) =>
    new Promise((resolve, reject) => {
      signal.throwIfAborted();
      const env = { ...foreignEnvironment(), PATH: path, LC_ALL: 'C' };
      // Not execFile's own signal option: it would reject while the program is still there.
      const child = execFile(
        program,
        args,
        { env, timeout: timeoutMs, killSignal: 'SIGKILL', maxBuffer: LONGEST_OUTPUT_BYTES },
        (error, stdout, stderr) => {
          signal.removeEventListener('abort', onAbort);
          if (signal.aborted) reject(signal.reason as Error);
          else if (error === null) resolve({ exitCode: 0, stdout, stderr });
          else if (typeof error.code === 'number') resolve({ exitCode: error.code, stdout, stderr });
          else reject(asCommandError(program, timeoutMs, error));
        },
      );
      const onAbort = () => void child.kill('SIGKILL');
      signal.addEventListener('abort', onAbort, { once: true });
      // A program may end without reading its input; its exit code says why.
      child.stdin?.on('error', () => undefined);
      child.stdin?.end(stdin ?? '');
    });
  return { run };
}

/** This process's environment without the variables that are meant for it: they may hold a password. */
function foreignEnvironment(): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^FLANNELD?_/i.test(name)));
}

/** `error` as execFile gives it: `code` is a system error's name, or absent when a signal ended the program. */
function asCommandError(
  program: string,
  timeoutMs: number,
  error: Error & { readonly code?: string | number | null; readonly killed?: boolean },
): CommandError {
  if (error.code === 'ENOENT')
    return new CommandError('COMMAND_MISSING', `${program} is not installed`, error);
  if (error.killed === true && typeof error.code !== 'string') {
    return new CommandError('COMMAND_TIMEOUT', `${program} took longer than ${timeoutMs / 1000} s`, error);
  }
  return new CommandError('COMMAND_FAILED', `${program} could not be run: ${error.message}`, error);
}
