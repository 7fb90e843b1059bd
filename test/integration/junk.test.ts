import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { PREFIX } from '../testbed/cluster.ts';
import type { KernelMonitor } from '../testbed/kernel-monitor.ts';
import { leaseValue } from '../testbed/lease-keys.ts';
import { until } from '../testbed/netns.ts';
import { ENDPOINT, useBench } from './bench.ts';

const PEERS = ['172.20.1.0/24 via 10.211.55.101', '172.20.2.0/24 via 10.211.55.102'];
const VALID = leaseValue('10.211.55.150');

/** Keys that name no subnet, with a value that would be in order. */
const BAD_KEYS = [
  '',
  'junk',
  '172.20.7.0-33',
  '172.20.7.0-24/172.20.7.0-24',
  '１７２.20.7.0-24',
  'bell\u0007\u001b[31mred\n2026 forged line',
  `long-${'k'.repeat(3_000)}`,
];

/** Values that are no lease, each to be put under a key that names a subnet. */
const BAD_VALUES = [
  '',
  'no JSON',
  'null',
  '{"PublicIP":42,"BackendType":"host-gw"}',
  '\u0007\u001b[2J\u0000\u009b31m\u202e',
  Buffer.from([0xff, 0xfe, 0x00, 0x80]),
  '['.repeat(200_000),
  'x'.repeat(1_000_000),
];

/** Leases in order, which no route may come of; told, because somebody expects one. */
const UNROUTABLE: readonly (readonly [subnet: string, value: string])[] = [
  ['10.77.100.0-24', '{"BackendType":"host-gw"}'],
  // Our own address, a subnet around our own, our own network, the gateway inside.
  ['10.77.106.0-24', leaseValue('10.211.55.100')],
  ['172.20.0.0-16', VALID],
  ['10.211.55.0-24', VALID],
  ['10.77.107.0-24', leaseValue('10.77.107.1')],
  // Another backend.
  ['10.77.120.0-24', VALID.replace('host-gw', 'vxlan')],
];

/** What is none of this daemon's business, and not worth a line. */
const SILENT: readonly (readonly [key: string, value: string])[] = [
  ['subnets/0.0.0.0-0&fc00:5::-64', leaseValue('0.0.0.0', { PublicIPv6: 'fc00::9' })],
  ['subnets-old/172.20.7.0-24', VALID],
  ['subnets', VALID],
  ['subnet/172.20.7.0-24', VALID],
  ['172.20.7.0-24', VALID],
];

const bench = useBench({ routes: PEERS });
let monitor: KernelMonitor;

beforeAll(async () => void (monitor = await bench.monitor()));

/** Puts any bytes: the value goes through a file, as an argument can neither be long nor hold a NUL. */
async function put(key: string, value: string | Buffer): Promise<void> {
  // Of an empty input etcdctl makes no value.
  if (value.length === 0) {
    await bench.etcd.ctl('put', '--', key, '');
    return;
  }
  const file = join(bench.dir, 'value');
  writeFileSync(file, value);
  const command = `ETCDCTL_API=3 exec etcdctl --endpoints=${ENDPOINT} put -- "$0" <"$1"`;
  await bench.host.exec('sh', '-c', command, key, file);
}

const badValueKey = (index: number) => `${PREFIX}/subnets/10.77.${index}.0-24`;

async function putAll(): Promise<void> {
  for (const name of BAD_KEYS) await put(`${PREFIX}/subnets/${name}`, VALID);
  for (const [index, value] of BAD_VALUES.entries()) await put(badValueKey(index), value);
  for (const [subnet, value] of UNROUTABLE) await put(`${PREFIX}/subnets/${subnet}`, value);
  for (const [key, value] of SILENT) await put(`${PREFIX}/${key}`, value);
}

/** A key as the log shows it: control characters escaped, the end of a long one cut off. */
function shown(key: string): string {
  return JSON.stringify(key).slice(1, -1).replaceAll('\\n', '\\u000a').slice(0, 100);
}

