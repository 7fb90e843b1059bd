import { afterEach, expect, it } from 'vitest';
import { prefix, SimCluster, type SimHost } from '../../sim/cluster.ts';
import { formatLeaseValue } from '../../src/subnet/lease.ts';

// What /readyz says while lease, watch, routes or files are not as they should be, and that it stops saying so.

let cluster: SimCluster | undefined;

afterEach(async () => {
  await cluster?.close();
  cluster = undefined;
});

interface World {
  readonly cluster: SimCluster;
  readonly host: SimHost;
  /** The key of the host's lease. */
  readonly key: string;
}

/** Two hosts that route to each other; the first is looked at. */
async function start(): Promise<World> {
  cluster = new SimCluster({ seed: 1, hosts: 2 });
  const [host] = cluster.hosts;
  if (host === undefined) throw new Error('no host');
  for (const each of cluster.hosts) each.start();
  await cluster.clock.until('full mesh', () => cluster?.meshed === true, 60_000);
  const subnet = (await host.subnet())?.text ?? '';
  return { cluster, host, key: `${prefix}/subnets/${subnet.replace('/', '-')}` };
}

const PEER = `${prefix}/subnets/172.20.5.0-24`;
const other = formatLeaseValue({ ipv4: '10.211.99.9' });
const beyond = formatLeaseValue({ ipv4: '192.0.2.9' });

type Step = (world: World) => void;

const TROUBLES: readonly (readonly [string, Step, RegExp, Step])[] = [
  [
    'the lease, that another host has taken',
    ({ cluster: { etcd }, key }) => etcd.put(key, other),
    /^the own lease is contested$/m,
    ({ cluster: { etcd }, key }) => etcd.delete(key),
  ],
  [
    'the lease, that has to move to another address and cannot',
    ({ cluster: { etcd }, host }) => {
      etcd.cut(host.name);
      // The kernel takes the routes along.
      host.kernel.removeAddress('eth0', `${host.address}/16`);
      host.kernel.addAddress('eth0', '10.211.77.7/16');
      const linkIndex = host.kernel.link('eth0').index;
      host.kernel.addRoute({ dst: '0.0.0.0/0', gateway: '10.211.0.1', linkIndex });
    },
    /^the own lease is moving$/m,
    ({ cluster: { etcd }, host }) => etcd.heal(host.name),
  ],
  [
    'the watch',
    ({ cluster: { etcd }, host }) => etcd.cut(host.name),
    /^the lease watch is not up$/m,
    ({ cluster: { etcd }, host }) => etcd.heal(host.name),
  ],
  [
    'a route that cannot be had',
    ({ cluster: { etcd } }) => etcd.put(PEER, beyond),
    /172\.20\.5\.0\/24 via 192\.0\.2\.9 is parked/,
    ({ cluster: { etcd } }) => etcd.delete(PEER),
  ],
  [
    'a file that cannot be written',
    ({ host }) => {
      host.files.writeError = 'ENOSPC';
      host.kernel.setMtu('eth0', 1400);
    },
    /\/run\/flannel\/subnet\.env cannot be written: ENOSPC/,
    ({ host }) => {
      host.files.writeError = undefined;
    },
  ],
];

it.each(TROUBLES)('tells of %s', async (_, act, reason, undo) => {
  const world = await start();
  const { clock } = world.cluster;
  const { host } = world;
  expect(host.readiness).toEqual({ ready: true, reasons: [], notices: [] });
  act(world);
  await clock.until('told', () => reason.test(host.readiness.reasons.join('\n')), 120_000);
  expect(host.readiness.ready).toBe(false);
  undo(world);
  await clock.until('ready again', () => host.readiness.ready, 120_000);
  expect(host.readiness.reasons).toEqual([]);
});
