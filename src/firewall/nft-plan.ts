import type { Family } from '../ip/ip.ts';
import type { NftChain, NftTable } from './nft-ruleset.ts';
import {
  type AddressMatch,
  planChain,
  planChainRemoval,
  type Rule,
  unmasqueradedMark,
  type WantedChain,
} from './rules.ts';

/** Our chains in nftables mode; names, hooks and priorities are flanneld's. */
export const nftChains = {
  forward: { hook: 'filter forward 0 accept', comment: 'chain to accept flannel traffic' },
  postrtg: { hook: 'nat postrouting 100 accept', comment: 'chain to masquerade flannel traffic' },
} as const;

export type NftChainName = keyof typeof nftChains;

const names: readonly NftChainName[] = ['forward', 'postrtg'];

/** What one network wants in our table; a chain that is left out is not wanted. */
export type WantedNftTable = { readonly [name in NftChainName]?: WantedChain };

/** `ip flannel-ipv4` or `ip6 flannel-ipv6`. */
export function nftTableName(family: Family): string {
  return family === 4 ? 'ip flannel-ipv4' : 'ip6 flannel-ipv6';
}

/**
 * The script for `nft -f -` that makes our table as one network wants it; undefined when it is so already. `found` is undefined when
 * there is no table. Rules are removed by their handles: should another program have changed any of them since the table was
 * read, the kernel refuses the whole. With nothing wanted, what is the network's is removed (with `network` undefined: all of it), and the
 * table when no other network uses it.
 */
export function planNftTable(
  found: NftTable | undefined,
  wanted: WantedNftTable,
  family: Family,
  network: string | undefined,
): string | undefined {
  const table = nftTableName(family);
  const unwanted = names.filter((name) => wanted[name] === undefined);
  const removals = unwanted.map((name) => planNftRemoval(found?.get(name), `${table} ${name}`, network));
  if (unwanted.length === names.length) {
    if (found === undefined) return undefined;
    const last = removals.every(({ all }) => all);
    const lines = [
      ...removals.flatMap(({ lines: removed }) => removed),
      ...(last ? [`delete table ${table}`] : []),
    ];
    return script(lines);
  }
  const changes = names.flatMap((name) => {
    const chain = wanted[name];
    return chain === undefined ? [] : planNftChain(found?.get(name), chain, table, name, network ?? '');
  });
  const create = found === undefined ? [`add table ${table} { comment "rules for flannel"; }`] : [];
  return script([...create, ...changes, ...removals.flatMap(({ lines }) => lines)]);
}

function planNftChain(
  found: NftChain | undefined,
  wanted: WantedChain,
  table: string,
  name: NftChainName,
  network: string,
): readonly string[] {
  const { hook, comment } = nftChains[name];
  const place = `${table} ${name}`;
  const keys = { shared: wanted.shared.map(nftText), own: wanted.own.map(nftText) };
  const usable = found?.hook === hook ? found : undefined;
  const change = planChain(usable?.rules ?? [], keys, network);
  const [type, hookName, priority, policy] = hook.split(' ');
  const create = `add chain ${place} { type ${type} hook ${hookName} priority ${priority}; policy ${policy}; comment "${comment}"; }`;
  return [
    ...(found !== undefined && usable === undefined ? [`flush chain ${place}`, `delete chain ${place}`] : []),
    ...(usable === undefined ? [create] : []),
    ...(change?.remove ?? []).map(({ handle }) => `delete rule ${place} handle ${handle}`),
    ...(change?.prepend ?? []).toReversed().map((key) => `insert rule ${place} ${key}`),
    ...(change?.append ?? []).map((key) => `add rule ${place} ${key}`),
  ];
}

function planNftRemoval(
  found: NftChain | undefined,
  place: string,
  network: string | undefined,
): { readonly lines: readonly string[]; readonly all: boolean } {
  if (found === undefined) return { lines: [], all: true };
  const { remove, all } = planChainRemoval(found.rules, network);
  const lines = remove.map(({ handle }) => `delete rule ${place} handle ${handle}`);
  return { lines: all ? [...lines, `delete chain ${place}`] : lines, all };
}

/** The rule in nft's language, as {@link NftRule} keys have it. */
export function nftText({ marked, source, destination, verdict }: Rule): string {
  const mark = `meta mark & ${unmasqueradedMark} == ${unmasqueradedMark}`;
  const action = verdict === 'masquerade-random' ? 'masquerade fully-random' : verdict;
  return [
    ...(marked ? [mark] : []),
    ...address('saddr', source),
    ...address('daddr', destination),
    action,
  ].join(' ');
}

function address(field: string, match: AddressMatch | undefined): readonly string[] {
  if (match === undefined) return [];
  const protocol = match.subnet.includes(':') ? 'ip6' : 'ip';
  return [`${protocol} ${field} ${match.not ? '!= ' : ''}${match.subnet}`];
}

function script(lines: readonly string[]): string | undefined {
  return lines.length === 0 ? undefined : `${lines.join('\n')}\n`;
}
