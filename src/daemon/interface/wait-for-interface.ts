import type { PerFamily } from '../../ip/ip.ts';
import type { Kernel, LinkAddress } from '../../kernel/kernel.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { TroubleLog } from '../../runtime/trouble.ts';
import { chooseInterface, type HostInterface } from './choose-interface.ts';
import { followHost, type Look } from './follow-host.ts';
import { fieldOf, type HostNetwork, readHostNetwork, type WantedInterface } from './host-network.ts';
import { isUsable } from './usable-addresses.ts';

export interface WaitForInterfaceOptions extends WantedInterface {
  readonly kernel: Kernel;
  readonly clock: Clock;
  readonly log: Logger;
  readonly trouble: TroubleLog;
  /** Reads which addresses the lease of this host names; asked only when there are several to choose from. */
  readonly leased: (signal: AbortSignal) => Promise<PerFamily<string>>;
}

const spacingMs = 50;

/**
 * Waits until there is an interface with the addresses to use. Of several the one stays that the lease of this host names: peers route
 * to it. Rejects only with `signal.reason`.
 */
export async function waitForInterface(
  options: WaitForInterfaceOptions,
  signal: AbortSignal,
): Promise<HostInterface> {
  const { kernel, clock, log, trouble } = options;
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
  return await followHost({ kernel, clock, trouble, spacingMs, matters: () => true, look }, signal);
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
