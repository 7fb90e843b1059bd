import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { until } from './commands.ts';

/** What `ip monitor route` has printed, line by line (`Deleted …` for removals), both families, all tables. */
export interface RouteMonitor {
  readonly lines: readonly string[];
  /** Resolves once `predicate` holds for the lines; rejects after `timeoutMs`. */
  waitFor(predicate: (lines: readonly string[]) => boolean, timeoutMs?: number): Promise<void>;
  stop(): Promise<void>;
}

const running = new Set<ChildProcess>();

/** The last resort when a test run dies before stop(). */
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/** Starts `ip monitor route` in a namespace; resolves once it is subscribed, so that no later change is missed. */
export async function monitorRoutes(namespace: string): Promise<RouteMonitor> {
  const argv = [`--net=/run/netns/${namespace}`, '--', 'ip', '-o', '-rcvbuf', '16777216', 'monitor', 'route'];
  const child = spawn('nsenter', argv, { stdio: ['ignore', 'pipe', 'ignore'] });
  running.add(child);
  const ended = new Promise<void>((resolve) =>
    child.once('exit', () => resolve()).once('error', () => resolve()),
  );
  const lines: string[] = [];
  createInterface({ input: child.stdout }).on('line', (line) => lines.push(line));
  await until(() => isSubscribed(child.pid ?? 0), 10_000, 'ip monitor did not subscribe');
  return {
    lines,
    waitFor: (predicate, timeoutMs = 10_000) =>
      until(
        () => predicate(lines),
        timeoutMs,
        () => `ip monitor printed:\n${lines.join('\n')}`,
      ),
    stop: async () => {
      child.kill();
      await ended;
      running.delete(child);
    },
  };
}

/** Whether the process has a NETLINK_ROUTE socket that listens to a group (columns: sk, protocol, port id, groups, …). */
function isSubscribed(pid: number): boolean {
  try {
    const rows = readFileSync(`/proc/${pid}/net/netlink`, 'utf8').split('\n').slice(1);
    const cells = rows.map((row) => row.split(/\s+/));
    return cells.some(([, protocol, port, groups]) => {
      return protocol === '0' && port === String(pid) && Number.parseInt(groups ?? '0', 16) !== 0;
    });
  } catch {
    return false;
  }
}
