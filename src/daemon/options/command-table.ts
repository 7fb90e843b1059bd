import type { HealthAddress } from '../../cli/health.ts';
import type { Settings } from './command-line.ts';
import {
  type CleanupOptions,
  cleanupFlags,
  cleanupOptions,
  type LeaseReleaseOptions,
  leaseReleaseFlags,
  leaseReleaseOptions,
  type Operand,
} from './command-options.ts';
import { UsageError } from './errors.ts';
import { environmentName, type Flag } from './flag.ts';
import { judgeOldFlags } from './old-flags.ts';
import { type Options, runOptions } from './run-options.ts';
import { type StatusOptions, statusFlags, statusOptions } from './status-options.ts';
import { flags, flagTable } from './table.ts';
import { port } from './values.ts';

/** What to do. `warnings` are lines for the log about what was ignored or taken differently. */
export type ParsedCommand =
  | { readonly command: 'run'; readonly options: Options; readonly warnings: readonly string[] }
  | { readonly command: 'help'; readonly text: string }
  | { readonly command: 'version'; readonly text: string }
  | { readonly command: 'health'; readonly options: HealthAddress }
  | { readonly command: 'cleanup'; readonly options: CleanupOptions }
  | { readonly command: 'status'; readonly options: StatusOptions }
  | {
      readonly command: 'lease-release';
      readonly options: LeaseReleaseOptions;
      readonly warnings: readonly string[];
    }
  | { readonly command: 'doctor'; readonly options: Options; readonly warnings: readonly string[] };

/** What a command is read from. */
export interface CommandInput {
  readonly settings: Settings;
  readonly warn: (message: string) => void;
  /** What `warn` has been told, and will be. */
  readonly warnings: readonly string[];
  /** The word beside the flags, where the command takes one and it is there. */
  readonly operand?: Operand;
}

/** Something the program can be asked for: a row from which parsing and help follow. */
export interface Command {
  /** The first words of the command line that ask for it; none for the daemon. */
  readonly words: readonly string[];
  /** What follows them, for the usage line. */
  readonly usage: string;
  /** For the help text; sentences. */
  readonly describe: string;
  /** The flags it takes, in the order of the help text. */
  readonly flags: readonly Flag<unknown>[];
  /** What one word beside the flags stands for, where the command takes one: `SUBNET`. */
  readonly operand?: string;
  /** Takes what the daemon's unit gives it: flanneld's old flags are let pass. */
  readonly likeDaemon?: true;
  /** Looks where the service looks, unless it is told another place in etcd. */
  readonly asService?: true;
  /** Throws {@link UsageError}. Absent for what the program says about itself. */
  readonly read?: (input: CommandInput) => ParsedCommand;
}

/** The daemon itself: what is asked for when no command is. */
export const daemonCommand: Command = {
  words: [],
  usage: '[flags]',
  describe:
    "Routes the containers of Docker hosts on one network to each other: leases a subnet in etcd and keeps a route to every other host's. Does the work of flanneld with its host-gw backend, and takes the flags below as it does.",
  flags: flagTable,
  likeDaemon: true,
  read({ settings, warn, warnings }) {
    judgeOldFlags(settings, warn);
    return { command: 'run', options: runOptions(settings, warn), warnings };
  },
};

/** Asks for the help of the command that the words after it name. */
export const helpCommand: Command = {
  words: ['help'],
  usage: '[COMMAND]',
  describe: 'Prints the help of COMMAND, or of the daemon.',
  flags: [flags.help],
  operand: 'COMMAND',
};

const versionCommand: Command = {
  words: ['version'],
  usage: '',
  describe: 'Prints the version.',
  flags: [flags.help],
};

/** Without a default: the daemon's, 0, serves nothing. */
const healthPort = {
  name: flags.healthzPort.name,
  placeholder: 'PORT',
  group: 'Options',
  describe: "the daemon's --healthz-port; needed",
  parse: port,
} satisfies Flag<number>;

/** Without a default in its help: one who listens everywhere is asked at 127.0.0.1. */
const { fallback: _, ...healthIp } = flags.healthzIp;

/** The commands that are asked for by name. */
export const namedCommands: readonly Command[] = [
  {
    words: ['health'],
    usage: '[--healthz-ip=IP] --healthz-port=PORT',
    describe: "Asks a running daemon's /healthz; exits 0 when it is alive, else 1.",
    flags: [{ ...healthIp, group: 'Options', describe: "the daemon's --healthz-ip" }, healthPort, flags.help],
    read: ({ settings }) => ({ command: 'health', options: healthOptions(settings) }),
  },
  {
    words: ['status'],
    usage: '[--json] [--watch] [flags]',
    describe:
      'Asks the running daemon for its lease, its peers and what is wrong with them; exits 0 when it is ready, 3 when ready and degraded, 4 when not ready, 1 when none answers.',
    flags: statusFlags,
    read: ({ settings }) => ({ command: 'status', options: statusOptions(settings) }),
  },
  {
    words: ['doctor'],
    usage: '[flags]',
    describe:
      "Says what is wrong on this host and how to mend it; changes nothing. Takes the daemon's flags.",
    flags: flagTable,
    likeDaemon: true,
    asService: true,
    read({ settings, warn, warnings }) {
      judgeOldFlags(settings, warn);
      tellWhere(settings, warn);
      return { command: 'doctor', options: runOptions(settings, warn), warnings };
    },
  },
  {
    words: ['lease', 'release'],
    usage: '[--dry-run] [--force] [flags] [SUBNET]',
    describe:
      'Gives back the lease of SUBNET, of the host at --public-ip, or of this host. Refuses while the daemon of that host runs, and asks before it releases when there is a terminal to ask at.',
    flags: leaseReleaseFlags,
    operand: 'SUBNET',
    asService: true,
    read({ settings, warn, warnings, operand }) {
      tellWhere(settings, warn);
      return { command: 'lease-release', options: leaseReleaseOptions(settings, warn, operand), warnings };
    },
  },
  {
    words: ['cleanup'],
    usage: '[--routes] [--dry-run] [--force] [flags]',
    describe:
      "Removes the daemon's firewall rules, and with --routes its routes; for a host where it has been stopped for good. Refuses while a daemon runs.",
    flags: cleanupFlags,
    read: ({ settings }) => ({ command: 'cleanup', options: cleanupOptions(settings) }),
  },
  helpCommand,
  versionCommand,
];

/** Nothing says where etcd is, and so the command may look beside it. */
function tellWhere(settings: Settings, warn: (message: string) => void): void {
  const { etcdEndpoints, etcdPrefix } = flags;
  if ([etcdEndpoints, etcdPrefix].some((flag) => settings.sourceOf(flag) !== undefined)) return;
  warn(
    `looking at ${etcdEndpoints.fallback} under ${etcdPrefix.fallback}: neither flags, variables nor /etc/sysconfig/flanneld name another place`,
  );
}

function healthOptions(settings: Settings): HealthAddress {
  const asked = settings.optional(healthPort);
  if (asked === undefined) {
    const variable = environmentName(healthPort);
    throw new UsageError(
      'MISSING_VALUE',
      `health needs the daemon's port: --healthz-port=PORT or ${variable}`,
    );
  }
  return { ip: settings.value(flags.healthzIp), port: asked };
}
