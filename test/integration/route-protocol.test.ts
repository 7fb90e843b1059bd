import { beforeAll, expect, test } from 'vitest';
import { type ListedRoute, untilLines } from '../testbed/netns.ts';
import { useBench } from './bench.ts';

/** Marked with the number that would be ours without the flag: stale ones, if they were ours. */
const FOREIGN = [
  '172.20.76.0/24 via 10.211.55.101 dev eth0 proto 102',
  '172.20.77.0/24 via 10.211.55.177 dev eth0 proto 102',
];
/** As another program's, it gives way to a lease. */
const IN_THE_WAY = '172.20.2.0/24 via 10.211.55.150 dev eth0 proto 102';
const PEERS = ['172.20.1.0/24 via 10.211.55.101', '172.20.2.0/24 via 10.211.55.102'];

const bench = useBench({ flags: ['--iface=eth0', '--route-protocol=150'] });

beforeAll(async () => {
  await bench.reserveSubnet();
  for (const route of [...FOREIGN, IN_THE_WAY]) await bench.host.ip(`route add ${route}`);
  await bench.putRoutes(PEERS);
});

/** The routes of one protocol number, as `ip route add` takes them. */
async function routesOf(protocol: string): Promise<readonly string[]> {
  const text = (route: ListedRoute) =>
    `${route.dst} via ${route.gateway} dev ${route.dev} proto ${route.protocol}`;
  return (await bench.host.routes())
    .filter((route) => route.protocol === protocol)
    .map(text)
    .toSorted();
}

const haveRoutes = (expected: readonly string[]) =>
  untilLines(
    () => routesOf('150'),
    expected,
    10_000,
    () => bench.daemon.process.tail(),
  );

test('routes carry the protocol number of --route-protocol, and those with the default one are foreign', async () => {
  await bench.daemon.start();
  const second = '172.20.2.0/24 via 10.211.55.102 dev eth0 proto 150';
  await haveRoutes(['172.20.1.0/24 via 10.211.55.101 dev eth0 proto 150', second]);
  expect(await routesOf('102')).toEqual(FOREIGN);
  expect(await bench.daemon.waitForLog('routes-changed')).toMatchObject({ missing: 1, foreign: 1 });

  await bench.removeLease('172.20.1.0/24');
  await bench.putLease('172.20.3.0/24', '10.211.55.103');
  await haveRoutes([second, '172.20.3.0/24 via 10.211.55.103 dev eth0 proto 150']);
  expect(await routesOf('102')).toEqual(FOREIGN);
});

test('the same number finds them again after a restart, and the stale one among them', async () => {
  await bench.daemon.stop();
  await bench.removeLease('172.20.3.0/24');
  expect(await routesOf('150')).toHaveLength(2);
  await bench.daemon.start();
  await haveRoutes(['172.20.2.0/24 via 10.211.55.102 dev eth0 proto 150']);
  expect(await routesOf('102')).toEqual(FOREIGN);
});
