import type { Family, Subnet } from '../ip/ip.ts';
import type { Commands } from '../runtime/effects.ts';
import { excerpt } from '../runtime/texts.ts';
import { iptablesFilter, nftFilter } from './filters.ts';
import { forwardChain } from './iptables-plan.ts';
import { parseSaveAll } from './iptables-save.ts';
import type { FirewallNetwork } from './rules.ts';
import type { FirewallSettings } from './tasks.ts';
import { isMissing, runTool } from './tool.ts';
import { type Culprit, type FilterTable, type Hook, type Outcome, type Packets, rest, walk } from './walk.ts';

/** A part of this host's firewall that blocks packets between containers of different hosts. */
export interface Blockage {
  /**
   * `closed`: no new connection gets through in at least one direction, which is a fault of this host.
   * `partly`: some may not, perhaps on purpose.
   */
  readonly effect: 'closed' | 'partly';
  /** The table, chain and rule that drop. No full stop at its end. */
  readonly text: string;
  readonly remedy: string;
}

/** The packets that have to pass, and their interfaces. */
export interface Passage extends FirewallNetwork {
  readonly uplink?: string;
  /** The interface that leads to this host's containers; without it no rule about interfaces is decided. */
  readonly bridge?: string;
}

export interface BlockageOptions {
  readonly commands: Commands;
  /** One for each family that is on. */
  readonly passages: readonly Passage[];
  readonly mode: FirewallSettings['mode'];
}

interface Found {
  readonly table: FilterTable;
  readonly base: string;
  readonly passage: Passage;
  readonly effect: Blockage['effect'];
  readonly directions: readonly ('in' | 'out')[];
  readonly culprits: readonly Culprit[];
}

const mostNamed = 3;

const nftUnseen: Blockage = {
  effect: 'partly',
  text: "nft is not installed, so the daemon cannot see whether nftables' own tables, such as firewalld's, drop packets between containers",
  remedy: 'Install the package nftables.',
};

/**
 * Reads this host's whole packet filter (nft's tables, both kinds of iptables) and follows packets between a
 * container here and one on another host through every chain on their way. Resolves to what drops them,
 * `closed` first; empty when nothing does. Changes nothing. Runs three to five short processes. Rejects with
 * a FlannelError when the rules cannot be read. A kind of iptables that is not installed has no rules;
 * without nft its tables stay unknown, which counts as `partly`.
 *
 * The whole filter has to be read because an accept never ends a packet's way: every table with a chain at a
 * hook is asked, and each may drop what all others accept. iptables-nft and iptables-legacy may both be in
 * use, and nft cannot print all of iptables' tests.
 *
 * For `doctor`, `closed` is a problem and `partly` a note; `text` and `remedy` fit a finding as they are.
 */
export async function readBlockages(
  { commands, passages, mode }: BlockageOptions,
  signal: AbortSignal,
): Promise<readonly Blockage[]> {
  const families = passages.map(({ network }) => network.family);
  const { tables, nftMissing } = await readFilters(commands, families, signal);
  const found = passages.flatMap((passage) => tables.flatMap((table) => judge(table, passage)));
  const ordered = found.toSorted((a, b) => Number(a.effect === 'partly') - Number(b.effect === 'partly'));
  const blockages: Blockage[] = [];
  for (const one of ordered) blockages.push(await describe(commands, one, mode, signal));
  return nftMissing ? [...blockages, nftUnseen] : blockages;
}

/** The effect of one table's chains on the packets of one network. */
export function judge(table: FilterTable, passage: Passage): readonly Found[] {
  if (!table.families.includes(passage.network.family)) return [];
  return [...table.chains].flatMap(([base, { hook }]) => {
    if (hook === undefined) return [];
    const outcomes = (['in', 'out'] as const).map((direction) => ({
      direction,
      ...through(table, base, hook, packetsOf(passage, direction)),
    }));
    const dropping = outcomes.filter(({ drops }) => drops.length > 0);
    const closed = hook.devices === 'unknown' ? [] : dropping.filter(({ accepts }) => !accepts);
    const worst = closed.length > 0 ? closed : dropping;
    if (worst.length === 0) return [];
    return [
      {
        table,
        base,
        passage,
        effect: closed.length > 0 ? ('closed' as const) : ('partly' as const),
        directions: worst.map(({ direction }) => direction),
        culprits: [...new Map(worst.flatMap(({ drops }) => drops).map((one) => [nameOf(one), one])).values()],
      },
    ];
  });
}

