import { type Endpoint, parseEndpoints } from './endpoints.ts';
import { InvalidValue } from './errors.ts';
import {
  anyText,
  boolean,
  choice,
  filePath,
  filePathOrNone,
  integer,
  listenAddress,
  portOrOff,
  shellVariable,
  verbosity,
} from './values.ts';

/** The headings of the help text, in its order. */
export const GROUPS = ['etcd', 'Interface and lease', 'Files', 'Routes', 'Health', 'Log', 'Help'] as const;

/** One flag: a row of the table from which parsing, environment names, the help text and README's table all follow. */
export interface Flag<T> {
  readonly name: string;
  readonly group: (typeof GROUPS)[number];
  /** What its value is, for the help text: `PATH`. A boolean has none. */
  readonly placeholder?: string;
  readonly describe: string;
  /** The default, written as a user would write it. */
  readonly fallback?: string;
  /** Throws InvalidValue. `warn` takes a line about a value that works but may not mean what was meant. */
  readonly parse: (text: string, warn: (message: string) => void) => T;
  readonly boolean?: true;
  /** Every occurrence counts, not the last alone. */
  readonly repeatable?: true;
  /** `--name=` counts as not given. */
  readonly emptyIsAbsent?: true;
  /** Names from sysconfig files, used when neither the flag nor FLANNELD_… is there; earlier ones first. */
  readonly sysconfig?: readonly string[];
  /** Asks for something else than a run, so there is no variable for it. */
  readonly noEnvironment?: true;
  /** The `health` subcommand takes it too. */
  readonly health?: true;
}

/** The variable that stands for a flag: `FLANNELD_`, upper case, dashes as underscores. */
export function environmentName(flag: Flag<unknown>): string {
  return `FLANNELD_${flag.name.toUpperCase().replaceAll('-', '_')}`;
}

/**
 * Protocol numbers that mark other programs' routes (the kernel's rtnetlink.h; 80 is Calico's): with one of those as our
 * mark we would take their routes for ours, and delete them.
 */
const takenProtocols: ReadonlyMap<number, string> = new Map([
  [8, 'gated'],
  [9, 'router advertisements'],
  [10, 'MRT'],
  [11, 'zebra'],
  [12, 'BIRD'],
  [13, 'DECnet'],
  [14, 'XORP'],
  [15, 'Netsukuku'],
  [16, 'DHCP clients'],
  [17, 'multicast daemons'],
  [18, 'keepalived'],
  [42, 'Babel'],
  [80, 'Calico'],
  [84, 'Open/R'],
  [99, 'OVN'],
  [186, 'BGP'],
  [187, 'IS-IS'],
  [188, 'OSPF'],
  [189, 'RIP'],
  [192, 'EIGRP'],
]);

function routeProtocol(text: string): number {
  const rule = '(0 to 4 mark the routes of the kernel, boot scripts and the administrator)';
  const number = integer(5, 255, ` ${rule}`)(text);
  const owner = takenProtocols.get(number);
  if (owner === undefined) return number;
  throw new InvalidValue(
    `must be a number that no other program uses, and ${number} marks the routes of ${owner}`,
  );
}

