import type { Family } from '../ip/ip.ts';
import type { Commands } from '../runtime/effects.ts';
import { FlannelError } from '../runtime/errors.ts';
import { excerpt } from '../runtime/texts.ts';
import { FirewallError, runTool } from './tool.ts';

/** One rule as `iptables-save` prints it. */
export interface SavedRule {
  /** What follows `-A CHAIN `: fit for `-D CHAIN `. */
  readonly text: string;
  /** The same in words, without quotes. */
  readonly words: readonly string[];
}

export interface SavedChain {
  /** ACCEPT or DROP; undefined for a chain that is not built in. */
  readonly policy: string | undefined;
  readonly rules: readonly SavedRule[];
}

/** A table by its chains. */
export type SavedTable = ReadonlyMap<string, SavedChain>;

/** A tool said something that cannot be understood: nothing is changed on such a basis. */
export class UnreadableError extends FlannelError {
  constructor(message: string, remedy?: string) {
    super('FIREWALL_UNREADABLE', message, { remedy });
  }
}

/**
 * Reads the output of `iptables-save -t TABLE`. A table the kernel does not have yet is empty. Throws {@link UnreadableError}
 * for what is cut off or foreign.
 */
export function parseSave(output: string, table: string): SavedTable {
  const lines = output.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  if (/^# Table .* is incompatible/m.test(output)) {
    throw new UnreadableError(
      `iptables cannot show its table ${table}: somebody put rules there that only nft knows`,
      `Look at them with nft list table, or store "EnableNFTables": true in the network configuration.`,
    );
  }
  if (lines.length === 0) return new Map();
  const [first, ...rest] = lines;
  if (first !== `*${table}` || rest.pop() !== 'COMMIT') {
    throw new UnreadableError(`iptables-save printed no complete table ${table}: ${excerpt(output)}`);
  }
  const chains = new Map<string, { policy: string | undefined; rules: SavedRule[] }>();
  for (const line of rest) readLine(line, chains);
  return chains;
}

/** Reads the output of `iptables-save` without a table: all that iptables can show. Throws {@link UnreadableError}. */
export function parseSaveAll(output: string): ReadonlyMap<string, SavedTable> {
  const sections = output.matchAll(/^\*(\S+)\n[\s\S]*?^COMMIT$/gm);
  return new Map([...sections].map(([text, name = '']) => [name, parseSave(text, name)]));
}

function readLine(
  line: string,
  chains: Map<string, { policy: string | undefined; rules: SavedRule[] }>,
): void {
  const [, newChain, policy] = /^:(\S+) (\S+)/.exec(line) ?? [];
  if (newChain !== undefined) {
    chains.set(newChain, { policy: policy === '-' ? undefined : policy, rules: [] });
    return;
  }
  const [, chain, text] = /^-A (\S+) ?(.*)$/.exec(line) ?? [];
  const rules = chains.get(chain ?? '')?.rules;
  if (rules === undefined || text === undefined) {
    throw new UnreadableError(`iptables-save printed a line of no known form: ${excerpt(line)}`);
  }
  rules.push({ text, words: wordsOf(text) });
}

/** Splits at blanks as iptables-restore does: double quotes hold together, a backslash in them takes the next letter as it is. */
export function wordsOf(text: string): readonly string[] {
  const found = text.match(/"(?:[^"\\]|\\.)*"|\S+/g) ?? [];
  return found.map((word) => (word.startsWith('"') ? word.slice(1, -1).replaceAll(/\\(.)/g, '$1') : word));
}

/** How long iptables-restore waits for the lock that all of iptables' programs share. */
const lockWaitSeconds = 5;

/** The first version whose iptables-restore knows -w and whose MASQUERADE knows --random-fully. */
const modernVersion = [1, 6, 2];

/** iptables or ip6tables of this host, whichever variant of it is installed. */
export class Iptables {
  readonly #commands: Commands;
  readonly #program: string;
  #modern: boolean | undefined;

  constructor(commands: Commands, family: Family) {
    this.#commands = commands;
    this.#program = family === 4 ? 'iptables' : 'ip6tables';
  }

  /** What a table holds; one process. Rejects with a FlannelError. */
  async read(table: string, signal: AbortSignal): Promise<SavedTable> {
    const { stdout } = await runTool(this.#commands, `${this.#program}-save`, ['-t', table], signal);
    return parseSave(stdout, table);
  }

  /** Hands `input` to iptables-restore, which does all of it or nothing. */
  async restore(input: string, signal: AbortSignal): Promise<void> {
    const wait = (await this.isModern(signal)) ? ['-w', String(lockWaitSeconds)] : [];
    await runTool(this.#commands, `${this.#program}-restore`, [...wait, '--noflush'], signal, {
      stdin: input,
    });
  }

  /** Whether the installed version is 1.6.2 or later. Asked once. */
  async isModern(signal: AbortSignal): Promise<boolean> {
    if (this.#modern === undefined) {
      const { stdout } = await runTool(this.#commands, this.#program, ['--version'], signal);
      const version = /\bv(\d+)\.(\d+)\.(\d+)/.exec(stdout)?.slice(1).map(Number);
      if (version === undefined) {
        throw new FirewallError(
          'FIREWALL_UNREADABLE',
          `${this.#program} --version tells no version: ${stdout}`,
        );
      }
      this.#modern = isAtLeast(version, modernVersion);
    }
    return this.#modern;
  }
}

function isAtLeast(version: readonly number[], least: readonly number[]): boolean {
  const index = least.findIndex((number, at) => version[at] !== number);
  return index < 0 || (version[index] ?? 0) > (least[index] ?? 0);
}
