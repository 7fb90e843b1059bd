import { cleanupTasks, type Task } from '../firewall/tasks.ts';
import { isMissing } from '../firewall/tool.ts';
import type { Family } from '../ip/ip.ts';
import type { Kernel, Route, RouteSpec } from '../kernel/kernel.ts';
import type { Commands } from '../runtime/effects.ts';
import { explanationOf, messageOf } from '../runtime/errors.ts';

export interface CleanupParts {
  readonly commands: Commands;
  /** Takes one line for the operator. */
  readonly say: (line: string) => void;
  /** Say what would be removed, and change nothing. */
  readonly dryRun?: boolean;
  /** With it the routes go, too. */
  readonly routes?: {
    readonly kernel: Kernel;
    /** The protocol number that marks our routes. */
    readonly protocol: number;
  };
}

/** What was found and removed; `failed`: not all of it. */
interface Outcome {
  readonly found: boolean;
  readonly failed: boolean;
}

/**
 * Removes the firewall rules of all networks from this host, in both modes and both families, and with `routes` every route of the main
 * table with our protocol number. A daemon that still runs puts its own back.
 *
 * Says what it did and resolves to the exit code: 0, or 1 when something could not be removed. Never rejects.
 */
export async function runCleanup(parts: CleanupParts): Promise<0 | 1> {
  const { routes, say } = parts;
  const outcomes = [await removeRules(parts)];
  if (routes !== undefined) {
    for (const family of [4, 6] as const) outcomes.push(await removeRoutes(routes, family, parts));
  }
  const failed = outcomes.some((outcome) => outcome.failed);
  if (!failed && !outcomes.some(({ found }) => found)) say('there is nothing of ours');
  return failed ? 1 : 0;
}

async function removeRules({ commands, say, dryRun = false }: CleanupParts): Promise<Outcome> {
  const { signal } = new AbortController();
  let found = false;
  let failed = false;
  for (const task of cleanupTasks(commands)) {
    try {
      if (!(await (dryRun ? isLeft(task, signal) : task.run(signal)))) continue;
      found = true;
      say(`${dryRun ? 'would remove' : 'removed'} our rules: ${task.name}`);
    } catch (error) {
      // A tool that is not there has left nothing.
      if (isMissing(error)) continue;
      failed = true;
      say(`not removed: ${task.name}: ${explanationOf(error)}`);
    }
  }
  return { found, failed };
}

async function isLeft(task: Task, signal: AbortSignal): Promise<boolean> {
  return !(await task.isDone(signal));
}

async function removeRoutes(
  { kernel, protocol }: NonNullable<CleanupParts['routes']>,
  family: Family,
  { say, dryRun = false }: CleanupParts,
): Promise<Outcome> {
  try {
    const ours = (await kernel.routes(family)).filter((route) => route.protocol === protocol);
    if (dryRun) {
      for (const { dst } of ours) say(`would remove our route to ${dst}`);
      return { found: ours.length > 0, failed: false };
    }
    const removable = ours.flatMap((route) => specOf(route) ?? []);
    const results = await kernel.apply(removable.map((route) => ({ op: 'remove', route })));
    // A route that is gone by itself is as good.
    const left = (await kernel.routes(family)).filter((route) => route.protocol === protocol);
    const removed = ours.length - left.length;
    if (removed > 0) say(`removed our routes: ${removed} of IPv${family}`);
    for (const { dst } of left) {
      const result = results[removable.findIndex((route) => route.dst === dst)];
      if (result?.outcome === 'done') say(`removed, and put back by a daemon that runs: the route to ${dst}`);
      else
        say(
          `not removed: the route to ${dst}${result?.outcome === 'failed' ? `: ${result.message ?? result.errno}` : ''}`,
        );
    }
    return { found: ours.length > 0, failed: left.length > 0 };
  } catch (error) {
    say(`not removed: routes of IPv${family}: ${messageOf(error)}`);
    return { found: false, failed: true };
  }
}

/** The route as the daemon made it; undefined for one of another kind, which only has its number. */
function specOf({ type, special, gateway, linkIndex, ...route }: Route): RouteSpec | undefined {
  const { family, dst, metric, protocol } = route;
  const key = { family, dst, metric, protocol };
  if (type === 'blackhole') return { ...key, type };
  if (type !== 'unicast' || special || gateway === undefined || linkIndex === undefined) return undefined;
  return { ...key, gateway, linkIndex };
}
