import { beforeAll, expect, test } from 'vitest';
import { PREFIX } from '../testbed/cluster.ts';
import { leaseValue } from '../testbed/lease-keys.ts';
import { useBench } from './bench.ts';

const LEASES = 12_000;
/** Ten, and two more pages for each of the two lists. */
const MOST_CALLS = 14;
/** So many fit into one request of etcd's 1.5 MiB. */
const PER_TRANSACTION = 2_000;
/** What a gRPC message may hold by default. */
const DEFAULT_MESSAGE_BYTES = 4 << 20;
/** The kernel alone needs some seconds for that many routes by different gateways. */
const INSTALLED_MS = 90_000;

const peers = Array.from({ length: LEASES }, (_, index) => ({
  subnet: `100.${64 + (index >> 8)}.${index & 255}.0-24`,
  gateway: `10.211.${index >> 8}.${(index & 255) + 1}`.replace(/\.256$/, '.255'),
}));

const bench = useBench({
  addresses: ['10.211.200.1/16'],
  config: {
    Network: '100.64.0.0/10',
    // Above all the peers' subnets.
    SubnetMin: '100.120.0.0',
    Backend: { Type: 'host-gw' },
  },
  etcdArgs: [`--max-txn-ops=${PER_TRANSACTION}`],
});

beforeAll(async () => {
  await putLeases();
});

/** Writes all leases, with a BackendData that makes the list larger than a default message. */
async function putLeases(): Promise<void> {
  const padding = { BackendData: { note: 'x'.repeat(320) } };
  for (let from = 0; from < LEASES; from += PER_TRANSACTION) {
    const puts = peers
      .slice(from, from + PER_TRANSACTION)
      .map(
        ({ subnet, gateway }) =>
          `put ${PREFIX}/subnets/${subnet} ${JSON.stringify(leaseValue(gateway, padding))}`,
      );
    await bench.etcd.first.txn([], puts);
  }
}

test(`${LEASES} leases, more than a default gRPC message may hold, are all routed after a start of at most ${MOST_CALLS} etcd calls`, async () => {
  const list = await bench.etcd.ctl('get', '--prefix', `${PREFIX}/subnets/`);
  expect(list.length).toBeGreaterThan(DEFAULT_MESSAGE_BYTES);
  const before = await bench.etcdCalls();

  const ready = await bench.daemon.start(INSTALLED_MS);

  const after = await bench.etcdCalls();
  expect(ready['peers']).toBe(LEASES);
  expect(ready['problems']).toBe(0);
  const routes = await bench.ourRoutes();
  const wanted = peers.map(({ subnet, gateway }) => `${subnet.replace('-', '/')} via ${gateway}`);
  expect(routes).toEqual(wanted.toSorted());

  const made = [...after].map(([method, count]) => [method, count - (before.get(method) ?? 0)] as const);
  const calls = Object.fromEntries(made.filter(([, count]) => count > 0));
  const total = Object.values(calls).reduce((sum, count) => sum + count, 0);
  expect(total, JSON.stringify(calls)).toBeLessThanOrEqual(MOST_CALLS);
  // The watch is among what was counted, and nothing was asked about any single lease.
  expect(calls).toHaveProperty('Watch');
  expect(calls).not.toHaveProperty('LeaseTimeToLive');
});

test('then one change among them arrives within a second', async () => {
  const [first] = peers;
  if (first === undefined) throw new Error('no peers');
  const dst = first.subnet.replace('-', '/');
  const monitor = await bench.host.monitor();
  await bench.etcd.ctl('put', `${PREFIX}/subnets/${first.subnet}`, leaseValue('10.211.199.9'));
  await monitor.waitFor(new RegExp(`^\\[ROUTE\\](?:replace )?${dst} via 10\\.211\\.199\\.9 `), 0, 1_000);
  await bench.etcd.ctl('del', `${PREFIX}/subnets/${first.subnet}`);
  // Not the removal that is the second step of a replacement.
  await monitor.waitFor(new RegExp(`^\\[ROUTE\\]Deleted ${dst} via 10\\.211\\.199\\.9 `), 0, 1_000);
  // Nothing else was touched on the way.
  expect((await monitor.routesSince(0)).filter((line) => !line.includes(dst))).toEqual([]);
  await monitor.stop();
});

test(`a restart with all routes in place changes none and again needs at most ${MOST_CALLS} calls`, async () => {
  await bench.daemon.stop();
  const monitor = await bench.host.monitor();
  const before = await bench.etcdCalls();
  await bench.daemon.start(INSTALLED_MS);
  const after = await bench.etcdCalls();
  expect(await monitor.routesSince(0)).toEqual([]);
  await monitor.stop();
  const total = (calls: ReadonlyMap<string, number>) =>
    [...calls.values()].reduce((sum, count) => sum + count, 0);
  expect(total(after) - total(before)).toBeLessThanOrEqual(MOST_CALLS);
});
