import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ClusterHost } from '../testbed/cluster.ts';
import { DaemonProcess } from '../testbed/daemon.ts';
import { until } from '../testbed/netns.ts';
import { NotifySocket } from '../testbed/notify-socket.ts';
import { ownRoutes, routesTo, subnetOf } from './route-watch.ts';
import { requestIsUnread, startLongWay } from './slow-proxy.ts';
import { useCluster } from './use-cluster.ts';

describe('what the service manager is told', () => {
  const cluster = useCluster({ daemons: true });
  let host: ClusterHost;
  let others: readonly ClusterHost[];
  let daemon: DaemonProcess;
  let socket: NotifySocket;

  beforeAll(async () => {
    host = cluster.at(0);
    others = cluster.hosts.slice(1);
    // As after the boot of a machine: nothing of the last run is left on it but its lease in etcd.
    await host.daemon.stop();
    await removeRoutes();
    rmSync(dirname(host.daemon.subnetFile), { recursive: true });
    rmSync(host.daemon.dockerOptsFile);
    [daemon, socket] = notifying('notify');
  });

  afterAll(async () => {
    await daemon?.close();
    socket?.close();
  });

  async function removeRoutes(): Promise<void> {
    for (const { dst } of await host.net.routes())
      if (dst.startsWith('172.20.')) await host.net.ip(`route del ${dst}`);
  }

  /** A daemon on the host, not started, and what it tells. */
  function notifying(name: string, more: { endpoints?: string } = {}): [DaemonProcess, NotifySocket] {
    const to = new NotifySocket(join(host.dir, name));
    const { options } = host.daemon;
    // Elsewhere than the files, so that nothing is wrong but these.
    const flags = [...(options.flags ?? []), `--status-socket=${join(host.dir, 'status.sock')}`];
    const env = { ...options.env, NOTIFY_SOCKET: to.path };
    return [new DaemonProcess({ ...options, ...more, flags, env }), to];
  }

  const told = (what: string) =>
    until(
      () => socket.messages.includes(what),
      20_000,
      () => `not told ${what}, but: ${socket.messages.join(' | ')}`,
    );

  it('READY=1 comes only once both files are written and the first sync is done', async () => {
    // The files cannot be written: a file lies where their folder has to be.
    writeFileSync(dirname(host.daemon.subnetFile), '');
    daemon.launch();
    await daemon.waitForLog(({ event, path }) => event === 'trouble' && path !== undefined);
    expect(socket.messages).toContain('STATUS=waiting for a subnet');
    await told(`STATUS=subnet ${await leasedSubnet()}; syncing routes`);
    // That holds up nobody's packets.
    await until(async () => (await ownRoutes(host)).length === others.length, 20_000);
    expect(socket.messages).not.toContain('READY=1');
    rmSync(dirname(host.daemon.subnetFile));
    await told('READY=1');
    expect(await ownRoutes(host)).toEqual(routesTo(host, others));
    expect(existsSync(host.daemon.subnetFile) && existsSync(host.daemon.dockerOptsFile)).toBe(true);
    await told(`STATUS=subnet ${subnetOf(host)}; 2 of 2 peers routed`);
  });

  it('STOPPING=1 comes at the end, after one READY=1, and nothing after it', async () => {
    await daemon.stop();
    const { messages } = socket;
    expect(messages.at(-1)).toBe('STOPPING=1');
    expect(messages.filter((message) => !message.startsWith('STATUS='))).toEqual(['READY=1', 'STOPPING=1']);
  });

  it('READY=1 comes only after a list of the leases; the daemon asks until etcd answers', async () => {
    socket.close();
    await removeRoutes();
    // From the answer that gives the lease to the request for the list, and from there to etcd, is half a second each.
    const way = await startLongWay(host, cluster.etcd.first.clientUrl, 500);
    [daemon, socket] = notifying('notify-list', { endpoints: way.url });
    try {
      daemon.launch();
      const { subnet } = await daemon.waitForLog('lease-acquired');
      for (const member of cluster.etcd.members) member.pause();
      try {
        await until(() => requestIsUnread(host), 10_000, 'the list of leases was not asked for');
        await daemon.waitForLog(({ event, what }) => event === 'trouble' && what === 'lease-watch', 40_000);
        await told(`STATUS=subnet ${String(subnet)}; syncing routes`);
        expect(socket.messages).not.toContain('READY=1');
        expect(await ownRoutes(host)).toEqual([]);
      } finally {
        for (const member of cluster.etcd.members) member.resume();
      }
      await daemon.waitForLog('ready');
      await told('READY=1');
      expect(await ownRoutes(host)).toEqual(routesTo(host, others));
    } finally {
      await daemon.close();
      await way.close();
    }
  });

  async function leasedSubnet(): Promise<string> {
    return String((await daemon.waitForLog('lease-acquired')).subnet);
  }
});
