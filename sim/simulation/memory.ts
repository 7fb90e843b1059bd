import type { Family } from '../../src/ip/ip.ts';
import type { KeyValue } from '../../src/subnet/registry/registry.ts';
import { SimCluster } from '../cluster.ts';
import type { Commit } from '../etcd-store.ts';
import type { KeyRevision } from '../etcd-watch.ts';
import type { SimHost, Wrappers } from '../host.ts';
import { SeededRandom } from '../random.ts';
import { claimOf, configText, subnetsPrefix } from './oracle.ts';
import type { Scenario } from './scenario.ts';

/** An invariant that did not hold. */
export interface Violation {
  /** Its name: the number in the design and what it says. */
  readonly invariant: string;
  readonly atMs: number;
  readonly text: string;
}

/** A key as it is, and since when it asks for a route. */
export interface Known {
  readonly kv: KeyValue;
  readonly sinceMs: number;
}

/** A destination or route that keys ask for, or asked for. */
export interface Asked {
  readonly sinceMs: number;
  /** Undefined: one still does. */
  readonly wentMs: number | undefined;
}

/** What a daemon has heard of etcd since it was started. */
export interface Heard {
  /** When an answer or a watch message came last. */
  readonly lastMs: number;
  /** Whether its first list was answered. */
  readonly listed: boolean;
  /** The newest revision of each key that reached it, and when that was. */
  readonly keys: Map<string, { readonly modRevision: number; readonly atMs: number }>;
}

/** A host that was off the link is found by then. */
const linkSettledMs = 5_000;
/** What a host hears late it has heard by then. */
const catchUpMs = 120_000;

/** A cluster under test with what is remembered of it, so that each step can be judged by what was before. */
export class Memory {
  readonly scenario: Scenario;
  readonly cluster: SimCluster;
  readonly violations: Violation[] = [];
  /** The keys of all leases. */
  readonly keys = new Map<string, Known>();
  /** Since and until when keys asked for each destination, and for each `dst via gateway`, without a break the last time. */
  readonly #asked = new Map<string, Asked>();
  /** What operators put for a while: a backup may bring it back when it has been taken away. */
  readonly lent: (readonly [key: string, value: string])[] = [];
  /** Keys that operators made after those of hosts. */
  readonly copies = new Set<string>();
  /** Keys that an operator has put as reservations, whether or not they are there still. */
  readonly reserved = new Set<string>();
  /** What reached each host of etcd. */
  readonly heard = new Map<SimHost, Heard>();
  /** Since when each daemon has told that it is ready; by its service manager, which is another at every start. */
  readonly readySinceMs = new Map<object, number>();
  /** Hosts whose subnet.env may be half a file. */
  readonly torn = new Set<SimHost>();
  /** Hosts that have left for good. */
  readonly gone = new Set<SimHost>();
  /** Who has had each etcd lease: who put a key with it first, and who took it over while that one was away. */
  readonly leaseOwners = new Map<string, Set<SimHost>>();
  /** Leases of hosts outside the simulation, which were granted to none of its hosts. */
  readonly deadLeases = new Set<string>();
  /** How often the host that a lease was granted to had been booted by then. */
  readonly leaseBoots = new Map<string, number>();
  /** What each host worked with when that was looked at last, and how often it had been booted by then. */
  readonly subnets = new Map<SimHost, { readonly text: string; readonly boots: number }>();
  /** When a host's links changed last. */
  readonly linkChangedMs = new Map<SimHost, number>();
  /** Since when a subnet has two hosts that are both ready. */
  readonly sharedSinceMs = new Map<string, number>();
  /** Every address a host has had, by host. */
  readonly addressesOf = new Map<SimHost, Set<string>>();
  /** The address that a host has had before, and when it lost it. */
  readonly formerAddress = new Map<SimHost, { readonly address: string; readonly untilMs: number }>();
  /** Until when something is wrong, by host; faults of the whole cluster count for every host. Infinity: still. */
  readonly #disturbedUntilMs = new Map<SimHost, number>();
  /** Until when a host's own kernel is being played with. */
  readonly #touchedUntilMs = new Map<SimHost, number>();
  readonly #active = new Map<SimHost, number>();
  /** Since and until when hosts hear of changes late, and by how many causes that last. */
  readonly #late = new Map<SimHost, { sinceMs: number; untilMs: number; causes: number }>();
  readonly #countedMs = new Map<string, readonly number[]>();
  /** How often keys went because their lease ended. */
  expired = 0;
  /** When a backup was restored under the same id last: only a later comparison may tell. */
  sameIdRestoredMs = Number.NEGATIVE_INFINITY;
  /** Nothing goes wrong any more, and all have what they need. */
  resting = false;
  /** Log lines that were looked at. */
  linesSeen = 0;