export const flags = {
  etcdEndpoints: {
    name: 'etcd-endpoints',
    group: 'etcd',
    placeholder: 'URL,…',
    describe: 'etcd members, each http://host:port, https://host:port or host:port',
    fallback: 'http://127.0.0.1:2379',
    parse: parseEndpoints,
    emptyIsAbsent: true,
    sysconfig: ['FLANNEL_ETCD_ENDPOINTS', 'FLANNEL_ETCD'],
  } satisfies Flag<readonly Endpoint[]>,
  etcdPrefix: {
    name: 'etcd-prefix',
    group: 'etcd',
    placeholder: 'KEY',
    describe: 'prefix of the keys in etcd: KEY/config and KEY/subnets/…',
    fallback: '/coreos.com/network',
    parse: anyText,
    emptyIsAbsent: true,
    sysconfig: ['FLANNEL_ETCD_PREFIX', 'FLANNEL_ETCD_KEY'],
  } satisfies Flag<string>,
  iface: {
    name: 'iface',
    group: 'Interface and lease',
    placeholder: 'NAME|IP',
    describe:
      'interface the other hosts reach this one at, by name or address; may be repeated, the first that fits is used (default: the interface of the default route)',
    parse: anyText,
    repeatable: true,
  } satisfies Flag<string>,
  renewMargin: {
    name: 'subnet-lease-renew-margin',
    group: 'Interface and lease',
    placeholder: 'MINUTES',
    describe: 'renew the lease at the latest this long before it ends, 1 to 1439',
    fallback: '60',
    parse: integer(1, 1439),
  } satisfies Flag<number>,
  subnetFile: {
    name: 'subnet-file',
    group: 'Files',
    placeholder: 'PATH',
    describe: 'file the network, the subnet and the MTU are written to',
    fallback: '/run/flannel/subnet.env',
    parse: filePath,
  } satisfies Flag<string>,
  dockerOptsFile: {
    name: 'docker-opts-file',
    group: 'Files',
    placeholder: 'PATH',
    describe: "file dockerd's options are written to; empty: none",
    fallback: '/run/docker_opts.env',
    parse: filePathOrNone,
  } satisfies Flag<string | undefined>,
  dockerOptsKey: {
    name: 'docker-opts-key',
    group: 'Files',
    placeholder: 'NAME',
    describe: 'variable in that file which holds the options',
    fallback: 'DOCKER_OPTS',
    parse: shellVariable,
  } satisfies Flag<string>,
  routeProtocol: {
    name: 'route-protocol',
    group: 'Routes',
    placeholder: 'NUMBER',
    describe: 'protocol number that marks our routes in the kernel, 5 to 255',
    fallback: '102',
    parse: routeProtocol,
  } satisfies Flag<number>,
  healthzIp: {
    name: 'healthz-ip',
    group: 'Health',
    placeholder: 'IP',
    describe: 'address /healthz and /readyz are served at',
    fallback: '0.0.0.0',
    parse: listenAddress,
    health: true,
  } satisfies Flag<string>,
  healthzPort: {
    name: 'healthz-port',
    group: 'Health',
    placeholder: 'PORT',
    describe: 'port they are served at; 0 switches them off',
    fallback: '0',
    parse: portOrOff,
    health: true,
  } satisfies Flag<number>,
  verbosity: {
    name: 'v',
    group: 'Log',
    placeholder: 'NUMBER',
    describe: 'verbosity; 1 and above is --log-level=debug',
    fallback: '0',
    parse: verbosity,
  } satisfies Flag<number>,
  logLevel: {
    name: 'log-level',
    group: 'Log',
    placeholder: 'LEVEL',
    describe: 'debug, info, warn or error; wins over -v (default: info)',
    parse: choice('debug', 'info', 'warn', 'error'),
  } satisfies Flag<'debug' | 'info' | 'warn' | 'error'>,
  logFormat: {
    name: 'log-format',
    group: 'Log',
    placeholder: 'FORMAT',
    describe: 'json or pretty (default: pretty on a terminal, else json)',
    parse: choice('json', 'pretty'),
  } satisfies Flag<'json' | 'pretty'>,
  help: {
    name: 'help',
    group: 'Help',
    describe: 'print this and exit; -h too',
    parse: boolean,
    boolean: true,
    noEnvironment: true,
    health: true,
  } satisfies Flag<boolean>,
  version: {
    name: 'version',
    group: 'Help',
    describe: 'print the version and exit',
    parse: boolean,
    boolean: true,
    noEnvironment: true,
  } satisfies Flag<boolean>,
} as const;

/** All rows, in the order of the help text. */
export const flagTable: readonly Flag<unknown>[] = Object.values(flags);
