import { existsSync, rmSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import type { ClusterHost } from '../testbed/cluster.ts';
import type { LogRecord } from '../testbed/daemon.ts';
import { runProgram } from './program.ts';
import { etcdLeaseIds, type StoredLease, storedLease, storedLeases, subnetOf } from './route-watch.ts';
import { useCluster, useRoutes } from './use-cluster.ts';

const OWN = '10.211.55.104/24';

/** Two hosts with one address on one link, neither of which has an etcd of its own. */
describe('a host that is given the address of another one', () => {
  const cluster = useCluster({ hosts: 5 });
  const routes = useRoutes(cluster, () => cluster.hosts.slice(0, 3));
  let peers: readonly ClusterHost[];
  let first: ClusterHost;
  let second: ClusterHost;
  let lease: StoredLease;
  let leaseIds: readonly string[];
  let subnet: string;

  beforeAll(async () => {
    peers = cluster.hosts.slice(0, 3);
    [first, second] = [cluster.at(3), cluster.at(4)];
    await Promise.all([...peers, first].map(({ daemon }) => daemon.start()));
    lease = await storedLease(cluster, first);
    leaseIds = await etcdLeaseIds(cluster.etcd.first);
    subnet = subnetOf(first);
    await routes.mark();
  });

  /** What a switch and the neighbour caches do by turns: all that etcd sends to the address reaches one of the two hosts. */
  const reachOnly = async (host: ClusterHost): Promise<void> => {
    const mac = await macOf(host);
    for (const { net } of peers)
      await net.ip(`neigh replace ${first.address} lladdr ${mac} dev eth0 nud permanent`);
  };
  const readdress = async ({ net }: ClusterHost, cidr: string): Promise<void> => {
    await net.flushAddresses();
    await net.setAddresses([cidr]);
  };
  const macOf = async ({ net }: ClusterHost): Promise<string> => {
    const [link] = JSON.parse(await net.ip('-j link show eth0')) as [{ address: string }];
    return link.address;
  };
  const troubleOf = (what: string) => (record: LogRecord) =>
    record.event === 'trouble' && record['what'] === what;

  it('takes nothing of the first one’s lease, even while that cannot reach etcd; both name the other’s MAC address', async () => {
    await readdress(second, `${first.address}/24`);
    await reachOnly(second);
    second.daemon.launch();
    const refused = await second.daemon.waitForLog(troubleOf('lease'));
    for (const part of ["uses this host's address", first.address, await macOf(first), '--iface'])
      expect(refused.msg).toContain(part);
    const told = await first.daemon.waitForLog(troubleOf('address-conflict'));
    for (const part of ["uses this host's address", first.address, await macOf(second)])
      expect(told.msg).toContain(part);
    expect(existsSync(second.daemon.subnetFile)).toBe(false);
    expect(second.daemon.logs.filter(({ event }) => event === 'lease-probed')).toEqual([]);
    expect(await storedLeases(cluster.etcd.first)).toContainEqual(lease);
  });

  it('still takes nothing when both reach etcd and the first one is started again', async () => {
    for (const { net } of peers) await net.ip(`neigh del ${first.address} dev eth0`);
    await first.daemon.stop();
    // It asks first whether the other one has taken its lease meanwhile.
    await first.daemon.start(60_000);
    await first.daemon.waitForLog(troubleOf('address-conflict'));
    expect(subnetOf(first)).toBe(subnet);
    expect(second.daemon.running).toBe(true);
    expect(existsSync(second.daemon.subnetFile)).toBe(false);
    const { key, leaseId, value } = await storedLease(cluster, first);
    expect({ key, leaseId, value }).toEqual({ key: lease.key, leaseId: lease.leaseId, value: lease.value });
    expect(await etcdLeaseIds(cluster.etcd.first)).toEqual(leaseIds);
  });

  it('is named by doctor on either host, and on no other one', async () => {
    const findings = async (host: ClusterHost) => {
      const { stdout } = await runProgram({ ...host.daemon.options, argv: ['doctor', '--iface=eth0'] });
      const [address] = stdout.flatMap(
        (line) => /peers reach this host at (\S+) on eth0/.exec(line)?.[1] ?? [],
      );
      expect(address).toBe(host === second ? first.address : host.address);
      return stdout.filter((line) => / {2}another host \(MAC/.test(line));
    };
    const other = peers[1] as ClusterHost;
    expect(await findings(other)).toEqual([]);
    for (const [host, rival] of [
      [first, second],
      [second, first],
    ] as const) {
      const named = `PROBLEM  another host (MAC address ${await macOf(rival)}) uses this host's address ${first.address} on eth0`;
      expect(await findings(host)).toEqual([expect.stringContaining(named)]);
    }
  });

  it('gets a lease of its own once it has an address of its own, and the first host’s conflict is over', async () => {
    await readdress(second, OWN);
    await second.daemon.ready();
    expect(subnetOf(second)).not.toBe(subnet);
    await first.daemon.waitForLog(
      ({ event, what }) => event === 'trouble-over' && what === 'address-conflict',
    );
    expect(await storedLeases(cluster.etcd.first)).toHaveLength(5);
    const changed = (await routes.changes()).filter(({ dst }) => dst === subnet);
    expect(changed).toEqual([]);
  });

  it('gets its lease when it was off the network; when it is back without a boot, both say that there are two', async () => {
    await first.daemon.stop();
    await first.net.setCarrier(false);
    await second.daemon.stop();
    await cluster.etcd.ctl('del', (await storedLease(cluster, second)).key);
    rmSync(second.daemon.subnetFile);
    await readdress(second, `${first.address}/24`);
    await second.daemon.start();
    expect(subnetOf(second)).toBe(subnet);
    await first.net.setCarrier(true);
    await reachOnly(first);
    first.daemon.launch();
    // Refused, unless the connection over which the second one would answer is gone already: by this very conflict.
    const told = [
      await first.daemon.waitForLog((one) => troubleOf('lease')(one) || troubleOf('address-conflict')(one)),
      await second.daemon.waitForLog(troubleOf('address-conflict')),
    ];
    for (const { msg } of told) expect(msg).toContain(`uses this host's address ${first.address}`);
    expect(told[1]?.msg).toContain(await macOf(first));
  });
});