  constructor(scenario: Scenario, wrappers: Wrappers = {}) {
    this.scenario = scenario;
    const { seed, hosts, ipv6, pool, leaseTtlSeconds, fragmentEvents, kernelLatencyMs } = scenario;
    const progressIntervalMs = scenario.progressMs || Number.POSITIVE_INFINITY;
    const lateWrites = new SeededRandom(seed ^ 0x2545f491);
    this.cluster = new SimCluster({
      seed,
      hosts,
      ipv6,
      kernelLatencyMs,
      wrappers,
      config: configText(pool, ipv6),
      options: {
        subnetLeaseTtlSeconds: leaseTtlSeconds,
        renewMarginMs: Math.min(3_600_000, leaseTtlSeconds * 200),
      },
      etcd: { progressIntervalMs, lateWrites, ...(fragmentEvents > 0 ? { fragmentEvents } : {}) },
    });
    for (const host of this.hosts) {
      this.addressesOf.set(host, new Set([host.address]));
      const { onLinkChange } = host.kernel;
      host.kernel.onLinkChange = () => {
        this.linkChangedMs.set(host, this.nowMs);
        onLinkChange();
      };
    }
    this.cluster.etcd.onHeard = (name, what, keys = []) => this.#hear(name, what === 'list', keys);
  }

  get hosts(): readonly SimHost[] {
    return this.cluster.hosts;
  }

  /** Those that have not left for good. */
  get present(): readonly SimHost[] {
    return this.hosts.filter((host) => !this.gone.has(host));
  }

  get nowMs(): number {
    return this.cluster.clock.monotonic();
  }

  get kvs(): readonly KeyValue[] {
    return [...this.keys.values()].map(({ kv }) => kv);
  }

  host(index: number): SimHost {
    return this.hosts[index % this.hosts.length] as SimHost;
  }

  hasBeen(host: SimHost, address: string | undefined): boolean {
    return address !== undefined && this.addressesOf.get(host)?.has(address) === true;
  }

  /** Whether another host has the address that a host has: it is not this one's to give to a third, nor to come back to. */
  sharesAddress(host: SimHost): boolean {
    return this.present.some((one) => one !== host && one.address === host.address);
  }

  /** Whether ARP finds a host at this address, and has for a while; `undefined`: at whichever it has. */
  isOnLink(host: SimHost, address = host.address): boolean {
    const link = host.kernel.links().find(({ name }) => name === 'eth0');
    const changedMs = Math.max(this.linkChangedMs.get(host) ?? 0, this.nowMs - this.untouchedMs(host));
    const has = host.kernel.addresses().some((one) => one.address === address);
    return link?.up === true && link.carrier && has && this.nowMs - changedMs > linkSettledMs;
  }

  violate(invariant: string, text: string): void {
    this.violations.push({ invariant, atMs: this.nowMs, text });
  }

  /** Notes that a host has an address no longer: its daemon may take some seconds to see that. */
  loseAddress(host: SimHost, address: string): void {
    if (address !== host.address) this.formerAddress.set(host, { address, untilMs: this.nowMs });
  }

  /** Something begins to be wrong with these hosts; call the result when it is over. */
  disturb(hosts: readonly SimHost[]): () => void {
    for (const host of hosts) this.#active.set(host, (this.#active.get(host) ?? 0) + 1);
    return () => {
      for (const host of hosts) {
        this.#active.set(host, (this.#active.get(host) ?? 1) - 1);
        this.#disturbedUntilMs.set(host, this.nowMs);
      }
    };
  }

