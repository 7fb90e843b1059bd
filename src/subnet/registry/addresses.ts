import { destinationAddress } from '../../ip/ip.ts';
import { Wake } from '../../runtime/wake.ts';

/** A name may resolve to new addresses again and again while none of them answers. */
const maxPerEndpoint = 16;

/** What is known of one endpoint. */
interface Endpoint {
  /** Addresses, each with the number of connections there that are open or being made. */
  readonly open: Map<string, number>;
  /** Where the last connection was made. */
  inUse: string | undefined;
}

/**
 * Where etcd is: the addresses that connections to it are tried or made at, and those the endpoints name themselves. Also an
 * address that does not answer: a route there may be the very reason. One is forgotten once a connection is open at another
 * and none is left there. Also from where: see {@link EtcdAddresses.keepFrom}.
 */
export class EtcdAddresses {
  readonly #named: readonly string[];
  readonly #endpoints = new Map<string, Endpoint>();
  readonly #changed = new Wake();
  /** What ends each connection that is open, with the address of this host that it was made from. */
  readonly #local = new Map<() => void, string>();
  #current: readonly string[];

  /** `hosts`: those of the endpoints, names or addresses. */
  constructor(hosts: readonly string[] = []) {
    this.#named = hosts.flatMap((host) => destinationAddress(host) ?? []);
    this.#current = [...new Set(this.#named)];
  }

  /** In canonical form, of either family. */
  get current(): readonly string[] {
    return this.#current;
  }

  /**
   * Resolves at the next change of `current`, or at once when it changed while nobody waited; rejects with `signal.reason`.
   * For one consumer.
   */
  async changed(signal: AbortSignal): Promise<void> {
    await this.#changed.wait(signal);
  }

  /** A connection to the endpoint is tried at this address. Texts that are no addresses are ignored, here and below. */
  tried(endpoint: string, address: string): void {
    const { at, text, open } = this.#look(endpoint, address);
    if (text === undefined) return;
    this.#endpoints.set(endpoint, at);
    at.open.set(text, open + 1);
    for (const [other, count] of at.open) {
      if (at.open.size <= maxPerEndpoint) break;
      if (count === 0) at.open.delete(other);
    }
    this.#publish();
  }

  /** A connection that was tried there is made. */
  made(endpoint: string, address: string): void {
    const { at, text } = this.#look(endpoint, address);
    if (text === undefined) return;
    at.inUse = text;
    this.#forgetUnused(at);
  }

  /** A connection that was tried there has failed or ended. */
  ended(endpoint: string, address: string): void {
    const { at, text, open } = this.#look(endpoint, address);
    if (text === undefined || open === 0) return;
    at.open.set(text, open - 1);
    this.#forgetUnused(at);
  }

  /** A connection was made from this address of this host; `drop` ends it. To be called back when it has ended. */
  opened(local: string, drop: () => void): () => void {
    const text = destinationAddress(local);
    if (text !== undefined) this.#local.set(drop, text);
    return () => this.#local.delete(drop);
  }

  /**
   * This host has these addresses now. A connection from one that it has lost is dead, which would show only when keepalive
   * has waited for 14 s; its calls are repeated over another connection at once.
   */
  keepFrom(addresses: readonly string[]): void {
    const held = new Set(addresses);
    for (const [drop, local] of this.#local) if (!held.has(local)) drop();
  }

  #look(endpoint: string, address: string) {
    const text = destinationAddress(address);
    const at = this.#endpoints.get(endpoint) ?? { open: new Map<string, number>(), inUse: undefined };
    return { at, text, open: at.open.get(text ?? '') ?? 0 };
  }

  #forgetUnused({ open, inUse = '' }: Endpoint): void {
    if ((open.get(inUse) ?? 0) === 0) return;
    for (const [address, count] of open) if (count === 0) open.delete(address);
    this.#publish();
  }

  #publish(): void {
    const addresses = new Set(this.#named);
    for (const { open } of this.#endpoints.values())
      for (const address of open.keys()) addresses.add(address);
    const same = addresses.size === this.#current.length && this.#current.every((one) => addresses.has(one));
    if (same) return;
    this.#current = [...addresses];
    this.#changed.wake();
  }
}
