import { type ConfigOptions, configCommands } from './config-commands.ts';
import { daemonsPlace, dryRun, etcdFlags, type Flag, flags, switchFlag } from './flags.ts';
import { type LeaseOptions, type LeaseReleaseOptions, leaseCommands } from './lease-commands.ts';
import type { FollowOptions, MigrateCheckOptions, MigrateOptions } from './migrate.ts';
import { migrateCommand } from './migrate-command.ts';
import { judgeOldFlags } from './old-flags.ts';
import { etcdAccess, type Options, runOptions, statusSocket, tellWhere, type Warn } from './options.ts';
import { environmentName, flagName, type Settings, UsageError } from './settings.ts';
import { port } from './values.ts';

/** What to do. `warnings` are lines for the log about what was ignored or taken differently. */
export type ParsedCommand =
  | { readonly command: 'run' | 'doctor'; readonly options: Options; readonly warnings: readonly string[] }
  | { readonly command: 'print'; readonly text: string }
  | { readonly command: 'completion'; readonly print: () => Promise<void> }
  | { readonly command: 'health'; readonly options: { readonly ip: string; readonly port: number } }
  | { readonly command: 'status'; readonly options: StatusOptions }
  | { readonly command: 'cleanup'; readonly options: CleanupOptions }
  | { readonly command: 'config'; readonly options: ConfigOptions; readonly warnings: readonly string[] }
  | {
      readonly command: 'lease-release';
      readonly options: LeaseReleaseOptions;
      readonly warnings: readonly string[];
    }
  | { readonly command: 'lease'; readonly options: LeaseOptions; readonly warnings: readonly string[] }
  | {
      readonly command: 'migrate';
      readonly options: MigrateOptions;
      readonly warnings: readonly string[];
    }
  | {
      readonly command: 'migrate-follow';
      readonly options: FollowOptions;
      readonly warnings: readonly string[];
    }
  | { readonly command: 'migrate-check'; readonly options: MigrateCheckOptions };

/** `status`: whom to ask, and how to show the answer. */
export interface StatusOptions {
  readonly socketPath: string;
  readonly json: boolean;
  readonly watch: boolean;
}

/** `cleanup`: what is to be removed. */
export interface CleanupOptions {
  readonly routes: boolean;
  readonly routeProtocol: number;
  /** Of the daemon that must not run; those of other daemons may lie beside it. */
  readonly subnetFile: string;
  /** Although a daemon runs. */
  readonly force: boolean;
  readonly dryRun: boolean;
}

/** What a command is read from. */
export interface CommandInput {
  readonly settings: Settings;
  readonly warn: Warn;
  /** What `warn` has been told, and will be. */
  readonly warnings: readonly string[];
  /** The words beside the flags: as many as the command takes at most. */
  readonly operands: readonly string[];
}

/** Something the program can be asked for: a row from which parsing, help and completion follow. */
export interface Command {
  /** The words of the command line that ask for it; none for the daemon. */
  readonly words: readonly string[];
  /** The words behind them, as yargs writes them: `[SUBNET]`, one that must be there `<FILE>`. */
  readonly operand?: string;
  /** For the help text; sentences. */
  readonly describe: string;
  /** The flags it takes, in the order of the help text. */
  readonly flags: Readonly<Record<string, Flag<unknown>>>;
  /** Takes what the daemon's unit gives it: flanneld's old flags are let pass. */
  readonly likeDaemon?: true;
  /** Whether it looks where the service looks, unless it is told another place in etcd. */
  readonly asService?: (settings: Settings) => boolean;
  /** Throws {@link UsageError}. Absent for what the program says about itself. */
  readonly read?: (input: CommandInput) => ParsedCommand;
}

const { help } = flags;
/** Without defaults: the daemon's port, 0, serves nothing, and one who listens everywhere is asked at 127.0.0.1. */
const { fallback: _ip, ...healthIp } = flags.healthzIp;
const healthFlags = {
  ip: { ...healthIp, group: 'Options', describe: "the daemon's --healthz-ip" },
  port: {
    name: flags.healthzPort.name,
    placeholder: 'PORT',
    group: 'Options',
    describe: "the daemon's --healthz-port; needed",
    parse: port,
  },
} as const;

const statusFlags = {
  json: switchFlag('json', 'print JSON, one line each time'),
  watch: switchFlag('watch', 'ask again every 2 seconds'),
} as const;

