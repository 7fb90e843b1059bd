import { bridgeAddress, overlaps, parseSubnet, type Subnet, subnetAt } from '../src/ip/ip.ts';
import { type Clock, type Random, randomInt } from '../src/runtime/effects.ts';
import { firstOf, Wake } from '../src/runtime/wake.ts';
import { Heard071, Routes071, type RouteTable071 } from './flannel-071-routes.ts';
import { Failure071, type Flannel071Access, type Lease071, Store071, valueOf } from './flannel-071-store.ts';

/** How long it waits after a failure, of a renewal and of anything else. */
const renewRetryMs = 60_000;
const retryMs = 1_000;
/** How often it looks whether its routes are there. */
const routeCheckMs = 10_000;
/** How many hosts may be faster before it begins anew. */
const raceTries = 10;
/** It draws among so many free subnets, the lowest. */
const drawnFrom = 100;

export interface Flannel071Options {
  /** `--etcd-prefix` */
  readonly prefix: string;
  /** The address that others route to. */
  readonly publicIp: string;
  /** Of the link that the routes go over. */
  readonly mtu: number;
  /** `--subnet-lease-renew-margin`; default 60. */
  readonly renewMarginMinutes?: number;
}

/** What the model touches. */
export interface Flannel071Parts {
  readonly etcd: Flannel071Access;
  readonly routes: RouteTable071;
  readonly clock: Clock;
  readonly random: Random;
  /** Replaces subnet.env. */
  writeSubnetEnv(text: string): Promise<void>;
  log(line: string): void;
}

/** What flannel reads from its configuration. */
interface Config071 {
  readonly network: Subnet;
  readonly min: Subnet;
  readonly max: Subnet;
}

/** The configuration is for another backend, which the model does not have. */
export class OtherBackend071 extends Error {}

/**
 * A model of flannel 0.7.1 with the host-gw backend, IPv4 and a single network, on etcd's v2 store: the partner that hosts have
 * while a cluster moves from it. It makes the mistakes of the original, which are noted where they are made. It does not
 * masquerade, and has neither TLS nor users.
 */
export class Flannel071 {
  readonly #parts: Flannel071Parts;
  readonly #options: Flannel071Options;
  readonly #store: Store071;
  readonly #renewMarginMs: number;
  #lease: OwnLease | undefined;

  constructor(parts: Flannel071Parts, options: Flannel071Options) {
    this.#parts = parts;
    this.#options = options;
    this.#store = new Store071(parts.etcd, options.prefix);
    this.#renewMarginMs = (options.renewMarginMinutes ?? 60) * 60_000;
  }

  /** This host's subnet, once it has one. */
  get subnet(): Subnet | undefined {
    return this.#lease?.subnet;
  }

  /**
   * Runs until the signal, as SIGTERM does: key, routes and subnet.env stay. Rejects with {@link Crash071}, and with
   * {@link OtherBackend071} where the original would go on with another backend.
   */
  async run(signal: AbortSignal): Promise<void> {
    try {
      // A lost lease is followed by another one, in the same process.
      for (;;) await this.#serve(await this.#init(signal), signal);
    } catch (error) {
      if (!signal.aborted) throw error;
    }
  }

  /** Reads the configuration and gets a lease, every second until that works. */
  async #init(signal: AbortSignal): Promise<OwnLease> {
    for (;;) {
      try {
        const config = parseConfig(await this.#store.config(signal));
        const lease = await this.#acquire(config, signal);
        this.#lease = lease;
        await this.#parts.writeSubnetEnv(subnetEnv(config, lease.subnet, this.#options.mtu));
        return lease;
      } catch (error) {
        await this.#pause('failed to register network', error, signal);
      }
    }
  }

