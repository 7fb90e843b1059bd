import type { Link } from '../kernel/kernel.ts';
import type { Activity } from '../runtime/activity.ts';
import type { TroubleLog } from '../runtime/trouble.ts';
import { firstOf, Wake } from '../runtime/wake.ts';
import {
  ArpError,
  conflictRemedy,
  conflictText,
  isLinkDown,
  openStation,
  type Station,
  type StationOptions,
  unknownText,
} from './arp.ts';

export interface AddressGuardOptions extends StationOptions {
  readonly activity?: Activity;
  readonly trouble: TroubleLog;
  /** Facts that an operator should know although this host works. */
  readonly notices: TroubleLog;
}

export interface GuardedAddress {
  readonly name: string;
  readonly index: number;
  readonly addresses: { readonly ipv4?: string | undefined };
}

/** RFC 5227: DEFEND_INTERVAL, ANNOUNCE_INTERVAL. */
const defendIntervalMs = 10_000;
const announceIntervalMs = 2_000;
/**
 * While another host has the address: the interval between checks, and how many in a row must find nobody.
 */
const recheckMs = 5_000;
const quietRechecks = 2;
/** The shortest interval between looks at packets, also in a storm. */
const spacingMs = 100;
/** The wait before the next try on a link that is down. */
const retryMs = 1_000;
/** Without packets the loop reports this often, so that the watchdog sees it alive. */
const idleMs = 60_000;
const loop = 'address-guard';
/** Until it is known which address there is to guard. */
const nowhere: GuardedAddress = { name: '', index: 0, addresses: {} };
/** Longer than any answer of the kernel takes, and than any other wait here. */
const stuckMs = 120_000;

/**
 * Finds out by ARP whether another host on the link uses this host's IPv4 address, and defends the address
 * (RFC 5227) once this host has a lease with it. The link tells what etcd cannot: two hosts with one address
 * break each other's connections to etcd. A host's kernel answers probes for its addresses, and no proxy
 * does.
 *
 * Only packets that name the address cause work, and hosts send those only when two of them have it.
 */
export class AddressGuard {
  readonly #options: AddressGuardOptions;
  #target = nowhere;
  /** The target, or its link's carrier or MAC address, has changed. */
  readonly #moved = new Wake();
  /** The first look is over, or the rival has changed. */
  readonly #news = new Wake();
  #looked = false;
  #asked = false;
  #rival: string | undefined;
  #holds = false;
  #carrier = true;
  #mac: string | undefined;
  #announcedMs = Number.NEGATIVE_INFINITY;

  constructor(options: AddressGuardOptions) {
    this.#options = options;
  }

  /** The MAC address of another host that uses the address, as far as known. */
  get rival(): string | undefined {
    return this.#rival;
  }

  /** Whether probes for the present address found no other host. */
  get alone(): boolean {
    return this.#asked && this.#rival === undefined;
  }

