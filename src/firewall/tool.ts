import type { Family } from '../ip/ip.ts';
import { CommandError, type CommandResult, type Commands } from '../runtime/effects.ts';
import { FlannelError, messageOf } from '../runtime/errors.ts';
import { excerpt, oneLine } from '../runtime/texts.ts';
import { parseSave, type SavedTable, UnreadableError } from './iptables-save.ts';

/** A tool failed. */
export class FirewallError extends FlannelError {}

/** Longer than a tool waits for the lock. */
const timeoutMs = 20_000;

/** Remedies by the tools' messages. */
const remedies: readonly (readonly [RegExp, string])[] = [
  [
    /do you need to insmod|module .* not found|Table does not exist|Protocol not supported/i,
    'Load the kernel module (modprobe ip_tables, iptable_nat, ip6table_nat, nf_tables …) or use a kernel that has it.',
  ],
  [
    /xtables lock/i,
    'Another program holds the lock. The daemon tries again. To see which program: fuser /run/xtables.lock',
  ],
  [
    /Permission denied|Operation not permitted|must be root/i,
    'Run as root, or with CAP_NET_ADMIN and CAP_NET_RAW.',
  ],
  [/JSON support not compiled/i, 'Install an nft with JSON support.'],
];

/**
 * Runs a tool. Rejects with {@link FirewallError} when it cannot be run, or fails without a `tolerated`
 * message.
 */
export async function runTool(
  commands: Commands,
  program: string,
  args: readonly string[],
  signal: AbortSignal,
  options: { readonly stdin?: string; readonly tolerated?: RegExp } = {},
): Promise<CommandResult> {
  const { stdin, tolerated } = options;
  let result: CommandResult;
  try {
    const limits = { ...(stdin !== undefined && { stdin }), timeoutMs };
    result = await commands.run(program, args, limits, signal);
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    const packageName = program === 'nft' ? 'nftables' : 'iptables';
    const remedy =
      error.code === 'COMMAND_MISSING'
        ? `Install the package ${packageName}, or switch the mode with EnableNFTables in the network configuration.`
        : 'The daemon tries again.';
    throw new FirewallError(error.code, messageOf(error), { cause: error, remedy });
  }
  if (result.exitCode === 0 || tolerated?.test(result.stderr)) return result;
  const said = oneLine(result.stderr) || oneLine(result.stdout);
  const message = `${program} failed with exit code ${result.exitCode}: ${excerpt(said, 200)}`;
  const remedy = remedies.find(([pattern]) => pattern.test(said))?.[1];
  throw new FirewallError('FIREWALL_REFUSED', message, { remedy });
}

/** Whether the tool is not installed. */
export function isMissing(error: unknown): boolean {
  return error instanceof FirewallError && error.code === 'COMMAND_MISSING';
}

/** How long iptables-restore waits for the lock that all iptables programs share. */
const lockWaitSeconds = 5;

/** iptables or ip6tables of this host, in whichever variant is installed. */
export class Iptables {
  readonly #commands: Commands;
  /** `iptables` or `ip6tables`. */
  readonly program: string;
  readonly #onFilter: ((table: SavedTable) => void) | undefined;
  #modern: boolean | undefined;

  /** `onFilter` gets the table filter each time it is read. */
  constructor(commands: Commands, family: Family, onFilter?: (table: SavedTable) => void) {
    this.#commands = commands;
    this.#onFilter = onFilter;
    this.program = family === 4 ? 'iptables' : 'ip6tables';
  }

  /** The rules of a table; one process. Rejects with a FlannelError. */
  async read(table: string, signal: AbortSignal): Promise<SavedTable> {
    const { stdout } = await runTool(this.#commands, `${this.program}-save`, ['-t', table], signal);
    const saved = parseSave(stdout, table);
    if (table === 'filter') this.#onFilter?.(saved);
    return saved;
  }

  /** Hands `input` to iptables-restore, which applies all of it or nothing. */
  async restore(input: string, signal: AbortSignal): Promise<void> {
    const wait = (await this.isModern(signal)) ? ['-w', String(lockWaitSeconds)] : [];
    const options = [...wait, '--noflush'];
    await runTool(this.#commands, `${this.program}-restore`, options, signal, { stdin: input });
  }

  /**
   * Whether the installed version is 1.6.2 or later, the first whose iptables-restore knows -w and whose MASQUERADE knows
   * --random-fully. Asked once.
   */
  async isModern(signal: AbortSignal): Promise<boolean> {
    if (this.#modern === undefined) {
      const { stdout } = await runTool(this.#commands, this.program, ['--version'], signal);
      const version = /\bv(\d+)\.(\d+)\.(\d+)/.exec(stdout);
      if (version === null) {
        throw new UnreadableError(`${this.program} --version prints no version: ${stdout}`);
      }
      const [major = 0, minor = 0, patch = 0] = version.slice(1).map(Number);
      this.#modern = major > 1 || (major === 1 && (minor > 6 || (minor === 6 && patch >= 2)));
    }
    return this.#modern;
  }
}
