import type { HealthAddress } from '../../cli/health.ts';
import type { Settings } from './command-line.ts';
import { quote, UsageError } from './errors.ts';
import { type EtcdAccess, etcdAccess } from './etcd-access.ts';
import { statusSocket } from './status-options.ts';
import { flags } from './table.ts';

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
  /** Absent: pretty on a terminal and in the journal, else json. */
  readonly logFormat?: LogFormat;
  /** Absent: switched off. */
  readonly healthz?: HealthAddress;
  /** Where `status` is answered; absent: nowhere. */
  readonly statusSocket?: string;
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

/** Reads the flags of a run and checks them against each other. Throws {@link UsageError}. */
export function runOptions(settings: Settings, warn: (message: string) => void): Options {
  const dockerOptsFile = settings.value(flags.dockerOptsFile);
  const subnetFile = settings.value(flags.subnetFile);
  if (subnetFile === dockerOptsFile)
    throw new UsageError(
      'BAD_VALUE',
      `--subnet-file and --docker-opts-file must be different files: ${quote(subnetFile)}`,
    );
  const socket = statusSocket(settings);
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
    ...(socket === undefined ? {} : { statusSocket: socket }),
  };
}

/** Reads the flags about interface and addresses. Throws {@link UsageError}. */
export function interfaceWish(settings: Settings): InterfaceWish {
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
