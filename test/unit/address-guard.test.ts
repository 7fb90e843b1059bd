import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { VirtualClock } from '../../sim/clock.ts';
import { SimKernel } from '../../sim/kernel.ts';
import { SimLog } from '../../sim/log.ts';
import { Segment } from '../../sim/segment.ts';
import { AddressGuard, type AddressGuardOptions } from '../../src/arp/address-guard.ts';
import { type Arp, ArpError, announcementOf, probeFor } from '../../src/arp/arp.ts';
import type { Kernel } from '../../src/kernel/kernel.ts';
import { TroubleLog } from '../../src/runtime/trouble.ts';

const address = '10.211.55.101';
const strangerMac = '52:54:00:00:00:99';

let clock: VirtualClock;
let segment: Segment;
let log: SimLog;
let stations: Station[];

beforeEach(() => {
  clock = new VirtualClock();
  segment = new Segment();
  log = new SimLog(clock);
  stations = [];
});

afterEach(async () => {
  for (const station of stations) await station.stop();
  expect(clock.pending).toBe(0);
});

/** A host with the address on eth0, and what guards it. */
class Station {
  readonly sim = new SimKernel({ macPrefix: `02:00:00:0${stations.length + 1}` });
  readonly kernel: Kernel = this.sim.open();
  readonly trouble = new TroubleLog(clock, log.of('trouble'));
  readonly notices = new TroubleLog(clock, log.of('notice'));
  readonly index = this.sim.createLink('eth0');
  readonly arp: Arp = segment.join(this.sim);
  guard: AddressGuard | undefined;
  #stop: AbortController | undefined;
  #ended: Promise<unknown> | undefined;

  constructor(own = address) {
    this.sim.addAddress('eth0', `${own}/24`);
    stations.push(this);
  }

  get mac(): string {
    return this.sim.link('eth0').mac ?? '';
  }

  start(options: Partial<AddressGuardOptions> = {}, ipv4: string | null = address): AddressGuard {
    const { kernel, trouble, notices, arp, index } = this;
    const parts = { arp, kernel, clock, trouble, notices, ...options };
    const guard = new AddressGuard(parts);
    this.#stop = new AbortController();
    this.#ended = guard.run(this.#stop.signal).catch((error: unknown) => error);
    guard.follow({ name: 'eth0', index, addresses: ipv4 === null ? {} : { ipv4 } });
    this.guard = guard;
    return guard;
  }

  async stop(): Promise<void> {
    this.#stop?.abort(new Error('stopped'));
    await this.#ended;
    this.kernel.close();
  }
}

/** A host that holds its lease, and has had a second for the first look. */
async function leased(): Promise<Station> {
  const one = new Station();
  one.start().hold();
  await clock.advance(1_000);
  return one;
}

const never = new AbortController().signal;
const announcements = (mac: string) =>
  segment.sent.filter(({ sender, senderMac }) => sender === address && senderMac === mac).length;
const probes = () => segment.sent.filter(({ sender }) => sender === '0.0.0.0').length;

describe('the first look', () => {
  it('takes three probes and 60 ms when nobody else has the address, and nothing after that', async () => {
    const guard = new Station().start();
    const lookedMs = guard.looked(never).then(() => clock.monotonic());
    await clock.advance(60);
    expect(await lookedMs).toBe(60);
    expect(guard.rival).toBeUndefined();
    await clock.advance(24 * 3_600_000);
    expect(probes()).toBe(3);
    expect(segment.sent).toHaveLength(3);
  });

  it('ends at once when another host answers, with its MAC address', async () => {
    const other = new Station();
    const guard = new Station().start();
    await clock.advance(1);
    await guard.looked(never);
    expect(guard.rival).toBe(other.mac);
    expect(probes()).toBe(1);
  });

  it('finds a host that asks others for their address meanwhile', async () => {
    const guard = new Station().start();
    await clock.advance(150);
    segment.say({ operation: 'request', senderMac: strangerMac, sender: address, target: '10.211.55.1' });
    await clock.advance(1);
    expect(guard.rival).toBe(strangerMac);
  });

  it('does not take another link of this host, or its copy of a packet, for another host', async () => {
    const one = new Station();
    one.sim.createLink('eth1', { mac: strangerMac });
    const guard = one.start();
    for (const senderMac of [one.mac, strangerMac])
      segment.say({ operation: 'reply', senderMac, sender: address, target: '0.0.0.0' });
    await clock.advance(1_000);
    expect(guard.rival).toBeUndefined();
  });

  it('waits for a kernel that cannot be read just now', async () => {
    const other = new Station();
    const one = new Station();
    for (const errno of ['ENOBUFS', 'ENOBUFS']) one.sim.faults.failNextDump(errno);
    const guard = one.start();
    const lookedMs = guard.looked(never).then(() => clock.monotonic());
    await clock.advance(2_950);
    expect(await lookedMs).toBeGreaterThan(1_950);
    expect(guard.rival).toBe(other.mac);
  });
});

