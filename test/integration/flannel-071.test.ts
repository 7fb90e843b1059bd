import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from 'vitest';
import type { V2Node, V2Store } from '../../src/subnet/etcd-v2/store.ts';
import { askRaw, v2Client } from '../contract/v2-store-real.ts';
import { Cluster, CONFIG } from '../testbed/cluster.ts';
import { startEtcd } from '../testbed/etcd.ts';
import { FLANNEL_071, Flannel071Process } from '../testbed/flannel-071.ts';
import { enterNamespace, until, untilLines } from '../testbed/netns.ts';

// vitest shows names only when something fails.
console.log(`flannel 0.7.1 is ${FLANNEL_071.name}`);

/**
 * What flannel 0.7.1 does on a real etcd and in a real kernel, as far as it counts for hosts that move from it. FLANNELD_071=path
 * names a flanneld to be used in place of the model, which has to pass, too.
 */

const DEADLINE_MS = 15_000;
const PEER = '10.211.55.240';
const { signal } = new AbortController();

const cluster = new Cluster({ hosts: 3 });
let endpoint: string;
let store: V2Store;
let flannels: readonly Flannel071Process[];
/** A key space of its own for each test. */
let prefix: string;
let prefixes = 0;

beforeAll(async () => {
  await cluster.make();
  const { net, address } = cluster.at(0);
  const members = [{ netns: net.namespace, ip: address }];
  const etcd = await startEtcd({ dir: join(cluster.dir, 'etcd'), members, args: ['--enable-v2'] });
  cluster.onClose(() => etcd.close());
  endpoint = etcd.endpoints;
  const leave = enterNamespace(net.namespace);
  cluster.onClose(async () => leave());
  store = v2Client([endpoint]);
});
afterAll(() => cluster.close());

beforeEach(async () => {
  prefix = `/net-${++prefixes}`;
  flannels = cluster.hosts.map(
    ({ dir, name, net }) =>
      new Flannel071Process({ dir, namespace: net.namespace, hostname: name, endpoints: endpoint, prefix }),
  );
  await store.create(`${prefix}/config`, JSON.stringify(CONFIG), 'permanent', signal);
  await Promise.all(flannels.map((flannel) => flannel.start()));
  await expectMesh();
});
afterEach(async () => {
  await Promise.all(flannels.map((flannel) => flannel.close()));
  for (const { subnetFile } of flannels) rmSync(subnetFile, { force: true });
  for (const { net } of cluster.hosts) await net.ip('route flush proto boot');
});

/** One of the three, and where it runs. */
function at(place: number) {
  const flannel = flannels[place];
  if (flannel === undefined) throw new RangeError(`no flannel ${place}`);
  return { flannel, ...cluster.at(place) };
}

/** The routes by way of a gateway, `dst via gateway`, in order. */
async function routesOf(place: number): Promise<readonly string[]> {
  const routes = await at(place).net.routes();
  return routes
    .filter(({ gateway }) => gateway !== undefined)
    .map(({ dst, gateway, protocol = 'boot' }) => `${dst} via ${gateway} ${protocol}`)
    .toSorted();
}

/** The routes that a host has to have to the others, and `more`. */
function routesFrom(place: number, more: readonly string[] = []): readonly string[] {
  const others = [0, 1, 2].filter((other) => other !== place).map((other) => at(other));
  const lines = others.map(({ flannel, address }) => `${flannel.subnet} via ${address}`);
  return [...lines, ...more].map((line) => `${line} boot`).toSorted();
}

async function expectRoutes(place: number, wanted: readonly string[]): Promise<void> {
  await untilLines(
    () => routesOf(place),
    wanted,
    DEADLINE_MS,
    () => at(place).flannel.process.tail(),
  );
}

async function expectMesh(more: readonly string[] = []): Promise<void> {
  for (const place of [0, 1, 2]) await expectRoutes(place, routesFrom(place, more));
}