  /** How long nothing has been done to a host or to etcd. */
  calmMs(host: SimHost): number {
    return (this.#active.get(host) ?? 0) > 0 ? 0 : this.nowMs - (this.#disturbedUntilMs.get(host) ?? 0);
  }

  /** Notes that something happens; returns how often it had happened within the last `withinMs` before. */
  count(what: string, withinMs: number): number {
    const recent = (this.#countedMs.get(what) ?? []).filter((atMs) => this.nowMs - atMs < withinMs);
    this.#countedMs.set(what, [...recent, this.nowMs]);
    return recent.length;
  }

  /** Notes that a host hears of changes late; two minutes after the function is called that this returns it has heard of all. */
  delay(host: SimHost): () => void {
    const late = this.#late.get(host) ?? { sinceMs: 0, untilMs: Number.NEGATIVE_INFINITY, causes: 0 };
    late.sinceMs = Math.min(this.lateSinceMs(host), this.nowMs);
    late.causes++;
    this.#late.set(host, late);
    return () => {
      late.causes--;
      late.untilMs = this.nowMs + catchUpMs;
    };
  }

  hearsLate(host: SimHost): boolean {
    return this.lateSinceMs(host) < Number.POSITIVE_INFINITY;
  }

  /** Since when a host hears of changes late; Infinity: it does not. */
  lateSinceMs(host: SimHost): number {
    const late = this.#late.get(host);
    const isLate = late !== undefined && (late.causes > 0 || this.nowMs < late.untilMs);
    return isLate ? late.sinceMs : Number.POSITIVE_INFINITY;
  }

  /**
   * Whether a host may not have heard yet of what is asked for since `sinceMs`: nothing but a comparison with a list, which
   * comes within a minute of a new stream, tells of a restore under the same id.
   */
  isUnheard(sinceMs: number): boolean {
    return sinceMs >= this.sameIdRestoredMs && this.nowMs - this.sameIdRestoredMs < catchUpMs;
  }

  /** Notes that a host's kernel is played with. */
  touch(host: SimHost): void {
    this.#touchedUntilMs.set(host, this.nowMs);
  }

  /** How long a host has known of a key what it is now; 0: it has not heard of that yet. */
  knownMs(host: SimHost, { key, modRevision }: KeyValue): number {
    const heard = this.heard.get(host)?.keys.get(key);
    return heard === undefined || heard.modRevision < modRevision ? 0 : this.nowMs - heard.atMs;
  }

  untouchedMs(host: SimHost): number {
    return this.nowMs - (this.#touchedUntilMs.get(host) ?? Number.NEGATIVE_INFINITY);
  }

  /** Takes in a change of the keys. */
  note(commit: Commit): void {
    for (const event of commit.events) {
      if (event.type === 'delete') this.#remove(event.key);
      else if (event.kv.key.startsWith(subnetsPrefix)) this.#put(event.kv);
    }
  }

  /** When keys asked for this destination, over this gateway if one is given; undefined: none ever did. */
  wasAsked(dst: string, gateway?: string): Asked | undefined {
    return this.#asked.get(gateway === undefined ? dst : `${dst} via ${gateway}`);
  }

  /** All keys may be others: etcd was restored from a backup. */
  relearn(): void {
    const kvs = this.cluster.etcd.list(subnetsPrefix, `${subnetsPrefix.slice(0, -1)}0`);
    const still = new Set(kvs.map(({ key }) => key));
    for (const key of this.keys.keys()) if (!still.has(key)) this.#remove(key);
    for (const kv of kvs) this.#put(kv);
  }

  /** Since when some key asks for this destination without a break, and over which gateway; undefined: none does. */
  askedSinceMs(
    dst: string,
    family: Family,
  ): { readonly sinceMs: number; readonly gateway: string; readonly kv: KeyValue } | undefined {
    let oldest: { readonly sinceMs: number; readonly gateway: string; readonly kv: KeyValue } | undefined;
    for (const { kv, sinceMs } of this.keys.values()) {
      const claim = claimOf(kv, family);
      if (claim?.dst.text !== dst) continue;
      if (oldest === undefined || kv.createRevision < oldest.kv.createRevision)
        oldest = { sinceMs, gateway: claim.gateway, kv };
    }
    return oldest;
  }

  #put(kv: KeyValue): void {
    const before = this.keys.get(kv.key);
    const routed = (one: KeyValue) => claimOf(one, 4) !== undefined || claimOf(one, 6) !== undefined;
    const same = before !== undefined && routed(before.kv) && routed(kv);
    this.keys.set(kv.key, { kv, sinceMs: same ? before.sinceMs : this.nowMs });
    this.#judge(before === undefined ? [kv] : [before.kv, kv]);
  }

  #remove(key: string): void {
    const before = this.keys.get(key);
    this.keys.delete(key);
    if (before) this.#judge([before.kv]);
  }

  /** Notes which of the routes of these keys, as they are or were, are asked for now. */
  #judge(kvs: readonly KeyValue[]): void {
    for (const kv of kvs) {
      for (const family of [4, 6] as const) {
        const claim = claimOf(kv, family);
        if (claim) this.#judgeOne(family, claim.dst.text, claim.gateway);
      }
    }
  }

  #judgeOne(family: Family, dst: string, gateway: string): void {
    const others = this.kvs.flatMap((kv) => claimOf(kv, family) ?? []).filter((one) => one.dst.text === dst);
    this.#noteAsked(dst, others.length > 0);
    this.#noteAsked(
      `${dst} via ${gateway}`,
      others.some((one) => one.gateway === gateway),
    );
  }

  #noteAsked(what: string, still: boolean): void {
    const before = this.#asked.get(what);
    const went = before?.wentMs !== undefined;
    const sinceMs = before === undefined || (still && went) ? this.nowMs : before.sinceMs;
    const wentMs = still ? undefined : (before?.wentMs ?? this.nowMs);
    this.#asked.set(what, { sinceMs, wentMs });
  }

  #hear(name: string, isList: boolean, heard: readonly KeyRevision[]): void {
    const host = this.hosts.find((one) => one.name === name);
    if (host === undefined) return;
    const { listed = false, keys = new Map() } = this.heard.get(host) ?? {};
    for (const { key, modRevision } of heard) {
      if (modRevision > (keys.get(key)?.modRevision ?? 0)) keys.set(key, { modRevision, atMs: this.nowMs });
    }
    this.heard.set(host, { lastMs: this.nowMs, listed: listed || isList, keys });
  }
}
