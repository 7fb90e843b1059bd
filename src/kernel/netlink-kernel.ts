import { readFile } from 'node:fs/promises';
import type { Family } from '../ip/ip.ts';
import type { Clock } from '../runtime/effects.ts';
import { codeOf, messageOf } from '../runtime/errors.ts';
import { CommandSocket } from './command-socket.ts';
import {
  decodeAddress,
  decodeLink,
  decodeLookup,
  decodeRoute,
  decodeRule,
  decodeUsedRoute,
} from './decode.ts';
import { type DumpRequest, DumpSocket } from './dump-socket.ts';
import {
  encodeAddressDump,
  encodeLinkDump,
  encodeLookup,
  encodeRouteDump,
  encodeRuleDump,
} from './encode.ts';
import { EventSocket } from './event-socket.ts';
import { type Kernel, KernelError, type RouteChange, type RouteFinder, type Sender } from './kernel.ts';
import { familyOf, RTM } from './rtnetlink.ts';

/** Takes 20,000 notifications, or many times the answers to one write. */
const RECEIVE_BUFFER_BYTES = 16 << 20;
/** The longest that one write, or one part of a dump, may take. */
const deadlineMs = 5000;
/**
 * Answers that mean that no route leads there: none at all, an `unreachable`, `prohibit`, `blackhole` or
 * `throw` route, or a family that is off.
 */
const nowhere = ['ENETUNREACH', 'EHOSTUNREACH', 'EACCES', 'EINVAL', 'EAGAIN', 'EOPNOTSUPP', 'EAFNOSUPPORT'];
/** Bit of CapEff in /proc/self/status. */
const CAP_NET_ADMIN = 12n;

export interface NetlinkKernelOptions {
  /** Real time: it bounds the waits for the kernel. */
  readonly clock: Clock;
  /**
   * Wanted size of each receive buffer; net.core.rmem_max limits it without CAP_NET_ADMIN. Default 16 MiB.
   */
  readonly receiveBufferBytes?: number;
}

/**
 * The kernel of the calling thread's network namespace. Throws {@link KernelError} when no netlink socket can
 * be opened. Call `close()` before the process ends, at the latest in an `exit` handler: a thread that waits
 * for notifications would delay the end.
 */
export function openNetlinkKernel(options: NetlinkKernelOptions): Kernel & RouteFinder {
  return orKernelError('open a netlink socket', () => new NetlinkKernel(options));
}

class NetlinkKernel implements Kernel, RouteFinder {
  readonly #receiveBufferBytes: number;
  readonly #commands: CommandSocket;
  readonly #dumps: DumpSocket;
  readonly #events = new Set<EventSocket>();
  #closed = false;

  constructor(options: NetlinkKernelOptions) {
    const receiveBufferBytes = options.receiveBufferBytes ?? RECEIVE_BUFFER_BYTES;
    this.#receiveBufferBytes = receiveBufferBytes;
    this.#commands = new CommandSocket({ clock: options.clock, deadlineMs, receiveBufferBytes });
    this.#dumps = new DumpSocket({ deadlineMs, receiveBufferBytes });
  }

  async missingCapabilities() {
    const status = await readFile('/proc/self/status', 'utf8');
    const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0'}`);
    return ((effective >> CAP_NET_ADMIN) & 1n) === 1n ? [] : ['CAP_NET_ADMIN'];
  }

  async subscribe() {
    if (this.#closed) throw new KernelError('CLOSED', 'the kernel connection is closed');
    const onClose = () => this.#events.delete(events);
    const options = { receiveBufferBytes: this.#receiveBufferBytes, onClose };
    const events: EventSocket = orKernelError('subscribe to notifications', () => new EventSocket(options));
    this.#events.add(events);
    return events;
  }

  links(signal?: AbortSignal) {
    const dump = { what: 'links', type: RTM.NEWLINK, encode: encodeLinkDump, decode: decodeLink };
    return this.#dumps.dump(dump, signal);
  }

  async addresses(signal?: AbortSignal) {
    const dump = { what: 'addresses', type: RTM.NEWADDR, encode: encodeAddressDump, decode: decodeAddress };
    return [...(await this.#dump(4, dump, signal)), ...(await this.#dump(6, dump, signal))];
  }

  routes(family: Family, signal?: AbortSignal) {
    const dump = { what: 'routes', type: RTM.NEWROUTE, encode: encodeRouteDump, decode: decodeRoute };
    return this.#dump(family, dump, signal);
  }

  routesDigest(family: Family, signal?: AbortSignal) {
    const encode = (sequence: number) => encodeRouteDump(family, sequence);
    return this.#dumps.digest({ what: `IPv${family} routes`, encode }, signal);
  }

  async rules(family: Family, signal?: AbortSignal) {
    const dump = { what: 'policy rules', type: RTM.NEWRULE, encode: encodeRuleDump, decode: decodeRule };
    // A kernel without policy rules, or without the family.
    return (await unless(['EOPNOTSUPP', 'EAFNOSUPPORT'], this.#dump(family, dump, signal))) ?? [];
  }

  /** A kernel without IPv6 answers an IPv6 dump with the entries of all its families. */
  #dump<T>(
    family: Family,
    { what, type, encode, decode }: Omit<DumpRequest<T>, 'encode'> & { readonly encode: FamilyEncoder },
    signal: AbortSignal | undefined,
  ): Promise<readonly T[]> {
    const request = {
      what: `IPv${family} ${what}`,
      type,
      encode: (sequence: number) => encode(family, sequence),
      decode: (payload: Buffer) => (familyOf(payload[0] ?? 0) === family ? decode(payload) : undefined),
    };
    return this.#dumps.dump(request, signal);
  }

  routeTo(address: string, signal?: AbortSignal) {
    return this.#lookUp(address, undefined, decodeLookup, signal);
  }

  routeFor(address: string, signal?: AbortSignal, sender?: Sender) {
    return this.#lookUp(address, { sender }, decodeUsedRoute, signal);
  }

  async #lookUp<T>(
    address: string,
    match: { readonly sender: Sender | undefined } | undefined,
    decode: (payload: Buffer) => T | undefined,
    signal: AbortSignal | undefined,
  ): Promise<T | undefined> {
    const encode = (sequence: number) => {
      const request = encodeLookup(address, sequence, match);
      if (request === undefined) throw new KernelError('EINVAL', `not an address: ${address}`);
      return request;
    };
    encode(0);
    const request = { what: `route to ${address}`, encode, type: RTM.NEWROUTE, decode };
    return (await unless(nowhere, this.#dumps.dump(request, signal)))?.[0];
  }

  apply(changes: readonly RouteChange[], signal?: AbortSignal) {
    return this.#commands.apply(changes, signal);
  }

  close(): void {
    this.#closed = true;
    for (const events of this.#events) events.close();
    this.#commands.close();
    this.#dumps.close();
  }
}

type FamilyEncoder = (family: Family, sequence: number) => Buffer;

/** Undefined when the kernel answers with one of these errors. */
async function unless<T>(errnos: readonly string[], answer: Promise<T>): Promise<T | undefined> {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof KernelError && errnos.includes(error.errno)) return undefined;
    throw error;
  }
}

function orKernelError<T>(what: string, open: () => T): T {
  try {
    return open();
  } catch (error) {
    const remedy =
      'Allow AF_NETLINK sockets (systemd: RestrictAddressFamilies=, containers: the seccomp profile)';
    const code = codeOf(error) ?? 'EIO';
    throw new KernelError(code, `cannot ${what}: ${messageOf(error)}`, { cause: error, remedy });
  }
}
