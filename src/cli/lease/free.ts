import { counted, excerpt } from '../../runtime/texts.ts';
import type { LeaseRow } from '../../subnet/lease/overview.ts';
import type { PoolRoom } from '../../subnet/lease/pool.ts';
import { askingEtcd, complain, type ExitCode, printJson, wrapped } from '../output.ts';
import { duration } from '../status.ts';
import { type LeaseParts, poolsOf, readCluster } from './cluster.ts';

/**
 * `lease free`: how much of each pool is left, the largest gap, and when the next lease ends. Resolves to the exit code: 0; 1 when a pool
 * has no free subnet, or there is no configuration that can be used; 3 when etcd cannot be asked.
 */
export async function showFree(parts: LeaseParts, signal: AbortSignal): Promise<ExitCode> {
  return await askingEtcd(parts, signal, async () => {
    const view = await readCluster(parts, signal);
    if (view.config === undefined) {
      complain(
        parts,
        `the network configuration cannot be used: ${excerpt(view.configFault ?? '', 200)}`,
        'CONFIG_UNUSABLE',
      );
      return 1;
    }
    const pools = poolsOf(view);
    const next = nextToEnd(view.rows);
    if (parts.json) {
      const nextEnd = next && { key: next.key, secondsLeft: next.secondsLeft };
      const shown = pools.map(({ pool, room: { size, free, largestGap: gap } }) => ({
        network: pool.network.text,
        size: Number(size),
        free: Number(free),
        largestGap: gap ? { from: gap.from.text, to: gap.to.text, count: Number(gap.count) } : null,
      }));
      printJson(parts, { pools: shown, nextEnd: nextEnd ?? null });
    } else {
      for (const { pool, room } of pools) {
        const { free, size } = room;
        const line = `${pool.network.text}: ${free} of ${counted(Number(size), 'subnet')} free (/${pool.subnetLength} from ${pool.min.text} to ${pool.max.text})`;
        for (const part of [...wrapped(line, 2), ...gapLines(room)]) parts.out(part);
      }
      for (const line of wrapped(endText(next), 2)) parts.out(line);
    }
    return pools.every(({ room }) => room.free > 0n) ? 0 : 1;
  });
}

function gapLines({ largestGap: gap }: PoolRoom): readonly string[] {
  if (gap === undefined) return [];
  return wrapped(`  largest gap: ${gap.count}, from ${gap.from.text} to ${gap.to.text}`, 4);
}

/** The lease that ends first, if its host does not renew it. */
function nextToEnd(rows: readonly LeaseRow[]): LeaseRow | undefined {
  const ending = rows.filter(({ secondsLeft }) => secondsLeft !== null);
  return ending.toSorted((a, b) => (a.secondsLeft ?? 0) - (b.secondsLeft ?? 0))[0];
}

function endText(next: LeaseRow | undefined): string {
  if (next === undefined) return 'no lease ends by itself';
  const { subnets, addresses, name, secondsLeft } = next;
  const subnet = subnets.ipv4 ?? subnets.ipv6 ?? excerpt(name, 30);
  const host = addresses.ipv4 ?? addresses.ipv6 ?? 'an unidentified host';
  return `next to end: ${subnet} of ${host}, in ${duration(secondsLeft ?? 0)} unless it is renewed`;
}
