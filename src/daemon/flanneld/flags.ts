import {
  blocks,
  changes,
  type FlanneldLine,
  ignored,
  same,
  type Verdict,
} from '../../cli/migrate-check/found.ts';
import { etcdFlags, flags, flagTable } from '../options/flags.ts';
import { oldFlags } from '../options/old-flags.ts';
import { runOptions } from '../options/options.ts';
import {
  environmentName,
  flagName,
  type GivenFlag,
  Settings,
  splitCommandLine,
  UsageError,
  type Word,
} from '../options/settings.ts';

interface SplitLine {
  readonly given: readonly GivenFlag[];
  readonly unknown: readonly string[];
  readonly words: readonly Word[];
  readonly fault?: UsageError;
}

/** Splits without a refusal: a flag that nobody knows is named, and the rest is judged all the same. */
function split(argv: readonly string[]): SplitLine {
  const unknown: string[] = [];
  const kindOf = (name: string) => {
    const flag = [...flagTable, ...oldFlags].find((one) => one.name === name);
    if (flag !== undefined) return flag.boolean ? 'boolean' : 'value';
    return name === 'h' || unknown.includes(name) ? 'boolean' : undefined;
  };
  const refuse = (name: string): never => {
    unknown.push(name);
    throw new UsageError('UNKNOWN_FLAG', '');
  };
  for (let seen = -1; ; ) {
    try {
      const { flags: given, words } = splitCommandLine(argv, kindOf, refuse);
      return { given, unknown, words: words.filter(({ behind = '' }) => !unknown.includes(behind)) };
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      // Another one that nobody knows: it is known now.
      if (unknown.length === seen || unknown.length === 0)
        return { given: [], unknown: [], words: [], fault: error };
      seen = unknown.length;
    }
  }
}

/** The file that flanneld writes: its flag's, or the default. */
export function subnetFileOf(line: FlanneldLine | undefined): string {
  const settings = new Settings(split(line?.argv ?? []).given, line?.env ?? {});
  return settings.written(flags.subnetFile) || flags.subnetFile.fallback;
}

/** Where flanneld's flags and variables say that etcd is; those of other things are left out. */
export function etcdFlagsOf({ argv, env }: FlanneldLine): {
  readonly given: readonly GivenFlag[];
  readonly env: FlanneldLine['env'];
} {
  const names = new Set<string>(Object.values(etcdFlags).map(({ name }) => name));
  return { given: split(argv).given.filter(({ name }) => names.has(name)), env };
}

/** What becomes of each flag and variable of flanneld; `addresses`: those of this host. */
export function judgeFlags(line: FlanneldLine, addresses: readonly string[]): readonly Verdict[] {
  const { given, unknown, words, fault } = split(line.argv);
  if (fault !== undefined) return [blocks(`flanneld's command line: ${fault.message}`, 'Correct it first.')];
  const settings = new Settings(given, line.env);
  const verdicts: Verdict[] = [];
  const [stray] = words;
  if (stray !== undefined)
    verdicts.push(
      blocks(
        `argument ${stray.position} of flanneld is no flag: flanneld reads neither it nor what follows, flanneld-ts does not start with it`,
        stray.behind === undefined
          ? 'Remove it.'
          : `Write the value of ${flagName({ name: stray.behind })} behind "=".`,
      ),
    );
  for (const name of unknown)
    verdicts.push(
      blocks(`${shownName(name)} is a flag that flanneld-ts does not know`, 'Remove it: flanneld-ts --help'),
    );
  for (const flag of flagTable) {
    const source = settings.sourceOf(flag);
    if (source === undefined || flag.group === 'Help') continue;
    const shown = flag.name.endsWith('password') ? source : `${source}=${settings.written(flag)}`;
    verdicts.push(
      judge(() => void settings.value(flag)) ?? special(flag.name, settings, addresses) ?? same(shown),
    );
  }
  for (const flag of oldFlags) {
    const source = settings.sourceOf(flag);
    if (source !== undefined) verdicts.push(judgeOld(flag, source, settings));
  }
  const known = new Set([...flagTable, ...oldFlags].map(environmentName));
  for (const name of Object.keys(line.env))
    if (name.startsWith('FLANNELD_') && !known.has(name))
      verdicts.push(ignored(`the variable ${name}: there is no such flag`));
  return [...verdicts, ...judgeTogether(settings, verdicts)];
}

/** Flags that contradict each other, and what the daemon would warn of at its start. */
function judgeTogether(settings: Settings, before: readonly Verdict[]): readonly Verdict[] {
  if (before.some(({ what }) => what === 'blocks')) return [];
  const warnings: string[] = [];
  const fault = judge(() => void runOptions(settings, (message) => warnings.push(message)));
  return [...warnings.map((warning) => changes(warning)), ...(fault === undefined ? [] : [fault])];
}

function judge(read: () => void): Verdict | undefined {
  try {
    read();
    return undefined;
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    return blocks(error.message, 'Change it before: flanneld-ts does not start with it.');
  }
}

function special(name: string, settings: Settings, addresses: readonly string[]): Verdict | undefined {
  if (name === flags.ifaces.name) {
    const ifaces = settings.value(flags.ifaces);
    if (ifaces.length < 2) return undefined;
    return changes(
      `--iface is given ${ifaces.length} times: flannel 0.7.1 uses the last one (${ifaces.at(-1)}), flanneld-ts the first that fits`,
      'Leave only the one that is meant.',
    );
  }
  const flag = [flags.publicIP, flags.publicIPv6].find((one) => one.name === name);
  const address = flag && settings.value(flag);
  if (flag === undefined || address === undefined || addresses.includes(address)) return undefined;
  return blocks(
    `${settings.sourceOf(flag)}=${address} is no address of this host: with host-gw other hosts must reach it there without NAT`,
    'Name an address of the interface, or leave the flag out.',
  );
}

function judgeOld(flag: (typeof oldFlags)[number], source: string, settings: Settings): Verdict {
  const value = settings.value(flag);
  const isSet = value !== '' && value !== false;
  if (flag.refused !== undefined && isSet) return blocks(`${source}: ${flag.refused}`);
  // It makes flannel 0.7.1 serve the networks below the prefix, as --networks does.
  if (flag.name === 'watch-networks' && isSet)
    return blocks(
      `${source}: several networks in one daemon are not supported`,
      'Run one for each, with its own --etcd-prefix, --subnet-file and --docker-opts-file.',
    );
  return ignored(`${source} has no effect any more`);
}

/** A password may have got into the name: --etcd-passwordhunter2. */
function shownName(name: string): string {
  return /pas/i.test(name) ? 'one with "pas" in its name' : flagName({ name });
}
