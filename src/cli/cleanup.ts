import { removalOf } from '../backend/hostgw/ownership.ts';
import { cleanupTasks } from '../firewall/tasks.ts';
import { isMissing } from '../firewall/tool.ts';
import type { Family } from '../ip/ip.ts';
import type { Kernel, RouteChange } from '../kernel/kernel.ts';
import type { Commands } from '../runtime/effects.ts';
import { explanationOf } from '../runtime/errors.ts';

export interface CleanupParts {
  readonly commands: Commands;
  readonly say: (line: string) => void;
  readonly dryRun?: boolean;
  readonly routes?: {
    readonly kernel: Kernel;
    /** The protocol number that marks our routes. */
    readonly protocol: number;
  };
}

/**
 * Removes our firewall rules of all networks from this host, in both modes and both families, and with
 * `routes` every route of the main table that has our protocol number. A running daemon puts its own back.
 *
 * Says what it did and resolves to the exit code: 0, or 1 when something could not be removed. Never rejects.
 */
export async function runCleanup(parts: CleanupParts): Promise<0 | 1> {
  const { commands, dryRun = false, routes } = parts;
  const { signal } = new AbortController();
  let found = false;
  let failed = false;
  const say = (line: string) => {
    found = true;
    parts.say(line);
  };
  /** `remove` resolves to whether nothing is left that should go. */
  const attempt = async (what: string, remove: () => Promise<boolean>) => {
    try {
      if (!(await remove())) failed = true;
    } catch (error) {
      // A tool that is not installed has left no rules.
      if (isMissing(error)) return;
      failed = true;
      say(`not removed: ${what}: ${explanationOf(error)}`);
    }
  };
  for (const task of cleanupTasks(commands))
    await attempt(task.name, async () => {
      const removed = dryRun ? !(await task.isDone(signal)) : await task.run(signal);
      if (removed) say(`${dryRun ? 'would remove' : 'removed'} our rules: ${task.name}`);
      return true;
    });
  if (routes !== undefined)
    for (const family of [4, 6] as const)
      await attempt(`routes of IPv${family}`, () => removeRoutes(routes, family, say, dryRun));
  if (!found) say('nothing to remove');
  return failed ? 1 : 0;
}

async function removeRoutes(
  { kernel, protocol }: NonNullable<CleanupParts['routes']>,
  family: Family,
  say: CleanupParts['say'],
  dryRun: boolean,
): Promise<boolean> {
  const read = async () => (await kernel.routes(family)).filter((route) => route.protocol === protocol);
  const ours = await read();
  if (dryRun) {
    for (const { dst } of ours) say(`would remove our route to ${dst}`);
    return true;
  }
  // Routes of other shapes have our number, but the daemon did not make them.
  const changes = ours
    .filter(({ type, special }) => type === 'blackhole' || (type === 'unicast' && !special))
    .flatMap((one): RouteChange[] => {
      const route = removalOf(one);
      return route === undefined ? [] : [{ op: 'remove', route }];
    });
  const results = await kernel.apply(changes);
  // It does not matter who removed a route.
  const left = await read();
  const removed = ours.length - left.length;
  if (removed > 0) say(`removed our routes: ${removed} of IPv${family}`);
  for (const { dst } of left) {
    const result = results[changes.findIndex(({ route }) => route.dst === dst)];
    const why = result?.outcome === 'failed' ? `: ${result.message ?? result.errno}` : '';
    say(
      result?.outcome === 'done'
        ? `a running daemon put back the route to ${dst}`
        : `not removed: the route to ${dst}${why}`,
    );
  }
  return left.length === 0;
}