const keyOf = (subnet: string) => `${prefix}/subnets/${subnet.replace('/', '-')}`;
const valueOf = (address: string) => JSON.stringify({ PublicIP: address, BackendType: 'host-gw' });

async function read(key: string): Promise<V2Node | undefined> {
  return (await store.get(key, signal)).node;
}

async function mustRead(key: string): Promise<V2Node> {
  const node = await read(key);
  if (node === undefined) throw new Error(`no key ${key}`);
  return node;
}

/** What somebody else does, whom the client of ours does not let: writes without a condition, removals. */
async function raw(method: 'PUT' | 'DELETE', key: string, query = '', form?: string): Promise<void> {
  await askRaw(new URL(`/v2/keys${key}${query}`, endpoint), method, form === undefined ? {} : { form });
}

/** A subnet that no host has. */
function freeSubnet(): string {
  const taken = new Set(flannels.map(({ subnet }) => subnet));
  const free = Array.from({ length: 9 }, (_, third) => `172.20.${200 + third}.0/24`);
  return free.find((subnet) => !taken.has(subnet)) ?? '';
}

it('hosts mesh, by leases of 24 hours', async () => {
  const { nodes } = await store.list(`${prefix}/subnets`, signal);
  const expected = [0, 1, 2].map((place) => ({
    key: keyOf(at(place).flannel.subnet),
    value: valueOf(at(place).address),
  }));
  expect(nodes.map(({ key, value }) => ({ key, value }))).toEqual(expect.arrayContaining(expected));
  for (const { ttlSeconds } of nodes) expect(ttlSeconds).toBeGreaterThan(86_300);
});

it('a stop leaves routes, key and subnet.env, and a start finds them', async () => {
  const { flannel } = at(0);
  const { subnet } = flannel;
  const routes = await routesOf(0);
  const before = await mustRead(keyOf(subnet));
  const monitor = await at(0).net.monitor();
  const mark = await monitor.mark();
  await flannel.stop();
  expect(await routesOf(0)).toEqual(routes);
  expect(await mustRead(keyOf(subnet))).toMatchObject({ modifiedIndex: before.modifiedIndex });
  await flannel.start();
  expect(flannel.subnet).toBe(subnet);
  // With the route of a later lease it has been through all the others.
  const later = freeSubnet();
  await store.create(keyOf(later), valueOf(PEER), 86_400, signal);
  await expectMesh([`${later} via ${PEER}`]);
  expect(await monitor.routesSince(mark)).toEqual([expect.stringContaining(`${later} via ${PEER}`)]);
  await monitor.stop();
  // Written without a condition, so that the key counts as created by now.
  const { createdIndex, modifiedIndex } = await mustRead(keyOf(subnet));
  expect(createdIndex).toBe(modifiedIndex);
});

it('a foreign value in its key goes unnoticed, until it renews over it', async () => {
  const { flannel, address } = at(0);
  const key = keyOf(flannel.subnet);
  const { modifiedIndex } = await mustRead(key);
  // Two seconds more than the margin of an hour: the host believes the expiry, and nothing else.
  await store.replace(key, valueOf(PEER), modifiedIndex, 3_602, signal);
  expect(await mustRead(key)).toMatchObject({ value: valueOf(PEER) });
  await until(async () => (await mustRead(key)).value === valueOf(address), DEADLINE_MS);
  const { createdIndex, modifiedIndex: now, ttlSeconds } = await mustRead(key);
  expect(createdIndex).toBe(now);
  expect(ttlSeconds).toBeGreaterThan(86_300);
  expect(flannel.running).toBe(true);
});

it('a removal by a TTL of 0 with a condition is understood', async () => {
  const subnet = freeSubnet();
  const made = await store.create(keyOf(subnet), valueOf(PEER), 86_400, signal);
  await expectMesh([`${subnet} via ${PEER}`]);
  await store.expire(keyOf(subnet), valueOf(PEER), made.modifiedIndex, signal);
  await expectMesh();
  // And what comes later, too.
  await store.create(keyOf(subnet), valueOf(PEER), 86_400, signal);
  await expectMesh([`${subnet} via ${PEER}`]);
});

