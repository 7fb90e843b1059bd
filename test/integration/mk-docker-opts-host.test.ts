import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { onHost, runFolder } from '../testbed/host.ts';
import { makeNetwork, type Network } from '../testbed/netns.ts';
import { runToEnd } from '../testbed/process.ts';
import { tempDir } from '../testbed/run.ts';

const SCRIPT = join(import.meta.dirname, '../../systemd/mk-docker-opts.sh');
const SUBNET_ENV =
  'FLANNEL_NETWORK=172.20.0.0/16\nFLANNEL_SUBNET=172.20.91.1/24\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n';

describe('mk-docker-opts.sh on a host', () => {
  const dir = tempDir('mk-docker-opts-host');
  let network: Network | undefined;
  afterAll(async () => {
    await network?.close();
    rmSync(dir, { recursive: true });
  });

  test('reads and writes below /run, and refuses when the own subnet is routed to another host', async () => {
    network = await makeNetwork([{ addresses: ['10.211.55.100/24'] }]);
    const [net] = network.hosts;
    if (net === undefined) throw new Error('a host was asked for');
    const place = { dir, namespace: net.namespace };
    const run = runFolder(place);
    mkdirSync(join(run, 'flannel'), { recursive: true });
    writeFileSync(join(run, 'flannel/subnet.env'), SUBNET_ENV);
    // Routes that only look like it: longer, shorter, a neighbour's, one without a gateway.
    for (const route of ['172.20.91.0/25', '172.20.0.0/16', '172.20.9.0/24', '2.172.20.91/32']) {
      await net.ip(`route add ${route} via 10.211.55.101`);
    }
    await net.ip('route add 172.20.91.0/24 dev eth0');
    const once = async () => await runToEnd(onHost(place, ['sh', SCRIPT]));
    expect((await once()).exit.code).toBe(0);
    const written = readFileSync(join(run, 'docker_opts.env'), 'utf8');
    expect(written).toContain('DOCKER_OPTS=" --bip=172.20.91.1/24 --ip-masq=true --mtu=1500"');

    rmSync(join(run, 'docker_opts.env'));
    const gateways = ['via 10.211.55.101', 'nexthop via 10.211.55.101 nexthop via 10.211.55.102'];
    for (const gateway of gateways) {
      await net.ip(`route replace 172.20.91.0/24 ${gateway}`);
      const { exit, output } = await once();
      expect(exit.code).toBe(1);
      expect(output).toContain('172.20.91.0/24 is routed via 10.211.55.101');
      expect(readdirSync(run)).not.toContain('docker_opts.env');
    }
  });
});
