import { afterEach, expect, it } from 'vitest';
import { prefix, SimCluster } from '../../sim/cluster.ts';

let cluster: SimCluster | undefined;

afterEach(() => cluster?.close());

it('a host whose address changed keeps its subnet: the lease and its peers’ routes move to the new address', async () => {
  cluster = new SimCluster({ seed: 1, hosts: 2 });
  const { clock, hosts, etcd } = cluster;
  for (const host of hosts) host.start();
  await clock.until('full mesh', () => cluster?.meshed === true);
  const [host, peer] = hosts;
  if (host === undefined || peer === undefined) throw new Error('too few hosts');
  const subnet = (await host.subnet())?.text ?? '';
  const leases = etcd.leaseIds;
  // Of another net, so that the first one takes nothing along, and routes to peers are to be had all the time.
  host.kernel.addAddress('eth0', '10.211.99.1/17');
  host.kernel.removeAddress('eth0', `${host.address}/16`);
  await clock.until('moved', () => peer.ownRoutes.join() === `${subnet} via 10.211.99.1`, 30_000);
  await clock.until('ready', () => host.readiness.ready && peer.readiness.ready, 10_000);
  expect((await host.subnet())?.text).toBe(subnet);
  expect(host.ownRoutes).toHaveLength(1);
  expect(etcd.leaseIds).toEqual(leases);
});

it('a host that lost its address and has no other says so, until it has it again', async () => {
  cluster = new SimCluster({ seed: 1, hosts: 2 });
  const { clock, hosts } = cluster;
  for (const host of hosts) host.start();
  await clock.until('full mesh', () => cluster?.meshed === true);
  const [host] = hosts;
  if (host === undefined) throw new Error('no host');
  host.kernel.removeAddress('eth0', `${host.address}/16`);
  await clock.until('told', () => host.readiness.reasons.join().includes(`${host.address} is gone`), 30_000);
  host.kernel.addAddress('eth0', `${host.address}/16`);
  await clock.until('ready again', () => host.readiness.ready, 1_000);
});

it('a host whose address changes while it waits for a subnet leases under the new one', async () => {
  const config = '{"Network":"10.5.0.0/16","SubnetMax":"10.5.1.0","Backend":{"Type":"host-gw"}}';
  cluster = new SimCluster({ seed: 6, hosts: 2, config });
  const { clock, hosts, etcd } = cluster;
  for (const host of hosts) host.start();
  await clock.until('one is served', () => hosts.some(({ readiness }) => readiness.ready), 60_000);
  const [served, last] = hosts[0]?.readiness.ready ? hosts : hosts.toReversed();
  if (served === undefined || last === undefined) throw new Error('too few hosts');
  last.kernel.addAddress('eth0', '10.211.99.1/17');
  last.kernel.removeAddress('eth0', `${last.address}/16`);
  await clock.advance(20_000);
  await served.stop();
  etcd.delete(`${prefix}/subnets/10.5.1.0-24`);
  await clock.until('the other is served', () => last.readiness.ready, 60_000);
  expect(etcd.get(`${prefix}/subnets/10.5.1.0-24`)?.value).toContain('"PublicIP":"10.211.99.1"');
});

it('a new MTU goes into the files', async () => {
  cluster = new SimCluster({ seed: 3, hosts: 1 });
  const { clock, hosts } = cluster;
  const [host] = hosts;
  if (host === undefined) throw new Error('no host');
  host.start();
  await clock.until('ready', () => host.readiness.ready);
  host.kernel.setMtu('eth0', 9000);
  await clock.advance(5_000);
  expect(await host.files.readText('/run/flannel/subnet.env')).toContain('FLANNEL_MTU=9000\n');
  expect(await host.files.readText('/run/docker_opts.env')).toContain('--mtu=9000"');
  expect(host.readiness.ready).toBe(true);
});

it('an address that moves to another interface, as when eth0 becomes a port of a bridge, takes routes and all along', async () => {
  cluster = new SimCluster({ seed: 4, hosts: 2 });
  const { clock, hosts, etcd } = cluster;
  for (const host of hosts) host.start();
  await clock.until('full mesh', () => cluster?.meshed === true);
  const [host, peer] = hosts;
  if (host === undefined || peer === undefined) throw new Error('too few hosts');
  const before = host.ownRoutes;
  const { revision } = etcd;
  const linkIndex = host.kernel.createLink('br0');
  host.kernel.removeAddress('eth0', `${host.address}/16`);
  host.kernel.addAddress('br0', `${host.address}/16`);
  const over = () => host.kernel.routes(4).filter(({ protocol }) => protocol === 102);
  await clock.until('moved', () => over().some((route) => route.linkIndex === linkIndex), 30_000);
  await clock.until('ready', () => host.readiness.ready, 10_000);
  expect(host.ownRoutes).toEqual(before);
  expect(etcd.revision).toBe(revision);
});

it('an address that is back within seconds is not worth a line', async () => {
  cluster = new SimCluster({ seed: 2, hosts: 2 });
  const { clock, hosts, log } = cluster;
  for (const host of hosts) host.start();
  await clock.until('full mesh', () => cluster?.meshed === true);
  const [host] = hosts;
  if (host === undefined) throw new Error('no host');
  for (let i = 0; i < 10; i++) {
    host.kernel.removeAddress('eth0', `${host.address}/16`);
    await clock.advance(3_000);
    host.kernel.addAddress('eth0', `${host.address}/16`);
    await clock.advance(3_000);
  }
  // The connections from it are dropped at once: somebody else may have it now, and asks for the lease.
  expect(log.events('trouble').filter(({ fields }) => fields['what'] !== 'lease-watch')).toEqual([]);
});
