import type { Family, PerFamily } from '../ip/ip.ts';
import type { Commands } from '../runtime/effects.ts';
import type { ForwardPosition } from './forward.ts';
import {
  type ChainPlace,
  forwardChain,
  masqueradeChain,
  planTable,
  planTableRemoval,
} from './iptables-plan.ts';
import { Iptables, type SavedTable } from './iptables-save.ts';
import { nftTableName, planNftTable, type WantedNftTable } from './nft-plan.ts';
import { type NftTable, parseNftTable } from './nft-ruleset.ts';
import { type FirewallNetwork, forwardRules, masqueradeRules, type WantedChain } from './rules.ts';
import { FirewallError, runTool } from './tool.ts';

/** What this host's firewall is to do. */
export interface FirewallSettings {
  readonly mode: 'iptables' | 'nftables';
  /** A family that is left out is left alone. */
  readonly networks: PerFamily<FirewallNetwork>;
  readonly masquerade: boolean;
  /** Masquerade with ports chosen at random, where the tool knows how. */
  readonly fullyRandom: boolean;
  readonly forwardRules: boolean;
  readonly forwardPosition: ForwardPosition;
}

/** A piece of work that can be repeated; it costs one process when there is nothing to do. */
export interface Task {
  /** What it is about, e.g. `iptables nat`. */
  readonly name: string;
  /** Resolves to whether anything had to be changed. Rejects with a FlannelError. */
  run(signal: AbortSignal): Promise<boolean>;
  /** Resolves to whether nothing has to be changed, and changes nothing. Rejects with a FlannelError. */
  isDone(signal: AbortSignal): Promise<boolean>;
}

/** The work for one family. */
export interface FamilyTasks {
  /** What has to be there, checked again and again. */
  readonly wanted: readonly Task[];
  /** What may be left of another mode or setting, removed once. */
  readonly unwanted: readonly Task[];
}

/** `onFilter` is told what the table filter holds, as far as it is read. */
export function familyTasks(
  commands: Commands,
  settings: FirewallSettings,
  family: Family,
  network: FirewallNetwork,
  onFilter: (table: SavedTable) => void,
): FamilyTasks {
  const iptables = new Iptables(commands, family);
  const nft = new Nft(commands);
  const keep = (place: ChainPlace, wanted: (signal: AbortSignal) => Promise<WantedChain>): Task =>
    iptablesTask(iptables, place, family, onFilter, async (signal) => {
      const chain = await wanted(signal);
      return (saved) => planTable(saved, place, chain, network.network.text, settings.forwardPosition);
    });
  const remove = (place: ChainPlace): Task =>
    iptablesTask(iptables, place, family, onFilter, async () => {
      return (saved) => planTableRemoval(saved, place, network.network.text);
    });
  const wanted: WantedNftTable = {
    ...(settings.forwardRules ? { forward: forwardRules(network) } : {}),
    ...(settings.masquerade ? { postrtg: masqueradeRules(network, settings.fullyRandom) } : {}),
  };
  const inNft = nftTask(nft, family, wanted, network.network.text);
  const nothing = !settings.forwardRules && !settings.masquerade;
  if (settings.mode === 'nftables') {
    return {
      wanted: nothing ? [] : [inNft],
      unwanted: [...(nothing ? [inNft] : []), remove(forwardChain), remove(masqueradeChain)],
    };
  }
  const masquerade = async (signal: AbortSignal) =>
    masqueradeRules(network, settings.fullyRandom && (await iptables.isModern(signal)));
  const filter = settings.forwardRules
    ? keep(forwardChain, async () => forwardRules(network))
    : remove(forwardChain);
  const nat = settings.masquerade ? keep(masqueradeChain, masquerade) : remove(masqueradeChain);
  return {
    wanted: [...(settings.forwardRules ? [filter] : []), ...(settings.masquerade ? [nat] : [])],
    unwanted: [
      ...(settings.forwardRules ? [] : [filter]),
      ...(settings.masquerade ? [] : [nat]),
      nftTask(nft, family, {}, network.network.text),
    ],
  };
}

