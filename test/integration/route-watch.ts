import { expect } from 'vitest';
import { type Cluster, type ClusterHost, PREFIX } from '../testbed/cluster.ts';
import { OUR_PROTOCOL } from '../testbed/daemon.ts';
import type { EtcdMember } from '../testbed/etcd.ts';
import { gaps, type KernelEventLine, type KernelMonitor, routeOf } from '../testbed/kernel-monitor.ts';
import { until, untilLines } from '../testbed/netns.ts';

/** What the kernel told of a route with a gateway. */
export interface RouteChange {
  readonly host: string;
  readonly deleted: boolean;
  readonly dst: string;
  readonly gateway: string;
}

/** What happens to the gateway routes of several hosts, as the kernel tells it. */
export class RouteWatch {
  readonly #monitors = new Map<ClusterHost, KernelMonitor>();
  readonly #marks = new Map<ClusterHost, number>();

  async start(hosts: readonly ClusterHost[]): Promise<void> {
    const started = await Promise.all(hosts.map(async (host) => [host, await host.net.monitor()] as const));
    for (const [host, monitor] of started) this.#monitors.set(host, monitor);
  }

  /** Forgets what has happened so far. */
  async mark(): Promise<void> {
    const mark = async ([host, monitor]: [ClusterHost, KernelMonitor]) =>
      void this.#marks.set(host, await monitor.mark());
    await Promise.all([...this.#monitors].map(mark));
  }

  /** Everything that happened on these hosts from the last mark to this moment; default: on all. */
  async changes(hosts: readonly ClusterHost[] = [...this.#monitors.keys()]): Promise<readonly RouteChange[]> {
    await this.#fence(hosts);
    return hosts.flatMap((host) => this.#seen(host).map(({ change }) => change));
  }

  /** Those after which nothing was left for the destination. */
  async deletions(): Promise<readonly RouteChange[]> {
    const hosts = [...this.#monitors.keys()];
    await this.#fence(hosts);
    return hosts.flatMap((host) => {
      const routes = this.#events(host).flatMap(({ text }) => routeOf(text) ?? []);
      return gaps(routes).flatMap((text) => changeOf(host.name, text) ?? []);
    });
  }

  /**
   * Waits until each of the hosts was given a route to `dst` via `gateway` since the last mark; resolves to the time when
   * the last of them was, in milliseconds since the epoch.
   */
  async arrived(
    hosts: readonly ClusterHost[],
    dst: string,
    gateway: string,
    timeoutMs = 10_000,
  ): Promise<number> {
    return await this.#everywhere(hosts, timeoutMs, `${dst} via ${gateway}`, (change) => {
      return !change.deleted && change.dst === dst && change.gateway === gateway;
    });
  }

  /** Waits until the route to `dst` was deleted on each of the hosts since the last mark; resolves to the time of the last one. */
  async left(hosts: readonly ClusterHost[], dst: string, timeoutMs = 10_000): Promise<number> {
    return await this.#everywhere(hosts, timeoutMs, `no ${dst}`, (change) => {
      return change.deleted && change.dst === dst;
    });
  }

  /** When the last change since the mark happened on these hosts; undefined when there was none. */
  async lastChangeMs(hosts: readonly ClusterHost[]): Promise<number | undefined> {
    await this.#fence(hosts);
    const times = hosts.flatMap((host) => this.#seen(host).map(({ atMs }) => atMs));
    return times.length === 0 ? undefined : Math.max(...times);
  }

  async stop(): Promise<void> {
    await Promise.all([...this.#monitors.values()].map((monitor) => monitor.stop()));
  }

  async #fence(hosts: readonly ClusterHost[]): Promise<void> {
    const monitors = hosts.flatMap((host) => this.#monitors.get(host) ?? []);
    await Promise.all(monitors.map((monitor) => monitor.fence()));
  }

  #seen(host: ClusterHost): readonly SeenChange[] {
    return this.#events(host).flatMap(({ atMs, text }) => {
      const change = changeOf(host.name, routeOf(text) ?? '');
      return change === undefined ? [] : [{ atMs, change }];
    });
  }

  #events(host: ClusterHost): readonly KernelEventLine[] {
    return this.#monitors.get(host)?.events.slice(this.#marks.get(host) ?? 0) ?? [];
  }

