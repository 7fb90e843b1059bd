import type { Subnet } from '../../ip/ip.ts';
import type { Sides } from '../../migrate/snapshot.ts';
import { counted, oneLine, plural } from '../../runtime/texts.ts';
import { blocks, changes, type FoundFlanneld, type Verdict } from './found.ts';
import { hostVerdicts } from './host.ts';
import { storeVerdicts } from './stores.ts';

export interface CheckParts {
  readonly host: FoundFlanneld;
  /** What becomes of flanneld's flags. */
  readonly flags: readonly Verdict[];
  /** The stores, or why they cannot be asked. */
  readonly sides: Sides | string;
  /** This host's subnet, as subnet.env says. */
  readonly own: Subnet | undefined;
  readonly out: (line: string) => void;
}

/**
 * Looks at a host with any flanneld: what it has, what would change under flanneld-ts, what stands in the way. Changes nothing.
 *
 * Resolves to the exit code: 0 when nothing stands in the way, else 1. Rejects only with `signal.reason`.
 */
export async function runMigrateCheck(
  { host, flags, sides, own, out }: CheckParts,
  signal: AbortSignal,
): Promise<0 | 1> {
  const stores =
    typeof sides === 'string'
      ? [blocks(`etcd was not asked: ${sides}`)]
      : await storeVerdicts(sides, own, signal);
  const verdicts = [...hostVerdicts(host), ...flags, ...stores, ...always];
  for (const { what, text, remedy } of verdicts) {
    out(`${marks[what]}  ${oneLine(text)}`);
    if (remedy !== undefined) out(`            → ${oneLine(remedy)}`);
  }
  const inTheWay = verdicts.filter(({ what }) => what === 'blocks').length;
  out(
    inTheWay === 0
      ? 'Nothing stands in the way.'
      : `${counted(inTheWay, 'thing')} ${plural(inTheWay, 'stands', 'stand')} in the way.`,
  );
  return inTheWay === 0 ? 0 : 1;
}

const marks: Readonly<Record<Verdict['what'], string>> = {
  found: 'found     ',
  same: 'same      ',
  changes: 'changes   ',
  ignored: 'ignored   ',
  blocks: 'IN THE WAY',
};

/** On every host. */
const always: readonly Verdict[] = [
  changes('routes to peers get the protocol number 102 (--route-protocol); those of flanneld are taken over'),
  changes(
    'the firewall lets packets of the network pass through FORWARD, which flannel 0.7.1 does not see to (--iptables-forward-rules)',
  ),
  changes('/run/docker_opts.env is written, too (--docker-opts-file)'),
];
