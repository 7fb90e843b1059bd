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
const stopEtcd = () => {
  for (const member of cluster.etcd.members) cluster.etcd.stop(member);
};
const startEtcd = () => {
  for (const member of cluster.etcd.members) cluster.etcd.start(member);
};

describe('a renewal that failed is over when etcd answers', () => {
  it('also while the new address of this host is another one’s', async () => {
    const [host, other] = await meshed(2);
    readdress(host, other?.address ?? '');
    await cluster.clock.until('told', () => reasons(host).includes('holds the lease'), 60_000);
    stopEtcd();
    await cluster.clock.until('told, too', () => reasons(host).includes('could not be renewed'), 3_600_000);
    startEtcd();
    await cluster.clock.advance(120_000);
    expect(reasons(host)).toContain('holds the lease');
    expect(reasons(host)).not.toContain('could not be renewed');
  });

  it('also while the subnet is contested', async () => {
    const [host] = await meshed(2);
    const key = `${prefix}/subnets/${(await host.subnet())?.text.replace('/', '-')}`;
    cluster.etcd.put(key, '{"PublicIP":"10.211.99.1","BackendType":"host-gw"}');
    await cluster.clock.until('told', () => reasons(host).includes('now belongs to'), 60_000);
    stopEtcd();
    await cluster.clock.until('told, too', () => reasons(host).includes('could not be renewed'), 3_600_000);
    startEtcd();
    await cluster.clock.advance(120_000);
    expect(reasons(host)).toContain('now belongs to');
    expect(reasons(host)).not.toContain('could not be renewed');
  });
});

describe('while the files cannot be written', () => {
  it('a new address is followed all the same', async () => {
    const [host, peer] = await meshed(2);
    const subnet = (await host.subnet())?.text ?? '';
    host.files.writeError = 'ENOSPC';
    host.kernel.setMtu('eth0', 9000);
    await cluster.clock.until('told', () => reasons(host).includes('cannot be written'), 60_000);
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
    await cluster.clock.until('told', () => reasons(host).includes('cannot be written'), 60_000);
    host.kernel.setMtu('eth0', 1500);
    await cluster.clock.until('over', () => host.readiness.ready, 60_000);
    host.files.writeError = undefined;
    await cluster.clock.advance(60_000);
    expect(await host.files.readText('/run/flannel/subnet.env')).toContain('FLANNEL_MTU=1500\n');
  });

  it('a host that just came up follows a new address before it is ready', async () => {
    const [host] = await meshed(3);
    await host.stop();
    const key = `${prefix}/subnets/${(await host.subnet())?.text.replace('/', '-')}`;
    host.kernel.setMtu('eth0', 9000);
    host.files.writeError = 'ENOSPC';
    host.start();
    await cluster.clock.until('told', () => reasons(host).includes('cannot be written'), 60_000);
    readdress(host, '10.211.99.1');
    await cluster.clock.until(
      'moved',
      () => cluster.etcd.get(key)?.value.includes('10.211.99.1') ?? false,
      60_000,
    );
    expect(host.readiness.ready).toBe(false);
    host.files.writeError = undefined;
    await cluster.clock.until('full mesh', () => cluster.meshed, 60_000);
  });
});
