import { overlaps, parseSubnet, type Subnet } from '../../src/ip/ip.ts';
import { occupiedSubnets } from '../../src/subnet/keys.ts';
import type { KeyValue, WatchEvent } from '../../src/subnet/registry/registry.ts';
import type { Writer } from '../etcd.ts';
import type { Commit } from '../etcd-store.ts';
import type { SimHost } from '../host.ts';
import { holderOf, isLeasable, poolOf, selfOf, subnetsPrefix } from './oracle.ts';
import type { World } from './world.ts';

/** By then a daemon knows which addresses its host has. */
const settledMs = 10_000;

/** Invariant 8 and what else holds of leases, at each change of the keys; to be called before the change is taken in. */
export function checkCommit(world: World, commit: Commit, writer: Writer): void {
  if (writer === 'operator') return;
  if (writer === 'expiry') return checkEnds(world, commit);
  const host = world.hosts.find(({ name }) => name === writer.host) as SimHost;
  checkRestart(world, host, commit);
  for (const event of commit.events) checkEvent(world, host, event);
}

/** Two hosts that answer one another write four times a second at most, for a while. */
const mostWrites = 100;
const writesMs = 10_000;

/** What a daemon does to one key. */
function checkEvent(world: World, host: SimHost, event: WatchEvent): void {
  const key = event.type === 'put' ? event.kv.key : event.key;
  if (world.count(`write ${key}`, writesMs) >= mostWrites)
    world.violate('no key is written without end', `${key} by ${host.name} and others`);
  const before = world.keys.get(key)?.kv;
  const holder = before && holderOf(before);
  // An address that two hosts have had says less than the etcd lease, and that of a dead host is whose subnet it has become.
  const isOwner =
    before !== undefined && (world.leaseOwners.get(before.lease)?.has(host) ?? worksWith(host, key));
  const hasBeen = holder === undefined || isAddressOf(world, host, holder) || world.hasBeen(host, holder);
  if (!hasBeen && !isOwner)
    world.violate(
      "8 another host's lease is never touched",
      `${host.name} ${event.type} ${key} of ${holder}`,
    );
  if (event.type === 'delete' && before !== undefined && before.lease !== '0')
    checkOwner(world, host, before);
  if (event.type === 'delete') return;
  const { lease } = event.kv;
  if (before?.lease === '0' && lease !== '0')
    world.violate('a reservation stays one', `${host.name} gave ${key} a lease`);
  checkAddress(world, host, event.kv, before);
  // Who puts a key again as it is asks whether somebody holds it.
  const asks = before?.value === event.kv.value && before.lease === lease;
  if (lease !== '0') checkOwner(world, host, event.kv, asks);
}

/** Whether a host has the address, as far as its daemon may know. */
function isAddressOf(world: World, host: SimHost, address: string | undefined): boolean {
  const former = world.formerAddress.get(host);
  const isLate =
    former !== undefined && former.address === address && world.nowMs - former.untilMs < settledMs;
  return address !== undefined && (address === host.address || isLate);
}

/** A lease is put on a key by who was granted it, or has the address of a host that is away. */
function checkOwner(world: World, host: SimHost, kv: KeyValue, asks = false): void {
  // Whoever asks for a lease of a host that is dead has not got it yet.
  if (asks && !world.leaseOwners.has(kv.lease)) return;
  const owners = world.leaseOwners.get(kv.lease) ?? new Set([host]);
  const isGranted = !world.leaseOwners.has(kv.lease) && !world.deadLeases.has(kv.lease);
  if (isGranted) world.leaseBoots.set(kv.lease, host.boots);
  world.leaseOwners.set(kv.lease, owners);
  const address = holderOf(kv);
  const isThere = (owner: SimHost) => world.isOnLink(owner, address) && world.isOnLink(host);
  const owner = owners.has(host) ? undefined : [...owners].find(isThere);
  const isOwn = isAddressOf(world, host, address);
  if (!owners.has(host) && isOwn && owner === undefined) owners.add(host);
  if (owners.has(host) || asks) return;
  world.violate(
    "8 another host's lease is never touched",
    `${host.name} put ${kv.key} on that of ${[...owners].map(({ name }) => name).join(' and ')}`,
  );
}

/** A lease names an address that its host has, and the same one as long as the host has it. */
function checkAddress(world: World, host: SimHost, kv: KeyValue, before: KeyValue | undefined): void {
  const addresses = host.kernel.addresses();
  const doubtful = addresses.find(({ address, dadFailed }) => dadFailed && kv.value.includes(`"${address}"`));
  if (doubtful && kv.value !== before?.value)
    world.violate(
      'no address of another host is leased',
      `${host.name}: ${kv.key} names ${doubtful.address}`,
    );
  const [from, to] = [before && holderOf(before), holderOf(kv)];
  if (from === undefined || from === to || from !== host.address) return;
  const kept = addresses.some(({ address }) => address === from);
  if (kept && world.calmMs(host) > settledMs)
    world.violate('a lease keeps its address', `${host.name} has ${from}, and ${kv.key} names ${to} now`);
}

