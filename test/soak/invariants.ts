import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { etcdLeaseIds, ownRoutes, routesTo, storedLeases, subnetOf } from '../integration/route-watch.ts';
import type { ClusterHost } from '../testbed/cluster.ts';
import { leaseKey } from '../testbed/lease-keys.ts';
import type { SoakWorld } from './soak-world.ts';

/** What a daemon's process holds. */
export interface Holdings {
  readonly fds: number;
  readonly sockets: number;
  readonly rssMiB: number;
}

/** What a process holds at the moment. */
export function holdingsOf(pid: number): Holdings {
  const fds = readdirSync(`/proc/${pid}/fd`).map((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`);
    } catch {
      return ''; // Closed meanwhile.
    }
  });
  const rssKiB = Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]);
  return {
    fds: fds.length,
    sockets: fds.filter((target) => target.startsWith('socket:')).length,
    rssMiB: rssKiB / 1024,
  };
}

/**
 * What is not as it has to be when nothing happens any more, one line each; none when all is well. `subnets` are those the
 * hosts had at first: nothing that happens here may cost a host its own.
 */
export async function violations(
  world: SoakWorld,
  subnets: ReadonlyMap<ClusterHost, string>,
): Promise<readonly string[]> {
  const { hosts } = world.cluster;
  const ended = hosts.filter(({ daemon }) => !daemon.running);
  if (ended.length > 0)
    return ended.map(({ name, daemon }) => `${name}: the daemon ended\n${daemon.process.tail(10)}`);
  const perHost = await Promise.all(hosts.map((host) => hostViolations(world, host, subnets.get(host))));
  return [...perHost.flat(), ...(await storeViolations(world, subnets))];
}

async function hostViolations(
  world: SoakWorld,
  host: ClusterHost,
  subnet: string | undefined,
): Promise<readonly string[]> {
  const found: string[] = [];
  if (subnetOf(host) !== subnet) found.push(`${host.name}: its subnet is ${subnetOf(host)}, not ${subnet}`);
  const peers = [...world.peers].map(([dst, gateway]) => `${dst} via ${gateway} dev eth0`);
  const wanted = [...routesTo(host, world.cluster.hosts), ...peers].toSorted();
  const present = await ownRoutes(host);
  if (present.join('\n') !== wanted.join('\n'))
    found.push(`${host.name}: routes ${list(present)} instead of ${list(wanted)}`);
  const all = new Set((await host.net.routes()).map(({ dst }) => dst));
  for (const dst of world.foreign.get(host) ?? []) {
    if (!all.has(dst)) found.push(`${host.name}: the foreign route to ${dst} is gone`);
  }
  return found;
}

async function storeViolations(
  world: SoakWorld,
  subnets: ReadonlyMap<ClusterHost, string>,
): Promise<readonly string[]> {
  const [member] = world.members;
  if (member === undefined) throw new Error('there is no etcd');
  const found: string[] = [];
  const stored = await storedLeases(member);
  const keys = stored.map(({ key }) => key).toSorted();
  const wanted = [...subnets.values(), ...world.peers.keys()].map(leaseKey).toSorted();
  if (keys.join('\n') !== wanted.join('\n'))
    found.push(`etcd: keys ${list(keys)} instead of ${list(wanted)}`);
  for (const [{ name, address }, subnet] of subnets) {
    const own = stored.filter(({ value }) => value.includes(`"${address}"`));
    if (own.length !== 1 || own[0]?.key !== leaseKey(subnet))
      found.push(`etcd: ${name} has ${list(own.map(({ key }) => key))}`);
  }
  const attached = stored.map(({ leaseId }) => leaseId).filter((id) => !/^0+$/.test(id));
  const leases = await etcdLeaseIds(member);
  if (leases.join('\n') !== attached.toSorted().join('\n')) {
    found.push(`etcd: ${leases.length} leases, of which ${attached.length} have a key`);
  }
  return found;
}

function list(items: readonly string[]): string {
  return `[${items.join(', ')}]`;
}
