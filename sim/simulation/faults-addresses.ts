import type { SimHost } from '../host.ts';
import { apart, onAll, onAllAndKernel, onHost, onKernel } from './fault.ts';
import { hasNic, holderOf, holds, poolOf, selfOf, subnetsPrefix } from './oracle.ts';
import type { FaultEvent } from './scenario.ts';
import type { World } from './world.ts';

const short = [1, 20_000] as const;
const aWhile = [1, 8_000] as const;

/** Another host of the cluster than the event's, if there is one. */
function otherHost(world: World, { host, dice }: FaultEvent): SimHost | undefined {
  const others = world.present.filter((one) => one !== world.host(host));
  return others[(dice >> 4) % Math.max(1, others.length)];
}

/** Takes the address away that a host has on its card. */
function takeAddress({ kernel, address }: SimHost): void {
  const held = kernel.addresses().find((one) => one.address === address);
  if (held) kernel.removeAddress('eth0', `${address}/${held.prefixLength}`);
}

/**
 * Gives another host the address of the event's host, which gets the one that `substitute` names. Both cards are left without an
 * address. Hosts that share an address with a third one are left alone: nobody would ever give that one back.
 */
function handOver(
  world: World,
  event: FaultEvent,
  substitute: (other: SimHost) => string,
): { readonly host: SimHost; readonly other: SimHost } | undefined {
  const [host, other] = [world.host(event.host), otherHost(world, event)];
  if (other === undefined || !hasNic(host) || !hasNic(other)) return undefined;
  if (world.sharesAddress(host) || world.sharesAddress(other)) return undefined;
  for (const one of [host, other]) takeAddress(one);
  const { address } = host;
  world.readdress(host, substitute(other));
  world.readdress(other, address);
  return { host, other };
}

/** A free subnet, as long as there is one for every host beside it. */
function spareSubnet(world: World, dice: number): string | undefined {
  const { pool, hosts } = world.scenario;
  const free = poolOf(pool, 4).filter((text) => {
    const name = text.replace('/', '-');
    const isTaken = world.kvs.some(({ key }) => key.startsWith(subnetsPrefix + name));
    return !isTaken && world.hosts.every((host) => selfOf(host, 4)?.subnet.text !== text);
  });
  const leased = world.kvs.filter(({ key }) => key.startsWith(subnetsPrefix)).length;
  return pool - leased > hosts ? free[dice % Math.max(1, free.length)] : undefined;
}

/** Leaves the lease of a host that is dead: nobody renews it. */
function leaveDeadLease(world: World, address: string, dice: number): void {
  const subnet = world.scenario.ipv6 ? undefined : spareSubnet(world, dice);
  if (subnet === undefined) return;
  const { etcd } = world.cluster;
  // Its etcd lease outlives its key when that is deleted.
  world.crashes++;
  const value = JSON.stringify({ PublicIP: address, PublicIPv6: null, BackendType: 'host-gw' });
  const leaseId = etcd.grant(world.scenario.leaseTtlSeconds);
  world.deadLeases.add(leaseId);
  etcd.put(subnetsPrefix + subnet.replace('/', '-'), value, leaseId);
}

/** Gives a host another address, in place of the one it has. */
function exchange(world: World, host: SimHost, address: string): void {
  const before = host.address;
  host.address = address;
  world.loseAddress(host, before);
  if (!hasNic(host)) return;
  if (holds(host, `${before}/16`) && before !== address) host.kernel.removeAddress('eth0', `${before}/16`);
  world.plug(host);
}

/** Which of two hosts lose their way to etcd: they take it from one another. */
function cutOff(world: World, hosts: readonly SimHost[], dice: number): () => void {
  const lost = hosts.filter((_, index) => ((dice >> index) & 1) === 1);
  for (const { name } of lost) world.cluster.etcd.cut(name);
  return () => {
    for (const { name } of lost) world.cluster.etcd.heal(name);
  };
}

