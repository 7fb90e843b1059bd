import { containsAddress, type Subnet } from '../ip/ip.ts';
import { unconditionalTarget } from './iptables-rule.ts';
import type { SavedRule, SavedTable } from './iptables-save.ts';

/** Where the jump from FORWARD stands. `auto`: at the end, but before a rule that lets nothing pass. */
export type ForwardPosition = 'auto' | 'first' | 'last';

/** Jumps into chains that jump on are followed this far; the kernel allows 16 levels and no rings. */
const deepest = 16;

/** How many rules come before the jump, of `rules`, which are those of FORWARD without it. */
export function jumpIndex(rules: readonly SavedRule[], table: SavedTable, position: ForwardPosition): number {
  return position === 'first' ? 0 : position === 'last' ? rules.length : firstBlocker(rules, table);
}

/** Whether a jump before the rule with this index is where `position` wants it. */
export function isRightIndex(
  index: number,
  rules: readonly SavedRule[],
  table: SavedTable,
  position: ForwardPosition,
): boolean {
  const wanted = jumpIndex(rules, table, position);
  // Anywhere before it: others append rules, and running after them all the time would help nobody.
  return position === 'auto' ? index <= wanted : index === wanted;
}

/** The index of the first rule nothing gets past; the number of rules when there is none. */
function firstBlocker(rules: readonly SavedRule[], table: SavedTable): number {
  const index = rules.findIndex((rule) => blocks(rule, table, 0));
  return index < 0 ? rules.length : index;
}

/** Whether a rule drops or rejects every packet it does not accept, itself or in a chain it leads to (as CentOS 6 had it). */
function blocks({ words }: SavedRule, table: SavedTable, depth: number): boolean {
  const target = unconditionalTarget(words);
  if (target === 'DROP' || target === 'REJECT') return true;
  const chain = target === undefined ? undefined : table.get(target);
  if (chain === undefined || depth > deepest) return false;
  for (const rule of chain.rules) {
    if (blocks(rule, table, depth + 1)) return true;
    const end = unconditionalTarget(rule.words);
    if (end === 'RETURN' || end === 'ACCEPT') return false;
  }
  return false;
}

/**
 * Why packets of containers may not pass although our rules accept them, one sentence each with what to do; `table` is filter.
 * `jump`: where our rules stand in FORWARD; `none` in nftables mode, where they do not, and cannot overrule it.
 */
export function forwardObstacles(table: SavedTable, jump: ForwardPosition | 'none'): readonly string[] {
  const forward = table.get('FORWARD');
  const obstacles: string[] = [];
  if (forward !== undefined) {
    const blocked = firstBlocker(forward.rules, table) < forward.rules.length;
    if (jump === 'last' && blocked) {
      obstacles.push(
        "iptables' chain FORWARD has a rule that lets nothing pass, and ours stand behind it: start with --iptables-forward-position=auto",
      );
    }
    if (jump === 'none' && (blocked || forward.policy === 'DROP')) {
      obstacles.push(
        'iptables\' chain FORWARD lets only what it knows pass, and an accept by nftables cannot overrule that: let the network pass there (with Docker in the chain DOCKER-USER), or store "EnableNFTables": false',
      );
    }
  }
  // Since version 28 Docker drops what comes to a container from another interface, unless its port was published.
  const closedBridges = (table.get('DOCKER')?.rules ?? []).filter(isUnpublishedDrop);
  if (closedBridges.length > 0 && jump !== 'first') {
    obstacles.push(
      'Docker drops packets from other hosts to ports that are not published (version 28 and later): allow direct routing in Docker, and start with --iptables-forward-position=first',
    );
  }
  return obstacles;
}

/**
 * How many containers of a subnet Docker (version 28 and later) lets no packet of another host reach, by rules in the table
 * raw, which come before all of ours: `-d 172.20.9.2/32 ! -i docker0 -j DROP`.
 */
export function closedContainers(raw: SavedTable, subnet: Subnet): number {
  return (raw.get('PREROUTING')?.rules ?? []).filter(({ words }) => {
    const [, address] = /^-d (\S+)\/\d+ ! -i \S+ -j DROP$/.exec(words.join(' ')) ?? [];
    return address !== undefined && containsAddress(subnet, address);
  }).length;
}

/** `! -i docker0 -o docker0 -j DROP` */
function isUnpublishedDrop({ words }: SavedRule): boolean {
  return words.join(' ').match(/^! -i (\S+) -o \1 -j DROP$/) !== null;
}
