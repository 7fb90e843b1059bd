import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readBlockages } from '../../src/firewall/blockages.ts';
import { CheckedFirewall, Operator } from '../contract/firewall-world.ts';
import { makeBusyboxImage, runBusybox } from '../testbed/busybox.ts';
import { type Docker, startDocker } from '../testbed/docker.ts';
import { tempDir } from '../testbed/run.ts';
import { addresses, FirewallNetwork, networksOf, type Place } from './firewall-network.ts';

const dir = tempDir('firewall-docker');
let network: FirewallNetwork;
let docker: Docker | undefined;
let image: string;

beforeAll(async () => {
  network = await FirewallNetwork.make();
  image = await makeBusyboxImage(dir);
});
afterAll(async () => {
  await docker?.close();
  await network?.close();
  rmSync(dir, { recursive: true, force: true });
});

/** dockerd on host a as with flannel's options; it finds docker0 there. */
async function start(): Promise<Docker> {
  const place = { dir: join(dir, 'a'), namespace: network.host('a').namespace, hostname: 'a' };
  return await startDocker({ ...place, args: ['--bip=10.5.7.1/24', '--ip-masq=false'] });
}

async function reaches(from: Place, address: string, timeoutS = 5): Promise<boolean> {
  const ping = ['ping', '-n', '-c', '1', '-W', String(timeoutS), address];
  return await network
    .host(from)
    .exec(...ping)
    .then(
      () => true,
      () => false,
    );
}

test("with Docker's policy of DROP containers reach each other across hosts, also after Docker was restarted, and what Docker and the operator forbid stays forbidden", async () => {
  await network.host('a').exec('sh', '-c', 'echo 0 >/proc/sys/net/ipv4/ip_forward');
  docker = await start();
  const tools = network.tools('a', 'nft');
  const operator = new Operator(tools);
  expect(await operator.run('iptables-save -t filter')).toContain(':FORWARD DROP');
  const address = await runBusybox(docker, image, 'one');
  expect(await reaches('cb', address, 1)).toBe(false);

  const firewall = new CheckedFirewall(tools, { networks: { ipv4: networksOf('a').ipv4 } });
  await firewall.check();
  expect(await reaches('cb', address)).toBe(true);
  await docker.exec('one', 'ping', '-c', '1', '-W', '5', addresses[4].cb);
  const ours = async () => (await operator.rules('filter')).filter((rule) => rule.includes('flanneld'));
  const before = await ours();

  await docker.docker('network', 'create', 'other');
  await docker.docker(
    'run',
    '--detach',
    '--name',
    'two',
    '--network',
    'other',
    'busybox',
    'sleep',
    '1000000',
  );
  await expect(docker.exec('two', 'ping', '-c', '1', '-W', '1', address)).rejects.toThrow();
  await operator.change('filter', [`-I DOCKER-USER 1 -s ${addresses[4].out} -j DROP`]);
  expect(await reaches('out', address, 1)).toBe(false);
  await docker.docker('rm', '--force', 'two');
  await docker.docker('network', 'rm', 'other');

  await docker.close();
  docker = await start();
  expect(await ours()).toEqual(before);
  await firewall.check();
  expect(firewall.writes).toEqual([]);
  expect(await reaches('cb', await runBusybox(docker, image, 'one'))).toBe(true);
  const passages = [{ ...networksOf('a').ipv4, uplink: 'eth0', bridge: 'docker0' }];
  const { commands } = tools;
  const { signal } = new AbortController();
  // The operator's rule for one address of the outside is none of the network's.
  expect(await readBlockages({ commands, passages, mode: 'iptables' }, signal)).toEqual([]);
});
