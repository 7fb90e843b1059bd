import { expect } from 'vitest';
import { rulesOfFlanneld } from '../integration/flanneld-leavings.ts';
import { type Cluster, CONFIG, makeHosts, PREFIX } from '../testbed/cluster.ts';
import { addContainer, type NamespaceContainer, waysBetween } from '../testbed/container-namespace.ts';
import { untilLines } from '../testbed/netns.ts';
import { lostWhile } from '../testbed/ping.ts';
import { type Flannel, FlannelHost } from './flannel-process.ts';

export type Families = readonly (4 | 6)[];

const DEADLINE_MS = 15_000;
const DUAL_STACK = { ...CONFIG, EnableIPv6: true, IPv6Network: 'fd00:20::/48' };
/** Both families in one key. */
const NEWCOMER = { 4: '172.20.9.0-24', 6: 'fd00:20:0:9::-64' } as const;
const NETWORKS = {
  4: { network: '172.20.0.0/16', multicast: '224.0.0.0/4' },
  6: { network: 'fd00:20::/48', multicast: 'ff00::/8' },
} as const;

/** A host's address on the segment; `last` counts as in 10.211.55.100. */
const addressOn = (family: 4 | 6, last: number): string =>
  family === 4 ? `10.211.55.${last}` : `fd00:55::${last.toString(16)}`;

/** Three hosts that run one program or the other, a container on each, and what has to be so whoever runs where. */
export class MixedCluster {
  readonly hosts: readonly FlannelHost[];
  readonly #cluster: Cluster;
  readonly #families: Families;
  readonly #containers: NamespaceContainer[] = [];
  /** The routes to a peer that is no host here, by family. */
  #others: readonly { readonly family: 4 | 6; readonly route: string }[] = [];

  constructor(cluster: Cluster, families: Families) {
    this.#cluster = cluster;
    this.#families = families;
    this.hosts = cluster.hosts.map(
      (host) => new FlannelHost(host, cluster.etcd.endpoints, ['-ip-masq=true']),
    );
  }

  at(index: number): FlannelHost {
    const host = this.hosts[index];
    if (host === undefined) throw new Error(`there is no host ${index}`);
    return host;
  }

  /** Starts a program on each host, and a container once there are subnets. */
  async start(flannels: readonly Flannel[]): Promise<void> {
    await Promise.all(flannels.map((flannel, index) => this.at(index).start(flannel)));
    for (const host of this.hosts) {
      const gateways = this.#families.map((family) => host.gateway(family));
      this.#containers.push(await addContainer(host.host.net, ...gateways));
    }
  }

  /** Every host routes to its peers and to nobody else. flanneld says READY before it does. */
  async expectRoutes(): Promise<void> {
    for (const host of this.hosts) {
      for (const family of this.#families) {
        const wanted = this.hosts
          .flatMap((peer, index) =>
            peer === host ? [] : [`${peer.subnet(family)} via ${addressOn(family, 100 + index)} dev eth0`],
          )
          .concat(this.#others.filter((other) => other.family === family).map(({ route }) => route));
        await expectSoon(host, wanted, () => host.routes(family));
      }
    }
  }

  /** Each rule of flanneld's is there once, whoever has put it there. */
  async expectRules(host: FlannelHost): Promise<void> {
    for (const family of this.#families) {
      const { filter, nat } = rulesOfFlanneld({ ...NETWORKS[family], subnet: host.subnet(family) });
      await expectSoon(host, [...filter, ...nat], () => host.rules(family));
    }
  }

  /** All keys and values under subnets/. */
  async leases(): Promise<string> {
    return await this.#cluster.etcd.ctl('get', '--prefix', `${PREFIX}/subnets/`);
  }

  /** Gives a peer that is no host here a key, or changes the one it has, and waits until all route to it. */
  async putPeer(leaseId: string, last: number): Promise<void> {
    const key = this.#families.map((family) => NEWCOMER[family]).join('&');
    const PublicIPv6 = this.#families.includes(6) ? addressOn(6, last) : null;
    const value = JSON.stringify({ PublicIP: addressOn(4, last), PublicIPv6, BackendType: 'host-gw' });
    await this.#cluster.etcd.ctl('put', `--lease=${leaseId}`, `${PREFIX}/subnets/${key}`, value);
    this.#others = this.#families.map((family) => ({
      family,
      route: `${NEWCOMER[family].replace('-', '/')} via ${addressOn(family, last)} dev eth0`,
    }));
    await this.expectRoutes();
  }

  /** An etcd lease as flanneld grants it. */
  async grantLease(): Promise<string> {
    return await this.#cluster.etcd.grant(86_400);
  }

  /** Ends that peer's lease, and waits until nobody routes to it. */
  async endPeer(leaseId: string): Promise<void> {
    await this.#cluster.etcd.ctl('lease', 'revoke', leaseId);
    this.#others = [];
    await this.expectRoutes();
  }

  /** Pings between all containers, in each family, while `act` runs, and expects that no packet is lost. */
  async expectNoPacketLost(act: () => Promise<void>): Promise<void> {
    expect(await lostWhile(waysBetween(this.#containers), act)).toEqual([]);
  }

  async close(): Promise<void> {
    await Promise.all(this.#containers.map((container) => container.close()));
    await Promise.all(this.hosts.map((host) => host.close()));
    await this.#cluster.close();
  }
}

/** Makes the hosts, with etcd and a network configuration for these families. On failure nothing is left. */
export async function makeMixedCluster(families: Families): Promise<MixedCluster> {
  const cluster = await makeHosts({ hosts: 3 });
  try {
    if (families.includes(6)) {
      for (const [index, { net }] of cluster.hosts.entries()) {
        await net.setAddresses([`${addressOn(6, 100 + index)}/64`]);
        await net.exec('sh', '-c', 'echo 1 >/proc/sys/net/ipv6/conf/all/forwarding');
      }
    }
    await cluster.startEtcd();
    await cluster.storeConfig(families.includes(6) ? DUAL_STACK : CONFIG);
    return new MixedCluster(cluster, families);
  } catch (error) {
    await cluster.close();
    throw error;
  }
}

async function expectSoon(
  host: FlannelHost,
  wanted: readonly string[],
  look: () => Promise<readonly string[]>,
): Promise<void> {
  const why = () => `${host.host.name}\n${host.tail()}`;
  await untilLines(look, wanted.toSorted(), DEADLINE_MS, why);
}
