import { isBug } from '../../src/runtime/errors.ts';
import type { SimHost } from '../host.ts';
import { isContested, isExhausted } from './invariants-leases.ts';
import { holderOf } from './oracle.ts';
import type { World } from './world.ts';

/** Timers of one daemon; what is more is a leak. */
const mostTimers = 60;

/** What holds at any time: no daemon ends by itself or meets a mistake of its own. */
export function checkDaemons(world: World): void {
  for (const host of world.hosts) {
    if (host.running && host.ended) {
      world.violate('no daemon ends by itself', `${host.name} ended: ${describe(host.ended.error)}`);
    }
  }
  const { lines } = world.cluster.log;
  for (; world.linesSeen < lines.length; world.linesSeen++) {
    const line = lines[world.linesSeen];
    const error = line?.fields['error'];
    if (line && error !== undefined && isBug(error)) {
      world.violate('no mistake of the program', `${line.host}: ${line.message}\n${describe(error)}`);
    }
  }
  const { pending } = world.cluster.clock;
  // Those of killed daemons end one by one.
  const most = mostTimers * (world.hosts.length + 4 + world.crashes);
  if (pending > most) world.violate('timers do not pile up', `${pending} timers wait`);
}

/** What is not as it has to be with the daemons, at rest: each is up, and says that all is well. */
export function daemonProblems(world: World): readonly string[] {
  return world.hosts.flatMap((host) => {
    if (!host.running) return [`${host.name} is not running`];
    const { ready, reasons } = host.readiness;
    if (ready || isStarved(world, host) || isContested(world, host)) return [];
    return [`${host.name} is not ready: ${reasons.join('; ')}`];
  });
}

/** Whether a host can have no subnet because all are taken. */
export function isStarved(world: World, host: SimHost): boolean {
  return isExhausted(world) && !world.kvs.some((kv) => holderOf(kv) === host.address);
}

function describe(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
