import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { SimLog } from '../../sim/log.ts';
import { systemClock } from '../../src/daemon/host/clock.ts';
import { chooseInterface, type HostInterface } from '../../src/daemon/interface/choose-interface.ts';
import { loadGoRegexp } from '../../src/daemon/interface/go-regexp.ts';
import { readHostNetwork, type WantedInterface } from '../../src/daemon/interface/host-network.ts';
import { InterfaceWatch } from '../../src/daemon/interface/interface-watch.ts';
import type { Kernel } from '../../src/kernel/kernel.ts';
import { openNetlinkKernel } from '../../src/kernel/netlink-kernel.ts';
import { TroubleLog } from '../../src/runtime/trouble.ts';
import { enterNamespace, type Host, makeNetwork, type Network, until } from '../testbed/netns.ts';

// The choice and the watch on Linux itself, in a namespace that this process is in meanwhile.

const forever = new AbortController().signal;

let network: Network;
let host: Host;
let kernel: Kernel;
let leave: () => void;

beforeEach(async () => {
  network = await makeNetwork([
    { addresses: ['10.211.55.100/24', '10.211.55.200/24', 'fd00:55::100/64'] },
    { addresses: [] },
  ]);
  const [first] = network.hosts;
  if (first === undefined) throw new Error('no host');
  host = first;
  leave = enterNamespace(host.namespace);
  kernel = openNetlinkKernel({ clock: systemClock });
});

afterEach(async () => {
  kernel?.close();
  leave?.();
  await network?.close();
});

const wantedOf = (over: Partial<WantedInterface>): WantedInterface => ({
  ifaces: [],
  ifaceRegexes: [],
  families: [4],
  ...over,
});

async function choose(over: Partial<WantedInterface>): Promise<HostInterface> {
  const wanted = wantedOf(over);
  const choice = chooseInterface(await readHostNetwork(kernel, wanted, forever), wanted);
  if ('problem' in choice) throw new Error(choice.problem);
  return choice.chosen;
}

const addressesOf = async (over: Partial<WantedInterface>) => (await choose(over)).addresses;

describe('the kernel’s order of addresses', () => {
  test('IPv4: the oldest first', async () => {
    expect(await addressesOf({ ifaces: ['eth0'] })).toEqual({ ipv4: '10.211.55.100' });
    await host.ip('addr add 10.99.0.1/24 dev eth0');
    expect(await addressesOf({ ifaces: ['eth0'] })).toEqual({ ipv4: '10.211.55.100' });
    await host.ip('addr del 10.211.55.100/24 dev eth0');
    expect(await addressesOf({ ifaces: ['eth0'] })).toEqual({ ipv4: '10.99.0.1' });
  });

  test('IPv6: the newest first, whatever the link-local ones are', async () => {
    const wanted = { ifaces: ['eth0'], families: [6] } as const;
    for (const added of ['fd00:55::300', 'fd00:55::2', '2001:db8::1', 'fd00:1::9']) {
      await host.setAddresses([`${added}/64`]);
      expect(await addressesOf(wanted)).toEqual({ ipv6: added });
    }
    await host.ip('addr add fe80::1234/64 dev eth0 nodad');
    expect(await addressesOf(wanted)).toEqual({ ipv6: 'fd00:1::9' });
  });

  test('IPv6: a leased address after a permanent one, a deprecated one never', async () => {
    const wanted = { ifaces: ['eth0'], families: [6] } as const;
    await host.ip('addr add fd00:55::700/64 dev eth0 nodad valid_lft 1000 preferred_lft 900');
    expect(await addressesOf(wanted)).toEqual({ ipv6: 'fd00:55::100' });
    await host.ip('addr del fd00:55::100/64 dev eth0');
    expect(await addressesOf(wanted)).toEqual({ ipv6: 'fd00:55::700' });
    await host.ip('addr change fd00:55::700/64 dev eth0 valid_lft 1000 preferred_lft 0');
    await expect(choose(wanted)).rejects.toThrow('interface eth0 has no usable IPv6 address');
  });
});