/** How old the list may be that a start chooses by. */
const startsMs = 500;

/** A daemon that was started again keeps its subnet, unless somebody else has it by now (invariant 9). */
function checkRestart(world: World, host: SimHost, { events }: Commit): void {
  const [event] = events;
  if (events.length !== 1 || event?.type !== 'put' || world.keys.has(event.kv.key)) return;
  const known = host.files.writeError === undefined && !world.torn.has(host) && !host.notifier.isReady;
  const before = known ? selfOf(host, 4)?.subnet : undefined;
  const fits = before && isInScenarioPool(world, before.text);
  if (!fits || world.kvs.some(({ key }) => occupies(key, before)) || occupies(event.kv.key, before)) return;
  // Between its list and its claim a start asks the link for its address.
  const wentMs = world.wasAsked(before.text)?.wentMs;
  if (wentMs !== undefined && world.nowMs - wentMs < startsMs) return;
  // What a host had counts as a whole.
  const half = selfOf(host, 6)?.subnet;
  if (half !== undefined && world.kvs.some(({ key }) => occupies(key, half))) return;
  world.violate('9 a restart keeps the subnet', `${host.name} had ${before.text} and takes ${event.kv.key}`);
}

/**
 * A host works with the subnet that it had, as long as etcd has the lease for it which it was granted since it was booted. To be
 * called now and then.
 */
export function checkSubnets(world: World): void {
  for (const host of world.present) {
    const text = selfOf(host, 4)?.subnet.text;
    if (text === undefined || world.torn.has(host)) continue;
    const before = world.subnets.get(host);
    world.subnets.set(host, { text, boots: host.boots });
    if (before === undefined || before.text === text || before.boots !== host.boots) continue;
    const former = world.kvs.filter(
      ({ key, lease }) =>
        namesSubnet(key, before.text) &&
        world.leaseOwners.get(lease)?.has(host) === true &&
        world.leaseBoots.get(lease) === host.boots,
    );
    const reservations = world.kvs.flatMap(({ key, lease }) => (lease === '0' ? [key] : []));
    const reserved = [...reservations, ...world.reserved].some((key) => namesSubnet(key, text));
    // While it was down the next host at its address may have found nobody to answer.
    const taken = world.present.some((one) => one !== host && selfOf(one, 4)?.subnet.text === before.text);
    if (former.length > 0 && !reserved && !taken && isInScenarioPool(world, before.text))
      world.violate(
        'a living host keeps its subnet',
        `${host.name} had ${before.text} and works with ${text}`,
      );
  }
}

function worksWith(host: SimHost, key: string): boolean {
  const text = selfOf(host, 4)?.subnet.text;
  return text !== undefined && namesSubnet(key, text);
}

function namesSubnet(key: string, text: string): boolean {
  const name = subnetsPrefix + text.replace('/', '-');
  return key === name || key.startsWith(`${name}&`);
}

function isInScenarioPool({ scenario }: World, text: string): boolean {
  const number = Number(/^172\.20\.(\d+)\.0\/24$/.exec(text)?.[1]);
  return number >= 10 && number < 10 + scenario.pool;
}

function occupies(key: string, subnet: Subnet): boolean {
  return occupiedSubnets(subnetsPrefix, key).some((other) => overlaps(other, subnet));
}

function checkEnds(world: World, { events }: Commit): void {
  for (const event of events) {
    const kv = event.type === 'delete' ? world.keys.get(event.key)?.kv : undefined;
    if (kv) checkExpiry(world, kv.key, holderOf(kv));
  }
}

/** A lease must not end while its host is up and etcd within reach. */
function checkExpiry(world: World, key: string, holder: string | undefined): void {
  const host = world.present.find(({ address }) => address === holder);
  if (host === undefined || !host.running || host.ended) return;
  // With a lease that does not fit any more it can only wait for another.
  if (!host.notifier.isReady && !fitsPools(world, key)) return;
  const healthy = world.resting || world.calmMs(host) > 1_000 * world.scenario.leaseTtlSeconds;
  // A restore may bring back a key with another IPv6 half; nobody renews that one.
  const half = selfOf(host, 6)?.subnet.text.replace('/', '-');
  const isOwn =
    worksWith(host, key) && (half === undefined || !key.includes('&') || key.endsWith(`&${half}`));
  if (healthy && isOwn) world.violate('a lease is renewed', `${key} of ${host.name} has ended`);
}

