import { isBug } from '../../src/runtime/errors.ts';
import { occupiedSubnets } from '../../src/subnet/keys.ts';
import type { SimHost } from '../host.ts';
import { fitsPools, isContested, isExhausted, leasesOf } from './invariants-leases.ts';
import { holderOf, missingRules, selfOf, subnetsPrefix, wrongFiles } from './oracle.ts';
import type { World } from './world.ts';

/** Timers of one daemon; what is more is a leak. */
const mostTimers = 60;
/** So long two hosts may think that they have one subnet. */
const sharedLimitMs = 30_000;

/** What holds at any time: no daemon ends by itself or meets a mistake of its own. */
export function checkDaemons(world: World): void {
  for (const host of world.hosts) {
    const { notifier } = host;
    if (notifier.isReady && !world.readySinceMs.has(notifier)) world.readySinceMs.set(notifier, world.nowMs);
    if (host.running && host.ended) {
      world.violate('no daemon ends by itself', `${host.name} ended: ${describe(host.ended.error)}`);
    }
  }
  checkSharing(world);
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
  const most = mostTimers * (world.hosts.length + 4 + world.ends);
  if (pending > most) world.violate('timers do not pile up', `${pending} timers wait`);
}

/** No subnet has two hosts that both say that all is well: not for longer than it takes to notice. */
function checkSharing(world: World): void {
  const ready = new Map<string, SimHost[]>();
  for (const host of world.present) {
    const subnet = host.running && host.readiness.ready ? selfOf(host, 4)?.subnet.text : undefined;
    // Of another host that has taken its subnet it may not have heard yet.
    const knows = !host.clock.suspended && !world.hearsLate(host) && host.files.writeError === undefined;
    if (subnet !== undefined && knows) ready.set(subnet, [...(ready.get(subnet) ?? []), host]);
  }
  for (const subnet of world.sharedSinceMs.keys())
    if ((ready.get(subnet)?.length ?? 0) < 2) world.sharedSinceMs.delete(subnet);
  for (const [subnet, hosts] of ready) {
    if (hosts.length < 2) continue;
    const sinceMs = world.sharedSinceMs.get(subnet) ?? world.nowMs;
    world.sharedSinceMs.set(subnet, sinceMs);
    if (world.nowMs - sinceMs <= sharedLimitMs) continue;
    const names = hosts.map(({ name }) => name).join(' and ');
    world.violate('8 no subnet has two owners', `${names} are ready with ${subnet}`);
  }
}

/** What is not as it has to be with the daemons, at rest: each is up, and says that all is well, or what it waits for. */
export function daemonProblems(world: World): readonly string[] {
  return world.present.flatMap((host) => {
    if (!host.running) return [`${host.name} is not running`];
    const { ready, reasons } = host.readiness;
    const said = reasons.join('; ');
    const missing = host.notifier.isReady ? missingRules(host) : [];
    if (missing.length > 0) return [`${host.name} lacks firewall rules: ${missing.join(' ')}`];
    const wrong = ready ? wrongFiles(host) : [];
    if (wrong.length > 0) return [`${host.name} has files that are wrong: ${wrong.join('; ')}`];
    if (isContested(world, host)) return [];
    if (isStarved(world, host))
      return /no free subnet|uses this host's address/.test(said)
        ? []
        : [`${host.name} has no subnet and does not say why: ${said}`];
    if (ready || isRefused(host)) return [];
    return [`${host.name} is not ready: ${said}`];
  });
}

/** Who has no subnet, or not his own, when there is one for each host and all leases that nobody renews have ended. */
export function waitingProblems(world: World): readonly string[] {
  const { present, scenario, kvs } = world;
  // Of a host that works with another one, or for an address that its host has no more.
  const reserved = kvs.filter((kv) => {
    const subnets = occupiedSubnets(subnetsPrefix, kv.key).map(({ text }) => text);
    const isUsed = present.some((host) => {
      const mayUse = holderOf(kv) === host.address || !isStarved(world, host);
      return mayUse && subnets.includes(selfOf(host, 4)?.subnet.text ?? '');
    });
    return kv.lease === '0' && fitsPools(world, kv.key) && !isUsed;
  });
  const enough = scenario.pool - reserved.length >= present.length;
  return present.flatMap((host) => {
    if (isRefused(host)) return [`${host.name} still is refused: ${host.readiness.reasons.join('; ')}`];
    return enough && isStarved(world, host) ? [`${host.name} has no subnet`] : [];
  });
}

/** Whether a host can have no subnet because all are taken; a lease that does not fit any more is none to start with. */
export function isStarved(world: World, host: SimHost): boolean {
  const own = leasesOf(world, host);
  return (
    isExhausted(world) &&
    (host.notifier.isReady ? own : own.filter((key) => fitsPools(world, key))).length === 0
  );
}

/** Whether a host waits for its address to be its alone; it asks every ten minutes at least. */
export function isRefused({ readiness: { ready, reasons } }: SimHost): boolean {
  return !ready && reasons.some((reason) => reason.includes("uses this host's address"));
}

function describe(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
