import { type Command, daemonCommand, namedCommands } from './command-table.ts';
import { environmentName, type Flag, flagName, GROUPS } from './flag.ts';
import { flagTable } from './table.ts';
import { VERSION } from './version.ts';

const COLUMNS = 80;

const EPILOGUE = `Flags are written --name=value, --name value, -name=value or -name value.
Each may come from the environment instead: --etcd-prefix from
FLANNELD_ETCD_PREFIX, or from FLANNEL_ETCD_PREFIX as in the sysconfig file
(likewise FLANNEL_ETCD_ENDPOINTS). An empty variable counts as not set.
Other flags of flanneld, from Kubernetes or its old log, are let pass.

Exit status: 0 asked to stop, 1 cannot go on, 2 wrong usage.`;

/**
 * The text of --help for a command, {@link COLUMNS} wide.
 *
 * yargs lays out the flags, and does nothing else: a command line in Go's syntax must be split before yargs could read it, and
 * once it is split nothing is left for a parser to do but to guess types, which the contract forbids. So it is loaded here,
 * for the one start that needs it, and costs the daemon neither time nor memory.
 */
export async function helpText(command: Command): Promise<string> {
  const isDaemon = command === daemonCommand;
  const commands = isDaemon ? [daemonCommand, ...namedCommands] : [command];
  const parts = [usageLines(commands), wrapped(command.describe, COLUMNS - 2).join('\n')];
  if (isDaemon) parts.push(commandList());
  parts.push(await flagList(command.flags));
  if (isDaemon) parts.push(EPILOGUE);
  return parts.join('\n\n');
}

function usageLines(commands: readonly Command[]): string {
  const lines = commands.map(({ words, usage }) => ['flanneld-ts', ...words, usage].join(' ').trimEnd());
  return `Usage: ${lines.join('\n       ')}`;
}

function commandList(): string {
  const names = namedCommands.map(({ words }) => words.join(' '));
  const column = Math.max(...names.map((name) => name.length)) + 4;
  const rows = namedCommands.map(({ describe }, index) => {
    const lines = wrapped(describe, COLUMNS - column).join(`\n${' '.repeat(column)}`);
    return `  ${names[index] ?? ''}`.padEnd(column) + lines;
  });
  return `Commands (each has its own --help):\n${rows.join('\n')}`;
}

/** The text in lines of at most `width` columns, broken between words. */
function wrapped(text: string, width: number): readonly string[] {
  const lines: string[] = [];
  for (const word of text.split(' ')) {
    const longer = [...lines.splice(-1), word].join(' ');
    lines.push(...(longer.length <= width ? [longer] : [longer.slice(0, -word.length - 1), word]));
  }
  return lines;
}

async function flagList(rows: readonly Flag<unknown>[]): Promise<string> {
  const { default: yargs } = await import('yargs');
  const layout = yargs([])
    .scriptName('flanneld-ts')
    .locale('en')
    .exitProcess(false)
    .version(VERSION)
    .version(false)
    .help(false)
    .wrap(COLUMNS);
  for (const flag of rows) layout.option(heading(flag), { describe: description(flag) });
  for (const group of GROUPS) {
    layout.group(rows.filter((flag) => flag.group === group).map(heading), `${group}:`);
  }
  // yargs would write a name of one letter with one dash only without a value.
  return (await layout.getHelp()).trim().replace('--v=NUMBER ', '-v=NUMBER  ');
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
