import { quote, UsageError } from './errors.ts';
import { type EtcdAccess, etcdAccess } from './etcd-access.ts';
import { environmentName, type Flag } from './flag.ts';
import { splitFlags } from './go-flags.ts';
import { helpText } from './help.ts';
import { nearestName } from './nearest.ts';
import { type Environment, Settings } from './settings.ts';
import { flags, flagTable } from './table.ts';
import { VERSION } from './version.ts';

/** What a run of the daemon was asked for; checked, typed, with defaults filled in. */
export interface Options extends EtcdAccess, InterfaceWish, FirewallOptions {
  readonly subnetLeaseTtlSeconds: number;
  readonly renewMarginMs: number;
  readonly subnetFile: string;
  /** Absent: not to be written. */
  readonly dockerOptsFile?: string;
  readonly dockerOptsKey: string;
  readonly routeProtocol: number;
  /** Whether to keep a route that drops what is for the own subnet while no bridge has it. */
  readonly ipBlackholeRoute: boolean;
  /** Whether to switch forwarding on in the kernel. */
  readonly setIpForward: boolean;
  readonly logLevel: LogLevel;
  /** Absent: pretty on a terminal, else json. */
  readonly logFormat?: LogFormat;
  /** Absent: switched off. */
  readonly healthz?: HealthzAddress;
}

/** Which interface and addresses of this host the others are to use. */
export interface InterfaceWish {
  /** Names or addresses in order of preference, as given; '' stands for the default route's interface. */
  readonly ifaces: readonly string[];
  /** In Go's syntax, as given; asked after `ifaces`; '' stands for the default route's interface. */
  readonly ifaceRegexes: readonly string[];
  /** An address in canonical form; asked last. */
  readonly ifaceCanReach?: string;
  /** IPv4 and IPv6 in canonical form. */
  readonly publicIP?: string;
  readonly publicIPv6?: string;
}

interface FirewallOptions {
  readonly ipMasq: boolean;
  readonly ipMasqFullyRandom: boolean;
  readonly iptablesForwardRules: boolean;
  readonly iptablesForwardPosition: 'auto' | 'first' | 'last';
  readonly iptablesResyncMs: number;
}

type LogLevel = 'debug' | 'info' | 'warn' | 'error';
type LogFormat = 'json' | 'pretty';

interface HealthzAddress {
  readonly ip: string;
  readonly port: number;
}

/** What to do. `warnings` are lines for the log about what was ignored or taken differently. */
export type ParsedCommand =
  | { readonly command: 'run'; readonly options: Options; readonly warnings: readonly string[] }
  | { readonly command: 'help'; readonly text: string }
  | { readonly command: 'version'; readonly text: string }
  | { readonly command: 'health'; readonly options: HealthzAddress };

/** `argv` without the program: process.argv.slice(2). */
export interface CommandLine {
  readonly argv: readonly string[];
  readonly env: Environment;
}

/**
 * Reads the command line and the environment, and nothing else. Precedence: flag, FLANNELD_… variable, sysconfig name, default.
 * `--help`, then `--version`, win over bad values of other flags. `health` is a command only as the first word.
 *
 * Rejects with {@link UsageError} and nothing else.
 */
export async function parseOptions({ argv, env }: CommandLine): Promise<ParsedCommand> {
  const forHealth = argv[0] === 'health';
  const known = forHealth ? flagTable.filter((flag) => flag.health) : flagTable;
  const { flags: given, rest } = splitFlags(forHealth ? argv.slice(1) : argv, (name) => kindOf(name, known));
  const warnings: string[] = [];
  const settings = new Settings(given, env);
  if (given.some(({ name }) => name === 'h') || settings.optional(flags.help) === true) {
    return { command: 'help', text: await helpText() };
  }
  if (forHealth) {
    if (rest[0] !== undefined)
      throw new UsageError('SYNTAX', `health takes flags only, not ${quote(rest[0])}`);
    return { command: 'health', options: healthOptions(settings) };
  }
  if (settings.optional(flags.version) === true)
    return { command: 'version', text: `flanneld-ts ${VERSION}` };
  if (rest.length > 0)
    warnings.push(`ignored, because flags end at the first word that is none: ${rest.map(quote).join(' ')}`);
  warnings.push(...unknownVariables(env));
  return { command: 'run', options: runOptions(settings, (message) => warnings.push(message)), warnings };
}

