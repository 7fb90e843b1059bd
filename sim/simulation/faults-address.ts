import type { SimHost } from '../host.ts';
import { type Fault, onAll } from './fault.ts';
import { hasNic } from './faults-links.ts';
import type { World } from './world.ts';

/** Gives a host another address, in place of the one it has. */
function exchange(world: World, host: SimHost, address: string): void {
  const before = host.address;
  host.address = address;
  world.loseAddress(host, before);
  if (!hasNic(host)) return;
  const there = host.kernel.addresses().some((one) => one.address === before);
  if (there && before !== address) host.kernel.removeAddress('eth0', `${before}/16`);
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

/** Two hosts with one address. */
export const addressFaults: Readonly<Record<string, Fault>> = {
  // A machine that was copied is started, or one is configured by hand; later it gets an address of its own.
  'the address of another host': onAll(
    { weight: 3, lastsMs: [1_000, 400_000], kernel: true, apart: true },
    (world, { host: index, dice }) => {
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
    },
  ),
};
