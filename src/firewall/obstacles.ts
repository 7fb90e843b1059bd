import type { Family } from '../ip/ip.ts';
import type { Commands } from '../runtime/commands.ts';
import { forwardObstacles } from './forward.ts';
import { Iptables } from './iptables.ts';
import { isMissing } from './tool.ts';

/**
 * Looks once at what may keep packets of containers although our rules accept them; one sentence each with what to do. None
 * where iptables is not installed. Rejects with a FlannelError when the tool fails.
 */
export async function readObstacles(
  commands: Commands,
  family: Family,
  mode: 'iptables' | 'nftables',
  signal: AbortSignal,
): Promise<readonly string[]> {
  try {
    const table = await new Iptables(commands, family).read('filter', signal);
    return forwardObstacles(table, mode === 'iptables');
  } catch (error) {
    if (isMissing(error)) return [];
    throw error;
  }
}