test('an address that another host has is never chosen: the choice waits for duplicate address detection', async () => {
  const families = [6] as const;
  const [, rival] = network.hosts;
  await rival?.setAddresses(['fd00:77::1/64']);
  await host.ip('addr del fd00:55::100/64 dev eth0');
  await host.ip('addr add fd00:77::1/64 dev eth0');
  const held = async () => (await kernel.addresses()).find(({ address }) => address === 'fd00:77::1');
  for (;;) {
    // At any moment of it.
    await expect(choose({ families, ifaces: ['eth0'] })).rejects.toThrow(
      'has no usable IPv6 address (fd00:77::1 is',
    );
    await expect(choose({ families, ifaces: ['fd00:77::1'] })).rejects.toThrow('fd00:77::1 of eth0 is');
    if ((await held())?.dadFailed === true) break;
  }
  await expect(choose({ families, ifaces: ['eth0'] })).rejects.toThrow(
    'fd00:77::1 is in use by another host: duplicate address detection failed',
  );
  await host.ip('addr add fd00:77::2/64 dev eth0');
  await until(
    () =>
      choose({ families, ifaces: ['eth0'] }).then(
        () => true,
        () => false,
      ),
    10_000,
    'fd00:77::2 is not chosen',
  );
  expect(await addressesOf({ families, ifaces: ['eth0'] })).toEqual({ ipv6: 'fd00:77::2' });
});

test('a host address that a cluster manager added is no match for the leased address of the network', async () => {
  await host.flushAddresses();
  await host.ip('addr add 10.99.0.2/24 dev eth0 valid_lft 1000 preferred_lft 900');
  await host.ip('addr add 10.99.0.253/32 dev eth0');
  expect(await addressesOf({ ifaces: ['eth0'] })).toEqual({ ipv4: '10.99.0.2' });
  await host.ip('addr add 10.99.0.252/24 dev eth0');
  expect(await addressesOf({ ifaces: ['eth0'] })).toEqual({ ipv4: '10.99.0.2' });
});

test('another name of an interface is taken for it, and the label of an address is not', async () => {
  await host.ip('link property add dev eth0 altname enp3s0f1np1-uplink altname uplink');
  await host.ip('addr add 10.99.0.9/24 dev eth0 label eth0:1');
  for (const iface of ['enp3s0f1np1-uplink', 'uplink'])
    expect(await choose({ ifaces: [iface] })).toMatchObject({ name: 'eth0' });
  expect((await kernel.links()).find(({ name }) => name === 'lo')?.altNames).toBeUndefined();
  await expect(choose({ ifaces: ['eth0:1'] })).rejects.toThrow(
    'eth0:1 is the label of the address 10.99.0.9 of eth0, not an interface: use --iface=10.99.0.9 or --iface=eth0',
  );
});

test('a temporary address is never chosen, also where packets leave by it', async () => {
  for (const [name, value] of [
    ['use_tempaddr', 2],
    ['dad_transmits', 0],
  ]) {
    await host.exec('sh', '-c', `echo ${value} >/proc/sys/net/ipv6/conf/eth0/${name}`);
  }
  // The kernel makes one beside every address of this kind, as it does beside those of router advertisements.
  await host.ip('addr add fd00:77::1/64 dev eth0 nodad mngtmpaddr valid_lft 1000 preferred_lft 900');
  const source = async () => (await kernel.routeTo('fd00:77::77'))?.source ?? '';
  await until(async () => (await source()) !== 'fd00:77::1', 10_000, 'packets leave by no temporary address');
  const temporary = await source();
  const held = (await kernel.addresses()).find(({ address }) => address === temporary);
  expect(held?.temporary).toBe(true);
  const families = [6] as const;
  expect((await addressesOf({ families, ifaceCanReach: 'fd00:77::77' })).ipv6).not.toBe(temporary);
  expect((await addressesOf({ families, ifaces: ['eth0'] })).ipv6).toBe('fd00:55::100');
  await host.ip('addr del fd00:55::100/64 dev eth0');
  expect((await addressesOf({ families, ifaces: ['eth0'] })).ipv6).toBe('fd00:77::1');
});

