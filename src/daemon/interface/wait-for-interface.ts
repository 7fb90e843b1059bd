import type { Kernel } from '../../kernel/kernel.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { TroubleLog } from '../../runtime/trouble.ts';
import { chooseInterface, type HostInterface } from './choose-interface.ts';
import { followHost, type Look } from './follow-host.ts';
import { readHostNetwork, type WantedInterface } from './host-network.ts';

export interface WaitForInterfaceOptions extends WantedInterface {
  readonly kernel: Kernel;
  readonly clock: Clock;
  readonly log: Logger;
  readonly trouble: TroubleLog;
}

const spacingMs = 50;

/** Waits, for ever, until there is an interface with the addresses to use. Rejects only with `signal.reason`. */
export async function waitForInterface(
  options: WaitForInterfaceOptions,
  signal: AbortSignal,
): Promise<HostInterface> {
  const { kernel, clock, log, trouble } = options;
  const look = async (inner: AbortSignal): Promise<Look<HostInterface>> => {
    const choice = chooseInterface(await readHostNetwork(kernel, options, inner), options);
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