describe('a host that has a lease', () => {
  it('says that another host uses its address, with both MAC addresses, and again that it does not', async () => {
    const one = await leased();
    segment.say(announcementOf(address, strangerMac));
    await clock.advance(1);
    const [said = ''] = one.trouble.current;
    for (const part of [address, strangerMac, one.mac, 'eth0', "uses this host's address"])
      expect(said).toContain(part);
    await clock.advance(20_000);
    expect(one.trouble.current).toEqual([]);
    expect(one.guard?.rival).toBeUndefined();
  });

  it('says so at once when the other host was found before there was a lease', async () => {
    const other = new Station();
    const one = new Station();
    const guard = one.start();
    await clock.advance(1_000);
    expect(one.trouble.current).toEqual([]);
    guard.hold();
    expect(one.trouble.current.join()).toContain(other.mac);
  });

  it('goes on saying so for as long as the other one is there, and stops soon after', async () => {
    const other = new Station();
    const one = await leased();
    await clock.advance(3_600_000);
    expect(one.trouble.current).toHaveLength(1);
    other.sim.removeAddress('eth0', `${address}/24`);
    await clock.advance(11_000);
    expect(one.trouble.current).toEqual([]);
    const sent = segment.sent.length;
    await clock.advance(3_600_000);
    expect(segment.sent).toHaveLength(sent);
  });

  it('defends its address by one announcement in ten seconds, whatever the other one says', async () => {
    const one = await leased();
    for (let i = 0; i < 600; i++) {
      segment.say(announcementOf(address, strangerMac));
      await clock.advance(100);
    }
    expect(announcements(one.mac)).toBeGreaterThanOrEqual(5);
    expect(announcements(one.mac)).toBeLessThanOrEqual(7);
  });

  it('reads a storm of packets from ever new MAC addresses ten times a second at most', async () => {
    const one = await leased();
    const { dumps } = one.sim.counters;
    for (let i = 0; i < 10_000; i++) {
      segment.say(announcementOf(address, `52:54:00:00:${(i >> 8) % 100}:${i % 100}`));
      await clock.advance(0.1);
    }
    expect(one.sim.counters.dumps - dumps).toBeLessThanOrEqual(11);
    expect(log.lines.length).toBeLessThan(10);
  });

  it('finds out about a host that only asks for the address: one that has it is told, one that looks for a free one is not', async () => {
    const one = await leased();
    segment.say(probeFor(address, strangerMac));
    await clock.advance(1_000);
    expect(one.trouble.current).toEqual([]);
    const other = new Station();
    await clock.advance(60_000);
    segment.say(probeFor(address, other.mac));
    await clock.advance(1_000);
    expect(one.trouble.current.join()).toContain(other.mac);
  });

  it('and another one that has it too do not ask one another without end', async () => {
    const both = [new Station(), new Station()];
    for (const one of both) one.start().hold();
    await clock.advance(60_000);
    for (const one of both) expect(one.trouble.current).toHaveLength(1);
    const { length } = segment.sent;
    await clock.advance(600_000);
    // Three probes in five seconds each, and an announcement in ten, at most.
    expect(segment.sent.length - length).toBeLessThanOrEqual(2 * (3 * 120 + 60));
  });
});

describe('a host that has none', () => {
  it('does not defend the address', async () => {
    const other = new Station();
    const one = new Station();
    one.start();
    await clock.advance(60_000);
    expect(announcements(one.mac)).toBe(0);
    expect(one.guard?.rival).toBe(other.mac);
    expect(one.trouble.current).toEqual([]);
  });

  it('hears soon when the other one is gone', async () => {
    const other = new Station();
    const guard = new Station().start();
    await clock.advance(1_000);
    await guard.changed(undefined, never);
    let free = false;
    void guard.changed(other.mac, never).then(() => {
      free = true;
    });
    await clock.advance(60_000);
    expect(free).toBe(false);
    other.sim.setLinkUp('eth0', false);
    await clock.advance(11_000);
    expect(free).toBe(true);
    expect(guard.rival).toBeUndefined();
  });
});

