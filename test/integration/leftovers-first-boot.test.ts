import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { DaemonProcess } from '../testbed/daemon.ts';
import { etcdLeaseIds, storedLeases } from './route-watch.ts';
import { startLongWay } from './slow-proxy.ts';
import { useCluster } from './use-cluster.ts';

const STOPS = 30;

describe('a daemon that is stopped during the very first boot of its host', () => {
  const cluster = useCluster();

  it('leaves its subnet with its etcd lease, or neither, whatever the moment', async () => {
    // Long enough that the moments of the stops, evenly spread, meet every step of the boot.
    const way = await startLongWay(cluster.at(0), cluster.etcd.first.clientUrl, 30);
    cluster.onClose(() => way.close());
    const daemon = new DaemonProcess({ ...cluster.at(0).daemon.options, endpoints: way.url });
    cluster.onClose(() => daemon.close());
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
