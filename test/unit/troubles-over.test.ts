import { describe, expect, it } from 'vitest';
import { prefix, type SimCluster, type SimHost } from '../../sim/cluster.ts';
import { makeCluster } from './sim-worlds.ts';

// What is reported must be over once it is, also while another trouble goes on, and none must hold up another's cure.

let cluster: SimCluster;

async function meshed(hosts: number): Promise<[SimHost, SimHost]> {
  cluster = await makeCluster({ seed: 21, hosts }).start();
  return [cluster.host(0), cluster.hosts[1] ?? cluster.host(0)];
}

const readdress = (host: SimHost, address: string) => {
  host.kernel.addAddress('eth0', `${address}/17`);
  host.kernel.removeAddress('eth0', `${host.address}/16`);
};
const reasons = (host: SimHost) => host.readiness.reasons.join('\n');
const untilSaid = (host: SimHost, text: string) =>
  cluster.clock.until(text, () => reasons(host).includes(text), 3_600_000);
const keyOf = async (host: SimHost) => `${prefix}/subnets/${(await host.subnet())?.text.replace('/', '-')}`;

describe('a renewal that failed is over when etcd answers', () => {
  it.each<[string, string, (host: SimHost, other: SimHost) => unknown]>([
    [
      'the new address of this host is another one’s',
      'holds the lease',
      (host, other) => readdress(host, other.address),
    ],
    [
      'the subnet is contested',
      'now belongs to',
      async (host) =>
        cluster.etcd.put(await keyOf(host), '{"PublicIP":"10.211.99.1","BackendType":"host-gw"}'),
    ],
  ])('also while %s', async (_, said, act) => {
    const [host, other] = await meshed(2);
    await act(host, other);
    await untilSaid(host, said);
    for (const member of cluster.etcd.members) cluster.etcd.stop(member);
    await untilSaid(host, 'could not be renewed');
    for (const member of cluster.etcd.members) cluster.etcd.start(member);
    await cluster.clock.advance(120_000);
    expect(reasons(host)).toContain(said);
    expect(reasons(host)).not.toContain('could not be renewed');
  });
});

describe('while the files cannot be written', () => {
  it('the lease and the routes of peers move to a new address', async () => {
    const [host, peer] = await meshed(2);
    const subnet = (await host.subnet())?.text ?? '';
    host.files.writeError = 'ENOSPC';
    host.kernel.setMtu('eth0', 9000);
    await untilSaid(host, 'cannot be written');
    readdress(host, '10.211.99.1');
    await cluster.clock.until('moved', () => peer.ownRoutes.join() === `${subnet} via 10.211.99.1`, 60_000);
    host.files.writeError = undefined;
    await cluster.clock.until('ready', () => host.readiness.ready, 60_000);
    expect(await host.files.readText('/run/flannel/subnet.env')).toContain('FLANNEL_MTU=9000\n');
  });

  it('an MTU that is as it was again leaves no trouble', async () => {
    const [host] = await meshed(1);
    host.files.writeError = 'ENOSPC';
    host.kernel.setMtu('eth0', 9000);
    await untilSaid(host, 'cannot be written');
    host.kernel.setMtu('eth0', 1500);
    await cluster.clock.until('over', () => host.readiness.ready, 60_000);
    host.files.writeError = undefined;
    await cluster.clock.advance(60_000);
    expect(await host.files.readText('/run/flannel/subnet.env')).toContain('FLANNEL_MTU=1500\n');
  });

  it('a host that just came up follows a new address before it is ready', async () => {
    const [host] = await meshed(3);
    await host.stop();
    const key = await keyOf(host);
    host.kernel.setMtu('eth0', 9000);
    host.files.writeError = 'ENOSPC';
    host.start();
    await untilSaid(host, 'cannot be written');
    readdress(host, '10.211.99.1');
    const moved = () => cluster.etcd.get(key)?.value.includes('10.211.99.1') === true;
    await cluster.clock.until('moved', moved, 60_000);
    expect(host.readiness.ready).toBe(false);
    host.files.writeError = undefined;
    await cluster.clock.until('full mesh', () => cluster.meshed, 60_000);
  });
});
