import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ClusterHost } from '../testbed/cluster.ts';
import { addContainer, type NamespaceContainer, waysBetween } from '../testbed/container-namespace.ts';
import { until } from '../testbed/netns.ts';
import { lostWhile } from '../testbed/ping.ts';
import {
  type FormerHost,
  leaveAsFlanneld,
  leaveRulesOfFlanneld,
  ruledNetwork,
  rulesOfFlanneld,
  subnetEnvOf,
} from './flanneld-leavings.ts';
import { useCluster } from './use-cluster.ts';

const TABLES = ['filter', 'nat'] as const;
const OPERATORS = {
  filter: '-A FORWARD -s 192.0.2.0/24 -j ACCEPT',
  nat: '-A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE',
} as const;

/** Two hosts change from flanneld --ip-masq; the third stands for the world outside. The tests are steps, in this order. */
describe('hosts with the firewall rules of flanneld', () => {
  const cluster = useCluster({ flags: ['-iface=eth0', '-ip-masq', '-iptables-resync=1'] });
  let former: FormerHost;
  let host: ClusterHost;
  let outside: string;
  let containers: readonly NamespaceContainer[] = [];

  beforeAll(async () => {
    host = cluster.at(0);
    outside = cluster.at(2).address;
    former = { host, third: 14 };
    const peer = { host: cluster.at(1), third: 88 };
    await leaveAsFlanneld(cluster, [former, peer], true);
    for (const each of [former, peer]) {
      for (const table of TABLES) {
        await each.host.net.exec('iptables', '-t', table, ...OPERATORS[table].split(' '));
      }
      await leaveRulesOfFlanneld(each);
      await each.host.net.exec('iptables', '-P', 'FORWARD', 'DROP');
    }
    containers = await Promise.all([
      addContainer(host.net, '172.20.14.1/24'),
      addContainer(peer.host.net, '172.20.88.1/24'),
    ]);
  });

  afterAll(() => Promise.all(containers.map((container) => container.close())));

  /** The rules of both tables, in order, with how many packets each has seen. */
  const rules = async () => {
    const saved = await Promise.all(TABLES.map((table) => host.net.exec('iptables-save', '-c', '-t', table)));
    return saved.flatMap((text) =>
      Array.from(text.matchAll(/^\[(\d+):\d+\] (-A .*?) *$/gm), ([, packets = '', rule = '']) => ({
        rule,
        packets: Number(packets),
      })),
    );
  };
  const words = async () => (await rules()).map(({ rule }) => rule);
  const due = () => {
    const { filter, nat } = rulesOfFlanneld(ruledNetwork(former.third));
    return [OPERATORS.filter, ...filter, OPERATORS.nat, ...nat];
  };

  /** Pings between the containers, both ways, and from one to the world outside, which has no route back. */
  const expectNoPacketLost = async (act: () => Promise<void>) => {
    const toOutside = { where: containers[0]?.where ?? [], destination: outside };
    expect(await lostWhile([...waysBetween(containers), toOutside], act)).toEqual([]);
  };

  it('takes them over as they are: none twice, none written anew, none out of its place', async () => {
    // Packets have passed: what is written anew counts from 0 again.
    await expectNoPacketLost(async () => {});
    const before = await rules();
    expect(before.filter(({ packets }) => packets > 0).length).toBeGreaterThan(4);
    expect(before.map(({ rule }) => rule).toSorted()).toEqual(due().toSorted());
    await expectNoPacketLost(async () => {
      await Promise.all(cluster.hosts.slice(0, 2).map(({ daemon }) => daemon.start()));
      // One rule too many changes nothing for a packet. When the second is gone, the check that began with the first is over.
      const [, tooMany = ''] = rulesOfFlanneld(ruledNetwork(former.third)).filter;
      for (let repair = 0; repair < 2; repair++) {
        await host.net.exec('sh', '-c', `iptables ${tooMany}`);
        await until(async () => (await words()).length === before.length, 20_000, 'nothing is repaired');
      }
    });
    const after = await rules();
    expect(after.map(({ rule }) => rule)).toEqual(before.map(({ rule }) => rule));
    // Those of the chain that was repaired do.
    const anew = after.filter(({ packets }, index) => packets < (before[index]?.packets ?? 0));
    expect(anew.filter(({ rule }) => !rule.startsWith('-A FLANNEL-FWD '))).toEqual([]);
    expect(host.daemon.logs.filter(({ event }) => event === 'firewall-set')).toEqual([]);
  });

  it('tells Docker to leave the masquerading to it, in the words flanneld used', () => {
    expect(readFileSync(host.daemon.subnetFile, 'utf8')).toBe(subnetEnvOf(former.third, true));
    expect(readFileSync(host.daemon.dockerOptsFile, 'utf8')).toBe(
      'DOCKER_OPTS=" --bip=172.20.14.1/24 --ip-masq=false --mtu=1500"\n',
    );
  });

  it('leaves them when it stops, and flanneld finds each of them', async () => {
    const before = await words();
    await expectNoPacketLost(async () => {
      expect(await host.daemon.stop()).toEqual({ code: 0, signal: null });
    });
    expect(await words()).toEqual(before);
    // How flanneld looks for a rule.
    for (const table of TABLES) {
      for (const rule of rulesOfFlanneld(ruledNetwork(former.third))[table]) {
        await host.net.exec('sh', '-c', `iptables -t ${table} ${rule.replace(/^-A/, '-C')}`);
      }
    }
  });
});