describe('both families', () => {
  test('by the default routes, by an address, by a regex, by what can be reached', async () => {
    await host.setAddresses(['fd00:55::200/64']);
    await host.ip('route add default via 10.211.55.1 dev eth0');
    await host.ip('route add default via fd00:55::1 dev eth0');
    const families = [4, 6] as const;
    const first = { ipv4: '10.211.55.100', ipv6: 'fd00:55::200' };
    expect(await addressesOf({ families })).toEqual(first);
    expect(await addressesOf({ families, ifaces: ['10.211.55.200'] })).toEqual({
      ...first,
      ipv4: '10.211.55.200',
    });
    const publicIPv6 = 'fd00:55::100';
    expect(await addressesOf({ families, ifaces: ['eth0'], publicIPv6 })).toEqual({
      ...first,
      ipv6: publicIPv6,
    });
    await loadGoRegexp();
    expect(await addressesOf({ families, ifaceRegexes: [':?100$'] })).toEqual({ ...first, ipv6: publicIPv6 });
    expect(await addressesOf({ families, ifaceCanReach: '203.0.113.1' })).toEqual(first);
    expect(await addressesOf({ families, ifaceCanReach: '2001:db8::1' })).toMatchObject({ ipv4: first.ipv4 });
  });
});

describe('watching', () => {
  const controller = { current: new AbortController() };
  let told: HostInterface[];
  let log: SimLog;
  let ended: Promise<unknown>;

  async function watch(over: Partial<WantedInterface>): Promise<void> {
    told = [];
    log = new SimLog(systemClock);
    const trouble = new TroubleLog(systemClock, log.of('host'));
    controller.current = new AbortController();
    const parts = { kernel, clock: systemClock, log: log.of('host'), trouble };
    const onChange = (next: HostInterface) => void told.push(next);
    const watching = new InterfaceWatch({ ...parts, ...wantedOf(over), host: await choose(over), onChange });
    ended = watching.run(controller.current.signal).catch(() => {});
  }

  afterEach(async () => {
    controller.current.abort(new Error('stopped'));
    await ended;
  });

  const toldSomething = (what: string) => until(async () => told.length > 0, 9_000, `not told of ${what}`);

  test('another MTU is told', async () => {
    await watch({ ifaces: ['eth0'] });
    await host.ip('link set eth0 mtu 1400');
    await toldSomething('the MTU');
    expect(told).toEqual([{ ...(await choose({ ifaces: ['eth0'] })), mtu: 1400 }]);
  });

  test('addresses that come back are no change, one that stays away is', async () => {
    await watch({ ifaces: ['eth0'], families: [4, 6] });
    // IPv6 addresses go with a link that is taken down.
    await host.linkDown();
    await host.linkUp();
    await host.setAddresses(['fd00:55::100/64']);
    await host.flushAddresses();
    await host.setAddresses(['10.211.55.200/24', '10.211.55.100/24', 'fd00:55::300/64', 'fd00:55::100/64']);
    await host.ip('addr del fd00:55::100/64 dev eth0');
    await toldSomething('the IPv6 address');
    expect(told.map(({ addresses }) => addresses)).toEqual([{ ipv4: '10.211.55.100', ipv6: 'fd00:55::300' }]);
  });

  test('the address on a bridge that eth0 became a port of is told, with the bridge', async () => {
    await watch({ ifaces: ['eth0'] });
    await host.ip('link add br7 type bridge');
    await host.ip('link set br7 up');
    await host.flushAddresses();
    await host.ip('link set eth0 master br7');
    await host.setAddresses(['10.211.55.100/24'], 'br7');
    await toldSomething('the bridge');
    expect(told).toMatchObject([{ name: 'br7', addresses: { ipv4: '10.211.55.100' } }]);
  });
});