  async #acquire(config: Config071, signal: AbortSignal): Promise<OwnLease> {
    const value = valueOf(this.#options.publicIp);
    for (let tried = 0; tried < raceTries; tried++) {
      const { leases } = await this.#store.list(signal);
      // Whoever wrote it, and whatever subnet.env says.
      const found = leases.find(({ publicIp }) => publicIp === this.#options.publicIp);
      if (found !== undefined && isCompatible(config, found.subnet)) {
        const { subnet } = found;
        this.#parts.log(`Found lease (${subnet.text}) for current IP (${found.publicIp}), reusing`);
        const kind = found.expiresAtMs === undefined ? 'reservation' : 'lease';
        return { subnet, expiresAtMs: await this.#store.overwrite(subnet, value, kind, signal) };
      }
      if (found !== undefined) await this.#store.delete(found.subnet, signal);
      const subnet = this.#draw(config, leases);
      try {
        return { subnet, expiresAtMs: await this.#store.create(subnet, value, signal) };
      } catch (error) {
        // Any refusal counts as "somebody else was faster".
        if (!(error instanceof Failure071) || error.code === undefined) throw error;
      }
    }
    throw new Failure071('Max retries reached trying to acquire a subnet');
  }

  #draw({ min, max }: Config071, leases: readonly Lease071[]): Subnet {
    const free: Subnet[] = [];
    for (let at = min; at.first <= max.first; at = subnetAt(4, at.last + 1n, at.length)) {
      if (!leases.some(({ subnet }) => overlaps(subnet, at))) free.push(at);
      if (free.length === drawnFrom || at.last === 0xffff_ffffn) break;
    }
    const drawn = free[randomInt(this.#parts.random, Math.max(1, free.length))];
    if (drawn === undefined) throw new Failure071('out of subnets');
    return drawn;
  }

  /** Resolves when the lease is lost. */
  async #serve(lease: OwnLease, signal: AbortSignal): Promise<void> {
    const routes = new Routes071(this.#parts.routes, (line) => this.#parts.log(line));
    const heard = new Wake();
    await firstOf(signal, (inner) => [
      this.#watchOwn(lease, heard, inner),
      this.#renew(lease, heard, inner),
      this.#watchAll(lease, routes, inner),
      this.#checkRoutes(routes, inner),
    ]);
    this.#parts.log('Lease has been revoked');
  }

  /** Follows the own key, of which it takes the expiry only. Resolves when it hears of the key's removal. */
  async #watchOwn(lease: OwnLease, heard: Wake, signal: AbortSignal): Promise<void> {
    let cursor: number | undefined;
    for (;;) {
      try {
        const { event, index } = await this.#nextOf(lease.subnet, cursor, signal);
        if ('removed' in event) return;
        lease.expiresAtMs = event.added.expiresAtMs;
        heard.wake();
        cursor = index;
      } catch (error) {
        await this.#pause('Subnet watch failed', error, signal);
      }
    }
  }

  async #nextOf(subnet: Subnet, cursor: number | undefined, signal: AbortSignal) {
    try {
      if (cursor !== undefined) return await this.#store.next(subnet, cursor, signal);
    } catch (error) {
      if (!isOutdated(error)) throw error;
    }
    const { lease, index } = await this.#store.get(subnet, signal);
    return { event: { added: lease }, index };
  }

  /** Writes the lease again some time before its end: what it holds in memory, over whatever is in the key. Never resolves. */
  async #renew(lease: OwnLease, heard: Wake, signal: AbortSignal): Promise<void> {
    const { clock } = this.#parts;
    let waitMs = this.#untilRenewal(lease);
    for (;;) {
      const isHeard =
        waitMs === undefined
          ? await heard.wait(signal).then(() => true)
          : await heard.waitAtMost(clock, waitMs, signal);
      try {
        if (!isHeard) {
          const value = valueOf(this.#options.publicIp);
          lease.expiresAtMs = await this.#store.overwrite(lease.subnet, value, 'lease', signal);
        }
        waitMs = this.#untilRenewal(lease);
      } catch (error) {
        if (!(error instanceof Failure071)) throw error;
        this.#parts.log(`Error renewing lease (trying again in 1 min): ${error.message}`);
        waitMs = renewRetryMs;
      }
    }
  }

  /** Undefined: in 292 years, by an overflow when a reservation's expiry, the year 1, is less than the margin away from now. */
  #untilRenewal({ expiresAtMs }: OwnLease): number | undefined {
    if (expiresAtMs !== undefined) return expiresAtMs - this.#renewMarginMs - this.#parts.clock.now();
    return this.#renewMarginMs > 0 ? undefined : 0;
  }

  /** Follows the leases of the others. Never resolves. */
  async #watchAll(lease: OwnLease, routes: Routes071, signal: AbortSignal): Promise<void> {
    const others = new Heard071(lease.subnet);
    let cursor: number | undefined;
    for (;;) {
      try {
        const event = await this.#nextOfAll(cursor, signal);
        if (event === undefined) {
          const { leases, index } = await this.#store.list(signal);
          cursor = index;
          await routes.apply(others.reset(leases));
        } else {
          cursor = event.index;
          await routes.apply(others.update(event.event));
        }
      } catch (error) {
        // The cursor stays: what it did not understand is what it gets again.
        await this.#pause('Watch subnets', error, signal);
      }
    }
  }

