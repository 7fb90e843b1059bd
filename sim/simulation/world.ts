import { type Family, parseSubnet } from '../../src/ip/ip.ts';
import { messageOf } from '../../src/runtime/errors.ts';
import { prefix, routeProtocol, type SimHost } from '../host.ts';
import { Memory } from './memory.ts';
import { configText, forbidden, hasNic, holds, isConnected, selfOf } from './oracle.ts';

/** How soon after a link is back its routes are (invariant 10). */
const repairMs = 250;
/** A destination that was changed again and again just before may be waited with. */
const restedMs = 21_000;

/** So soon after a fault an answer may still be lost that a stop waits for. */
const unsettledMs = 10_000;

interface Item {
  readonly atMs: number;
  readonly run: () => void | Promise<void>;
}

/** The cluster with what can be done to its hosts, and what is to happen when. */
export class World extends Memory {
  readonly #agenda: Item[] = [];
  /** Daemons that were killed: each may leave an etcd lease behind. */
  crashes = 0;
  /** Daemons that have ended, however: their timers end one by one. */
  ends = 0;

  /** Has `run` called after `ms`. */
  later(ms: number, run: () => void | Promise<void>): void {
    const item = { atMs: this.nowMs + ms, run };
    const index = this.#agenda.findIndex(({ atMs }) => atMs > item.atMs);
    this.#agenda.splice(index < 0 ? this.#agenda.length : index, 0, item);
  }

  /** Lets time pass until `endMs`, with all that is to happen until then, or until an invariant is broken. */
  async passUntil(endMs: number): Promise<void> {
    const { clock } = this.cluster;
    while (this.violations.length === 0) {
      const [next] = this.#agenda;
      if (next === undefined || next.atMs > endMs) break;
      this.#agenda.shift();
      await clock.advance(Math.max(0, next.atMs - this.nowMs));
      await next.run();
    }
    if (this.violations.length === 0) await clock.advance(Math.max(0, endMs - this.nowMs));
  }

  up(host: SimHost): void {
    if (host.running || this.gone.has(host)) return;
    this.heard.delete(host);
    host.start();
  }

  crash(host: SimHost): void {
    if (host.running) {
      this.crashes++;
      this.ends++;
    }
    host.clock.resume();
    host.crash();
  }

  /** The daemon dies at one of its next steps. */
  crashAfter(host: SimHost, steps: number): void {
    if (!host.running) return;
    this.crashes++;
    this.ends++;
    host.crashAfter(steps);
  }

  /** The host will not come back. */
  leave(host: SimHost): void {
    this.crash(host);
    this.unplug(host);
    this.gone.add(host);
  }

  /** Stops a daemon as a signal does; it must end well and soon. */
  async down(host: SimHost): Promise<void> {
    if (!host.running || host.ended) return;
    this.ends++;
    const { cluster, nowMs: startedMs } = this;
    // What etcd cannot be asked to take back in time is left to expire.
    const reaches = cluster.etcd.members.some((name) => {
      const { requests, answers } = cluster.etcd.way(host.name, name);
      return requests === 'ok' && answers === 'ok';
    });
    if (!reaches || this.calmMs(host) < unsettledMs) this.crashes++;
    const failure = await host.stop().catch((error: unknown) => error);
    if (this.nowMs - startedMs > 5_000) this.violate('a stop takes 5 s at most', host.name);
    if (failure !== undefined) this.violate('a stop is clean', `${host.name}: ${messageOf(failure)}`);
  }

  /** Deletes a key if it still is what was put there. */
  takeBack(key: string, value: string): void {
    const { etcd } = this.cluster;
    if (etcd.get(key)?.value === value) etcd.delete(key);
  }

  /** The NIC is gone. */
  unplug(host: SimHost): void {
    if (hasNic(host)) host.kernel.deleteLink('eth0');
  }

  /** The NIC is there, up, with its addresses and the default routes. */
  plug(host: SimHost): void {
    const { kernel, address, addressIPv6 } = host;
    const { ipv6 } = this.scenario;
    if (!hasNic(host)) kernel.createLink('eth0');
    kernel.setLinkUp('eth0', true);
    kernel.setCarrier('eth0', true);
    for (const cidr of [`${address}/16`, ...(ipv6 ? [`${addressIPv6}/64`] : [])]) {
      if (!holds(host, cidr)) kernel.addAddress('eth0', cidr);
    }
    this.#routeByDefault(host);
  }