/** What removes the rules of all networks, in both modes and both families. */
export function cleanupTasks(commands: Commands): readonly Task[] {
  return ([4, 6] as const).flatMap((family) => {
    const iptables = new Iptables(commands, family);
    const remove = (place: ChainPlace) =>
      iptablesTask(iptables, place, family, undefined, async () => {
        return (saved) => planTableRemoval(saved, place, undefined);
      });
    return [remove(forwardChain), remove(masqueradeChain), nftTask(new Nft(commands), family, {}, undefined)];
  });
}

function iptablesTask(
  iptables: Iptables,
  place: ChainPlace,
  family: Family,
  onFilter: ((table: SavedTable) => void) | undefined,
  planner: (signal: AbortSignal) => Promise<(saved: SavedTable) => string | undefined>,
): Task {
  const { table } = place;
  return task(`${family === 4 ? 'iptables' : 'ip6tables'} ${table}`, async (signal) => ({
    read: async (inner) => {
      const saved = await iptables.read(table, inner);
      if (table === 'filter') onFilter?.(saved);
      return saved;
    },
    plan: await planner(signal),
    write: (input, inner) => iptables.restore(input, inner),
  }));
}

function nftTask(nft: Nft, family: Family, wanted: WantedNftTable, network: string | undefined): Task {
  return task<NftTable | undefined>(`nftables flannel-ipv${family}`, () =>
    Promise.resolve({
      read: (inner) => nft.read(family, inner),
      plan: (found) => planNftTable(found, wanted, family, network),
      write: (script, inner) => nft.apply(script, inner),
    }),
  );
}

function task<T>(name: string, storeOf: (signal: AbortSignal) => Promise<RuleStore<T>>): Task {
  return {
    name,
    run: async (signal) => await converge(await storeOf(signal), signal),
    isDone: async (signal) => {
      const store = await storeOf(signal);
      return store.plan(await store.read(signal)) === undefined;
    },
  };
}

/** nft of this host. */
class Nft {
  readonly #commands: Commands;

  constructor(commands: Commands) {
    this.#commands = commands;
  }

  /** What our table holds, undefined when there is none; one process. Rejects with a FlannelError. */
  async read(family: Family, signal: AbortSignal): Promise<NftTable | undefined> {
    const args = ['-j', 'list', 'table', ...nftTableName(family).split(' ')];
    // Of the table; the dynamic loader says the same of a library.
    const tolerated = /^Error: No such file or directory/m;
    const { exitCode, stdout } = await runTool(this.#commands, 'nft', args, signal, { tolerated });
    return exitCode === 0 ? parseNftTable(stdout) : undefined;
  }

  /** Hands a script to nft, which does all of it or nothing. */
  async apply(script: string, signal: AbortSignal): Promise<void> {
    await runTool(this.#commands, 'nft', ['-f', '-'], signal, { stdin: script });
  }
}

/** How often what was written may be gone again before that is a failure: others write the same tables. */
const mostAttempts = 3;

/** A part of the kernel's rules that is read as a whole and changed by one input for a tool. */
export interface RuleStore<T> {
  read(signal: AbortSignal): Promise<T>;
  /** The input that makes what was read right; undefined when it is right. */
  plan(found: T): string | undefined;
  write(input: string, signal: AbortSignal): Promise<void>;
}

/**
 * Reads, and writes only when something differs, then reads again: what a tool accepts without a word is not always there
 * afterwards. Resolves to whether anything was written. A refusal is final when the next look gives the same plan; otherwise
 * another program was faster, and the new plan is tried. Rejects with what the tool said.
 */
export async function converge<T>(store: RuleStore<T>, signal: AbortSignal): Promise<boolean> {
  let input = store.plan(await store.read(signal));
  if (input === undefined) return false;
  for (let attempt = 1; attempt <= mostAttempts; attempt++) {
    let refusal: { readonly error: unknown } | undefined;
    try {
      await store.write(input, signal);
    } catch (error) {
      signal.throwIfAborted();
      refusal = { error };
    }
    const next = store.plan(await store.read(signal));
    if (next === undefined) return true;
    if (refusal !== undefined && next === input) throw refusal.error;
    input = next;
  }
  throw new FirewallError(
    'FIREWALL_REFUSED',
    'the firewall rules are gone or changed right after they were written',
    {
      remedy: 'Find the program that changes them (nft monitor).',
    },
  );
}
