import type { Kernel, KernelEvents } from '../../kernel/kernel.ts';
import type { Clock } from '../../runtime/clock.ts';
import { messageOf } from '../../runtime/errors.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { TroubleLog } from '../../runtime/trouble.ts';
import { firstOf } from '../../runtime/wake.ts';
import { chooseInterface, type HostInterface } from './choose-interface.ts';

export interface WaitForInterfaceOptions {
  readonly kernel: Kernel;
  readonly clock: Clock;
  readonly log: Logger;
  readonly trouble: TroubleLog;
  /** Names or addresses, in order; '' or none: the default route's interface. */
  readonly ifaces: readonly string[];
}

/** Looked again this often even when the kernel says nothing. */
const lookAgainMs = 10_000;
/** Looking takes three dumps, and events come in bursts. */
const lookSpacingMs = 50;

/** Waits, for ever, until there is an interface with an address to use. Rejects only with `signal.reason`. */
export async function waitForInterface(
  options: WaitForInterfaceOptions,
  signal: AbortSignal,
): Promise<HostInterface> {
  for (;;) {
    try {
      const events = await options.kernel.subscribe();
      try {
        return await choose(options, events, signal);
      } finally {
        events.close();
      }
    } catch (error) {
      signal.throwIfAborted();
      options.trouble.report('interface', `the interfaces of this host cannot be read: ${messageOf(error)}`, {
        error,
      });
    }
    await options.clock.sleep(lookAgainMs, signal);
  }
}

async function choose(
  { kernel, clock, log, trouble, ifaces }: WaitForInterfaceOptions,
  events: KernelEvents,
  signal: AbortSignal,
): Promise<HostInterface> {
  for (;;) {
    const links = await kernel.links(signal);
    const addresses = await kernel.addresses(signal);
    const routes = await kernel.routes(4, signal);
    const choice = chooseInterface({ links, addresses, routes }, ifaces);
    if ('chosen' in choice) {
      for (const line of choice.skipped) log.warn({ event: 'interface-skipped' }, `skipped: ${line}`);
      trouble.clear('interface', `interface ${choice.chosen.name} can be used`);
      return choice.chosen;
    }
    trouble.report('interface', `waiting: ${choice.problem}`);
    await firstOf<unknown>(signal, (inner) => [events.next(inner), clock.sleep(lookAgainMs, inner)]);
    await clock.sleep(lookSpacingMs, signal);
  }
}
