import { beforeAll, expect, test } from 'vitest';
import { until } from '../testbed/netns.ts';
import { ENDPOINT, useBench } from './bench.ts';

const PEER = '10.211.55.101';
const GOOD = `172.20.1.0/24 via ${PEER}`;
/** Subnets that a lease asks for, and what of the host each would take away. */
const TAKEN: readonly (readonly [string, RegExp])[] = [
  ['10.211.55.128/25', /overlaps 10\.211\.55\.0\/24, the network eth0 is connected to/],
  ['10.44.0.128/25', /overlaps 10\.44\.0\.0\/24, the network office is connected to/],
  ['10.44.0.0/24', /overlaps 10\.44\.0\.128\/25 of the older lease/],
  ['10.99.0.0/24', /contains 10\.99\.0\.1, the gateway of the default route/],
  ['10.77.0.0/24', /contains 10\.77\.0\.5, the address of an etcd endpoint/],
];
const NEVER: readonly (readonly [string, RegExp])[] = [
  ['127.1.0.0/24', /never routed/],
  ['224.0.1.0/24', /never routed/],
  ['64.0.0.0/2', /wider than the network/],
  ['32.0.0.0/3', /wider than the network/],
  ['172.20.1.128/25', /overlaps 172\.20\.1\.0\/24 of the older lease/],
];

const bench = useBench({
  flags: ['--iface=eth0', `--etcd-endpoints=${ENDPOINT},http://10.77.0.5:2379`],
});

beforeAll(async () => {
  await bench.host.ip('link add office type bridge');
  await bench.host.ip('addr add 10.44.0.1/24 dev office');
  await bench.host.ip('link set office up');
  await bench.host.ip('route add default via 10.99.0.1 dev eth0 onlink');
});

test('a lease cannot take the networks, the way out, the etcd or the peers of a host', async () => {
  const before = (await bench.host.routes()).map(({ dst }) => dst);
  await bench.putLease('172.20.1.0/24', PEER);
  await bench.daemon.start();
  for (const [subnet] of [...TAKEN, ...NEVER]) await bench.putLease(subnet, PEER);
  // Whatever they do is done when a later one has its route.
  await bench.putLease('172.20.2.0/24', PEER);
  await bench.haveRoutes([GOOD, `172.20.2.0/24 via ${PEER}`]);
  const after = (await bench.host.routes()).map(({ dst }) => dst);
  expect(after.toSorted()).toEqual([...before, '172.20.1.0/24', '172.20.2.0/24'].toSorted());
  for (const [subnet, reason] of [...TAKEN, ...NEVER]) {
    const names = (text: string) => text.includes(subnet) || text.includes(subnet.replace('/', '-'));
    const told = () => bench.daemon.logs.filter(({ msg = '' }) => names(msg) && reason.test(msg)).length;
    await until(() => told() > 0, 15_000, subnet);
    expect(told(), subnet).toBe(1);
  }
});

test('a refused lease gets its route once the host’s network or the older lease is gone', async () => {
  const rest = [GOOD, `172.20.2.0/24 via ${PEER}`];
  const half = `10.44.0.128/25 via ${PEER}`;
  const whole = `10.44.0.0/24 via ${PEER}`;
  await bench.host.ip('link set office down');
  // Of the two leases for this network the older one.
  await bench.haveRoutes([...rest, half], 2_000);
  await bench.host.ip('link set office up');
  await bench.haveRoutes(rest, 2_000);
  await bench.host.ip('link del office');
  await bench.haveRoutes([...rest, half], 2_000);
  await bench.removeLease('10.44.0.128/25');
  await bench.haveRoutes([...rest, whole], 2_000);
  await bench.removeLease('172.20.1.0/24');
  await bench.haveRoutes([`172.20.1.128/25 via ${PEER}`, rest[1] ?? '', whole], 2_000);
});
