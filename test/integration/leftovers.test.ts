import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, describe, expect, it } from 'vitest';
import type { ClusterHost } from '../testbed/cluster.ts';
import { until } from '../testbed/netns.ts';
import type { Exit } from '../testbed/process.ts';
import { etcdLeaseIds, ownRoutes, storedLeases, subnetOf } from './route-watch.ts';
import { useCluster, useRoutes } from './use-cluster.ts';

const RESTARTS = 100;
/** A temporary file that its writer left is removed by the next writer, once it is too old to be anybody's work in progress. */
const LEFTOVER_AGE_MS = 10_000;

describe('a daemon that was restarted a hundred times', () => {
  const cluster = useCluster({ daemons: true });
  const routes = useRoutes(cluster);
  let host: ClusterHost;

  beforeAll(() => void (host = cluster.at(0)));

  it('at any moment of its life, by SIGTERM and by SIGKILL, has left nothing behind and changed nothing', async () => {
    await host.daemon.stop();
    const before = await traces();
    const startMs = performance.now();
    await host.daemon.start();
    const bootMs = performance.now() - startMs;
    const subnet = subnetOf(host);
    await routes.mark();

    let killedAtMs = 0;
    for (let restart = 0; restart < RESTARTS; restart++) {
      const kill = restart % 5 < 2;
      // Two in five are killed and one in five is asked to stop at moments spread evenly over the boot and the time after it.
      if (restart % 5 < 3) await sleep(((restart + 0.5) / RESTARTS) * 1.3 * bootMs);
      else await host.daemon.ready();
      const { lines } = host.daemon.process;
      const exit = await host.daemon.process.stop(kill ? 'SIGKILL' : 'SIGTERM', 5_000);
      if (kill) killedAtMs = performance.now();
      else expectGraceful(exit, lines);
      host.daemon.launch();
    }
    await host.daemon.ready();
    expect(subnetOf(host)).toBe(subnet);
    await until(() => performance.now() > killedAtMs + LEFTOVER_AGE_MS + 1_000, 2 * LEFTOVER_AGE_MS);
    await host.daemon.restart();
    await host.daemon.stop();

    expect(await routes.changes()).toEqual([]);
    expect(subnetOf(host)).toBe(subnet);
    expect(await traces()).toEqual(before);
  }, 240_000);

  /** What a daemon could leave, in the form in which nothing of it changes by a restart. */
  async function traces() {
    const { namespace } = host.net;
    return {
      leaseIds: await etcdLeaseIds(cluster.etcd.first),
      leases: await storedLeases(cluster.etcd.first),
      routes: await ownRoutes(host),
      files: readdirSync(host.dir, { recursive: true, encoding: 'utf8' }).toSorted(),
      processes: processesIn(namespace),
      // The last column is a socket's name; the kernel's table is the namespace's own.
      unixSockets: await rows(host, '/proc/net/unix', /\s(\S*)$/),
      // The third column is the owner's port id; 0 is the kernel itself.
      netlinkSockets: (await rows(host, '/proc/net/netlink', /^\S+\s+\S+\s+(\S+)/)).filter(
        (id) => id !== '0',
      ),
      listening: (await host.net.exec('ss', '-Htuln')).split('\n').toSorted(),
    };
  }
});

/** Before its first line of JavaScript ran a process dies of the signal, with nothing begun. */
function expectGraceful(exit: Exit, lines: readonly string[]): void {
  if (exit.signal === 'SIGTERM') expect(lines).toEqual([]);
  else expect(exit).toEqual({ code: 0, signal: null });
}

/** The command names of the processes in a network namespace. */
function processesIn(namespace: string): readonly string[] {
  const inode = `net:[${statSync(`/run/netns/${namespace}`).ino}]`;
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        if (readlinkSync(`/proc/${pid}/ns/net`) !== inode) return [];
        return [readFileSync(`/proc/${pid}/comm`, 'utf8').trim()];
      } catch {
        // It ended while we looked.
        return [];
      }
    })
    .toSorted();
}

/** One column of a table under /proc/net of the host. */
async function rows(host: ClusterHost, path: string, column: RegExp): Promise<readonly string[]> {
  const table = (await host.net.exec('cat', path)).trimEnd().split('\n').slice(1);
  return table.map((row) => column.exec(row)?.[1] ?? '').toSorted();
}
