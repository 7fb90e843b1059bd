import { containsAddress, type PerFamily, parseSubnet, type Subnet } from '../../ip/ip.ts';
import { excerpt } from '../../runtime/texts.ts';
import type { LeaseRow } from '../../subnet/lease/overview.ts';
import { askingEtcd, complain, type ExitCode, printJson, wrapped } from '../output.ts';
import { duration } from '../status.ts';
import type { Answer } from './alive.ts';
import { type ClusterView, type LeaseParts, markLines, readCluster } from './cluster.ts';

/** A lease by its subnet, or by its host's address. */
export type LeaseTarget = { readonly subnet: Subnet } | { readonly address: string };

export interface ShowParts extends LeaseParts {
  readonly target: LeaseTarget;
  /** Whether a host answers at its address. */
  readonly askHost: (address: string, signal: AbortSignal) => Promise<Answer | undefined>;
}

/**
 * `lease show`: all about the leases of a subnet or of a host, and whether the host answers. An address that no host has may be a
 * container's: then the lease whose subnet holds it. Resolves to the exit code: 0; 1 when there is none, or it has a problem; 3 when
 * etcd cannot be asked.
 */
export async function showLease(parts: ShowParts, signal: AbortSignal): Promise<ExitCode> {
  return await askingEtcd(parts, signal, async () => {
    const view = await readCluster(parts, signal);
    const rows = rowsOf(view, parts.target);
    if (rows.length === 0) {
      complain(parts, noLeaseText(view, parts), 'NO_SUCH_LEASE');
      return 1;
    }
    const shown = await Promise.all(
      rows.map(async (row) => {
        const address = row.addresses.ipv4 ?? row.addresses.ipv6;
        const answers = address === undefined ? undefined : await parts.askHost(address, signal);
        return { ...row, value: valueOf(view, row), answers: answers ?? null };
      }),
    );
    if (parts.json) printJson(parts, { leases: shown });
    else
      for (const [index, one] of shown.entries())
        for (const line of lines(parts, one, index)) parts.out(line);
    return rows.some(({ marks }) => marks.some(({ problem }) => problem)) ? 1 : 0;
  });
}

/** The rows that are meant. */
export function rowsOf({ rows }: Pick<ClusterView, 'rows'>, target: LeaseTarget): readonly LeaseRow[] {
  const each = ({ ipv4, ipv6 }: PerFamily<string>) => [ipv4, ipv6].filter((text) => text !== undefined);
  if ('subnet' in target) return rows.filter(({ subnets }) => each(subnets).includes(target.subnet.text));
  const { address } = target;
  const ofHost = rows.filter(({ addresses }) => each(addresses).includes(address));
  if (ofHost.length > 0) return ofHost;
  const holds = (text: string) => {
    const subnet = parseSubnet(text);
    return subnet !== undefined && containsAddress(subnet, address);
  };
  return rows.filter(({ subnets }) => each(subnets).some(holds));
}

/** Says where no such lease was found. */
export function noLeaseText(
  { leasesPrefix }: Pick<ClusterView, 'leasesPrefix'>,
  { target, registry }: Pick<ShowParts, 'target' | 'registry'>,
): string {
  const whose =
    'subnet' in target
      ? `of the subnet ${target.subnet.text}`
      : `of a host or container with the address ${target.address}`;
  return `there is no lease ${whose} under ${leasesPrefix} at ${registry.endpoint}`;
}

function valueOf({ kvs }: ClusterView, row: LeaseRow): string {
  return kvs.find(({ key }) => key === row.key)?.value ?? '';
}

type Shown = LeaseRow & { readonly value: string; readonly answers: Answer | null };

function lines(parts: ShowParts, row: Shown, index: number): readonly string[] {
  const both = ({ ipv4, ipv6 }: PerFamily<string>) =>
    [ipv4, ipv6].filter((text) => text !== undefined).join(' and ') || '-';
  const facts = [
    ['subnet', both(row.subnets)],
    [
      'host',
      `${both(row.addresses)}, ${row.answers === null ? 'does not answer ping or ARP' : `answers ${row.answers}`}`,
    ],
    ['backend', excerpt(row.backend, 40) || '-'],
    ['lease', lifeText(row)],
    ['key', row.key],
    ['value', excerpt(row.value, 300)],
    ['created', `at revision ${row.createRevision}`],
    ['changed', `at revision ${row.modRevision}`],
  ];
  const texts = facts.flatMap(([what = '', text = '']) => wrapped(`${what.padEnd(8)} ${text}`, 9));
  return [...(index > 0 ? [''] : []), ...texts, ...row.marks.flatMap((mark) => markLines(parts, mark))];
}

function lifeText({ reserved, etcdLease, secondsLeft, renewedSecondsAgo }: LeaseRow): string {
  if (reserved) return 'a reservation: it does not end';
  if (secondsLeft === null || renewedSecondsAgo === null) return `${etcdLease}, which has ended`;
  return `${duration(secondsLeft)} left, renewed ${duration(renewedSecondsAgo)} ago, etcd lease ${etcdLease}`;
}