/** The daemon reads etcd's changes in order: when this lease is routed and gone again, all before it has been looked at. */
async function untilRead(): Promise<void> {
  await bench.putLease('172.20.9.0/24', '10.211.55.109');
  await bench.haveRoutes([...PEERS, '172.20.9.0/24 via 10.211.55.109']);
  await bench.removeLease('172.20.9.0/24');
  await bench.haveRoutes(PEERS);
}

test('junk keys and values that appear while the daemon watches change no route and get one line each', async () => {
  const routes = await bench.allRoutes();
  const mark = await monitor.mark();
  const linesBefore = bench.daemon.logs.length;

  await putAll();
  await untilRead();

  expect(await bench.allRoutes()).toEqual(routes);
  const events = (await monitor.since(mark)).map(({ text }) => text);
  expect(events.filter((text) => !text.includes('172.20.9.0/24'))).toEqual([]);
  const news = () => bench.daemon.logs.slice(linesBefore).filter(({ event }) => event !== 'routes-changed');
  const told = [
    ...BAD_KEYS.map((name) => `key ${shown(`${PREFIX}/subnets/${name}`)}`),
    ...BAD_VALUES.map((_, index) => `key ${badValueKey(index)} `),
    ...UNROUTABLE.map(([subnet]) => `${PREFIX}/subnets/${subnet}: `),
  ];
  const untold = () => told.filter((text) => !news().some(({ msg = '' }) => msg.includes(text)));
  // The daemon looks every few seconds for leases that it does not route.
  await until(
    () => untold().length === 0,
    15_000,
    () => untold().join('\n'),
  );
  const said = news();
  expect(said).toHaveLength(told.length);
  expect(said.filter(({ level }) => level !== 'warn')).toEqual([]);
  // Nothing from outside reaches a terminal as it is, and no line is endless.
  const raw = bench.daemon.process.lines.slice(linesBefore);
  expect(raw.filter((line) => /[\p{Cc}\u202e]/u.test(line) || line.length > 1_000)).toEqual([]);
});

test('a peer’s lease that becomes junk costs its own route alone, and comes back with it', async () => {
  const key = `${PREFIX}/subnets/172.20.2.0-24`;
  const before = await bench.etcd.ctl('get', key, '--print-value-only');
  await put(key, '{"PublicIP":');
  await bench.haveRoutes(PEERS.slice(0, 1));
  await put(key, before.trim());
  await bench.haveRoutes(PEERS);
});

test('a start among the junk changes no route, keeps the subnet, and logs each junk key once', async () => {
  const subnet = bench.daemon.subnetEnv()['FLANNEL_SUBNET'];
  await bench.daemon.stop();
  const routes = await bench.allRoutes();
  const mark = await monitor.mark();
  await bench.daemon.start();
  expect(await bench.allRoutes()).toEqual(routes);
  expect(await monitor.since(mark)).toEqual([]);
  expect(bench.daemon.subnetEnv()['FLANNEL_SUBNET']).toBe(subnet);
  const skipped = bench.daemon.logs.filter(({ event }) => event === 'lease-skipped');
  expect(skipped).toHaveLength(BAD_KEYS.length + BAD_VALUES.length);
  expect(bench.daemon.logs.filter(({ level }) => level === 'error')).toEqual([]);
});

test('junk that is deleted changes no route and logs nothing', async () => {
  const mark = await monitor.mark();
  const linesBefore = bench.daemon.logs.length;
  await bench.etcd.ctl('del', '--prefix', `${PREFIX}/subnets/10.77.`);
  await bench.etcd.ctl('del', '--prefix', `${PREFIX}/subnets/junk`);
  await untilRead();
  const events = (await monitor.since(mark)).map(({ text }) => text);
  expect(events.filter((text) => !text.includes('172.20.9.0/24'))).toEqual([]);
  const said = bench.daemon.logs.slice(linesBefore).filter(({ event }) => event !== 'routes-changed');
  expect(said).toEqual([]);
});