function through(table: FilterTable, base: string, hook: Hook, packets: Packets): Outcome {
  const device = hook.name === 'egress' ? packets.outLink : packets.inLink;
  const { devices = 'unknown' } = hook;
  const isAsked = devices === 'unknown' || device === undefined || devices.includes(device);
  return isAsked ? walk(table, base, packets) : { accepts: true, falls: false, drops: [] };
}

function packetsOf({ network, subnet, uplink, bridge }: Passage, direction: 'in' | 'out'): Packets {
  const [here, there] = [[subnet], rest(network, subnet)];
  return direction === 'in'
    ? { family: network.family, source: there, destination: here, inLink: uplink, outLink: bridge }
    : { family: network.family, source: here, destination: there, inLink: bridge, outLink: uplink };
}

function nameOf({ chain, rule }: Culprit): string {
  return `${chain} ${rule?.text ?? ''}`;
}

async function describe(
  commands: Commands,
  found: Found,
  mode: FirewallSettings['mode'],
  signal: AbortSignal,
): Promise<Blockage> {
  const { table, passage, culprits, effect } = found;
  const docker = dockerBlockage(found);
  if (docker !== undefined) return docker;
  const named: string[] = [];
  for (const culprit of culprits.slice(0, mostNamed)) {
    const { chain, rule } = culprit;
    const text =
      rule === undefined
        ? 'policy drop'
        : `rule ${excerpt(await ruleText(commands, table, culprit, signal), 200)}`;
    named.push(`chain ${chain}, ${text}`);
  }
  const more = culprits.length > mostNamed ? `, and ${culprits.length - mostNamed} more` : '';
  const remedy = remedyOf(found, mode);
  const place = table.program === 'nft' ? `table ${table.name}` : `${table.program}, table ${table.name}`;
  return {
    effect,
    text: `the firewall ${whatItDrops(found)} (${passage.network.text}): ${place}, ${named.join('; ')}${more}`,
    remedy:
      effect === 'closed'
        ? remedy
        : `If this is not intended, ${remedy.replace(/^[A-Z]/, (first) => first.toLowerCase())}`,
  };
}

function whatItDrops({ effect, directions }: Found): string {
  if (effect === 'partly') return 'may drop packets between containers of different hosts';
  if (directions.length > 1) return 'drops all packets between containers of different hosts';
  return directions[0] === 'in'
    ? "drops all packets from other hosts' containers to this host's"
    : "drops all packets from this host's containers to other hosts'";
}

/** The rule in its program's words; for a rule that nft no longer has, its handle. */
async function ruleText(
  commands: Commands,
  table: FilterTable,
  { chain, rule }: Culprit,
  signal: AbortSignal,
): Promise<string> {
  const text = rule?.text ?? '';
  if (table.program !== 'nft') return `"${text}"`;
  const args = ['-a', 'list', 'chain', ...table.name.split(' '), chain];
  const { stdout } = await runTool(commands, 'nft', args, signal, { tolerated: /^/ });
  const line = stdout.split('\n').find((one) => one.endsWith(` # ${text}`));
  return line === undefined ? text : `"${line.slice(0, -` # ${text}`.length).trim()}"`;
}

/** Since version 28 Docker drops packets from another interface to a container's unpublished ports. */
function dockerBlockage({ table, culprits, passage }: Found): Blockage | undefined {
  const isEach = (pattern: RegExp) => culprits.every(({ rule }) => pattern.test(rule?.text ?? ''));
  const allow = '"allow-direct-routing": true in /etc/docker/daemon.json (Docker 28.2 and later)';
  const network = `(${table.program}, table ${table.name}, ${passage.network.text})`;
  if (table.name === 'raw' && isEach(/^-d \S+ ! -i \S+ -j DROP$/)) {
    const { length } = culprits;
    return {
      effect: 'closed',
      text: `Docker drops all packets from other hosts to ${length} of this host's containers ${network}`,
      remedy: `Set ${allow}, then restart Docker.`,
    };
  }
  if (table.name !== 'filter' || !isEach(/^! -i (\S+) -o \1 -j DROP$/)) return undefined;
  return {
    effect: 'closed',
    text: `Docker drops packets from other hosts to unpublished ports ${network}`,
    remedy: `Set ${allow}, restart Docker, and start the daemon with --iptables-forward-position=first.`,
  };
}