it('a removal by a TTL of 0 of the key of a host that runs is undone by it', async () => {
  const { flannel, address } = at(0);
  const { subnet } = flannel;
  const { modifiedIndex } = await mustRead(keyOf(subnet));
  await store.expire(keyOf(subnet), valueOf(address), modifiedIndex, signal);
  await until(async () => ((await read(keyOf(subnet)))?.ttlSeconds ?? 0) > 86_300, DEADLINE_MS);
  expect(flannel.subnet).toBe(subnet);
  await expectMesh();
});

it.each([
  { what: 'DELETE with prevIndex', act: removeWithCondition },
  { what: 'a value that is no JSON', act: (key: string) => raw('PUT', key, '', 'value=reserved') },
  { what: 'a key that names no subnet', act: () => raw('PUT', `${prefix}/subnets/notes`, '', 'value=x') },
])('is blind after $what, until it is started again', async ({ what, act }) => {
  const [subnet, later] = [freeSubnet(), '172.20.220.0/24'];
  await store.create(keyOf(subnet), valueOf(PEER), 86_400, signal);
  await expectMesh([`${subnet} via ${PEER}`]);
  await act(keyOf(subnet));
  const complaints = () =>
    at(0).flannel.process.lines.filter((line) => line.includes('Watch subnets')).length;
  await until(
    () => complaints() > 0,
    DEADLINE_MS,
    () => at(0).flannel.process.tail(),
  );
  await store.create(keyOf(later), valueOf(PEER), 86_400, signal);
  // It has asked twice since then, and got what it does not understand.
  const before = complaints();
  await until(() => complaints() > before + 1, DEADLINE_MS);
  expect(await routesOf(0)).toEqual(routesFrom(0, [`${subnet} via ${PEER}`]));
  if (what === 'a key that names no subnet') {
    await at(0).flannel.stop();
    at(0).flannel.launch();
    expect((await at(0).flannel.process.exit).code).toBe(2);
    await raw('DELETE', `${prefix}/subnets/notes`);
  } else await at(0).flannel.stop();
  await at(0).flannel.start();
  await expectRoutes(0, routesFrom(0, [`${subnet} via ${PEER}`, `${later} via ${PEER}`]));
});

it('its own key deleted, it takes another subnet at once', async () => {
  const { flannel } = at(0);
  const { subnet } = flannel;
  // It draws among a hundred: the same one must not be free.
  const half = keyOf(subnet.replace('.0/24', '.128/25'));
  await store.create(half, JSON.stringify({ PublicIP: PEER, BackendType: 'none' }), 'permanent', signal);
  await raw('DELETE', keyOf(subnet));
  await until(
    () => flannel.subnet !== subnet,
    DEADLINE_MS,
    () => flannel.process.tail(),
  );
  for (const place of [1, 2])
    await until(
      async () => (await routesOf(place)).includes(`${flannel.subnet} via ${at(0).address} boot`),
      DEADLINE_MS,
    );
});

it('the old route stays when the PublicIP in a key changes', async () => {
  const subnet = freeSubnet();
  const { modifiedIndex } = await store.create(keyOf(subnet), valueOf(PEER), 86_400, signal);
  await expectMesh([`${subnet} via ${PEER}`]);
  await store.replace(keyOf(subnet), valueOf('10.211.55.241'), modifiedIndex, 86_400, signal);
  const isSeen = () => /Error deleting route/.test(at(0).flannel.process.tail(100));
  await until(isSeen, DEADLINE_MS, () => at(0).flannel.process.tail());
  await expectRoutes(0, routesFrom(0, [`${subnet} via ${PEER}`]));
});

async function removeWithCondition(key: string): Promise<void> {
  const { modifiedIndex } = await mustRead(key);
  await raw('DELETE', key, `?prevIndex=${modifiedIndex}`);
}
