import { readFile } from 'node:fs/promises';
import type { Family } from '../ip/ip.ts';
import type { Clock } from '../runtime/effects.ts';
import { codeOf, messageOf } from '../runtime/errors.ts';
import { CommandSocket } from './command-socket.ts';
import { decodeAddress, decodeLink, decodeRoute } from './decode.ts';
import { DumpSocket } from './dump-socket.ts';
import { encodeAddressDump, encodeLinkDump, encodeRouteDump, encodeRuleDump } from './encode.ts';
import { EventSocket } from './event-socket.ts';
import {
  type ChangeResult,
  type Kernel,
  KernelError,
  type KernelEvents,
  type Link,
  type LinkAddress,
  type PolicyRule,
  type Route,
  type RouteChange,
  type RouteFinder,
  type RouteLookup,
  type Sender,
  type UsedRoute,
} from './kernel.ts';
import { decodeRule, findRoute, lookUpRoute } from './lookup.ts';
import { RTM } from './rtnetlink.ts';

/** Takes 20,000 notifications of an event storm, or the answers to all the messages of one write many times over. */
const RECEIVE_BUFFER_BYTES = 16 << 20;
const DEADLINE_MS = 5000;
/** Bit of CapEff in /proc/self/status. */
const CAP_NET_ADMIN = 12n;

export interface NetlinkKernelOptions {
  /** Real time: the kernel's answers are waited for in it. */
  readonly clock: Clock;
  /** How long one write, or one part of a dump, may take. Default 5000. */
  readonly deadlineMs?: number;
  /** Wanted size of each socket's receive buffer; cut to net.core.rmem_max without CAP_NET_ADMIN. Default 16 MB. */
  readonly receiveBufferBytes?: number;
}

/**
 * The kernel of the network namespace that the calling thread is in. Throws {@link KernelError} when no netlink socket can
 * be had. `close()` must be called before the process ends, at the latest in an `exit` handler: a thread that waits for
 * notifications would hold up its end.
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
    const deadlineMs = options.deadlineMs ?? DEADLINE_MS;
    this.#receiveBufferBytes = receiveBufferBytes;
    this.#commands = new CommandSocket({ clock: options.clock, deadlineMs, receiveBufferBytes });
    this.#dumps = new DumpSocket({ deadlineMs, receiveBufferBytes });
  }

  async missingCapabilities(): Promise<readonly string[]> {
    const status = await readFile('/proc/self/status', 'utf8');
    const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0'}`);
    return ((effective >> CAP_NET_ADMIN) & 1n) === 1n ? [] : ['CAP_NET_ADMIN'];
  }

  async subscribe(): Promise<KernelEvents> {
    if (this.#closed) throw new KernelError('CLOSED', 'the kernel connection is closed');
    const events = orKernelError(
      'subscribe to notifications',
      () =>
        new EventSocket({
          receiveBufferBytes: this.#receiveBufferBytes,
          onClose: () => this.#events.delete(events),
        }),
    );
    this.#events.add(events);
    return events;
  }

  links(signal?: AbortSignal): Promise<readonly Link[]> {
    const type = RTM.NEWLINK;
    return this.#dumps.dump({ what: 'links', encode: encodeLinkDump, type, decode: decodeLink }, signal);
  }

  async addresses(signal?: AbortSignal): Promise<readonly LinkAddress[]> {
    return [...(await this.#addresses(4, signal)), ...(await this.#addresses(6, signal))];
  }

  #addresses(family: Family, signal: AbortSignal | undefined): Promise<readonly LinkAddress[]> {
    const encode = (sequence: number) => encodeAddressDump(family, sequence);
    // As below.
    const decode = (payload: Buffer) => {
      const address = decodeAddress(payload);
      return address?.family === family ? address : undefined;
    };
    return this.#dumps.dump({ what: `IPv${family} addresses`, encode, type: RTM.NEWADDR, decode }, signal);
  }

  routes(family: Family, signal?: AbortSignal): Promise<readonly Route[]> {
    const encode = (sequence: number) => encodeRouteDump(family, sequence);
    // A kernel without IPv6 answers an IPv6 dump with the routes of all families it has.
    const decode = (payload: Buffer) => {
      const route = decodeRoute(payload);
      return route?.family === family ? route : undefined;
    };
    return this.#dumps.dump({ what: `IPv${family} routes`, encode, type: RTM.NEWROUTE, decode }, signal);
  }

  routeTo(address: string, signal?: AbortSignal): Promise<RouteLookup | undefined> {
    return lookUpRoute(this.#dumps, address, signal);
  }

  routeFor(address: string, signal?: AbortSignal, sender?: Sender): Promise<UsedRoute | undefined> {
    return findRoute(this.#dumps, { address, sender }, signal);
  }

  async rules(family: Family, signal?: AbortSignal): Promise<readonly PolicyRule[]> {
    const encode = (sequence: number) => encodeRuleDump(family, sequence);
    const dump = { what: `IPv${family} policy rules`, encode, type: RTM.NEWRULE, decode: decodeRule };
    try {
      return await this.#dumps.dump(dump, signal);
    } catch (error) {
      // A kernel without policy rules, or without the family.
      if (error instanceof KernelError && ['EOPNOTSUPP', 'EAFNOSUPPORT'].includes(error.errno)) return [];
      throw error;
    }
  }

  apply(changes: readonly RouteChange[], signal?: AbortSignal): Promise<readonly ChangeResult[]> {
    return this.#commands.apply(changes, signal);
  }

  close(): void {
    this.#closed = true;
    for (const events of this.#events) events.close();
    this.#commands.close();
    this.#dumps.close();
  }
}

function orKernelError<T>(what: string, open: () => T): T {
  try {
    return open();
  } catch (error) {
    const remedy =
      'It needs AF_NETLINK sockets: allow them (systemd: RestrictAddressFamilies=, containers: the seccomp profile)';
    const code = codeOf(error) ?? 'EIO';
    throw new KernelError(code, `cannot ${what}: ${messageOf(error)}`, { cause: error, remedy });
  }
}
