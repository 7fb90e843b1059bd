import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { CONFIG, PREFIX } from '../testbed/cluster.ts';
import { DaemonProcess } from '../testbed/daemon.ts';
import { type EtcdCluster, startEtcd } from '../testbed/etcd.ts';
import { leaseKey, leaseValue } from '../testbed/lease-keys.ts';
import { type Host, makeNetwork, type Network, until } from '../testbed/netns.ts';
import { tempDir } from '../testbed/run.ts';

const NAME = 'etcd.flannel.test';
const PEER = '10.211.55.102';

let dir: string;
let network: Network;
let host: Host;
let far: Host;
let etcd: EtcdCluster;
let daemon: DaemonProcess;

/** etcd on a host of its own, at two addresses in networks behind it, known to the daemon by one name alone. */
beforeAll(async () => {
  dir = tempDir('by-name');
  network = await makeNetwork([
    { addresses: ['10.211.55.100/24'] },
    { addresses: ['10.211.55.101/24', '10.77.0.5/32', '10.78.0.5/32'] },
  ]);
  const [first, second] = network.hosts;
  if (first === undefined || second === undefined) throw new Error('no hosts');
  host = first;
  far = second;
  await host.ip('route add 10.77.0.0/16 via 10.211.55.101');
  await host.ip('route add 10.78.0.0/16 via 10.211.55.101');
  etcd = await startEtcd({
    dir: join(dir, 'etcd'),
    members: [{ netns: far.namespace, ip: '10.211.55.101' }],
    args: ['--listen-client-urls=http://0.0.0.0:2379'],
  });
  await etcd.ctl('put', `${PREFIX}/config`, JSON.stringify(CONFIG));
  const hostsFile = join(dir, 'hosts');
  writeFileSync(hostsFile, `10.77.0.5 ${NAME}\n10.78.0.5 ${NAME}\n`);
  daemon = new DaemonProcess({
    namespace: host.namespace,
    dir: join(dir, 'host'),
    hostsFile,
    endpoints: `http://${NAME}:2379`,
    prefix: PREFIX,
    flags: ['--iface=eth0'],
  });
  await daemon.start();
});

afterAll(async () => {
  await daemon?.close();
  await etcd?.close();
  await network?.close();
  rmSync(dir, { recursive: true, force: true });
});

const put = (subnet: string) => etcd.ctl('put', leaseKey(subnet), leaseValue(PEER));

async function haveRoutes(...expected: string[]): Promise<void> {
  let seen: readonly string[] = [];
  await until(
    async () => {
      seen = (await host.routes()).filter(({ protocol }) => protocol === '102').map(({ dst }) => dst);
      return seen.toSorted().join() === expected.toSorted().join();
    },
    30_000,
    () => `routes: ${seen.join()}\n${daemon.process.tail()}`,
  );
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