describe('when something about the interface changes', () => {
  const look = ({ guard, sim }: Station) => guard?.look(sim.links());
  it.each([
    ['the carrier comes back', (one: Station, on: boolean) => one.sim.setCarrier('eth0', on)],
    ['the link was down', (one: Station, on: boolean) => one.sim.setLinkUp('eth0', on)],
    ['it gets another MAC address', (one: Station) => one.sim.setMac('eth0', '02:00:00:00:77:77')],
  ])('%s: the address is probed again, then announced twice', async (_, change) => {
    const one = await leased();
    await clock.advance(60_000);
    expect([probes(), announcements(one.mac)]).toEqual([3, 0]);
    for (const on of [false, true]) {
      change(one, on);
      look(one);
    }
    await clock.advance(60_000);
    expect(announcements(one.mac)).toBe(2);
    expect(
      segment.sent.filter(({ sender, senderMac }) => sender === '0.0.0.0' && senderMac === one.mac).length,
    ).toBeGreaterThanOrEqual(3);
  });

  it('the address is another one, or on another link: that is probed and announced', async () => {
    const one = await leased();
    const other = new Station('10.211.55.150');
    one.guard?.follow({ name: 'eth0', index: one.index, addresses: { ipv4: '10.211.55.150' } });
    await clock.advance(1_000);
    expect(one.trouble.current.join()).toContain(`10.211.55.150 on eth0`);
    expect(one.guard?.rival).toBe(other.mac);
    one.sim.deleteLink('eth0');
    const index = one.sim.createLink('eth0');
    one.guard?.follow({ name: 'eth0', index, addresses: { ipv4: address } });
    await clock.advance(60_000);
    expect(one.guard?.rival).toBeUndefined();
    expect(one.trouble.current).toEqual([]);
    expect(announcements(one.mac)).toBe(2);
  });
});

describe('where ARP cannot be used', () => {
  /** Starts it: the first look is over at once, and finds nobody. */
  async function looked(one: Station, ...options: Parameters<Station['start']>): Promise<void> {
    const guard = one.start(...options);
    await clock.advance(1);
    await guard.looked(never);
    expect(guard.rival).toBeUndefined();
    expect(one.trouble.current).toEqual([]);
  }

  it('because ARP is not allowed, a notice says so, and the daemon does not wait', async () => {
    const one = new Station();
    const open = () => {
      throw new ArpError('EPERM', 'cannot open an ARP socket: EPERM');
    };
    await looked(one, { arp: { open } });
    expect(one.notices.current.join()).toContain('EPERM');
    expect(one.notices.current.join()).toContain(address);
  });

  it('because the interface has no MAC address, a notice names the interface', async () => {
    const one = new Station();
    one.sim.setMac('eth0', undefined);
    await looked(one);
    expect(one.notices.current.join()).toContain('eth0');
  });

  it('because there is no IPv4 address, the daemon says and sends nothing', async () => {
    const one = new Station();
    await looked(one, {}, null);
    expect(one.notices.current).toEqual([]);
    expect(segment.sent).toEqual([]);
  });

  it('for a while, the daemon tries again: a conflict that ended meanwhile is over', async () => {
    const other = new Station();
    const one = new Station();
    let full = false;
    const arp: Arp = {
      open: (index, guarded) => {
        const socket = one.arp.open(index, guarded);
        return {
          next: (signal) => socket.next(signal),
          close: () => socket.close(),
          send: (packet) => {
            if (full) throw new ArpError('ENOBUFS', 'cannot send: ENOBUFS');
            socket.send(packet);
          },
        };
      },
    };
    const guard = one.start({ arp });
    guard.hold();
    await clock.advance(1_000);
    expect(guard.rival).toBe(other.mac);
    full = true;
    await clock.advance(6_000);
    expect(one.notices.current.join()).toContain('ENOBUFS');
    other.sim.removeAddress('eth0', `${address}/24`);
    full = false;
    await clock.advance(30_000);
    expect([guard.rival, one.trouble.current, one.notices.current]).toEqual([undefined, [], []]);
  });

  it('any more, as the address is on another link, a conflict over it is over', async () => {
    const other = new Station();
    const one = await leased();
    expect(one.trouble.current.join()).toContain(other.mac);
    const index = one.sim.createLink('tun0');
    one.sim.setMac('tun0', undefined);
    one.guard?.follow({ name: 'tun0', index, addresses: { ipv4: '10.8.0.1' } });
    await clock.advance(1_000);
    expect([one.guard?.rival, one.trouble.current]).toEqual([undefined, []]);
  });
});