  /** Undefined: there is no way from here but a list. */
  async #nextOfAll(cursor: number | undefined, signal: AbortSignal) {
    try {
      return cursor === undefined ? undefined : await this.#store.next(undefined, cursor, signal);
    } catch (error) {
      if (!isOutdated(error)) throw error;
      this.#parts.log('Watch of subnet leases failed because etcd index outside history window');
      return undefined;
    }
  }

  async #checkRoutes(routes: Routes071, signal: AbortSignal): Promise<void> {
    for (;;) {
      await this.#parts.clock.sleep(routeCheckMs, signal);
      await routes.check();
    }
  }

  /** Logs a failure and waits; throws anything else. */
  async #pause(doing: string, error: unknown, signal: AbortSignal): Promise<void> {
    if (!(error instanceof Failure071)) throw error;
    this.#parts.log(`${doing}: ${error.message}`);
    await this.#parts.clock.sleep(retryMs, signal);
  }
}

/** This host's lease; its expiry follows what the host hears of its key. */
interface OwnLease {
  readonly subnet: Subnet;
  expiresAtMs: number | undefined;
}

/** etcd's memory of events does not go back to the index that was asked for. */
function isOutdated(error: unknown): boolean {
  return error instanceof Failure071 && error.code === 401;
}

function isCompatible({ min, max }: Config071, { first, length }: Subnet): boolean {
  return length === min.length && min.first <= first && first <= max.first;
}

/** Throws {@link Failure071} for what is no configuration, {@link OtherBackend071} for one that is not for host-gw. */
function parseConfig(text: string): Config071 {
  const { Network, SubnetLen, SubnetMin, SubnetMax, Backend } = jsonOf(text);
  const network = parseSubnet(Network ?? '');
  if (network?.family !== 4) throw new Failure071(`the configuration has no Network: ${text}`);
  const type = Backend === undefined ? 'udp' : Backend.Type;
  if (type !== 'host-gw') {
    const why =
      Backend === undefined ? 'A configuration without Backend means udp' : `Backend.Type is ${type}`;
    throw new OtherBackend071(`${why}. This model of flannel 0.7.1 knows host-gw only.`);
  }
  const length = SubnetLen || Math.max(24, network.length + 1);
  // Without a minimum the first subnet is left out.
  const first = subnetAt(4, network.first, length);
  const at = (address: string | undefined, otherwise: bigint): Subnet =>
    address === undefined ? subnetAt(4, otherwise, length) : subnetOrThrow(`${address}/${length}`);
  return { network, min: at(SubnetMin, first.last + 1n), max: at(SubnetMax, network.last) };
}

interface ConfigJson {
  readonly Network?: string;
  readonly SubnetLen?: number;
  readonly SubnetMin?: string;
  readonly SubnetMax?: string;
  readonly Backend?: { readonly Type?: string };
}

function jsonOf(text: string): ConfigJson {
  try {
    return JSON.parse(text) as ConfigJson;
  } catch (error) {
    throw new Failure071(`the configuration is no JSON: ${String(error)}`);
  }
}

function subnetOrThrow(text: string): Subnet {
  const subnet = parseSubnet(text);
  if (subnet === undefined) throw new Failure071(`the configuration has ${text}, which is no subnet`);
  return subnet;
}

function subnetEnv({ network }: Config071, subnet: Subnet, mtu: number): string {
  return [
    `FLANNEL_NETWORK=${network.text}`,
    `FLANNEL_SUBNET=${bridgeAddress(subnet)}`,
    `FLANNEL_MTU=${mtu}`,
    'FLANNEL_IPMASQ=false',
    '',
  ].join('\n');
}
