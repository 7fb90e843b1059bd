import { randomInt } from '../../src/runtime/effects.ts';
import { configKey, subnetsPrefix } from '../../src/subnet/keys.ts';
import type { Registry } from '../../src/subnet/registry/registry.ts';
import { VirtualClock } from '../clock.ts';
import { SimEtcd } from '../etcd.ts';
import { type Commit, keyOf } from '../etcd-store.ts';
import { prefix } from '../host.ts';
import { valueOf } from '../leases.ts';
import { SeededRandom } from '../random.ts';
import { LoadHost } from './load-host.ts';
import { type Figures, LoadMeter } from './meter.ts';
import { MeteredMember } from './metered-member.ts';
import { eventsBytes } from './wire.ts';

export interface LoadOptions {
  /** How many hosts the cluster has. */
  readonly hosts: number;
  /** How many of them are simulated; each stands for as many as the others leave to it. Default: all. */
  readonly sample?: number;
  /** etcd's members, all of which every host is told. Default: 3. */
  readonly members?: number;
  readonly seed?: number;
  /** How long a message takes to etcd, or back. Default 0. */
  readonly latencyMs?: number;
  /** The network configuration; default: one with a subnet for each of tens of thousands of hosts. */
  readonly config?: string;
}

/** Each host's watch of leases remembers about as many, and those that change among them. */
const remembered = 50;
export const leaseTtlSeconds = 86_400;
const longestStartSeconds = 600;
/** Those for which one host stands do what it does at another moment of this time. */
const usualSpreadMs = 60_000;
/** Those that come, and leases that end, are not together within a minute. */
export const dayMs = 86_400_000;
const largeConfig = '{"Network":"10.0.0.0/8","Backend":{"Type":"host-gw"}}';
const leasesPrefix = subnetsPrefix(prefix);

/**
 * The etcd of a large cluster, with its hosts as etcd sees them. All that a host asks etcd for is asked by the daemon's own code.
 * Its watch of leases remembers only some fifty of them, and hears of changes of those, or ten thousand hosts would remember
 * ten thousand leases each; what etcd sends is counted as if each host heard of all.
 *
 * With a sample each host stands for several: a call of its counts for each of them, at moments spread over a minute. The sums
 * are right then, and so are peaks as long as nothing happens to all hosts within less than that.
 */
export class LoadWorld {
  readonly clock = new VirtualClock();
  readonly etcd: SimEtcd;
  readonly meter: LoadMeter;
  readonly random: SeededRandom;
  readonly hosts: LoadHost[] = [];
  readonly #options: LoadOptions;
  /** The names of the hosts that remember leases of the same numbers. */
  readonly #circles: readonly Set<string>[];
  readonly #delaysMs = new Map<string, readonly number[]>();
  readonly #circleByKey = new Map<string, number>();
  readonly #stride: number;
  readonly #standsFor: number;
  /** How many watches of all leases are open. */
  #leaseWatches = 0;

  constructor(options: LoadOptions) {
    const { hosts, sample = hosts, members = 3, seed = 1, latencyMs = 0 } = options;
    this.#options = options;
    this.random = new SeededRandom(seed);
    this.#stride = Math.max(1, Math.round(hosts / remembered));
    this.#circles = Array.from({ length: this.#stride }, () => new Set<string>());
    this.#standsFor = hosts / sample;
    this.meter = new LoadMeter(this.clock);
    this.etcd = new SimEtcd({
      clock: this.clock,
      members: Array.from({ length: members }, (_, index) => `etcd-${index}`),
      latencyMs,
      audience: (commit) => this.#audience(commit),
    });
    this.etcd.onCommit = (commit, writer) => {
      if (writer !== 'operator') this.#countEvents(commit, writer === 'expiry' ? writer : writer.host);
    };
    this.etcd.put(configKey(prefix), options.config ?? largeConfig);
    for (let index = 0; index < sample; index++) this.addHost();
    this.#spread('expiry', dayMs);
  }

