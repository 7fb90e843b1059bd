import { afterEach, describe, expect, it } from 'vitest';
import { SimCluster } from '../../sim/cluster.ts';

let cluster: SimCluster | undefined;

afterEach(() => cluster?.close());

describe('a disk that is full when the daemon starts', () => {
  it('is no matter when the files hold what they should: routes are kept, peers are followed', async () => {
    cluster = new SimCluster({ seed: 1, hosts: 3 });
    const { clock, hosts, log } = cluster;
    const [full, peer] = hosts;
    full?.start();
    peer?.start();
    await clock.until('ready', () => full?.notifier.isReady === true && peer?.notifier.isReady === true);
    await full?.stop();
    if (full !== undefined) full.files.writeError = 'ENOSPC';
    full?.start();
    hosts[2]?.start();
    await clock.until('full mesh', () => cluster?.meshed === true, 60_000);
    expect(full?.readiness).toEqual({ ready: true, reasons: [], degraded: [], notices: [] });
    expect(log.events('file-kept').map(({ host, level }) => `${host} ${level}`)).toEqual([
      'h0 warn',
      'h0 warn',
    ]);
  });

  it('is waited out when they do not', async () => {
    cluster = new SimCluster({ seed: 2, hosts: 1 });
    const { clock, hosts } = cluster;
    const [host] = hosts;
    if (host === undefined) throw new Error('no host');
    await host.files.writeAtomic('/run/flannel/subnet.env', 'FLANNEL_MTU=1500\n', 0o644);
    host.files.writeError = 'ENOSPC';
    host.start();
    await clock.advance(30_000);
    expect(host.readiness.ready).toBe(false);
    host.files.writeError = undefined;
    await clock.until('ready', () => host.readiness.ready, 30_000);
  });
});
