import { afterEach, expect, it } from 'vitest';
import { SimCluster } from '../../sim/cluster.ts';

let cluster: SimCluster | undefined;

afterEach(() => cluster?.close());

it('a host that lost the address its peers route to says so, until it has it again', async () => {
  cluster = new SimCluster({ seed: 1, hosts: 2 });
  const { clock, hosts } = cluster;
  for (const host of hosts) host.start();
  await clock.until('full mesh', () => cluster?.meshed === true);
  const [host] = hosts;
  if (host === undefined) throw new Error('no host');
  // Of another net, so that the first one takes nothing along, and routes to peers are to be had all the time.
  host.kernel.addAddress('eth0', '10.211.99.1/17');
  host.kernel.removeAddress('eth0', `${host.address}/16`);
  await clock.until('told', () => !host.readiness.ready && host.ownRoutes.length === 1, 30_000);
  expect(host.readiness.reasons.join()).toContain(`no longer has ${host.address}`);
  host.kernel.addAddress('eth0', `${host.address}/16`);
  await clock.until('ready again', () => host.readiness.ready, 1_000);
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
  expect(log.events('trouble')).toEqual([]);
});