/** What is not as it has to be with the leases, at rest. */
export function leaseProblems(world: World): readonly string[] {
  const problems: string[] = [];
  const held = new Map<string, { readonly host: SimHost; readonly subnets: readonly Subnet[] }>();
  for (const kv of world.kvs) {
    const host = world.hosts.find(({ address }) => address === holderOf(kv));
    if (host) held.set(kv.key, { host, subnets: occupiedSubnets(subnetsPrefix, kv.key) });
  }
  for (const [key, { host, subnets }] of held) {
    for (const [otherKey, other] of held) {
      const both = subnets.some((a) => other.subnets.some((b) => overlaps(a, b)));
      if (key < otherKey && both && host !== other.host)
        problems.push(`${key} of ${host.name} overlaps ${otherKey} of ${other.host.name}`);
    }
  }
  for (const host of world.present) problems.push(...ownLeaseProblems(world, host));
  return [...problems, ...leaks(world)];
}

function ownLeaseProblems(world: World, host: SimHost): readonly string[] {
  const self = selfOf(host, 4);
  const mine = leasesOf(world, host);
  if (self === undefined || mine.length === 0) {
    return isExhausted(world) || isContested(world, host) || isAddressDisputed(world, host)
      ? []
      : [`${host.name} has no subnet, and there are free ones`];
  }
  const name = subnetsPrefix + self.subnet.text.replace('/', '-');
  // One that nobody renews has ended by then; reservations stay.
  const leased = mine.filter((key) => world.keys.get(key)?.kv.lease !== '0');
  if (world.resting && leased.length > 1 && world.scenario.leaseTtlSeconds <= 300)
    return [`${host.name} holds ${leased.join(' and ')}`];
  const found = mine.some((key) => key === name || key.startsWith(`${name}&`));
  return found || isAddressDisputed(world, host) || isContested(world, host)
    ? []
    : [`${host.name} works with ${self.subnet.text}, and etcd has ${mine.join(' and ')}`];
}

/** The keys in the network that carry a host's address; one that an older key overlaps cannot be had. */
export function leasesOf(world: World, host: SimHost): readonly string[] {
  const { kvs } = world;
  const named = kvs.filter((kv) => holderOf(kv) === host.address && isLease(kv.key));
  const usable = named.filter((kv) => {
    const subnets = occupiedSubnets(subnetsPrefix, kv.key);
    return !kvs.some((older) => {
      const theirs = occupiedSubnets(subnetsPrefix, older.key);
      const first = older.createRevision < kv.createRevision && !world.hasBeen(host, holderOf(older));
      return first && subnets.some((mine) => theirs.some((other) => overlaps(mine, other)));
    });
  });
  return usable.map(({ key }) => key);
}

/** Whether all subnets of a key are in the pools; it may have been leased while they were larger. */
export function fitsPools({ scenario: { pool } }: World, key: string): boolean {
  return occupiedSubnets(subnetsPrefix, key).every(({ family, text }) => poolOf(pool, family).includes(text));
}

function isLease(key: string): boolean {
  return occupiedSubnets(subnetsPrefix, key).some(({ text }) => isLeasable(text));
}

/**
 * Whether another host has the subnet that this one works with. It was away until its lease had ended, and came too late: it
 * does not take another one, because its containers are in this one, but says so.
 */
export function isContested(world: World, host: SimHost): boolean {
  if (host.readiness.ready) return false;
  const subnets = ([4, 6] as const).flatMap((family) => selfOf(host, family)?.subnet ?? []);
  // Its own former address counts, too, for a daemon that was started since: a restore may bring back what it had then.
  const others = world.kvs.filter((kv) => holderOf(kv) !== host.address);
  return others.some(({ key }) => subnets.some((subnet) => occupies(key, subnet)));
}

/**
 * Whether a lease of another subnet carries the address that this host has got, as that of another host would. This host's own lease
 * keeps the address from before, and it says so.
 */
function isAddressDisputed(world: World, host: SimHost): boolean {
  const subnet = selfOf(host, 4)?.subnet;
  if (subnet === undefined || host.readiness.ready) return false;
  const own = world.kvs.filter(({ key }) =>
    occupiedSubnets(subnetsPrefix, key).some(({ text }) => text === subnet.text),
  );
  return own.some((kv) => holderOf(kv) !== host.address && world.hasBeen(host, holderOf(kv)));
}

/** Whether all IPv4 subnets of the pool are taken; of IPv6 there is one more. */
export function isExhausted({ kvs, scenario }: World): boolean {
  const taken = kvs.flatMap(({ key }) => occupiedSubnets(subnetsPrefix, key));
  return poolOf(scenario.pool, 4).every((text) => {
    const subnet = parseSubnet(text);
    return subnet && taken.some((other) => overlaps(other, subnet));
  });
}

/** etcd leases that no key carries are left only by daemons that were ended in the middle of something. */
function leaks({ cluster: { etcd }, kvs, crashes, scenario, resting }: World): readonly string[] {
  const used = new Set(kvs.map(({ lease }) => lease));
  const unused = etcd.leaseIds.filter((id) => !used.has(id));
  const late = etcd.late?.count ?? 0;
  const most = resting && scenario.leaseTtlSeconds <= 300 ? 0 : crashes + late;
  return unused.length > most
    ? [`${unused.length} etcd leases that no key carries, after ${crashes} ends and ${late} late writes`]
    : [];
}