  #routeByDefault({ kernel }: SimHost): void {
    const { ipv6 } = this.scenario;
    const { index: linkIndex } = kernel.link('eth0');
    const defaults = [
      ['0.0.0.0/0', '10.211.0.1'] as const,
      ...(ipv6 ? [['::/0', 'fd00:55::1'] as const] : []),
    ];
    for (const [dst, gateway] of defaults) {
      const family: Family = dst.includes(':') ? 6 : 4;
      if (!kernel.routes(family).some((route) => route.dst === dst))
        kernel.addRoute({ dst, gateway, linkIndex });
    }
  }

  /** An address of 10.211.`third`.0/24 that no host has: they may have handed one over. */
  newAddress(third: number, dice: number): string {
    const address = `10.211.${third}.${1 + (dice % 250)}`;
    const isTaken = this.hosts.some((host) => host.address === address);
    return isTaken ? this.newAddress(third, dice + 1) : address;
  }

  /** The host's address will be another one; the NIC must be unplugged. */
  readdress(host: SimHost, address: string): void {
    const before = host.address;
    host.address = address;
    this.loseAddress(host, before);
    this.addressesOf.get(host)?.add(address);
  }

  /** Everything that is wrong with hosts and network is put right. */
  healAll(): void {
    const { etcd } = this.cluster;
    for (const member of etcd.members) {
      etcd.start(member);
      for (const other of etcd.members) etcd.healMembers(member, other);
    }
    // One host may have to take them all, one every three seconds.
    etcd.keepWatches();
    // A backup may have been made while there was none.
    const config = configText(this.scenario.pool, this.scenario.ipv6);
    if (etcd.get(`${prefix}/config`)?.value !== config) etcd.put(`${prefix}/config`, config);
    for (const host of this.present) {
      etcd.heal(host.name);
      etcd.slowWatches(host.name, 0);
      etcd.keepReplies(host.name);
      host.clock.resume();
      host.kernel.faults.clear();
      host.files.writeError = undefined;
      host.firewall.before = undefined;
      this.plug(host);
      this.up(host);
    }
  }

  /**
   * To be called when a link goes down: what is returned is to be called when it is back, and sees to it that the routes
   * follow in time, if nothing else is in the way.
   */
  watchRepair(host: SimHost): () => void {
    const { notifier } = host;
    const rested = this.untouchedMs(host) > restedMs && notifier.isReady;
    // A family that was turned off since may have left routes, which nobody looks after.
    const families = ([4, 6] as const).filter((family) => selfOf(host, family) !== undefined);
    const before = families.flatMap((family) => host.routes(family).map((text) => ({ family, text })));
    const wentDownMs = this.nowMs;
    return () => {
      const backMs = this.nowMs;
      // What the kernel is about to refuse, or still tells, is waited with.
      const { faults, slowDumpUntilMs } = host.kernel;
      if (!rested || faults.pending.length > 0 || slowDumpUntilMs > backMs) return;
      const awakeMs = host.clock.monotonic();
      this.later(repairMs, () => {
        const hasSlept = host.clock.monotonic() - awakeMs < repairMs;
        const disturbed = host.notifier !== notifier || !host.running || hasSlept;
        if (disturbed || this.untouchedMs(host) < this.nowMs - backMs) return;
        for (const { family, text } of before) this.#expectBack(host, family, text, wentDownMs);
      });
    };
  }

  #expectBack(host: SimHost, family: Family, text: string, sinceMs: number): void {
    const [dst = '', , gateway] = text.split(' ');
    const asked = this.askedSinceMs(dst, family);
    const subnet = parseSubnet(dst);
    if (subnet === undefined || isConnected(host, subnet)) return;
    if (forbidden(host, subnet, gateway ?? '') !== undefined) return;
    if (asked === undefined || asked.gateway !== gateway || asked.sinceMs > sinceMs) return;
    // Of a lease it may have heard half: that it went, not that it is back.
    if (asked.sinceMs > this.lateSinceMs(host) || this.isUnheard(asked.sinceMs)) return;
    // Its member may have been cut off while the lease changed: the route follows what the host hears then.
    if (this.knownMs(host, asked.kv) < repairMs) return;
    const isBack = host.kernel.routes(family).some((route) => {
      return route.dst === dst && route.gateway === gateway && route.protocol === routeProtocol;
    });
    if (isBack) return;
    this.violate(
      '10 silent flushes are repaired within 250 ms',
      `${host.name} has no ${text} since its link is back`,
    );
  }
}
