import { afterEach, describe, expect, it } from 'vitest';
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

describe('READY=1', () => {
  /** Starts with an iptables that takes so long to write. */
  const readyAfter = async (takesMs: number) => {
    const { cluster: world, host } = make();
    host.firewall.before = async ({ program }) => {
      if (program === 'iptables-restore') await world.clock.sleep(takesMs, new AbortController().signal);
      return undefined;
    };
    const startedMs = world.clock.monotonic();
    host.start();
    await untilReady(world, host);
    return world.clock.monotonic() - startedMs;
  };

  it('waits for the firewall rules: Docker starts next', async () => {
    expect(await readyAfter(7_000)).toBeGreaterThanOrEqual(7_000);
  });

  it('does not wait for ever', async () => {
    const waitedMs = await readyAfter(40_000);
    expect(waitedMs).toBeLessThan(15_000);
    await cluster?.clock.advance(40_000);
  });
});

it('both files are there for everybody to read', async () => {
  const { cluster: world, host } = make();
  host.start();
  await untilReady(world, host);
  const modes = ['/run/flannel/subnet.env', '/run/docker_opts.env'].map((path) => host.files.modeOf(path));
  expect(modes).toEqual([0o644, 0o644]);
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
