import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { rootCertificates } from 'node:tls';
import { afterEach, beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { VirtualClock } from '../../sim/clock.ts';
import { prefix, SimCluster, type SimHost, type SimParts } from '../../sim/cluster.ts';
import { SimEtcd } from '../../sim/etcd.ts';
import { SimFiles } from '../../sim/files.ts';
import { SimLog } from '../../sim/log.ts';
import { SimNotifier } from '../../sim/notifier.ts';
import type { Arp } from '../../src/arp/arp.ts';
import { watchLoops } from '../../src/daemon/daemon.ts';
import { FileLock } from '../../src/daemon/host/file-lock.ts';
import type { DaemonParts } from '../../src/daemon/parts.ts';
import { runHealthServer } from '../../src/daemon/report/health.ts';
import { runStatusServer } from '../../src/daemon/report/status-server.ts';
import type { Kernel } from '../../src/kernel/kernel.ts';
import { Activity } from '../../src/runtime/activity.ts';
import type { Clock, Commands, Files } from '../../src/runtime/effects.ts';
import { TroubleLog } from '../../src/runtime/trouble.ts';
import { untilAborted } from '../../src/runtime/wake.ts';
import { EtcdSecurity } from '../../src/subnet/etcd/security.ts';
import { prefixEnd, type Registry, RegistryError } from '../../src/subnet/registry/registry.ts';
import { rotate } from '../../src/subnet/registry/rotation.ts';

const minuteMs = 60_000;
/** Renewed every three minutes. */
const shortLease = { subnetLeaseTtlSeconds: 600, renewMarginMs: minuteMs };
const pings = ({ sent }: SimNotifier) => sent.filter((text) => text === 'WATCHDOG=1').length;

describe('the watchdog', () => {
  let clock: VirtualClock;
  let activity: Activity;
  let notifier: SimNotifier;
  let log: SimLog;
  let trouble: TroubleLog;
  let controller: AbortController;
  let ended: Promise<unknown>;

  beforeEach(() => {
    clock = new VirtualClock();
    activity = new Activity(clock);
    notifier = new SimNotifier();
    log = new SimLog(clock);
    trouble = new TroubleLog(clock, log.of('h0'));
    controller = new AbortController();
  });

  afterEach(async () => {
    controller.abort(new Error('stopped'));
    expect(await ended).toEqual(new Error('stopped'));
    expect(clock.pending).toBe(0);
  });

  /** How much later than asked for a sleep ends: the process was stopped. */
  let lateMs = 0;

  function start(watchdogMs?: number): void {
    if (watchdogMs !== undefined) notifier.watchdogMs = watchdogMs;
    lateMs = 0;
    const stopped = over<Clock>(clock, { sleep: (ms, signal) => clock.sleep(ms + lateMs, signal) });
    const parts = { activity, clock: stopped, notifier, trouble };
    ended = watchLoops(parts, controller.signal).catch((error: unknown) => error);
  }

  it('is fed at half its time', async () => {
    start(minuteMs);
    await clock.advance(29_999);
    expect(pings(notifier)).toBe(0);
    await clock.advance(1);
    expect(pings(notifier)).toBe(1);
    await clock.advance(10 * minuteMs);
    expect(pings(notifier)).toBe(21);
  });

  it('is not fed while a loop hangs, which the daemon says', async () => {
    start(minuteMs);
    activity.round('routes-ipv4', 120_000);
    await clock.advance(2 * minuteMs);
    expect([pings(notifier), trouble.current]).toEqual([4, []]);
    await clock.advance(10 * minuteMs);
    expect(pings(notifier)).toBe(4);
    expect(trouble.current).toEqual([
      expect.stringContaining('a loop of the daemon: routes-ipv4 hangs. Restart the daemon'),
    ]);
    expect(log.lines).toHaveLength(1);
    activity.round('routes-ipv4', 120_000);
    await clock.advance(30_000);
    expect([pings(notifier), trouble.current]).toEqual([5, []]);
  });

  it('is fed after the whole process stood still; a loop that hung before still hangs', async () => {
    start(minuteMs);
    activity.round('routes-ipv4', 1_000);
    await clock.advance(30_000);
    expect([pings(notifier), trouble.has('stuck')]).toEqual([0, true]);
    lateMs = 2 * minuteMs;
    // This sleep began on time.
    await clock.advance(30_000);
    await clock.advance(30_000 + lateMs);
    expect([pings(notifier), trouble.has('stuck')]).toEqual([1, true]);
    lateMs = 0;
    await clock.advance(30_000 + 2 * minuteMs);
    expect([pings(notifier), trouble.has('stuck')]).toEqual([2, true]);
    activity.round('routes-ipv4', 120_000);
    await clock.advance(30_000);
    expect([pings(notifier), trouble.has('stuck')]).toEqual([3, false]);
  });

  it('is not fed while the certificates for etcd cannot be read any more', async () => {
    const tls = { caFile: '/etc/etcd/ca.pem' };
    const disk = new SimFiles();
    await disk.writeAtomic(tls.caFile, rootCertificates[0] ?? '', 0o600);
    let isGone = false;
    const readText = (path: string) =>
      isGone ? new Promise<string | undefined>(() => {}) : disk.readText(path);
    const files = over<Files>(disk, { readText });
    const more = { clock, log: log.of('h0'), notices: new TroubleLog(clock, log.of('h0')) };
    const security = new EtcdSecurity({ tls, etcdPrefix: prefix, files, ...more });
    await security.refresh();
    start(minuteMs);
    void security.run(activity, controller.signal).catch(() => {});
    await clock.advance(10 * minuteMs);
    expect([pings(notifier), trouble.current]).toEqual([20, []]);
    isGone = true;
    await clock.advance(10 * minuteMs);
    expect(pings(notifier)).toBeLessThan(30);
    expect(trouble.current).toEqual([expect.stringContaining('etcd-credentials hangs')]);
  });

  /** A loop beside the daemon, on a clock of its own: its sleeps can be made endless. */
  type Start = (on: Clock, folder: string, signal: AbortSignal) => Promise<unknown>;
  const more = () => ({ activity, log: log.of('h0'), notices: new TroubleLog(clock, log.of('h0')) });
  const unused = () => {
    throw new Error('nobody asks');
  };
  const lock: Start = async (on, folder, signal) => {
    const file = new FileLock(join(folder, 'subnet.env'));
    expect(await file.take()).toBeUndefined();
    return file.keep({ ...more(), clock: on, trouble }, signal);
  };
  const health: Start = (on, _, signal) =>
    runHealthServer({ ...more(), ip: '127.0.0.1', port: 0, clock: on, readiness: unused }, signal);
  const status: Start = (on, folder, signal) =>
    runStatusServer({ ...more(), path: join(folder, 'status'), clock: on, snapshot: unused }, signal);

  it.each<[string, string, Start]>([
    ['the loop that keeps the lock', 'lock /', lock],
    ['the server for probes', 'health-port', health],
    ['the server of the status socket', 'status-socket', status],
  ])('is not fed while %s hangs', async (_, loop, run) => {
    const folder = mkdtempSync(join(tmpdir(), 'watchdog-'));
    onTestFinished(() => rmSync(folder, { recursive: true }));
    let isStalled = false;
    const own = over<Clock>(clock, {
      sleep: (ms, signal) =>
        isStalled ? untilAborted(signal ?? controller.signal) : clock.sleep(ms, signal),
    });
    start(minuteMs);
    const running = run(own, folder, controller.signal).catch(() => {});
    // Sockets and files are real: the loop sleeps again once they have answered.
    const asleep = (timers: number) =>
      expect.poll(() => clock.pending, { interval: 1, timeout: 10_000 }).toBe(timers);
    await asleep(2);
    for (let i = 0; i < 60; i++) {
      await clock.advance(10_000);
      await asleep(2);
    }
    expect([pings(notifier), trouble.current]).toEqual([20, []]);
    isStalled = true;
    await clock.advance(10_000);
    await asleep(1);
    await clock.advance(10 * minuteMs);
    expect(pings(notifier)).toBeLessThan(30);
    expect(trouble.current).toEqual([expect.stringMatching(`${loop}.* hangs`)]);
    controller.abort(new Error('stopped'));
    await running;
    expect(activity.stuck).toEqual([]);
  });

  it('is not fed while the loop of the members of etcd hangs', async () => {
    const etcd = new SimEtcd({ clock });
    onTestFinished(() => etcd.close());
    let isGone = false;
    const members = etcd.connect('h0').map((member) =>
      over<Registry>(member, {
        range: (request, signal) =>
          isGone ? untilAborted(signal ?? controller.signal) : member.range(request, signal),
      }),
    );
    const leasesPrefix = `${prefix}/subnets/`;
    const registry = rotate(members, { leasesPrefix, clock });
    start(minuteMs);
    const follow = async () => {
      const leases = { key: leasesPrefix, rangeEnd: prefixEnd(leasesPrefix) };
      for await (const _ of registry.watch(leases, controller.signal));
    };
    const running = Promise.allSettled([follow(), registry.run(clock, controller.signal, activity)]);
    await clock.advance(20 * minuteMs);
    expect([pings(notifier), trouble.current]).toEqual([40, []]);
    isGone = true;
    await clock.advance(20 * minuteMs);
    expect(pings(notifier)).toBeLessThan(70);
    expect(trouble.current).toEqual([expect.stringContaining('etcd-members hangs')]);
    controller.abort(new Error('stopped'));
    await running;
    registry.close();
    expect(activity.stuck).toEqual([]);
  });

  it('is not fed where no service manager asks for it; the daemon still says which loop hangs', async () => {
    start();
    activity.round('lease', 1_000);
    await clock.advance(minuteMs);
    expect(notifier.sent).toEqual([]);
    expect(trouble.current).toEqual([expect.stringContaining('lease hangs')]);
  });
});

describe('a daemon under a watchdog', () => {
  let cluster: SimCluster | undefined;

  /** Ends the reads that have no end. */
  const stalled: (() => void)[] = [];

  afterEach(async () => {
    hang(undefined);
    for (const end of stalled.splice(0)) end();
    await cluster?.close();
    cluster = undefined;
  });

  type RangeCall = Parameters<Registry['range']>;
  type Hanging = 'kernel' | 'links' | 'registry' | 'config' | 'commands' | 'files' | 'settings' | 'arp';
  let hangs: Hanging | undefined;
  const hang = (what: typeof hangs) => {
    hangs = what;
  };

  beforeEach(() => hang(undefined));

  /** Under a watchdog, and with calls that never end once one of them is to {@link hang}. */
  function watched(parts: SimParts): DaemonParts {
    const { kernel, registry, notifier, commands, files, arp } = parts;
    notifier.watchdogMs = minuteMs;
    const unlessHanging =
      <A extends unknown[], T>(what: typeof hangs, call: (...args: A) => Promise<T>, signalAt: number) =>
      (...args: A): Promise<T> => {
        const signal = args[signalAt];
        if (hangs !== what) return call(...args);
        if (!(signal instanceof AbortSignal)) throw new Error('a call that could not be stopped');
        return untilAborted(signal);
      };
    const hanging: Partial<Kernel> = {
      routes: unlessHanging('kernel', (family, signal?: AbortSignal) => kernel.routes(family, signal), 1),
      links: unlessHanging('links', (signal?: AbortSignal) => kernel.links(signal), 0),
    };
    const deaf: Partial<Registry> = {
      range: (request, signal) => {
        const what = hangs === 'config' && request.key === `${prefix}/config` ? 'config' : 'registry';
        return unlessHanging(what, (...call: RangeCall) => registry.range(...call), 1)(request, signal);
      },
    };
    // As programs do in state D, where they cannot be killed, and reads of a disk that is gone.
    const inStateD: Commands = {
      run: unlessHanging('commands', (...call: Parameters<Commands['run']>) => commands.run(...call), 3),
    };
    const gone: Partial<Files> = {
      readText: (path) =>
        (hangs === 'files' && path.startsWith('/run')) ||
        (hangs === 'settings' && path.startsWith('/proc/sys'))
          ? new Promise((resolve) => stalled.push(() => resolve(undefined)))
          : files.readText(path),
    };
    const silent: Arp = {
      open: (linkIndex, address) => {
        const socket = arp.open(linkIndex, address);
        const next: typeof socket.next = async (signal) => {
          const packets = await socket.next(signal).catch(() => []);
          if (hangs === 'arp') await new Promise<void>((resolve) => stalled.push(resolve));
          signal.throwIfAborted();
          return packets;
        };
        return over(socket, { next });
      },
    };
    return {
      ...parts,
      arp: silent,
      kernel: over(kernel, hanging),
      registry: over(registry, deaf),
      commands: inStateD,
      files: over(files, gone),
    };
  }

  /** A host that does its part, watched since then. */
  async function startHost(): Promise<{ cluster: SimCluster; host: SimHost }> {
    cluster = new SimCluster({ seed: 3, hosts: 2 });
    const [host, peer] = cluster.hosts;
    if (host === undefined || peer === undefined) throw new Error('no hosts');
    host.start(shortLease, watched);
    peer.start();
    await cluster.clock.until('full mesh', () => cluster?.meshed === true, minuteMs);
    return { cluster, host };
  }

  /**
   * Soon it is not fed any more, and the daemon says which loop hangs. A renewal is due within three minutes, and no call
   * takes ten.
   */
  async function expectStuck(world: SimCluster, host: SimHost, loop: RegExp): Promise<void> {
    await world.clock.advance(14 * minuteMs);
    const before = pings(host.notifier);
    await world.clock.advance(10 * minuteMs);
    expect(pings(host.notifier)).toBe(before);
    expect(host.readiness.ready).toBe(false);
    expect(host.readiness.reasons.join()).toMatch(/loops? of the daemon: .*hangs?\. Restart the daemon/);
    expect(host.readiness.reasons.join()).toMatch(loop);
  }

  it('feeds it for hours, with nothing to do, and with etcd away for half of the time', async () => {
    const { cluster: world, host } = await startHost();
    const before = pings(host.notifier);
    await world.clock.advance(60 * minuteMs);
    expect(pings(host.notifier) - before).toBe(120);
    for (const member of world.etcd.members) world.etcd.stop(member);
    await world.clock.advance(60 * minuteMs);
    for (const member of world.etcd.members) world.etcd.start(member);
    await world.clock.advance(minuteMs);
    expect(pings(host.notifier) - before).toBe(242);
  }, 30_000);

  it('feeds it while it waits for its configuration', async () => {
    const { cluster: world, host } = await startHost();
    await host.stop();
    world.etcd.delete(`${prefix}/config`);
    host.start(shortLease, watched);
    await world.clock.advance(60 * minuteMs);
    expect(pings(host.notifier)).toBe(120);
  });

  it.each<[typeof hangs, string, RegExp]>([
    ['kernel', 'the routes', /^a loop of the daemon: routes-ipv4 hangs\. Restart the daemon/],
    ['registry', 'the lease', /: (.* and )?lease (and .*)?hangs?\./],
    ['links', 'the interface', /interface/],
    ['commands', 'the firewall rules', /firewall/],
    ['files', 'the files', /subnet\.env/],
    ['settings', 'forwarding on', /forwarding/],
    ['config', 'an eye on the configuration', /config-watch/],
    ['arp', 'the address for this host alone', /address-guard/],
  ])('stops feeding it when calls to %s hang in the loop that keeps %s', async (what, _, loop) => {
    const { cluster: world, host } = await startHost();
    hang(what);
    // Somebody edits it.
    if (what === 'config') world.etcd.put(`${prefix}/config`, '{}');
    await expectStuck(world, host, loop);
  });

  it.each<[Hanging, string, RegExp]>([
    ['config', 'the configuration', /: config hangs/],
    ['links', 'an interface', /: interface hangs/],
  ])('stops feeding it when calls to %s hang in the boot, which waits for %s', async (what, _, loop) => {
    const { cluster: world, host } = await startHost();
    await host.stop();
    hang(what);
    host.start(shortLease, watched);
    await expectStuck(world, host, loop);
  });

  it('stops feeding it when calls to links hang in the boot, which waits for a pool without networks of the host', async () => {
    const { cluster: world, host } = await startHost();
    await host.stop();
    host.kernel.createLink('lan');
    host.kernel.addAddress('lan', '172.20.77.5/24');
    host.start(shortLease, watched);
    await world.clock.advance(minuteMs);
    expect(host.readiness.reasons.join()).toContain('172.20.77.0/24 of lan');
    hang('links');
    await expectStuck(world, host, /: interface and pool hang/);
  });

  it('feeds it for an hour while the boot cannot find out which of its addresses was leased', async () => {
    const { cluster: world, host } = await startHost();
    await host.stop();
    host.kernel.addAddress('eth0', '10.211.55.250/16');
    host.start(shortLease, (parts) => {
      const { registry, ...others } = watched(parts);
      const range: Registry['range'] = (request, signal) => {
        if (request.key === `${prefix}/config`) return registry.range(request, signal);
        throw new RegistryError('UNAVAILABLE', registry.endpoint, 'no answer');
      };
      return { ...others, registry: over(registry, { range }) };
    });
    await world.clock.advance(60 * minuteMs);
    expect(pings(host.notifier)).toBe(120);
    expect(host.readiness.reasons).toEqual([expect.stringContaining('the leases cannot be read')]);
  });
});

/** `target` with some of its methods exchanged. */
function over<T extends object>(target: T, methods: Partial<T>): T {
  return new Proxy(target, {
    get(_, name) {
      const found: unknown = Reflect.get(name in methods ? methods : target, name, target);
      return typeof found === 'function' ? found.bind(target) : found;
    },
  });
}
