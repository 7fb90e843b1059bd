import { canonicalAddress, parseSubnet, type Subnet } from '../../ip/ip.ts';
import { type ConfigOptions, configCommands } from './config-commands.ts';
import { etcdFlags, type Flag, flags, type InterfaceWish, interfaceFlags, switchFlag } from './flags.ts';
import {
  etcdBeside,
  type FollowOptions,
  fromFlags,
  type MigrateCheckOptions,
  type MigrateOptions,
  migrateAccess,
} from './migrate.ts';
import { judgeOldFlags } from './old-flags.ts';
import {
  type EtcdAccess,
  etcdAccess,
  type Options,
  processOptions,
  runOptions,
  statusSocket,
  tellWhere,
  type Warn,
} from './options.ts';
import { environmentName, flagName, InvalidValue, type Settings, UsageError } from './settings.ts';
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

/** `lease release`: one lease, or that of a host; this one, where `host` names none by its public address. */
export interface LeaseReleaseOptions extends EtcdAccess {
  readonly lease: { readonly subnet: Subnet } | { readonly host: InterfaceWish };
  /** A reservation, too, and the lease of a daemon that runs; without a question. */
  readonly force: boolean;
  readonly dryRun: boolean;
  /** The daemon of this host. */
  readonly subnetFile: string;
  readonly statusSocket?: string;
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
const dryRun = switchFlag('dry-run', 'say what would be done, and change nothing');
const subnetFile = { ...flags.subnetFile, group: 'Options', describe: "the daemon's --subnet-file" } as const;

/** By which a command finds the daemon of this host. */
const daemonsPlace = {
  statusSocket: {
    ...flags.statusSocket,
    group: 'Options',
    describe: 'socket of the daemon (default: beside --subnet-file, .sock for .env)',
  },
  subnetFile,
} as const;

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

const releaseFlags = {
  force: switchFlag('force', 'release a reservation, too, and the lease of a daemon that runs; asks nothing'),
  dryRun,
  subnetFile,
} as const;

const cleanupFlags = {
  routes: switchFlag('routes', 'remove the routes too'),
  force: switchFlag('force', 'remove them although a daemon runs, which puts its own back'),
  dryRun,
  subnetFile,
  routeProtocol: flags.routeProtocol,
} as const;

const repairFlags = {
  repair: switchFlag(
    'repair',
    'give a lease to each reservation in v3 that etcdctl migrate has made of a lease: v2 still has it, with a time to live; copies nothing',
  ),
  repairSubnets: {
    name: 'repair-subnet',
    group: 'Options',
    placeholder: 'SUBNET,…',
    describe:
      'with --repair: subnets whose reservations are to get leases although v2 does not say that they had one',
    parse: subnetList,
    repeatable: true,
    noEnvironment: true,
  },
} as const;

const checkFlag = switchFlag(
  'check',
  'look at the flanneld of this host instead: say what would change for it and what stands in the way of flanneld-ts; changes nothing',
);

/** Both tables have the same keys, and a command needs all their rows. */
const follow = switchFlag(
  'follow',
  'go on until stopped: keep both stores alike, in both directions, while hosts move from one to the other',
);

/** Of `migrate --follow`. The daemon's variables are not meant for it: both may run on one host. */
const followFlags = {
  healthzIp: { ...flags.healthzIp, noEnvironment: true },
  healthzPort: { ...flags.healthzPort, noEnvironment: true },
  verbosity: { ...flags.verbosity, noEnvironment: true },
  logLevel: { ...flags.logLevel, noEnvironment: true },
  logFormat: { ...flags.logFormat, noEnvironment: true },
} as const;

const migrateFlags = {
  check: checkFlag,
  ...repairFlags,
  dryRun,
  follow,
  ...Object.fromEntries(Object.values(fromFlags).map((flag) => [flag.name, flag])),
  ...etcdFlags,
  ...followFlags,
  help,
};

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
      'Asks the running daemon for its lease, its peers and what is wrong with them; exits 0 when it is ready, 3 when ready and degraded, 4 when not ready, 1 when none answers.',
    flags: { ...statusFlags, ...daemonsPlace, help },
    read({ settings }) {
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
  {
    words: ['lease', 'release'],
    operand: '[SUBNET]',
    describe:
      'Gives back the lease of SUBNET, of the host at --public-ip, or of this host. Refuses while the daemon of that host runs, and asks before it releases when there is a terminal to ask at.',
    flags: { ...releaseFlags, ...daemonsPlace, ...etcdFlags, ...interfaceFlags, help },
    asService: () => true,
    read({ settings, warn, warnings, operands }) {
      tellWhere(settings, warn);
      return {
        command: 'lease-release',
        options: leaseReleaseOptions(settings, warn, operands[0]),
        warnings,
      };
    },
  },
  {
    words: ['migrate'],
    describe:
      "Copies the leases and the configuration of flannel 0.7.1 from etcd's v2 store to the v3 store, prints what became of each, and until when all hosts have to use v3. Changes nothing in v2 and nothing that v3 has. May be run again at any time. Exits 1 when something is left for you to decide. With --repair it gives leases to the reservations that etcdctl migrate has made of them, with --check it looks at this host's flanneld.",
    flags: migrateFlags,
    asService: (settings) => settings.value(checkFlag) !== true,
    read({ settings, warn, warnings }) {
      if (settings.value(checkFlag) === true) {
        const other = [repairFlags.repair, follow].find((flag) => settings.value(flag) === true);
        if (other !== undefined)
          throw new UsageError('SYNTAX', `--check and ${flagName(other)} are two things: give one of them`);
        return { command: 'migrate-check', options: { etcdBeside: etcdBeside(settings) } };
      }
      tellWhere(settings, warn);
      const access = migrateAccess(settings, warn);
      const {
        dryRun: isDry,
        repair,
        repairSubnets,
        ...given
      } = settings.values({ dryRun, follow, ...repairFlags });
      const named = repairSubnets.flat();
      if (named.length > 0 && !repair)
        throw new UsageError('SYNTAX', '--repair-subnet goes with --repair: give both');
      if (given.follow) {
        if (isDry || repair) {
          const other = isDry ? '--dry-run' : '--repair';
          throw new UsageError('SYNTAX', `migrate takes --follow or ${other}, not both`);
        }
        const options = { ...access, ...processOptions(settings, followFlags) };
        return { command: 'migrate-follow', options, warnings };
      }
      const stray = Object.values(followFlags).find((flag) => settings.sourceOf(flag) !== undefined);
      if (stray !== undefined)
        throw new UsageError('SYNTAX', `${flagName(stray)} goes with migrate --follow alone`);
      const options = { ...access, dryRun: isDry, ...(repair && { repair: { named } }) };
      return { command: 'migrate', options, warnings };
    },
  },
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

function leaseReleaseOptions(
  settings: Settings,
  warn: Warn,
  operand: string | undefined,
): LeaseReleaseOptions {
  const socket = statusSocket(settings);
  const common = {
    ...etcdAccess(settings, warn),
    ...settings.values(releaseFlags),
    ...(socket !== undefined && { statusSocket: socket }),
  };
  const host = settings.values(interfaceFlags);
  if (operand === undefined) return { ...common, lease: { host } };
  // A variable names this host for its daemon; only a flag is meant for this command.
  const byAddress = [flags.publicIP, flags.publicIPv6].find(
    (flag) => settings.sourceOf(flag) === flagName(flag),
  );
  if (byAddress !== undefined) {
    throw new UsageError('SYNTAX', `lease release takes SUBNET or ${flagName(byAddress)}, not both`);
  }
  return { ...common, lease: { subnet: parseOperand(operand) } };
}

function subnetList(text: string): readonly string[] {
  return text.split(',').map((one) => {
    const subnet = readSubnet(one.trim());
    if (typeof subnet === 'object') return subnet.text;
    throw new InvalidValue(
      `must be subnets like 10.5.1.0/24, with commas between${subnet === undefined ? '' : ': there are host bits'}`,
    );
  });
}

function parseOperand(text: string): Subnet {
  const subnet = readSubnet(text);
  if (subnet === undefined) throw new UsageError('BAD_VALUE', 'SUBNET must be a subnet like 10.5.1.0/24');
  if (typeof subnet === 'object') return subnet;
  throw new UsageError('BAD_VALUE', `SUBNET has host bits; did you mean ${subnet}?`);
}

/** `10.5.1.0/24`, or as in the key: `10.5.1.0-24`. With host bits the text that is meant; undefined for what is none. */
function readSubnet(text: string): Subnet | string | undefined {
  const slashed = text.replace(/-(?=\d+$)/, '/');
  const subnet = parseSubnet(slashed);
  const address = canonicalAddress(slashed.split('/', 1)[0] ?? '');
  return subnet?.text.startsWith(`${address}/`) === false ? subnet.text : subnet;
}
