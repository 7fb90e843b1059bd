import type { SimHost } from '../host.ts';
import { atOnce, type Faults, onHost, onKernel } from './fault.ts';
import { hasNic, holds } from './oracle.ts';
import type { World } from './world.ts';

const short = [1, 20_000] as const;

/** Takes something of the card away; once it is given back the routes have to follow in time. */
function away(world: World, host: SimHost, take: () => void): () => void {
  const isBack = world.watchRepair(host);
  take();
  return () => {
    world.plug(host);
    isBack();
  };
}

/** What happens to a host's links and addresses. */
export const linkFaults: Faults = {
  'link flap': onKernel(4, short, (host, world) => {
    return hasNic(host) ? away(world, host, () => host.kernel.setLinkUp('eth0', false)) : undefined;
  }),
  'carrier lost': onHost(1, short, (host) => {
    if (!hasNic(host)) return undefined;
    host.kernel.setCarrier('eth0', false);
    return () => {
      if (hasNic(host) && host.kernel.link('eth0').up) host.kernel.setCarrier('eth0', true);
    };
  }),
  'NIC made anew': onKernel(2, short, (host, world) => {
    return away(world, host, () => world.unplug(host));
  }),
  'addresses away': onKernel(2, short, (host, world) => {
    return hasNic(host) ? away(world, host, () => host.kernel.flushAddresses('eth0')) : undefined;
  }),
  // As DHCP does when it gets another one: the new one comes before the old one goes, or after.
  'another address on the link': onKernel(2, [1, 8_000], (host, world, { host: index, dice }) => {
    if (!hasNic(host)) return undefined;
    const before = `${host.address}/16`;
    world.readdress(host, world.newAddress(120 + index, dice));
    const replace = () => {
      if (!hasNic(host)) return;
      if (holds(host, before) && before !== `${host.address}/16`) {
        host.kernel.removeAddress('eth0', before);
        world.loseAddress(host, before.replace('/16', ''));
      }
      world.plug(host);
    };
    if (dice % 3 === 0) replace();
    else if (dice % 3 === 1) world.plug(host);
    return replace;
  }),
  'another address': onKernel(2, short, (host, world, { host: index, dice }) => {
    world.unplug(host);
    world.readdress(host, world.newAddress(100 + index, dice));
    return () => world.plug(host);
  }),
  'second address': onHost(1, short, (host, world, { host: index, dice }) => {
    if (!hasNic(host)) return undefined;
    const cidr = `10.211.${200 + index}.${1 + (dice % 250)}/16`;
    world.addressesOf.get(host)?.add(cidr.slice(0, -3));
    if (!holds(host, cidr)) host.kernel.addAddress('eth0', cidr);
    return () => {
      if (hasNic(host) && holds(host, cidr)) host.kernel.removeAddress('eth0', cidr);
    };
  }),
  MTU: onHost(1, atOnce, (host, _, { dice }) => {
    if (hasNic(host)) host.kernel.setMtu('eth0', 1_400 + (dice % 100));
  }),
};