/** Which addresses hosts have, and who else has, or had, them. */
export const addressFaults = apart({
  // A machine that was copied is started, or one is configured by hand; later it gets an address of its own.
  'the address of another host': onAllAndKernel(3, [1_000, 400_000], (world, { host: index, dice }) => {
    const host = world.host(index);
    const victim = world.host(index + 1 + (dice % (world.hosts.length - 1)));
    const { address } = victim;
    // It would come back to an address that it has from a third host, and keep that for good.
    if (world.sharesAddress(host) || world.gone.has(victim)) return undefined;
    const own = host.address;
    const isCopy = (dice >> 4) % 3 > 0;
    if (isCopy) {
      world.crash(host);
      host.reboot();
    }
    exchange(world, host, address);
    const heal = cutOff(world, [victim, host], dice >> 8);
    if (isCopy) world.up(host);
    return () => {
      heal();
      if (host.address === address && !world.gone.has(host)) exchange(world, host, own);
      world.touch(host);
    };
  }),
  'an address of a dead host': onKernel(3, aWhile, (host, world, { host: index, dice }) => {
    if (!hasNic(host)) return undefined;
    takeAddress(host);
    world.readdress(host, world.newAddress(140 + index, dice));
    leaveDeadLease(world, host.address, dice);
    if (dice % 2) world.plug(host);
    return () => world.plug(host);
  }),
  'hosts exchange their addresses': onAllAndKernel(3, aWhile, (world, event) => {
    const pair = handOver(world, event, ({ address }) => address);
    if (pair === undefined) return undefined;
    const { host, other } = pair;
    if (event.dice % 3 === 0) world.plug(host);
    if (event.dice % 3 < 2) world.plug(other);
    world.touch(other);
    return () => {
      for (const one of [host, other]) world.plug(one);
      world.touch(other);
    };
  }),
  // That one may have been booted just now, and know of nothing.
  'another host takes the former address': onAllAndKernel(3, aWhile, (world, event) => {
    const pair = handOver(world, event, () => world.newAddress(160 + event.host, event.dice));
    if (pair === undefined) return undefined;
    const { host, other } = pair;
    if (event.dice % 3 === 0) leaveDeadLease(world, host.address, event.dice);
    if (event.dice % 4 < 2) world.plug(host);
    if (event.dice % 5 < 3) {
      world.crash(other);
      other.reboot();
    }
    world.plug(other);
    world.up(other);
    world.touch(other);
    return () => world.plug(host);
  }),
  // As a cluster manager's, which it moves to another host.
  'an address that floats': onAll(2, short, (world, event) => {
    const host = world.host(event.host);
    const other = otherHost(world, event);
    const cidr = `10.211.250.${1 + (event.dice % 250)}/32`;
    const text = cidr.slice(0, -3);
    if (!hasNic(host)) return undefined;
    const own = host.kernel.addresses().find(({ address }) => address === host.address);
    if (own) host.kernel.changeAddress('eth0', `${host.address}/16`, { permanent: event.dice % 2 === 0 });
    const give = (one: SimHost) => {
      world.addressesOf.get(one)?.add(text);
      if (hasNic(one) && !holds(one, cidr)) one.kernel.addAddress('eth0', cidr);
    };
    const take = (one: SimHost) => {
      if (hasNic(one) && holds(one, cidr)) one.kernel.removeAddress('eth0', cidr);
    };
    give(host);
    world.later(event.forMs / 2, () => {
      take(host);
      if (other !== undefined) give(other);
    });
    return () => {
      for (const one of world.hosts) take(one);
    };
  }),
  // The new address is the first in the kernel's order.
  'duplicate address detection fails': onHost(1, short, (host, world, { dice }) => {
    if (!hasNic(host) || !world.scenario.ipv6) return undefined;
    const cidr = `fd00:55::d:${(1 + (dice % 5_000)).toString(16)}/64`;
    const isHeld = () => hasNic(host) && holds(host, cidr);
    if (isHeld()) return undefined;
    host.kernel.addAddress('eth0', cidr, { tentative: true });
    world.later(1_000, () => {
      if (isHeld()) host.kernel.changeAddress('eth0', cidr, { dadFailed: true });
    });
    return () => {
      if (isHeld()) host.kernel.removeAddress('eth0', cidr);
    };
  }),
  'an operator copies the key of a host': onAll(2, short, (world, { dice }) => {
    const { etcd } = world.cluster;
    const own = world.kvs.filter((kv) => world.hosts.some((host) => world.hasBeen(host, holderOf(kv))));
    const kv = own[dice % Math.max(1, own.length)];
    if (kv === undefined) return undefined;
    const half = kv.key.includes('&') ? '' : '&fc00:0:0:ee::-64';
    const copy = `${kv.key.replace(/&.*$/, '')}${half}`;
    if (etcd.get(copy) !== undefined) return undefined;
    etcd.put(copy, kv.value, kv.lease);
    world.lent.push([copy, kv.value]);
    world.copies.add(copy);
    if (dice % 2) etcd.delete(kv.key);
    // Taken again on another etcd lease, the first one is left with the copy.
    if (dice % 2) world.crashes++;
    return () => world.takeBack(copy, kv.value);
  }),
});
