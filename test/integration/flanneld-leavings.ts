import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { type Cluster, type ClusterHost, PREFIX } from '../testbed/cluster.ts';
import { leaseValue } from './route-watch.ts';

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
    const granted = await cluster.etcd.ctl('lease', 'grant', '86400');
    const leaseId = /lease (\S+) granted/.exec(granted)?.[1];
    const key = `${PREFIX}/subnets/172.20.${third}.0-24`;
    await cluster.etcd.ctl('put', `--lease=${leaseId}`, key, leaseValue(host.address));
    mkdirSync(dirname(host.daemon.subnetFile), { recursive: true });
    writeFileSync(host.daemon.subnetFile, subnetEnvOf(third, ipMasq));
    for (const peer of formerHosts.filter((other) => other.host !== host)) {
      await host.net.ip(`route add 172.20.${peer.third}.0/24 via ${peer.host.address} dev eth0`);
    }
  }
}