const cluster = switchFlag(
  'cluster',
  'ask etcd instead, for the leases of all hosts; needs no root and no daemon',
);

const cleanupFlags = {
  routes: switchFlag('routes', 'remove the routes too'),
  force: switchFlag('force', 'remove them although a daemon runs, which puts its own back'),
  dryRun,
  subnetFile: daemonsPlace.subnetFile,
  routeProtocol: flags.routeProtocol,
} as const;

/** The daemon itself: what is asked for when no command is. */
export const daemonCommand: Command = {
  words: [],
  describe:
    "Routes the containers of Docker hosts on one network to each other: leases a subnet in etcd and keeps a route to every other host's. Does the work of flanneld with its host-gw backend, and takes the flags below as it does.",
  flags,
  likeDaemon: true,
  read({ settings, warn, warnings }) {
    judgeOldFlags(settings, warn);
    return { command: 'run', options: runOptions(settings, warn), warnings };
  },
};

/** yargs writes the script. */
export const completionCommand: Command = {
  words: ['completion'],
  describe: 'Prints a script that makes bash or zsh complete commands and flags.',
  flags: { help },
};

/** What commands with a common first word are about. */
export const commandGroups: Readonly<Record<string, string>> = {
  config: 'Shows, checks and changes the network configuration in etcd.',
  lease: 'Works on leases in etcd.',
};

/** The commands that are asked for by name. */
export const namedCommands: readonly Command[] = [
  {
    words: ['health'],
    describe: "Asks a running daemon's /healthz; exits 0 when it is alive, else 1.",
    flags: { ...healthFlags, help },
    read: ({ settings }) => ({ command: 'health', options: healthOptions(settings) }),
  },
  {
    words: ['status'],
    describe:
      'Asks the running daemon for its lease, its peers and what is wrong with them; exits 0 when it is ready, 3 when ready and degraded, 4 when not ready, 1 when none answers. With --cluster it asks etcd for the leases of all hosts, from any machine; exits 0, 1 when something is wrong with one, 3 when etcd cannot be asked.',
    flags: { cluster, ...statusFlags, ...daemonsPlace, ...etcdFlags, help },
    asService: (settings) => settings.value(cluster) === true,
    read({ settings, warn, warnings }) {
      if (settings.value(cluster) === true) {
        tellWhere(settings, warn);
        const options = { ...etcdAccess(settings, warn), ...settings.values(statusFlags) };
        return { command: 'lease', options: { ...options, verb: 'cluster' }, warnings };
      }
      const stray = Object.values(etcdFlags).find((flag) => settings.sourceOf(flag) === flagName(flag));
      if (stray !== undefined)
        throw new UsageError('SYNTAX', `${flagName(stray)} goes with status --cluster alone`);
      const socketPath = statusSocket(settings);
      if (socketPath === undefined) throw new UsageError('MISSING_VALUE', 'status needs a --status-socket');
      return { command: 'status', options: { socketPath, ...settings.values(statusFlags) } };
    },
  },
  {
    words: ['doctor'],
    describe: "Says what is wrong on this host and how to fix it; changes nothing. Takes the daemon's flags.",
    flags,
    likeDaemon: true,
    asService: () => true,
    read({ settings, warn, warnings }) {
      judgeOldFlags(settings, warn);
      tellWhere(settings, warn);
      return { command: 'doctor', options: runOptions(settings, warn), warnings };
    },
  },
  ...configCommands,
  ...leaseCommands,
  migrateCommand,
  {
    words: ['cleanup'],
    describe:
      "Removes the daemon's firewall rules, and with --routes its routes; for a host where it has been stopped for good. Refuses while a daemon runs.",
    flags: { ...cleanupFlags, help },
    read: ({ settings }) => ({ command: 'cleanup', options: settings.values(cleanupFlags) }),
  },
  {
    words: ['help'],
    operand: '[COMMAND..]',
    describe: 'Prints the help of COMMAND, or of the daemon.',
    flags: { help },
  },
  { words: ['version'], describe: 'Prints the version.', flags: { help } },
  completionCommand,
];

function healthOptions(settings: Settings): { readonly ip: string; readonly port: number } {
  const { ip = flags.healthzIp.fallback, port: asked } = settings.values(healthFlags);
  if (asked !== undefined) return { ip, port: asked };
  const variable = environmentName(flags.healthzPort);
  throw new UsageError('MISSING_VALUE', `health needs the daemon's port: --healthz-port=PORT or ${variable}`);
}
