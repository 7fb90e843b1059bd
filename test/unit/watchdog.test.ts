import { rootCertificates } from 'node:tls';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { VirtualClock } from '../../sim/clock.ts';
import { prefix, SimCluster, type SimHost, type SimParts } from '../../sim/cluster.ts';
import { SimFiles } from '../../sim/files.ts';
import { SimLog } from '../../sim/log.ts';
import { SimNotifier } from '../../sim/notifier.ts';
import { watchLoops } from '../../src/daemon/daemon.ts';
import type { DaemonParts } from '../../src/daemon/parts.ts';
import type { Kernel } from '../../src/kernel/kernel.ts';
import { Activity } from '../../src/runtime/activity.ts';
import type { Clock, Commands, Files } from '../../src/runtime/effects.ts';
import { TroubleLog } from '../../src/runtime/trouble.ts';
import { untilAborted } from '../../src/runtime/wake.ts';
import { EtcdSecurity } from '../../src/subnet/etcd/security.ts';
import type { Registry } from '../../src/subnet/registry/registry.ts';

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
    const stopped: Clock = {
      now: () => clock.now(),
      monotonic: () => clock.monotonic(),
      sleep: (ms, signal) => clock.sleep(ms + lateMs, signal),
    };
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

  it('is not fed while a loop is stuck, which is said', async () => {
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

  it('is fed by a look that is late itself, which says nothing about a loop that was stuck before', async () => {
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

  it('is nobody where no service manager asks; what is stuck is said all the same', async () => {
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

  let hangs: 'kernel' | 'links' | 'registry' | 'config' | 'commands' | 'files' | 'settings' | undefined;
  const hang = (what: typeof hangs) => {
    hangs = what;
  };

  beforeEach(() => hang(undefined));

  /** Under a watchdog, and with calls that never end once one of them is to {@link hang}. */
  function watched(parts: SimParts): DaemonParts {
    const { kernel, registry, notifier, commands, files } = parts;
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
      range: (request, signal) =>
        hangs === 'config' && request.key === `${prefix}/config`
          ? untilAborted(signal ?? new AbortController().signal)
          : unlessHanging(
              'registry',
              (one: typeof request, inner?: AbortSignal) => registry.range(one, inner),
              1,
            )(request, signal),
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
    return {
      ...parts,
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

  it('stops when the kernel never answers the loop that keeps the routes', async () => {
    const { cluster: world, host } = await startHost();
    hang('kernel');
    await world.clock.advance(3 * minuteMs);
    const before = pings(host.notifier);
    await world.clock.advance(10 * minuteMs);
    expect(pings(host.notifier)).toBe(before);
    expect(host.readiness.reasons).toEqual([
      expect.stringContaining('a loop of the daemon: routes-ipv4 hangs. Restart the daemon'),
    ]);
  });

  it.each<[typeof hangs, string, RegExp]>([
    ['links', 'the interface', /interface/],
    ['commands', 'the firewall rules', /firewall/],
    ['files', 'the files', /subnet\.env/],
    ['settings', 'forwarding on', /forwarding/],
    ['config', 'an eye on the configuration', /config-watch/],
  ])('stops when %s never answer the loop that keeps %s', async (what, _, loop) => {
    const { cluster: world, host } = await startHost();
    hang(what);
    // Somebody edits it.
    if (what === 'config') world.etcd.put(`${prefix}/config`, '{}');
    await world.clock.advance(11 * minuteMs);
    const before = pings(host.notifier);
    await world.clock.advance(10 * minuteMs);
    expect(pings(host.notifier)).toBe(before);
    expect(host.readiness.ready).toBe(false);
    expect(host.readiness.reasons.join()).toMatch(/loops? of the daemon: .*hangs?\. Restart the daemon/);
    expect(host.readiness.reasons.join()).toMatch(loop);
  });

  it('stops when etcd never answers the loop that keeps the lease', async () => {
    const { cluster: world, host } = await startHost();
    hang('registry');
    // A renewal is due within three minutes, and no call takes ten.
    await world.clock.advance(14 * minuteMs);
    const before = pings(host.notifier);
    await world.clock.advance(10 * minuteMs);
    expect(pings(host.notifier)).toBe(before);
    expect(host.readiness.reasons).toEqual([expect.stringMatching(/: (.* and )?lease (and .*)?hangs?\./)]);
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
