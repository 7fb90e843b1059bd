import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { CONFIG, PREFIX } from '../testbed/cluster.ts';
import { DaemonProcess, OUR_PROTOCOL } from '../testbed/daemon.ts';
import { type EtcdCluster, startEtcd } from '../testbed/etcd.ts';
import { leaseKey, leaseValue } from '../testbed/lease-keys.ts';
import { type Host, untilLines } from '../testbed/netns.ts';
import { useCluster } from './use-cluster.ts';

const NAME = 'etcd.flannel.test';
const PEER = '10.211.55.102';

const cluster = useCluster({ hosts: 2, etcd: false });
let host: Host;
let far: Host;
let etcd: EtcdCluster;
let daemon: DaemonProcess;

/** etcd on a host of its own, at two addresses in networks behind it, known to the daemon by one name alone. */
beforeAll(async () => {
  [host, far] = [cluster.at(0).net, cluster.at(1).net];
  await far.setAddresses(['10.77.0.5/32', '10.78.0.5/32']);
  await host.ip('route add 10.77.0.0/16 via 10.211.55.101');
  await host.ip('route add 10.78.0.0/16 via 10.211.55.101');
  etcd = await startEtcd({
    dir: join(cluster.dir, 'etcd'),
    members: [{ netns: far.namespace, ip: '10.211.55.101' }],
    args: ['--listen-client-urls=http://0.0.0.0:2379'],
  });
  cluster.onClose(() => etcd.close());
  await etcd.ctl('put', `${PREFIX}/config`, JSON.stringify(CONFIG));
  const hostsFile = join(cluster.dir, 'hosts');
  writeFileSync(hostsFile, `10.77.0.5 ${NAME}\n10.78.0.5 ${NAME}\n`);
  const { options } = cluster.at(0).daemon;
  daemon = new DaemonProcess({ ...options, hostsFile, endpoints: `http://${NAME}:2379` });
  cluster.onClose(() => daemon.close());
  await daemon.start();
});

const put = (subnet: string) => etcd.ctl('put', leaseKey(subnet), leaseValue(PEER));

async function haveRoutes(...expected: string[]): Promise<void> {
  const own = async () => (await host.routes()).filter(({ protocol }) => protocol === OUR_PROTOCOL);
  const seen = async () => (await own()).map(({ dst }) => dst).toSorted();
  await untilLines(seen, expected.toSorted(), 30_000, () => daemon.process.tail());
}

test('a lease cannot take the way to an etcd that is given by name', async () => {
  await put('10.77.0.0/28');
  await put('172.20.1.0/24');
  await haveRoutes('172.20.1.0/24');
  const isTold = ({ msg = '' }) =>
    /10\.77\.0\.0[/-]28.*contains 10\.77\.0\.5, the address of an etcd endpoint/.test(msg);
  await daemon.waitForLog(isTold);
  expect(daemon.logs.filter(isTold)).toHaveLength(1);
});

test('when the other address of etcd is needed, and a lease has taken it, the way there is given back', async () => {
  await put('10.78.0.0/28');
  await haveRoutes('172.20.1.0/24', '10.78.0.0/28');
  await etcd.first.kill();
  await far.ip('addr del 10.77.0.5/32 dev eth0');
  await etcd.first.start();
  // Arrives over the other address; what was refused for the first is not any more.
  await put('172.20.2.0/24');
  await haveRoutes('172.20.1.0/24', '172.20.2.0/24', '10.77.0.0/28');
});
