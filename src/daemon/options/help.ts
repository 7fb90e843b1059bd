import { environmentName, type Flag, flagName, GROUPS } from './flag.ts';
import { flagTable } from './table.ts';
import { VERSION } from './version.ts';

const USAGE = `Usage: $0 [flags]
   or: $0 health [--healthz-ip=IP] --healthz-port=PORT

Routes the containers of Docker hosts on one network to each other: leases a
subnet in etcd and keeps a route to every other host's. Does the work of
flanneld with its host-gw backend, and takes the flags below as it does.
"health" asks a running daemon's /healthz and exits 0 or 1.`;

const EPILOGUE = `Flags are written --name=value, --name value, -name=value or -name value.
Each may come from the environment instead: --etcd-prefix from
FLANNELD_ETCD_PREFIX, or from FLANNEL_ETCD_PREFIX as in the sysconfig file
(likewise FLANNEL_ETCD_ENDPOINTS). An empty variable counts as not set.

Exit status: 0 asked to stop, 1 cannot go on, 2 wrong usage.`;

/**
 * The text of --help, 80 columns wide.
 *
 * yargs lays it out, and does nothing else: a command line in Go's syntax must be split before yargs could read it, and once it
 * is split nothing is left for a parser to do but to guess types, which the contract forbids. So it is loaded here, for
 * the one start that needs it, and costs the daemon neither time nor memory.
 */
export async function helpText(): Promise<string> {
  const { default: yargs } = await import('yargs');
  const layout = yargs([])
    .scriptName('flanneld-ts')
    .locale('en')
    .exitProcess(false)
    .version(VERSION)
    .version(false)
    .help(false)
    .wrap(80)
    .usage(USAGE)
    .epilogue(EPILOGUE);
  for (const flag of flagTable) layout.option(heading(flag), { describe: description(flag) });
  for (const group of GROUPS) {
    layout.group(flagTable.filter((flag) => flag.group === group).map(heading), `${group}:`);
  }
  return layout.getHelp();
}

/** The flags as a Markdown table, for README. */
export function flagsMarkdown(): string {
  const rows = flagTable.map((flag) => {
    const variables = flag.noEnvironment ? [] : [environmentName(flag), ...(flag.sysconfig ?? [])];
    const cells = [
      `\`${flagName(flag)}${value(flag)}\``,
      flag.fallback === undefined ? '' : `\`${flag.fallback}\``,
      flag.describe,
      variables.map((name) => `\`${name}\``).join(', '),
    ];
    return `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
  });
  return ['| flag | default | | environment |', '|---|---|---|---|', ...rows, ''].join('\n');
}

function heading(flag: Flag<unknown>): string {
  return flag.name + value(flag);
}

function value({ placeholder }: Flag<unknown>): string {
  return placeholder === undefined ? '' : `=${placeholder}`;
}

function description(flag: Flag<unknown>): string {
  return flag.fallback === undefined ? flag.describe : `${flag.describe} (default: ${flag.fallback})`;
}
