import { cleanupTasks } from '../firewall/tasks.ts';
import { isMissing } from '../firewall/tool.ts';
import type { Commands } from '../runtime/commands.ts';
import { explanationOf } from '../runtime/errors.ts';

export interface CleanupOptions {
  readonly commands: Commands;
  /** Takes one line for the operator. */
  readonly say: (line: string) => void;
}

/**
 * Removes the firewall rules of all networks from this host, in both modes and both families; a daemon that still runs puts its own back.
 * Says what it did and resolves to the exit code: 0, or 1 when something could not be removed. Never rejects.
 */
export async function runCleanup({ commands, say }: CleanupOptions): Promise<0 | 1> {
  const { signal } = new AbortController();
  let exitCode: 0 | 1 = 0;
  let found = false;
  for (const task of cleanupTasks(commands)) {
    try {
      if (!(await task.run(signal))) continue;
      found = true;
      say(`removed our rules: ${task.name}`);
    } catch (error) {
      // A tool that is not there has left nothing.
      if (isMissing(error)) continue;
      exitCode = 1;
      say(`not removed: ${task.name}: ${explanationOf(error)}`);
    }
  }
  if (!found && exitCode === 0) say('there were no firewall rules of ours');
  return exitCode;
}
