import type { Family, Subnet } from '../ip/ip.ts';
import type { Commands } from '../runtime/commands.ts';
import { closedContainers, type ForwardPosition, forwardObstacles } from './forward.ts';
import { Iptables } from './iptables.ts';
import { FirewallError, isMissing } from './tool.ts';

/**
 * Looks once at what may keep packets of containers although our rules accept them; one sentence each with what to do. None
 * where iptables is not installed. `jump`: as for {@link forwardObstacles}. Rejects with a FlannelError when the tool fails.
 */
export async function readObstacles(
  commands: Commands,
  family: Family,
  jump: ForwardPosition | 'none',
  signal: AbortSignal,
): Promise<readonly string[]> {
  try {
    const table = await new Iptables(commands, family).read('filter', signal);
    return forwardObstacles(table, jump);
  } catch (error) {
    if (isMissing(error)) return [];
    throw error;
  }
}

/** See {@link closedContainers}; 0 also where iptables or its table raw does not exist. Rejects with a FlannelError. */
export async function readClosedContainers(
  commands: Commands,
  subnet: Subnet,
  signal: AbortSignal,
): Promise<number> {
  try {
    return closedContainers(await new Iptables(commands, subnet.family).read('raw', signal), subnet);
  } catch (error) {
    if (error instanceof FirewallError && ['COMMAND_MISSING', 'FIREWALL_REFUSED'].includes(error.code))
      return 0;
    throw error;
  }
}
