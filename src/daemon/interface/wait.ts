import { poolOverlaps } from '../../backend/hostgw/host-networks.ts';
import type { PerFamily, Subnet } from '../../ip/ip.ts';
import {
  concernsHost,
  type Kernel,
  type KernelEvent,
  type KernelEvents,
  type LinkAddress,
} from '../../kernel/kernel.ts';
import type { Activity } from '../../runtime/activity.ts';
import type { Clock, Logger } from '../../runtime/effects.ts';
import { messageOf } from '../../runtime/errors.ts';
import type { TroubleLog } from '../../runtime/trouble.ts';
import { firstOf } from '../../runtime/wake.ts';
import type { NetworkConfig } from '../../subnet/config/config.ts';
import { isOwnLease, parseLease } from '../../subnet/lease/lease.ts';
import { listRange, type Registry, RegistryError, stuckWithEtcdMs } from '../../subnet/registry/registry.ts';
import { chooseInterface, type HostInterface, isUsable } from './choose-interface.ts';
import { fieldOf, type HostNetwork, readHostNetwork, type WantedInterface } from './host-network.ts';

/** What every look at this host's links and addresses takes. */
export interface HostWatching {
  readonly kernel: Kernel;
  readonly clock: Clock;
  readonly trouble: TroubleLog;
  /** Told of each round of the loop. */
  readonly activity?: Activity;
}

interface FollowHostOptions<T> extends HostWatching {
  /** What the loop is reported as, and how long a round of it may take. */
  readonly loop: string;
  readonly stuckMs: number;
  /** Looking takes dumps, and events come in bursts: at least so long from one look to the next. */
  readonly spacingMs: number;
  /** Whether to look again because of this event. */
  matters(event: KernelEvent): boolean;
  /** Looks at the kernel. Ends the following with `done`, or asks for the next look `againMs` from now at the latest. */
  look(signal: AbortSignal): Promise<Look<T>>;
}

type Look<T> = { readonly done: T } | { readonly againMs?: number };

/** Looked again this often even when the kernel says nothing. */
const lookAgainMs = 10_000;
/** Longer than any answer of the kernel is waited for. */
const stuckMs = 120_000;
/** How the loop is reported that looks for the interface, and then follows it. */
export const interfaceLoop = { loop: 'interface', stuckMs };

/**
 * Looks at the kernel's links, addresses and routes at once, after events that matter, and every ten seconds. A kernel that
 * cannot be read is told and tried again. Rejects only with `signal.reason`.
 */
export async function followHost<T>(options: FollowHostOptions<T>, signal: AbortSignal): Promise<T> {
  const { activity, kernel, clock, trouble } = options;
  try {
    for (;;) {
      activity?.round(options.loop, options.stuckMs);
      try {
        const events = await kernel.subscribe();
        try {
          return await follow(options, events, signal);
        } finally {
          events.close();
        }
      } catch (error) {
        signal.throwIfAborted();
        const text = `the interfaces of this host cannot be read: ${messageOf(error)}`;
        trouble.report('interfaces', text, { error });
      }
      await clock.sleep(lookAgainMs, signal);
    }
  } finally {
    activity?.end(options.loop);
  }
}

async function follow<T>(
  options: FollowHostOptions<T>,
  events: KernelEvents,
  signal: AbortSignal,
): Promise<T> {
  const { activity, clock, trouble, spacingMs } = options;
  const change = async (inner: AbortSignal) => {
    while (!(await events.next(inner)).some((event) => options.matters(event)));
  };
  for (;;) {
    activity?.round(options.loop, options.stuckMs);
    const result = await options.look(signal);
    trouble.clear('interfaces', 'the interfaces of this host can be read again');
    if ('done' in result) return result.done;
    const againMs = Math.min(result.againMs ?? lookAgainMs, lookAgainMs);
    await firstOf(signal, (inner) => [change(inner), clock.sleep(againMs, inner)]);
    await clock.sleep(spacingMs, signal);
  }
}

interface WaitForInterfaceOptions extends WantedInterface, HostWatching {
  readonly log: Logger;
  /** Reads which addresses the lease of this host names; asked only when there are several to choose from. */
  readonly leased: (signal: AbortSignal) => Promise<PerFamily<string>>;
}

const interfaceSpacingMs = 50;

/**
 * Waits until there is an interface with the addresses to use. Of several the one stays that the lease of this host names: peers route
 * to it. Rejects only with `signal.reason`.
 */