  /** One more host, not started; `number` is that of its address, `spreadMs` the time that those it stands for are apart. */
  addHost(number = this.hosts.length, spreadMs = usualSpreadMs): LoadHost {
    const circle = number % this.#stride;
    const name = `h${number}`;
    const host = new LoadHost({
      name,
      address: addressOf(number),
      clock: this.clock,
      random: this.random,
      identity: number + 1,
      connect: () => this.etcd.connect(name).map((member) => this.#metered(name, member)),
      remembers: (key) => this.#circleOf(key) === circle,
    });
    this.#circles[circle]?.add(name);
    this.#spread(name, spreadMs);
    this.hosts.push(host);
    return host;
  }

  /** Gives each host of the cluster a lease of an earlier life, also those that others stand for. */
  leaseToAll(): void {
    const { hosts } = this.#options;
    for (let number = 0; number < hosts; number++) {
      const host = this.hosts[number];
      const key = this.putLease(number, host === undefined ? 10_000 * leaseTtlSeconds : leaseTtlSeconds);
      if (host !== undefined) host.key = key;
    }
  }

  /** Puts the lease of the host with this number, which lives so long; its key. */
  putLease(number: number, ttlSeconds: number): string {
    const key = `${leasesPrefix}10.${1 + (number >> 8)}.${number & 255}.0-24`;
    this.etcd.put(key, valueOf(addressOf(number)), this.etcd.grant(ttlSeconds));
    return key;
  }

  /** Starts each of these after a moment of its own within `withinMs`. */
  async startWithin(hosts: readonly LoadHost[], withinMs: number): Promise<void> {
    const atMs = hosts.map(() => withinMs * this.random.next());
    await this.startAt(hosts, atMs);
  }

  /** Starts each of these so many milliseconds from now. */
  async startAt(hosts: readonly LoadHost[], startsMs: readonly number[]): Promise<void> {
    const starts = hosts.map((host, index) => ({ host, atMs: startsMs[index] ?? 0 }));
    let nowMs = 0;
    for (const { host, atMs } of starts.toSorted((a, b) => a.atMs - b.atMs)) {
      await this.clock.advance(atMs - nowMs);
      nowMs = atMs;
      host.start();
    }
  }

  /** Waits, second by second, until all have their leases. */
  async untilUp(): Promise<void> {
    for (let seconds = 0; !this.hosts.every((host) => host.isUp); seconds++) {
      if (seconds > longestStartSeconds) throw new Error('not all hosts come up');
      await this.clock.advance(1_000);
    }
  }

  /** What `events` means to etcd. */
  async during(events: () => Promise<void>): Promise<Figures> {
    this.meter.begin();
    await events();
    return this.meter.end();
  }

  /** Stops everything; throws when something is left on the clock. */
  async close(): Promise<void> {
    await Promise.all(this.hosts.map((host) => host.stop()));
    this.etcd.close();
    await this.clock.settle();
    if (this.clock.pending > 0) throw new Error(`${this.clock.pending} timers are left`);
  }

  #metered(name: string, member: Registry): Registry {
    const onWatch = (key: string, opened: boolean) => {
      if (key === leasesPrefix) this.#leaseWatches += opened ? 1 : -1;
    };
    return new MeteredMember(member, (load) => this.meter.add(load, this.#delaysOf(name)), onWatch);
  }

  /** A change that a host made, or that its lease's end did: each of those it stands for makes one like it, and all hear of it. */
  #countEvents(commit: Commit, writer: string): void {
    const events = commit.events.filter((event) => keyOf(event).startsWith(leasesPrefix));
    if (events.length === 0) return;
    const told = this.#leaseWatches * this.#standsFor;
    const load = { events: events.length * told, sentBytes: eventsBytes(events) * told };
    this.meter.add(load, this.#delaysOf(writer));
  }

  /** Sets when each of those for which a writer stands does what it does now. */
  #spread(name: string, spreadMs: number): void {
    const others = Math.round(this.#standsFor) - 1;
    this.#delaysMs.set(name, [0, ...Array.from({ length: others }, () => randomInt(this.random, spreadMs))]);
  }

  #delaysOf(name: string): readonly number[] {
    return this.#delaysMs.get(name) ?? [0];
  }

  #audience(commit: Commit): ReadonlySet<string> | undefined {
    const [event, ...more] = commit.events;
    if (event === undefined || more.length > 0 || !keyOf(event).startsWith(leasesPrefix)) return undefined;
    return this.#circles[this.#circleOf(keyOf(event))];
  }

  #circleOf(key: string): number {
    const known = this.#circleByKey.get(key);
    if (known !== undefined) return known;
    const [, second = 0, third = 0] = key.slice(leasesPrefix.length).split('.').map(Number);
    const circle = (second * 256 + third) % this.#stride;
    this.#circleByKey.set(key, circle);
    return circle;
  }
}

function addressOf(number: number): string {
  return `192.168.${number >> 8}.${number & 255}`;
}
