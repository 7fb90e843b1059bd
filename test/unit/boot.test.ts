import { afterEach, expect, it } from 'vitest';
import { SimCluster, type SimHost } from '../../sim/cluster.ts';

// What a daemon has done before it says that it is ready, and what it begins with.

let cluster: SimCluster | undefined;

afterEach(async () => {
  await cluster?.close();
  cluster = undefined;
});

const network = { Network: '172.20.0.0/16', Backend: { Type: 'host-gw' } };

function make(config: object = network): { readonly cluster: SimCluster; readonly host: SimHost } {
  cluster = new SimCluster({ seed: 1, hosts: 1, config: JSON.stringify(config) });
  const [host] = cluster.hosts;
  if (host === undefined) throw new Error('no host');
  return { cluster, host };
}

const untilReady = async ({ clock }: SimCluster, host: SimHost) =>
  await clock.until('ready', () => host.notifier.isReady, 60_000);

it('the firewall rules are there before it says so: Docker starts next', async () => {
  const { cluster: world, host } = make();
  const readyAtWrite: boolean[] = [];
  host.firewall.before = ({ program }) => {
    if (program === 'iptables-restore') readyAtWrite.push(host.notifier.isReady);
    return undefined;
  };
  host.start();
  await untilReady(world, host);
  expect(readyAtWrite).toEqual([false]);
});

it('the subnet of an earlier subnet.env is taken again, when etcd has lost the lease', async () => {
  const { cluster: world, host } = make();
  await host.files.writeAtomic('/run/flannel/subnet.env', 'FLANNEL_SUBNET="172.20.77.1/24"\r\n', 0o644);
  host.start();
  await untilReady(world, host);
  expect((await host.subnet())?.text).toBe('172.20.77.0/24');
  expect(world.log.events('lease-acquired').map(({ fields }) => fields['origin'])).toEqual(['hint']);
});

it.each([
  ['iptables', network, ['net.bridge.bridge-nf-call-iptables']],
  ['nftables', { ...network, EnableNFTables: true }, []],
])('bridged packets that pass no iptables are told of with %s alone', async (_, config, names) => {
  const { cluster: world, host } = make(config);
  host.start();
  await untilReady(world, host);
  const said = world.log.events('no-bridge-filter').map(({ message }) => message);
  expect(said).toEqual(names.map((name) => expect.stringContaining(name)));
});
