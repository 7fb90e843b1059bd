import { CommandError, type CommandResult, type Commands } from '../runtime/effects.ts';
import { FlannelError, messageOf } from '../runtime/errors.ts';
import { excerpt, oneLine } from '../runtime/texts.ts';

/** A tool that did not do what it was asked. */
export class FirewallError extends FlannelError {}

/** The longest a tool may take; the lock is waited for less. */
const timeoutMs = 20_000;

/** What to do, by what the tools say. */
const remedies: readonly (readonly [RegExp, string])[] = [
  [
    /do you need to insmod|module .* not found|Table does not exist|Protocol not supported/i,
    'Load the kernel module (modprobe ip_tables, iptable_nat, ip6table_nat, nf_tables …) or use a kernel that has it.',
  ],
  [
    /xtables lock/i,
    'Another program holds the lock /run/xtables.lock: see who does with fuser /run/xtables.lock. It is tried again.',
  ],
  [
    /Permission denied|Operation not permitted|must be root/i,
    'Run as root, or with CAP_NET_ADMIN and CAP_NET_RAW.',
  ],
  [/JSON support not compiled/i, 'Install an nft with JSON support.'],
];

/** Runs a tool; rejects with {@link FirewallError} when it could not be run or fails otherwise than with `tolerated`. */
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
    result = await commands.run(
      program,
      args,
      { ...(stdin === undefined ? {} : { stdin }), timeoutMs },
      signal,
    );
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    throw new FirewallError(error.code, messageOf(error), {
      cause: error,
      remedy: remedyFor(error, program),
    });
  }
  if (result.exitCode === 0 || tolerated?.test(result.stderr)) return result;
  const said = oneLine(result.stderr) || oneLine(result.stdout);
  const message = `${program} failed with exit code ${result.exitCode}: ${excerpt(said, 200)}`;
  const remedy = remedies.find(([pattern]) => pattern.test(said))?.[1];
  throw new FirewallError('FIREWALL_REFUSED', message, { remedy });
}

/** Whether the tool is not there at all. */
export function isMissing(error: unknown): boolean {
  return error instanceof FirewallError && error.code === 'COMMAND_MISSING';
}

function remedyFor({ code }: CommandError, program: string): string {
  const packageName = program === 'nft' ? 'nftables' : 'iptables';
  return code === 'COMMAND_MISSING'
    ? `Install the package ${packageName}, or switch the mode with EnableNFTables in the network configuration.`
    : 'It is tried again.';
}
