import { type Cluster, type ClusterHost, makeHosts } from '../testbed/cluster.ts';
import type { EtcdMember } from '../testbed/etcd.ts';
import type { Chance } from './chance.ts';

/** Short, so that every lease is renewed many times; longer than any outage here. */
const LEASE_TTL_SECONDS = 60;
export const HEALTHZ_PORT = 8471;
const STORE_DEADLINE_MS = 30_000;
const CTL_FLAGS = ['--command-timeout=3s', '--dial-timeout=2s'];
/** Its version is the number of writes; no daemon looks there. */
const WRITES_KEY = '/soak/writes';
/** Below SubnetMin: no daemon takes these itself. */
const PEERS = Array.from({ length: 9 }, (_, index) => index + 1);

/** A running cluster, and what was done to it that is still to be seen: what the invariants are held to. */
export class SoakWorld {
  readonly cluster: Cluster;
  /** Gateways of the peers that are leases alone, by subnet. */
  readonly peers = new Map<string, string>();
  /** Destinations of somebody else's routes, by host. They have to stay. */
  readonly foreign = new Map<ClusterHost, Set<string>>();
  /** How often each fault was made. */
  readonly made = new Map<string, number>();
  #writes = 0;

  constructor(cluster: Cluster) {
    this.cluster = cluster;
    for (const host of cluster.hosts) this.foreign.set(host, new Set());
  }

  /** The host whose daemon is never ended, so that what it holds can be followed. */
  get veteran(): ClusterHost {
    return at(this.cluster.hosts, this.cluster.hosts.length - 1);
  }

  get members(): readonly EtcdMember[] {
    return this.cluster.etcd.members;
  }

  /** Stores a value. */
  async put(key: string, value: string): Promise<void> {
    await this.#write(`put ${JSON.stringify(key)} ${JSON.stringify(value)}`);
  }

  /** Deletes a key. */
  async delete(key: string): Promise<void> {
    await this.#write(`del ${JSON.stringify(key)}`);
  }

  /** Runs etcdctl against one member after the other until it has done `command`. */
  async etcdctl(command: (ctl: (...args: string[]) => Promise<string>) => Promise<string>): Promise<string> {
    return await this.#byAny((member) => command((...args) => member.ctl(...CTL_FLAGS, ...args)));
  }

  /**
   * Changes the store once, however often it has to be tried: a write whose answer was lost may be made long afterwards, when the member
   * that has it reaches its leader again, and would undo what was done since. So each write wants to be the next one.
   */
  async #write(request: string): Promise<void> {
    const next = [`version("${WRITES_KEY}") = "${this.#writes}"`];
    this.#writes += 1;
    await this.#byAny((member) => member.txn(next, [request, `put ${WRITES_KEY} x`], ...CTL_FLAGS));
  }

  async #byAny(run: (member: EtcdMember) => Promise<string>): Promise<string> {
    const deadline = performance.now() + STORE_DEADLINE_MS;
    for (let turn = 0; ; turn++) {
      try {
        return await run(at(this.members, turn % this.members.length));
      } catch (error) {
        if (performance.now() > deadline) throw error;
      }
    }
  }

  /** The key of a peer's subnet; a peer that is there already is not given. */
  newPeer(chance: Chance): { readonly subnet: string; readonly gateway: string } | undefined {
    const free = PEERS.filter((peer) => !this.peers.has(`172.20.${peer}.0/24`));
    if (free.length === 0) return undefined;
    const peer = chance.pick(free);
    return { subnet: `172.20.${peer}.0/24`, gateway: `10.211.55.${200 + peer}` };
  }
}

/** Four hosts, three of them with a member of etcd, and a daemon on each. On failure nothing is left. */
export async function makeSoakWorld(): Promise<SoakWorld> {
  const flags = ['--iface=eth0', `--subnet-lease-ttl=${LEASE_TTL_SECONDS}`, `--healthz-port=${HEALTHZ_PORT}`];
  const cluster = await makeHosts({ hosts: 4, flags });
  try {
    await cluster.startEtcd();
    await cluster.storeConfig();
    await cluster.startDaemons();
    return new SoakWorld(cluster);
  } catch (error) {
    await cluster.close();
    throw error;
  }
}

function at<T>(items: readonly T[], index: number): T {
  const item = items[index];
  if (item === undefined) throw new RangeError(`there is no item ${index}`);
  return item;
}