  async #everywhere(
    hosts: readonly ClusterHost[],
    timeoutMs: number,
    what: string,
    matches: (change: RouteChange) => boolean,
  ): Promise<number> {
    const first = (host: ClusterHost) => this.#seen(host).find(({ change }) => matches(change));
    const missing = () => hosts.filter((host) => first(host) === undefined);
    await until(
      () => missing().length === 0,
      timeoutMs,
      () =>
        missing()
          .map(({ name, daemon }) => `${name} has not got: ${what}\n${daemon.process.tail(10)}`)
          .join('\n'),
    );
    return Math.max(...hosts.map((host) => first(host)?.atMs ?? 0));
  }
}

interface SeenChange {
  readonly atMs: number;
  readonly change: RouteChange;
}

function changeOf(host: string, route: string): RouteChange | undefined {
  const found = /^(Deleted )?(?:replace )?(?:unicast )?(\S+) via (\S+) /.exec(route);
  if (found === null) return undefined;
  const [, deleted, dst = '', gateway = ''] = found;
  return { host, deleted: deleted !== undefined, dst, gateway };
}

/** The daemon's routes on a host, `dst via gateway`, in order. */
export async function ownRoutes(host: ClusterHost): Promise<readonly string[]> {
  const routes = await host.net.routes();
  return routes
    .filter(({ protocol }) => protocol === OUR_PROTOCOL)
    .map(({ dst, gateway, dev }) => `${dst} via ${gateway} dev ${dev}`)
    .toSorted();
}

/** Waits until these are the daemon's routes on a host. */
export async function untilOwnRoutes(
  host: ClusterHost,
  wanted: readonly string[],
  more = () => host.daemon.process.tail(),
): Promise<void> {
  await untilLines(() => ownRoutes(host), wanted, 10_000, more);
}

/** The subnet of a host in CIDR notation, as its subnet.env says. */
export function subnetOf(host: ClusterHost): string {
  const [address = '', length] = gatewayOf(host).split('/');
  return `${address.replace(/\.1$/, '.0')}/${length}`;
}

/** FLANNEL_SUBNET: the first usable address of the host's subnet, with the length. */
export function gatewayOf(host: ClusterHost): string {
  const gateway = host.daemon.subnetEnv().FLANNEL_SUBNET;
  if (gateway === undefined) throw new Error(`${host.name}: no FLANNEL_SUBNET`);
  return gateway;
}

/** The routes a host has to have when `peers` are there. */
export function routesTo(host: ClusterHost, peers: readonly ClusterHost[]): readonly string[] {
  return peers
    .filter((peer) => peer !== host)
    .map((peer) => `${subnetOf(peer)} via ${peer.address} dev eth0`)
    .toSorted();
}

/** Every host routes to every other one, and to nothing else. */
export async function expectFullMesh(hosts: readonly ClusterHost[]): Promise<void> {
  expect(new Set(hosts.map(subnetOf)).size).toBe(hosts.length);
  for (const host of hosts) expect(await ownRoutes(host), host.name).toEqual(routesTo(host, hosts));
}

/** A key under `subnets/` as etcd holds it. */
export interface StoredLease {
  readonly key: string;
  readonly value: string;
  /** 16 hexadecimal digits, as etcdctl prints and wants it; all of them 0 when the key has none. */
  readonly leaseId: string;
  readonly modRevision: number;
}

/** All keys under `subnets/`. */
export async function storedLeases(member: EtcdMember): Promise<readonly StoredLease[]> {
  const fields = await member.ctl('get', '--prefix', `${PREFIX}/subnets/`, '-w', 'fields');
  const field = (block: string, name: string) => new RegExp(`"${name}" : (.*)`).exec(block)?.[1] ?? '""';
  return fields
    .split(/(?="Key" :)/)
    .slice(1)
    .map((block) => ({
      key: String(JSON.parse(field(block, 'Key'))),
      value: String(JSON.parse(field(block, 'Value'))),
      // A lease id exceeds what a JavaScript number holds.
      leaseId: BigInt(field(block, 'Lease')).toString(16).padStart(16, '0'),
      modRevision: Number(field(block, 'ModRevision')),
    }));
}

/** The key that carries the host's address; throws when there is none. */
export async function storedLease(cluster: Cluster, host: ClusterHost): Promise<StoredLease> {
  const found = (await storedLeases(cluster.etcd.first)).find(({ value }) =>
    value.includes(`"${host.address}"`),
  );
  if (found === undefined) throw new Error(`etcd has no lease of ${host.name}`);
  return found;
}

/** The ids of all leases etcd holds, attached to a key or not. */
export async function etcdLeaseIds(member: EtcdMember): Promise<readonly string[]> {
  return (await member.ctl('lease', 'list')).trim().split('\n').slice(1).toSorted();
}
