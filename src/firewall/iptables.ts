import type { Family } from '../ip/ip.ts';
import type { Commands } from '../runtime/commands.ts';
import { parseSave, type SavedTable } from './iptables-save.ts';
import { FirewallError, runTool } from './tool.ts';

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
