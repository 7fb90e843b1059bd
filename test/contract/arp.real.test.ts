import { expect, onTestFinished, test } from 'vitest';
import { type ArpSocket, probeFor } from '../../src/arp/arp.ts';
import { linuxArp } from '../../src/arp/linux-arp.ts';
import { systemClock } from '../../src/daemon/host/clock.ts';
import { openNetlinkKernel } from '../../src/kernel/netlink-kernel.ts';
import { enterNamespace, type Host, makeNetwork, type Network, until } from '../testbed/netns.ts';
import { ADDRESS, type ArpStation, type ArpWorld, arpContract, THERE } from './arp.ts';

// Left alone the signal ends the process.
process.on('SIGIO', () => {});

const arp = linuxArp((listener) => {
  process.on('SIGIO', listener);
  return () => process.off('SIGIO', listener);
});

arpContract('Linux', async () => await makeWorld());

async function makeWorld(): Promise<ArpWorld & { readonly network: Network }> {
  const network = await makeNetwork([{ addresses: [`${ADDRESS}/24`] }, { addresses: [`${THERE}/24`] }]);
  const [one, two] = network.hosts;
  if (one === undefined || two === undefined) throw new Error('too few hosts');
  return {
    network,
    here: await stationOf(one, THERE),
    there: await stationOf(two, ADDRESS),
    close: () => network.close(),
  };
}

/** Runs what opens sockets in a host's namespace. */
function inside<T>(host: Host, open: () => T): T {
  const leave = enterNamespace(host.namespace);
  try {
    return open();
  } finally {
    leave();
  }
}

async function stationOf(host: Host, peer: string): Promise<ArpStation> {
  // The switch takes a moment more than the link to let packets through.
  const plugged = () => until(() => reaches(host, peer), 10_000, `no way to ${peer}`);
  await plugged();
  const linkIndex = await host.linkIndex();
  const [{ address: mac }]: [{ address: string }] = JSON.parse(await host.ip('-j link show eth0'));
  return {
    mac,
    open: (address) => inside(host, () => arp.open(linkIndex, address)),
    addAddress: (address) => host.setAddresses([`${address}/24`]),
    removeAddress: async (address) => void (await host.ip(`addr del ${address}/24 dev eth0`)),
    setLinkUp: async (up) => {
      await (up ? host.linkUp() : host.linkDown());
      if (up) await plugged();
    },
  };
}

async function reaches(host: Host, peer: string): Promise<boolean> {
  return await host.exec('ping', '-c1', '-W1', peer).then(
    () => true,
    () => false,
  );
}

/** Two hosts that are gone when the test is done. */
async function worldOfTest() {
  const world = await makeWorld();
  onTestFinished(() => world.close());
  const [host] = world.network.hosts as [Host];
  return { ...world, host };
}

test('links tell their MAC address, but for those that do no ARP', async () => {
  const { host, here } = await worldOfTest();
  await host.ip('link add br0 type bridge');
  await host.ip('link add veth0 type veth peer name veth1');
  await host.ip('link set veth0 arp off');
  onTestFinished(enterNamespace(host.namespace));
  const kernel = openNetlinkKernel({ clock: systemClock });
  onTestFinished(() => kernel.close());
  const macs = Object.fromEntries((await kernel.links()).map(({ name, mac }) => [name, mac]));
  expect(macs['eth0']).toBe(here.mac);
  expect(macs['br0']).toMatch(/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/);
  expect([macs['lo'], macs['veth0']]).toEqual([undefined, undefined]);
});

test('a storm is heard in part, and what comes after it is heard', async () => {
  const { here, there } = await worldOfTest();
  const [socket, other] = opened(here.open(ADDRESS), there.open(ADDRESS));
  for (let i = 0; i < 5_000; i++) other.send(probeFor(ADDRESS, there.mac));
  const first = await socket.next(AbortSignal.timeout(5_000));
  expect(first.length).toBeGreaterThan(0);
  expect(first.length).toBeLessThan(65);
  const senderMac = '02:00:00:00:00:99';
  await until(async () => {
    other.send({ operation: 'reply', senderMac, sender: ADDRESS, target: '0.0.0.0' });
    const packets = await socket.next(AbortSignal.timeout(5_000));
    return packets.some((packet) => packet.senderMac === senderMac);
  }, 5_000);
});

test('an idle socket wakes the process for nothing that other hosts say to each other', async () => {
  let signals = 0;
  const counting = linuxArp((listener) => {
    const count = () => {
      signals++;
      listener();
    };
    process.on('SIGIO', count);
    return () => process.off('SIGIO', count);
  });
  const { host, there } = await worldOfTest();
  const linkIndex = await host.linkIndex();
  const idle = inside(host, () => counting.open(linkIndex, ADDRESS));
  const [socket, other] = opened(idle, there.open(THERE));
  for (let i = 0; i < 1_000; i++)
    other.send({ operation: 'request', senderMac: there.mac, sender: THERE, target: ADDRESS });
  other.send(probeFor(ADDRESS, there.mac));
  expect(await socket.next(AbortSignal.timeout(5_000))).toHaveLength(1);
  await until(async () => signals > 0, 5_000);
  expect(signals).toBe(1);
});

/** Sockets that are closed when the test is done. */
function opened(...sockets: [ArpSocket, ArpSocket]): [ArpSocket, ArpSocket] {
  onTestFinished(() => {
    for (const socket of sockets) socket.close();
  });
  return sockets;
}
