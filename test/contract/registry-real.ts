import { rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, onTestFinished } from 'vitest';
import { systemClock } from '../../src/daemon/host/clock.ts';
import { EtcdMember } from '../../src/subnet/etcd/member.ts';
import type { EtcdSecurity } from '../../src/subnet/etcd/security.ts';
import type { Registry } from '../../src/subnet/registry/registry.ts';
import type { EtcdCluster } from '../testbed/etcd.ts';
import { tempDir } from '../testbed/run.ts';
import type { RegistryUnderTest } from './registry-suite.ts';

/** A folder for the test file that calls this, removed when the file is done. */
export function temporaryFolder(): string {
  const dir = tempDir('registry');
  afterAll(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

/** A connection that lasts as long as the test. Deadline: 1 s. */
export function connect(endpoint: string, security?: EtcdSecurity): Registry {
  const registry = open(endpoint, security);
  onTestFinished(() => registry.close());
  return registry;
}

/** The first member of a cluster as the contract wants it. `metricsUrl`: where it tells its metrics without TLS. */
export function realRegistry(
  etcd: EtcdCluster,
  metricsUrl: string,
  security?: EtcdSecurity,
): RegistryUnderTest {
  const endpoint = etcd.first.clientUrl;
  const registry = open(endpoint, security);
  return {
    registry,
    connect: () => connect(endpoint, security),
    compact: async (revision) => void (await etcd.ctl('compact', '--physical', String(revision))),
    freeze: () => etcd.first.pause(),
    thaw: () => etcd.first.resume(),
    async watchers() {
      const metrics = await (await fetch(metricsUrl)).text();
      return Number(/^etcd_debugging_mvcc_watcher_total (\d+)$/m.exec(metrics)?.[1]);
    },
    settled: (promise) => promise,
    async until(what, condition) {
      const deadline = performance.now() + 30_000;
      while (!(await condition())) {
        if (performance.now() > deadline) throw new Error(`${what}: not within 30 s`);
        await sleep(50);
      }
    },
    async close() {
      registry.close();
      await etcd.close();
    },
  };
}

function open(endpoint: string, security?: EtcdSecurity): Registry {
  const secured = security === undefined ? {} : { security };
  return new EtcdMember(endpoint, { clock: systemClock, deadlineMs: 1_000, ...secured });
}
