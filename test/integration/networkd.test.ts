import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import type { KernelMonitor } from '../testbed/kernel-monitor.ts';
import { Networkd } from '../testbed/networkd.ts';
import { useBench } from './bench.ts';

const DROP_IN = join(import.meta.dirname, '../../systemd/networkd.conf.d/flannel.conf');
const PEERS = [
  '172.20.1.0/24 via 10.211.55.101',
  '172.20.2.0/24 via 10.211.55.102',
  '172.20.3.0/24 via 10.211.55.103',
];

const bench = useBench({ routes: PEERS });
let monitor: KernelMonitor;

beforeAll(async () => void (monitor = await bench.monitor()));

/** Restarts networkd once; resolves to what happened to the peers' routes as it came. */
async function restarted(name: string, dropIn?: string): Promise<readonly string[]> {
  const networkd = await Networkd.prepare(bench.host, join(bench.dir, name), dropIn);
  bench.onClose(() => networkd.stop());
  await networkd.start();
  await networkd.stop();
  await bench.haveRoutes(PEERS);
  const mark = await monitor.mark();
  await networkd.start();
  const changes = await monitor.routesSince(mark);
  await networkd.stop();
  return changes.filter((line) => /\b172\.20\.[123]\.0\/24 /.test(line));
}

test('R7: routes that systemd-networkd deletes when it is restarted are put back', async () => {
  const changes = await restarted('networkd');
  for (const peer of PEERS) expect(changes.join('\n')).toContain(`Deleted ${peer} dev eth0`);
  await bench.haveRoutes(PEERS);
  expect(bench.daemon.running).toBe(true);
});

test('R7: with the drop-in of this project systemd-networkd deletes no route', async () => {
  expect(await restarted('networkd-drop-in', DROP_IN)).toEqual([]);
  await bench.haveRoutes(PEERS);
});
