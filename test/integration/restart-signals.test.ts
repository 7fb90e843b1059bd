import { execFileSync } from 'node:child_process';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type ClusterHost, CONFIG, PREFIX } from '../testbed/cluster.ts';
import { DaemonProcess } from '../testbed/daemon.ts';
import { until } from '../testbed/netns.ts';
import { requestIsUnread, startLongWay } from './slow-proxy.ts';
import { useCluster } from './use-cluster.ts';

describe('a daemon that is told to stop', () => {
  const cluster = useCluster();
  let host: ClusterHost;
  let daemon: DaemonProcess;

  beforeAll(() => void (host = cluster.at(0)));

  afterEach(() => daemon?.close());

  /** A daemon on the first host. */
  function launch(over: Partial<DaemonProcess['options']> = {}): void {
    daemon = new DaemonProcess({ ...host.daemon.options, ...over });
    daemon.launch();
  }

  /** It has to end within 5 s: later, stop() rejects. */
  async function expectCleanStop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    expect(await daemon.stop(signal)).toEqual({ code: 0, signal: null });
  }

  function pauseEtcd(): void {
    for (const member of cluster.etcd.members) member.pause();
  }

  async function resumeEtcd(): Promise<void> {
    for (const member of cluster.etcd.members) member.resume();
    await Promise.all(cluster.etcd.members.map((member) => member.healthy()));
  }

  const taken = `${PREFIX}/subnets/172.20.10.0-24`;
  const another = '{"PublicIP":"10.211.55.150","BackendType":"host-gw"}';

  interface Waiting {
    readonly what: string;
    readonly over?: () => Partial<DaemonProcess['options']>;
    readonly before?: () => unknown;
    readonly after?: () => unknown;
  }

  it.each<Waiting>([
    { what: 'the network configuration', before: () => cluster.etcd.ctl('del', `${PREFIX}/config`) },
    { what: 'an etcd that refuses connections', over: () => ({ endpoints: 'http://127.0.0.1:9' }) },
    {
      what: 'an etcd that does not answer',
      over: () => ({ endpoints: cluster.etcd.first.clientUrl }),
      before: pauseEtcd,
      after: resumeEtcd,
    },
    { what: 'its interface', over: () => ({ flags: ['--iface=eth7'] }) },
    {
      what: 'a free subnet',
      before: async () => {
        await cluster.storeConfig({ ...CONFIG, SubnetMin: '172.20.10.0', SubnetMax: '172.20.10.0' });
        await cluster.etcd.ctl('put', taken, another);
      },
      after: () => cluster.etcd.ctl('del', taken),
    },
    { what: 'a file that cannot be written', before: blockFiles, after: unblockFiles },
  ])('while it waits for $what, exits with 0', async ({ what, over, before, after }) => {
    await cluster.storeConfig();
    await before?.();
    try {
      launch(over?.());
      const isFiles = what.startsWith('a file');
      await daemon.waitForLog(({ event, path }) => event === 'trouble' && (!isFiles || path !== undefined));
      await expectCleanStop();
    } finally {
      await after?.();
    }
  });

  it('while the first sync waits for an etcd that does not answer, exits with 0', async () => {
    await cluster.storeConfig();
    // From the answer that gives the lease to the request for the list, and from there to etcd, is half a second each.
    const way = await startLongWay(host, cluster.etcd.first.clientUrl, 500);
    launch({ endpoints: way.url });
    try {
      await daemon.waitForLog('lease-acquired');
      pauseEtcd();
      await until(() => requestIsUnread(host), 10_000, 'the list of leases was not asked for');
      await expectCleanStop();
      expect(daemon.logs.filter(({ event }) => event === 'ready')).toEqual([]);
    } finally {
      await resumeEtcd();
      await way.close();
    }
  });

  it('while a file hangs, is cut short and exits with 0 within 5 s', async () => {
    await cluster.storeConfig();
    hang();
    launch();
    await daemon.waitForLog('interface-chosen');
    await expectCleanStop();
  });

  it('twice, ends at once with 0, whatever hangs', async () => {
    await cluster.storeConfig();
    hang();
    launch();
    await daemon.waitForLog('interface-chosen');
    daemon.process.signal('SIGTERM');
    // Not the same one: of two equal signals that wait to be taken the kernel keeps one.
    const startMs = performance.now();
    await expectCleanStop('SIGINT');
    expect(performance.now() - startMs).toBeLessThan(1_000);
  });

  /** A file lies where the folder of subnet.env has to be. */
  function blockFiles(): void {
    rmSync(dirname(host.daemon.subnetFile), { recursive: true, force: true });
    writeFileSync(dirname(host.daemon.subnetFile), '');
  }

  function unblockFiles(): void {
    rmSync(dirname(host.daemon.subnetFile));
  }

  /** A subnet.env whose reading never ends, as on a network file system that is away. */
  function hang(): void {
    mkdirSync(dirname(host.daemon.subnetFile), { recursive: true });
    rmSync(host.daemon.subnetFile, { force: true });
    execFileSync('mkfifo', [host.daemon.subnetFile]);
  }
});
