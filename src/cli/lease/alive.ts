import { canonicalAddress } from '../../ip/ip.ts';
import { CommandError, type Commands } from '../../runtime/effects.ts';

/** What a host answered. */
export type Answer = 'ping' | 'ARP';

const pingTimeoutMs = 3_000;

/**
 * Whether a host answers at its address: to one ping, else to ARP (or to neighbour discovery), which no firewall filters; that tells
 * only of hosts on a link of this one. Needs no root. Undefined when nothing answers, or the programs `ping` and `ip` are missing.
 */
export async function askHost(
  commands: Commands,
  address: string,
  signal: AbortSignal,
): Promise<Answer | undefined> {
  // It becomes an argument.
  if (canonicalAddress(address) !== address) return undefined;
  const run = async (program: string, ...args: readonly string[]) => {
    try {
      return await commands.run(program, args, { timeoutMs: pingTimeoutMs }, signal);
    } catch (error) {
      if (error instanceof CommandError) return undefined;
      throw error;
    }
  };
  const ping = await run('ping', '-n', '-q', '-c', '1', '-W', '1', address);
  if (ping?.exitCode === 0) return 'ping';
  // The kernel has just asked for the address on the link, to send the ping.
  const neighbour = await run('ip', 'neigh', 'show', 'to', address);
  return /lladdr \S+.* (?:REACHABLE|DELAY|PROBE)\s*$/m.test(neighbour?.stdout ?? '') ? 'ARP' : undefined;
}

/** Says so, with what may run there. */
export function aliveText(host: string, answer: Answer): string {
  return `${host} answers ${answer}: it may run a flanneld, which answers no question of this program`;
}
