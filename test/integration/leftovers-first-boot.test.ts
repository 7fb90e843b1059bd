import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Cluster, type ClusterHost, makeHosts } from '../testbed/cluster.ts';
import { DaemonProcess } from '../testbed/daemon.ts';
import { etcdLeaseIds, storedLeases } from './route-watch.ts';
import { startLongWay } from './slow-proxy.ts';

const STOPS = 30;

describe('a daemon that is stopped during the very first boot of its host', () => {
  let cluster: Cluster;
  let host: ClusterHost;
  let way: { readonly url: string; close(): Promise<void> };
  let daemon: DaemonProcess;

  beforeAll(async () => {
    cluster = await makeHosts({ hosts: 3 });
    await cluster.startEtcd();
    await cluster.storeConfig();
    const [first] = cluster.hosts;
    if (first === undefined) throw new Error('there are no hosts');
    host = first;
    // Long enough that the moments of the stops, evenly spread, meet every step of the boot.
    way = await startLongWay(host, cluster.etcd.first.clientUrl, 30);
    daemon = new DaemonProcess({ ...host.daemon.options, endpoints: way.url });
  });

  afterAll(async () => {
    await daemon?.close();
    await way?.close();
    await cluster?.close();
  });

  it('leaves its subnet with its etcd lease, or neither, whatever the moment', async () => {
    const startMs = performance.now();
    await daemon.start();
    const bootMs = performance.now() - startMs;
    await daemon.stop();
    const left: string[] = [];
    for (let stop = 0; stop < STOPS; stop++) {
      for (const id of await etcdLeaseIds(cluster.etcd.first)) await cluster.etcd.ctl('lease', 'revoke', id);
      daemon.launch();
      await sleep(((stop + 1) / STOPS) * 1.5 * bootMs);
      await daemon.stop();
      const leases = await storedLeases(cluster.etcd.first);
      expect(await etcdLeaseIds(cluster.etcd.first)).toEqual(leases.map(({ leaseId }) => leaseId).toSorted());
      left.push(leases.length === 0 ? 'neither' : 'both');
    }
    // The moments met both sides of the step in question.
    expect(new Set(left)).toEqual(new Set(['neither', 'both']));
  });
});