function remedyOf({ table, base, passage, culprits }: Found, mode: FirewallSettings['mode']): string {
  const { program, name } = table;
  const { network } = passage;
  if (name.endsWith(' firewalld'))
    return `Run: firewall-cmd --permanent --zone=trusted --add-source=${network.text} && firewall-cmd --reload`;
  if (program === 'nft') {
    return `Run: ${nftAccepts(name, base, network)}; add both rules to the file that this table is loaded from (often /etc/nftables.conf)`;
  }
  const option = name === 'filter' ? '' : ` -t ${name}`;
  const accepts = `Run: ${program}${option} -I ${base} -s ${network.text} -j ACCEPT && ${program}${option} -I ${base} -d ${network.text} -j ACCEPT`;
  const [first] = culprits;
  const jumps = table.chains
    .get(base)
    ?.rules.some(({ action }) => 'chain' in action && action.chain === forwardChain.chain);
  if (jumps === true) {
    const position = 'start the daemon with --iptables-forward-position=first';
    return first?.rule !== undefined && first.chain === base
      ? `Remove the rule (${program} -D ${base} ${excerpt(first.rule.text, 200)}), or ${position}.`
      : `${position.replace('s', 'S')}.`;
  }
  if (mode === 'iptables' || name !== 'filter') return accepts;
  return `${accepts} (with Docker in the chain DOCKER-USER), or store "EnableNFTables": false; an accept in nftables' own tables cannot overrule it`;
}

function nftAccepts(table: string, chain: string, { text, family }: Subnet): string {
  const protocol = family === 4 ? 'ip' : 'ip6';
  return ['saddr', 'daddr']
    .map((field) => `nft insert rule ${table} ${chain} ${protocol} ${field} ${text} accept`)
    .join(' && ');
}

/**
 * All tables of this host's packet filter that see packets of `families`. Tables that iptables keeps in
 * nftables are read from iptables, since nft cannot print all of its tests. `nftMissing`: the host uses
 * nftables but has no nft to show all tables. firewalld sets its own by libnftables and is installed without
 * nft on Debian. Rejects with a FlannelError.
 */
export async function readFilters(
  commands: Commands,
  families: readonly Family[],
  signal: AbortSignal,
): Promise<{ readonly tables: readonly FilterTable[]; readonly nftMissing: boolean }> {
  const own = await readNft(commands, signal);
  const saved: FilterTable[] = [];
  let usesNftables = false;
  for (const family of families) {
    const found = await readIptables(commands, family, signal);
    saved.push(...found.tables);
    usesNftables ||= found.usesNftables;
  }
  const shown = new Set(
    saved
      .filter(({ program }) => !program.endsWith('-legacy'))
      .map(({ program, name }) => `${program.startsWith('ip6') ? 'ip6' : 'ip'} ${name}`),
  );
  return {
    tables: [...saved, ...(own ?? []).filter(({ name }) => !shown.has(name))],
    nftMissing: own === undefined && usesNftables,
  };
}

/** Undefined: nft is not installed. */
async function readNft(commands: Commands, signal: AbortSignal): Promise<readonly FilterTable[] | undefined> {
  // A kernel without nftables has no rules of it.
  const tolerated = /Protocol not supported/;
  const said = await ifInstalled(() =>
    runTool(commands, 'nft', ['-j', 'list', 'ruleset'], signal, { tolerated }),
  );
  if (said === undefined) return undefined;
  return said.exitCode === 0 ? nftFilter(said.stdout) : [];
}

/** Both kinds of iptables may be in use at once. A host with one kind may have its plain name only. */
async function readIptables(
  commands: Commands,
  family: Family,
  signal: AbortSignal,
): Promise<{ readonly tables: readonly FilterTable[]; readonly usesNftables: boolean }> {
  const name = family === 4 ? 'iptables' : 'ip6tables';
  const read = async (program: string) => {
    const said = await ifInstalled(() => runTool(commands, `${program}-save`, [], signal));
    if (said === undefined) return undefined;
    return [...parseSaveAll(said.stdout)].map(([table, saved]) =>
      iptablesFilter(program, table, saved, family),
    );
  };
  const [nft, legacy] = [await read(`${name}-nft`), await read(`${name}-legacy`)];
  const tables =
    nft === undefined && legacy === undefined ? await read(name) : [...(nft ?? []), ...(legacy ?? [])];
  return { tables: tables ?? [], usesNftables: nft !== undefined };
}

async function ifInstalled<T>(run: () => Promise<T>): Promise<T | undefined> {
  try {
    return await run();
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}
