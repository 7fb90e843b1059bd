import type { Family, PerFamily } from '../ip/ip.ts';
import type { Commands } from '../runtime/effects.ts';
import {
  type ChainPlace,
  type ForwardPosition,
  forwardChain,
  masqueradeChain,
  planTable,
  planTableRemoval,
} from './iptables-plan.ts';
import type { SavedTable } from './iptables-save.ts';
import { nftTableName, parseNftTable, planNftTable, type WantedNftTable } from './nft-table.ts';
import { type FirewallNetwork, forwardRules, masqueradeRules } from './rules.ts';
import { FirewallError, Iptables, runTool } from './tool.ts';

/** The settings of this host's firewall. */
export interface FirewallSettings {
  readonly mode: 'iptables' | 'nftables';
  /** The daemon does not touch a family that is left out. */
  readonly networks: PerFamily<FirewallNetwork>;
  readonly masquerade: boolean;
  /** Masquerade with random ports where the tool can. */
  readonly fullyRandom: boolean;
  readonly forwardRules: boolean;
  readonly forwardPosition: ForwardPosition;
}

/** Work that can be repeated; it costs one process when there is nothing to do. */
export interface Task {
  /** For example `iptables nat`. */
  readonly name: string;
  /** Resolves to whether it changed anything. Rejects with a FlannelError. */
  run(signal: AbortSignal): Promise<boolean>;
  /** Resolves to whether there is nothing to change, and changes nothing. Rejects with a FlannelError. */
  isDone(signal: AbortSignal): Promise<boolean>;
}

/** The work for one family. */
export interface FamilyTasks {
  /** Rules to keep, checked again and again. */
  readonly wanted: readonly Task[];
  /** Remains of another mode or setting, removed once. */
  readonly unwanted: readonly Task[];
}

/** The work for one family. `onFilter` gets the table filter each time it is read. */
export function familyTasks(
  commands: Commands,
  settings: Omit<FirewallSettings, 'networks'>,
  family: Family,
  network: FirewallNetwork,
  onFilter?: (table: SavedTable) => void,
): FamilyTasks {
  const { mode, fullyRandom } = settings;
  const iptables = new Iptables(commands, family, onFilter);
  const own = network.network.text;
  const chains = [
    { place: forwardChain, on: settings.forwardRules, rules: async () => forwardRules(network) },
    {
      place: masqueradeChain,
      on: settings.masquerade,
      rules: async (signal: AbortSignal) =>
        masqueradeRules(network, fullyRandom && (await iptables.isModern(signal))),
    },
  ];
  const keep = ({ place, rules }: (typeof chains)[number]) =>
    iptablesTask(iptables, place, async (saved, signal) =>
      planTable(saved, place, await rules(signal), own, settings.forwardPosition),
    );
  const remove = ({ place }: { readonly place: ChainPlace }) => removal(iptables, place, own);
  const off = chains.filter(({ on }) => !on);
  if (mode === 'iptables') {
    const wanted = chains.filter(({ on }) => on).map(keep);
    return { wanted, unwanted: [...off.map(remove), nftTask(commands, family, {}, own)] };
  }
  const inNft = nftTask(
    commands,
    family,
    {
      ...(settings.forwardRules && { forward: forwardRules(network) }),
      ...(settings.masquerade && { postrtg: masqueradeRules(network, fullyRandom) }),
    },
    own,
  );
  const nothing = off.length === chains.length;
  return {
    wanted: nothing ? [] : [inNft],
    unwanted: [...(nothing ? [inNft] : []), ...chains.map(remove)],
  };
}

/** Removes the rules of all networks, in both modes and both families. */
export function cleanupTasks(commands: Commands): readonly Task[] {
  return ([4, 6] as const).flatMap((family) => {
    const iptables = new Iptables(commands, family);
    const ours = [forwardChain, masqueradeChain].map((place) => removal(iptables, place, undefined));
    return [...ours, nftTask(commands, family, {}, undefined)];
  });
}

/** Removes the rules of `network`; undefined: of every network. */
function removal(iptables: Iptables, place: ChainPlace, network: string | undefined): Task {
  return iptablesTask(iptables, place, (saved) => planTableRemoval(saved, place, network));
}

function iptablesTask(iptables: Iptables, { table }: ChainPlace, plan: RuleStore<SavedTable>['plan']): Task {
  return task(`${iptables.program} ${table}`, {
    read: (signal) => iptables.read(table, signal),
    plan,
    write: (input, signal) => iptables.restore(input, signal),
  });
}

function nftTask(
  commands: Commands,
  family: Family,
  wanted: WantedNftTable,
  network: string | undefined,
): Task {
  const list = ['-j', 'list', 'table', ...nftTableName(family).split(' ')];
  // The dynamic loader says the same about a library, without `Error:`.
  const tolerated = /^Error: No such file or directory/m;
  return task(`nftables flannel-ipv${family}`, {
    read: async (signal) => {
      const { exitCode, stdout } = await runTool(commands, 'nft', list, signal, { tolerated });
      return exitCode === 0 ? parseNftTable(stdout) : undefined;
    },
    plan: (found) => planNftTable(found, wanted, family, network),
    write: async (stdin, signal) => void (await runTool(commands, 'nft', ['-f', '-'], signal, { stdin })),
  });
}

function task<T>(name: string, store: RuleStore<T>): Task {
  return {
    name,
    run: (signal) => converge(store, signal),
    isDone: async (signal) => (await look(store, signal)) === undefined,
  };
}

/** Other programs write the same tables: rules may be gone again so often before that is a failure. */
const mostAttempts = 3;

/** A part of the kernel's rules that is read as a whole and changed by one input. */
interface RuleStore<T> {
  read(signal: AbortSignal): Promise<T>;
  /** The input that corrects it; undefined when it is right. */
  plan(found: T, signal: AbortSignal): Promise<string | undefined> | string | undefined;
  write(input: string, signal: AbortSignal): Promise<void>;
}

async function look<T>(store: RuleStore<T>, signal: AbortSignal): Promise<string | undefined> {
  return await store.plan(await store.read(signal), signal);
}

/**
 * Reads, writes the difference if there is any, and reads again, as a tool may accept rules that are not
 * there afterwards. Resolves to whether it wrote anything. A refusal is final when the next plan is the same;
 * otherwise another program was faster, and the new plan is tried. Rejects with the tool's error.
 */
async function converge<T>(store: RuleStore<T>, signal: AbortSignal): Promise<boolean> {
  let input = await look(store, signal);
  if (input === undefined) return false;
  for (let attempt = 1; attempt <= mostAttempts; attempt++) {
    let refusal: { readonly error: unknown } | undefined;
    try {
      await store.write(input, signal);
    } catch (error) {
      signal.throwIfAborted();
      refusal = { error };
    }
    const next = await look(store, signal);
    if (next === undefined) return true;
    if (refusal !== undefined && next === input) throw refusal.error;
    input = next;
  }
  const message = 'the firewall rules are gone or changed right after they were written';
  const remedy = 'Find the program that changes them (nft monitor).';
  throw new FirewallError('FIREWALL_REFUSED', message, { remedy });
}