  /** Resolves once the first probes are over, or when ARP cannot tell. */
  async looked(signal: AbortSignal): Promise<void> {
    while (!this.#looked) await this.#news.wait(signal);
  }

  /** Resolves when `rival` is not `seen`, at once or later. */
  async changed(seen: string | undefined, signal: AbortSignal): Promise<void> {
    while (this.#rival === seen) await this.#news.wait(signal);
  }

  /** This host has a lease with the address from now on: a rival is its trouble. */
  hold(): void {
    this.#holds = true;
    if (this.#rival !== undefined) this.#report(this.#rival);
  }

  /** Guards another address, or the address on another link. */
  follow(target: GuardedAddress): void {
    const before = this.#target;
    this.#target = target;
    if (target.index === before.index && target.addresses.ipv4 === before.addresses.ipv4) return;
    this.#looked = false;
    this.#asked = false;
    this.#over(`${before.addresses.ipv4} on ${before.name} is no longer this host's address`);
    this.#moved.wake();
  }

  /** Takes the present links: one without carrier may come back in another network. */
  look(links: readonly Link[]): void {
    const link = links.find(({ index }) => index === this.#target.index);
    const carrier = link !== undefined && link.up && link.carrier;
    const isBack = carrier && !this.#carrier;
    this.#carrier = carrier;
    const isAnother = this.#mac !== undefined && link?.mac !== undefined && link.mac !== this.#mac;
    if (isBack || isAnother) this.#moved.wake();
  }

  /** Works until `signal` aborts; rejects only with its reason. */
  async run(signal: AbortSignal): Promise<never> {
    try {
      let first = true;
      for (;;) {
        signal.throwIfAborted();
        this.#round();
        const target = this.#target;
        await firstOf<void>(signal, (inner) => [this.#moved.wait(inner), this.#guard(target, first, inner)]);
        first &&= target === nowhere;
      }
    } finally {
      this.#options.activity?.end(loop);
    }
  }

  /** Resolves when the guard has to start again. */
  async #guard(target: GuardedAddress, first: boolean, signal: AbortSignal): Promise<void> {
    const { notices, clock } = this.#options;
    const address = target.addresses.ipv4;
    try {
      if (address !== undefined) return await this.#guardOver(target, address, first, signal);
    } catch (error) {
      signal.throwIfAborted();
      // A kernel that cannot be read decides nothing: ask again.
      if (!(error instanceof ArpError)) return await clock.sleep(retryMs, signal);
      this.#noteLooked();
      if (isLinkDown(error)) return await clock.sleep(retryMs, signal);
      const unknown = unknownText(address, error);
      notices.report('arp', unknown);
      // A full queue or table has room again later.
      if (!isFinal(error)) return await clock.sleep(recheckMs, signal);
      this.#over(unknown);
    }
    this.#noteLooked();
    for (;;) {
      this.#round();
      await clock.sleep(idleMs, signal);
    }
  }

  #round(): void {
    this.#options.activity?.round(loop, idleMs + stuckMs);
  }

  async #guardOver(
    target: GuardedAddress,
    address: string,
    first: boolean,
    signal: AbortSignal,
  ): Promise<never> {
    const station = await openStation(this.#options, target, address, signal);
    this.#mac = station.mac;
    try {
      this.#note(await station.probe(signal), station);
      this.#options.notices.clear('arp', `ARP works on ${target.name}`);
      this.#asked = true;
      this.#noteLooked();
      // Tell peers the new MAC address or place.
      if (!first) await this.#announceTwice(station, signal);
      return await this.#watch(station, signal);
    } finally {
      station.close();
    }
  }

  async #watch(station: Station, signal: AbortSignal): Promise<never> {
    const { clock } = this.#options;
    const leftMs = () => station.probedMs + recheckMs - clock.monotonic();
    for (let quiet = 0; ; ) {
      this.#round();
      const waitMs = this.#rival === undefined ? idleMs : Math.max(leftMs(), 0);
      const heard = await station.listen(waitMs, signal);
      if (heard.length === 0 && this.#rival === undefined) continue;
      let mac = await station.claimant(heard, signal);
      // A host that asks for the address may have it, or only look for a free one. Two that have it stop
      // asking.
      const isDue = mac === undefined && leftMs() <= 0;
      if (isDue) mac = await station.probe(signal);
      if (mac !== undefined) quiet = 0;
      else if (isDue) quiet++;
      if (mac !== undefined || quiet >= quietRechecks) this.#note(mac, station);
      if (heard.length > 0) await clock.sleep(spacingMs, signal);
    }
  }

  #note(mac: string | undefined, station: Station): void {
    if (mac === undefined) return this.#over(`no other host uses ${station.address} any more`);
    const before = this.#rival;
    this.#rival = mac;
    if (this.#holds) {
      this.#report(mac);
      this.#defend(station);
    }
    if (mac !== before) this.#news.wake();
  }

  #over(message: string): void {
    if (this.#rival === undefined) return;
    this.#rival = undefined;
    this.#options.trouble.clear('address-conflict', message);
    this.#news.wake();
  }

  #noteLooked(): void {
    this.#looked = true;
    this.#news.wake();
  }

  #report(mac: string): void {
    const { name, addresses } = this.#target;
    const own = { name, address: addresses.ipv4, mac: this.#mac };
    const message = `${conflictText(mac, own)}. ${conflictRemedy}`;
    this.#options.trouble.report('address-conflict', message, { mac, ownMac: this.#mac });
  }

  /** As a server that cannot give up its address (RFC 5227, 2.4 c). */
  #defend(station: Station): void {
    const nowMs = this.#options.clock.monotonic();
    if (nowMs < this.#announcedMs + defendIntervalMs) return;
    this.#announcedMs = nowMs;
    station.announce();
  }

  async #announceTwice(station: Station, signal: AbortSignal): Promise<void> {
    if (!this.#holds || this.#rival !== undefined) return;
    station.announce();
    await this.#options.clock.sleep(announceIntervalMs, signal);
    station.announce();
  }
}

/** Lasts until the daemon is started in another way, or the link is another one. */
function isFinal({ errno }: ArpError): boolean {
  return ['EPERM', 'EACCES', 'EAFNOSUPPORT', 'EPROTONOSUPPORT', 'EOPNOTSUPP', 'EINVAL', 'ENOSYS'].includes(
    errno,
  );
}
