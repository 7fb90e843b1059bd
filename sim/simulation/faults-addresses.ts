import type { SimHost } from '../host.ts';
import { type Fault, onAll, onHost } from './fault.ts';
import { hasNic } from './faults-links.ts';
import { holderOf, poolOf, selfOf, subnetsPrefix } from './oracle.ts';
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

/** Which addresses hosts have, and who else has, or had, them. */
export const ownAddressFaults: Readonly<Record<string, Fault>> = {
  'an address of a dead host': onHost(
    { weight: 3, lastsMs: aWhile, kernel: true, apart: true },
    (host, world, { host: index, dice }) => {
      if (!hasNic(host)) return undefined;
      takeAddress(host);
      world.readdress(host, world.newAddress(140 + index, dice));
      leaveDeadLease(world, host.address, dice);
      if (dice % 2) world.plug(host);
      return () => world.plug(host);
    },
  ),
  'hosts exchange their addresses': onAll(
    { weight: 3, lastsMs: aWhile, kernel: true, apart: true },
    (world, event) => {
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
    },
  ),
  // That one may have been booted just now, and know of nothing.
  'another host takes the former address': onAll(
    { weight: 3, lastsMs: aWhile, kernel: true, apart: true },
    (world, event) => {
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
    },
  ),
  // As a cluster manager's, which it moves to another host.
  'an address that floats': onAll({ weight: 2, lastsMs: short, apart: true }, (world, event) => {
    const host = world.host(event.host);
    const other = otherHost(world, event);
    const cidr = `10.211.250.${1 + (event.dice % 250)}/32`;
    const text = cidr.slice(0, -3);
    if (!hasNic(host)) return undefined;
    const own = host.kernel.addresses().find(({ address }) => address === host.address);
    if (own) host.kernel.changeAddress('eth0', `${host.address}/16`, { permanent: event.dice % 2 === 0 });
    const held = (one: SimHost) => one.kernel.addresses().some(({ address }) => address === text);
    const give = (one: SimHost) => {
      world.addressesOf.get(one)?.add(text);
      if (hasNic(one) && !held(one)) one.kernel.addAddress('eth0', cidr);
    };
    const take = (one: SimHost) => {
      if (hasNic(one) && held(one)) one.kernel.removeAddress('eth0', cidr);
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
  'duplicate address detection fails': onHost(
    { weight: 1, lastsMs: short, apart: true },
    (host, world, { dice }) => {
      if (!hasNic(host) || !world.scenario.ipv6) return undefined;
      const cidr = `fd00:55::d:${(1 + (dice % 5_000)).toString(16)}/64`;
      const isHeld = () =>
        hasNic(host) && host.kernel.addresses().some(({ address }) => cidr.startsWith(`${address}/`));
      if (isHeld()) return undefined;
      host.kernel.addAddress('eth0', cidr, { tentative: true });
      world.later(1_000, () => {
        if (isHeld()) host.kernel.changeAddress('eth0', cidr, { dadFailed: true });
      });
      return () => {
        if (isHeld()) host.kernel.removeAddress('eth0', cidr);
      };
    },
  ),
  'an operator copies the key of a host': onAll(
    { weight: 2, lastsMs: short, apart: true },
    (world, { dice }) => {
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
    },
  ),
};