function kindOf(name: string, known: readonly Flag<unknown>[]): 'boolean' | 'value' {
  if (name === 'h') return 'boolean';
  const flag = known.find((row) => row.name === name);
  if (flag !== undefined) return flag.boolean ? 'boolean' : 'value';
  const written = quote(name.length === 1 ? `-${name}` : `--${name}`);
  const nearest = nearestName(
    name,
    known.map((row) => row.name),
  );
  const hint = nearest === undefined ? 'see flanneld-ts --help' : `did you mean --${nearest}?`;
  throw new UsageError('UNKNOWN_FLAG', `unknown flag ${written}: ${hint}`);
}

function runOptions(settings: Settings, warn: (message: string) => void): Options {
  const dockerOptsFile = settings.value(flags.dockerOptsFile);
  const subnetFile = settings.value(flags.subnetFile);
  if (subnetFile === dockerOptsFile)
    throw new UsageError(
      'BAD_VALUE',
      `--subnet-file and --docker-opts-file are one file: ${quote(subnetFile)}`,
    );
  const verbosity = settings.value(flags.verbosity);
  const logFormat = settings.optional(flags.logFormat);
  const healthz = { ip: settings.value(flags.healthzIp), port: settings.value(flags.healthzPort) };
  return {
    ...etcdAccess(settings, warn),
    ...interfaceWish(settings),
    ...firewallOptions(settings),
    subnetLeaseTtlSeconds: settings.value(flags.leaseTtl),
    renewMarginMs: settings.value(flags.renewMargin) * 60_000,
    subnetFile,
    ...(dockerOptsFile === undefined ? {} : { dockerOptsFile }),
    dockerOptsKey: settings.value(flags.dockerOptsKey),
    routeProtocol: settings.value(flags.routeProtocol),
    ipBlackholeRoute: settings.value(flags.ipBlackholeRoute),
    setIpForward: settings.value(flags.setIpForward),
    logLevel: settings.optional(flags.logLevel) ?? (verbosity > 0 ? 'debug' : 'info'),
    ...(logFormat === undefined ? {} : { logFormat }),
    ...(healthz.port === 0 ? {} : { healthz }),
  };
}

function interfaceWish(settings: Settings): InterfaceWish {
  const ifaceCanReach = settings.optional(flags.ifaceCanReach);
  const publicIP = settings.optional(flags.publicIP);
  const publicIPv6 = settings.optional(flags.publicIPv6);
  return {
    ifaces: settings.list(flags.iface),
    ifaceRegexes: settings.list(flags.ifaceRegex),
    ...(ifaceCanReach === undefined ? {} : { ifaceCanReach }),
    ...(publicIP === undefined ? {} : { publicIP }),
    ...(publicIPv6 === undefined ? {} : { publicIPv6 }),
  };
}

function firewallOptions(settings: Settings): FirewallOptions {
  return {
    ipMasq: settings.value(flags.ipMasq),
    ipMasqFullyRandom: !settings.value(flags.ipMasqFullyRandomDisable),
    iptablesForwardRules: settings.value(flags.iptablesForwardRules),
    iptablesForwardPosition: settings.value(flags.iptablesForwardPosition),
    iptablesResyncMs: settings.value(flags.iptablesResync) * 1000,
  };
}

function healthOptions(settings: Settings): HealthzAddress {
  const port = settings.value(flags.healthzPort);
  if (port === 0) {
    const variable = environmentName(flags.healthzPort);
    throw new UsageError(
      'MISSING_VALUE',
      `health needs the daemon's port: --healthz-port=PORT or ${variable}`,
    );
  }
  return { ip: settings.value(flags.healthzIp), port };
}

/** A misspelt variable has no effect and no error: say so. */
function unknownVariables(env: Environment): readonly string[] {
  const known = flagTable.filter((flag) => !flag.noEnvironment).map(environmentName);
  return Object.keys(env)
    .filter((name) => name.startsWith('FLANNELD_') && env[name] !== '' && !known.includes(name))
    .toSorted()
    .map((name) => {
      const nearest = nearestName(name, known);
      return `ignored, because there is no such flag: the variable ${quote(name)}${nearest === undefined ? '' : `; did you mean ${nearest}?`}`;
    });
}
