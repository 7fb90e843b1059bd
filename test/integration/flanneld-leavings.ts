import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { type Cluster, type ClusterHost, PREFIX } from '../testbed/cluster.ts';
import { run } from '../testbed/commands.ts';
import { leaseValue } from '../testbed/lease-keys.ts';

/** A host that flanneld has run on, and the third number of its subnet 172.20.x.0/24. */
export interface FormerHost {
  readonly host: ClusterHost;
  readonly third: number;
}

/** What flanneld v0.28.9 has written and left on a host, byte for byte. */
export function subnetEnvOf(third: number, ipMasq = false): string {
  return [
    'FLANNEL_NETWORK=172.20.0.0/16',
    `FLANNEL_SUBNET=172.20.${third}.1/24`,
    'FLANNEL_MTU=1500',
    `FLANNEL_IPMASQ=${ipMasq}`,
    '',
  ].join('\n');
}

/** What flanneld v0.28.9 leaves when it ends: key, value and etcd lease, subnet.env, and routes that name no protocol. */
export async function leaveAsFlanneld(
  cluster: Cluster,
  formerHosts: readonly FormerHost[],
  ipMasq = false,
): Promise<void> {
  for (const { host, third } of formerHosts) {
    const leaseId = await cluster.etcd.grant(86_400);
    const key = `${PREFIX}/subnets/172.20.${third}.0-24`;
    await cluster.etcd.ctl('put', `--lease=${leaseId}`, key, leaseValue(host.address));
    mkdirSync(dirname(host.daemon.subnetFile), { recursive: true });
    writeFileSync(host.daemon.subnetFile, subnetEnvOf(third, ipMasq));
    for (const peer of formerHosts.filter((other) => other.host !== host)) {
      await host.net.ip(`route add 172.20.${peer.third}.0/24 via ${peer.host.address} dev eth0`);
    }
  }
}

/** What a network's rules name. */
export interface RuledNetwork {
  readonly network: string;
  readonly subnet: string;
  readonly multicast: string;
}

export const ruledNetwork = (third: number): RuledNetwork => ({
  network: '172.20.0.0/16',
  subnet: `172.20.${third}.0/24`,
  multicast: '224.0.0.0/4',
});

/** The rules flanneld v0.28.9 has with --ip-masq, in the order and the words of iptables-save, by table. */
export function rulesOfFlanneld({
  network,
  subnet,
  multicast,
}: RuledNetwork): Readonly<Record<'filter' | 'nat', readonly string[]>> {
  const forward = '-m comment --comment "flanneld forward"';
  const masquerade = '-m comment --comment "flanneld masq"';
  return {
    filter: [
      `-A FORWARD ${forward} -j FLANNEL-FWD`,
      `-A FLANNEL-FWD -s ${network} ${forward} -j ACCEPT`,
      `-A FLANNEL-FWD -d ${network} ${forward} -j ACCEPT`,
    ],
    nat: [
      `-A POSTROUTING ${masquerade} -j FLANNEL-POSTRTG`,
      `-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 ${masquerade} -j RETURN`,
      `-A FLANNEL-POSTRTG -s ${subnet} -d ${network} ${masquerade} -j RETURN`,
      `-A FLANNEL-POSTRTG -s ${network} -d ${subnet} ${masquerade} -j RETURN`,
      `-A FLANNEL-POSTRTG ! -s ${network} -d ${subnet} ${masquerade} -j RETURN`,
      `-A FLANNEL-POSTRTG -s ${network} ! -d ${multicast} ${masquerade} -j MASQUERADE --random-fully`,
      `-A FLANNEL-POSTRTG ! -s ${network} -d ${network} ${masquerade} -j MASQUERADE --random-fully`,
    ],
  };
}

/** Leaves its firewall rules on a host, behind what is there. */
export async function leaveRulesOfFlanneld({ host, third }: FormerHost): Promise<void> {
  const { filter, nat } = rulesOfFlanneld(ruledNetwork(third));
  const table = (name: string, chain: string, rules: readonly string[]) =>
    `*${name}\n:${chain} - [0:0]\n${rules.join('\n')}\nCOMMIT\n`;
  const text = table('filter', 'FLANNEL-FWD', filter) + table('nat', 'FLANNEL-POSTRTG', nat);
  const argv = [`--net=/run/netns/${host.net.namespace}`, '--', 'iptables-restore', '--noflush'];
  await run('nsenter', argv, text);
}