export async function waitForInterface(
  options: WaitForInterfaceOptions,
  signal: AbortSignal,
): Promise<HostInterface> {
  const { kernel, log, trouble } = options;
  let leased: PerFamily<string> | undefined;
  const look = async (inner: AbortSignal): Promise<Look<HostInterface>> => {
    const network = await readHostNetwork(kernel, options, inner);
    let choice = chooseInterface(network, options);
    if ('chosen' in choice && hasOthers(network, choice.chosen)) {
      leased ??= await options.leased(inner);
      if (isOnItsWay(network, choice.chosen, leased)) return {};
      choice = chooseInterface({ ...network, leased }, options);
    }
    if (!('chosen' in choice)) {
      trouble.report('interface', `waiting: ${choice.problem}`);
      return {};
    }
    for (const line of choice.skipped) log.warn({ event: 'interface-skipped' }, `skipped: ${line}`);
    trouble.clear('interface', `interface ${choice.chosen.name} can be used`);
    return { done: choice.chosen };
  };
  const following = { ...interfaceLoop, spacingMs: interfaceSpacingMs, matters: () => true, look };
  return await followHost({ ...options, ...following }, signal);
}

/** Whether the interface has, or will have in a moment, more addresses to choose from than those chosen. */
function hasOthers({ addresses: all }: HostNetwork, { index, addresses }: HostInterface): boolean {
  return all.some((held) => {
    const chosen = addresses[fieldOf(held.family)];
    const other = held.linkIndex === index && chosen !== undefined && held.address !== chosen;
    return other && (isUsable(held) || isChecked(held));
  });
}

/** Whether the address that peers route to is there, but still being checked for duplicates. */
function isOnItsWay(
  { addresses: all }: HostNetwork,
  { index }: HostInterface,
  leased: PerFamily<string>,
): boolean {
  const texts = Object.values(leased);
  return all.some((held) => held.linkIndex === index && texts.includes(held.address) && isChecked(held));
}

function isChecked({ tentative, dadFailed }: LinkAddress): boolean {
  return tentative && !dadFailed;
}

interface WaitForPoolOptions extends HostWatching {
  readonly registry: Registry;
  readonly config: NetworkConfig;
  readonly subnetsPrefix: string;
  readonly host: HostInterface;
  /** The subnets of the previous subnet.env. */
  readonly hint: PerFamily<Subnet> | undefined;
}

const poolSpacingMs = 250;

/**
 * Waits until no network of this host lies in the range that subnets are leased from, which could cut the host off. Networks
 * may go away; a corrected configuration ends the wait from outside. Rejects only with `signal.reason`.
 */
export async function waitForPool(options: WaitForPoolOptions, signal: AbortSignal): Promise<void> {
  const { kernel, trouble, config, host, hint } = options;
  const look = async (inner: AbortSignal): Promise<Look<void>> => {
    const facts = {
      links: await kernel.links(inner),
      addresses: await kernel.addresses(inner),
      interfaceIndex: host.index,
    };
    const hinted = hint === undefined ? [] : [hint];
    let overlaps = poolOverlaps({ ...facts, own: hinted }, config);
    // etcd is asked only when it matters: a bridge of whatever name may have what this host has leased.
    if (overlaps.length > 0) {
      const own = [...hinted, ...(await leasedSubnets(options, inner))];
      overlaps = poolOverlaps({ ...facts, own }, config);
    }
    if (overlaps.length === 0) {
      trouble.clear('pool', 'no network of this host lies in the range that subnets are leased from');
      return { done: undefined };
    }
    const problems = overlaps.map(({ problem }) => problem).join('; ');
    trouble.report('pool', `waiting: ${problems}. ${overlaps[0]?.remedy ?? ''}`);
    return {};
  };
  const loop = { loop: 'pool', stuckMs: stuckWithEtcdMs, spacingMs: poolSpacingMs };
  await followHost({ ...options, ...loop, matters: concernsHost, look }, signal);
}

/** The subnets that etcd holds for this host; none while it cannot be asked. */
async function leasedSubnets(
  { registry, subnetsPrefix, host }: WaitForPoolOptions,
  signal: AbortSignal,
): Promise<readonly PerFamily<Subnet>[]> {
  try {
    const { kvs } = await listRange(registry, subnetsPrefix, signal);
    return kvs.flatMap((kv) => {
      const parsed = parseLease(subnetsPrefix, kv);
      const isOwn = 'lease' in parsed && isOwnLease(host.addresses, parsed.lease);
      return isOwn ? [parsed.lease.subnets] : [];
    });
  } catch (error) {
    if (!(error instanceof RegistryError)) throw error;
    return [];
  }
}
