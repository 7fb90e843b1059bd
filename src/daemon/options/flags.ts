import { parseEndpoints } from './endpoints.ts';
import { environmentName, flagName, type Setting, type Values } from './settings.ts';
import {
  addressOrNone,
  anyText,
  boolean,
  choice,
  filePath,
  filePathOrNone,
  goRegexp,
  integer,
  listenAddress,
  minutes,
  not,
  portOrOff,
  routeProtocol,
  seconds,
  shellVariable,
  textOrNone,
  verbosity,
} from './values.ts';

/** The headings of the help text, in its order. */
export const GROUPS = [
  'Options',
  'etcd',
  'Interface and address',
  'Lease',
  'Files',
  'Routes',
  'Firewall',
  'Health',
  'Log',
  'Help',
] as const;

/** A row of the table from which parsing, types, environment names, help, completion and README's table follow. */
export interface Flag<T> extends Setting<T> {
  readonly group: (typeof GROUPS)[number];
  /** What its value is, for README's table: `PATH`. None for a boolean that is switched on by its name alone. */
  readonly placeholder?: string;
  readonly describe: string;
}

type Table = Readonly<Record<string, Flag<unknown>>>;

/** A row for something that a command does or does not do, and that no variable asks for. */
export function switchFlag<const N extends string>(name: N, describe: string) {
  const row = { name, describe, group: 'Options', fallback: 'false', parse: boolean } as const;
  return { ...row, boolean: true, noEnvironment: true } as const;
}

// What several rows have in common.
const etcdFile = { group: 'etcd', placeholder: 'PATH', parse: filePathOrNone } as const;
const toggle = { fallback: 'false', parse: boolean, boolean: true } as const;
const askedAlone = { group: 'Help', parse: boolean, boolean: true, noEnvironment: true } as const;

/** How etcd is reached, and where in it the network is; read by `etcdAccess`. */
export const etcdFlags = {
  etcdEndpoints: {
    name: 'etcd-endpoints',
    group: 'etcd',
    placeholder: 'URL,…',
    describe:
      'etcd members: http://host:port, https://host:port or host:port (TLS when a certificate is given); the first one decides for all whether TLS is used',
    fallback: 'http://127.0.0.1:2379',
    parse: parseEndpoints,
    emptyIsAbsent: true,
    sysconfig: ['FLANNEL_ETCD_ENDPOINTS', 'FLANNEL_ETCD'],
  },
  etcdPrefix: {
    name: 'etcd-prefix',
    group: 'etcd',
    placeholder: 'KEY',
    describe: 'prefix of the keys in etcd: KEY/config and KEY/subnets/…',
    fallback: '/coreos.com/network',
    parse: anyText,
    emptyIsAbsent: true,
    sysconfig: ['FLANNEL_ETCD_PREFIX', 'FLANNEL_ETCD_KEY'],
  },
  etcdCaFile: {
    ...etcdFile,
    name: 'etcd-cafile',
    describe: 'certificate of the authority that signed those of etcd',
  },
  etcdCertFile: {
    ...etcdFile,
    name: 'etcd-certfile',
    describe: 'certificate to show to etcd; goes with --etcd-keyfile',
  },
  etcdKeyFile: { ...etcdFile, name: 'etcd-keyfile', describe: 'its private key' },
  etcdUsername: {
    name: 'etcd-username',
    group: 'etcd',
    placeholder: 'NAME',
    describe: 'user of etcd; needs a password',
    parse: textOrNone,
  },
  etcdPassword: {
    name: 'etcd-password',
    group: 'etcd',
    placeholder: 'PASSWORD',
    describe: 'its password; seen in the process list when given as a flag',
    parse: textOrNone,
  },
  etcdPasswordFile: {
    ...etcdFile,
    name: 'etcd-password-file',
    describe: 'file that holds the password, alone on its first line',
  },
} as const satisfies Table;

type Renamed = 'name' | 'group' | 'describe' | 'fallback' | 'sysconfig';

/** {@link etcdFlags}, or the same under other names for another etcd. */
export type EtcdTable = {
  readonly [K in keyof typeof etcdFlags]: Omit<(typeof etcdFlags)[K], Renamed> &
    Pick<Flag<unknown>, Exclude<Renamed, 'fallback'>> &
    ((typeof etcdFlags)[K] extends { readonly fallback: string } ? { readonly fallback: string } : object);
};

/** Where this host is reached at. */
export const interfaceFlags = {
  ifaces: {
    name: 'iface',
    group: 'Interface and address',
    placeholder: 'NAME|IP',
    describe:
      'interface the other hosts reach this one at, by name or address; may be repeated, the first that fits is used (default: the interface of the default route)',
    parse: anyText,
    repeatable: true,
  },
  ifaceRegexes: {
    name: 'iface-regex',
    group: 'Interface and address',
    placeholder: 'REGEX',
    describe: 'the same by a regular expression on addresses and names, asked after --iface; may be repeated',
    parse: goRegexp,
    repeatable: true,
  },
  ifaceCanReach: {
    name: 'iface-can-reach',
    group: 'Interface and address',
    placeholder: 'IP',
    describe: 'the interface the kernel routes to this address by, asked last',
    parse: addressOrNone(),
  },
  publicIP: {
    name: 'public-ip',
    group: 'Interface and address',
    placeholder: 'IP',
    describe: 'IPv4 address the other hosts reach this one at; has to be on the interface',
    parse: addressOrNone(4),
  },
  publicIPv6: {
    name: 'public-ipv6',
    group: 'Interface and address',
    placeholder: 'IP',
    describe: 'the same for IPv6',
    parse: addressOrNone(6),
  },
} as const satisfies Table;

/** What the daemon does; it is handed these values as they are, by the names they have here. */
export const workFlags = {
  subnetLeaseTtlSeconds: {
    name: 'subnet-lease-ttl',
    group: 'Lease',
    placeholder: 'SECONDS',
    describe: 'how long a host that is off keeps its subnet, 30 to 31536000 seconds',
    fallback: '86400',
    // Below, one slow answer of etcd could cost the subnet; above, a year, nothing is gained over a reservation.
    parse: integer(30, 31_536_000),
  },
  renewMarginMs: {
    name: 'subnet-lease-renew-margin',
    group: 'Lease',
    placeholder: 'MINUTES',
    describe:
      'renew the lease at the latest this many minutes before it ends, 1 to 1439; at most a third of its TTL',
    fallback: '60',
    parse: minutes(1, 1439),
  },
  subnetFile: {
    name: 'subnet-file',
    group: 'Files',
    placeholder: 'PATH',
    describe: 'file the network, the subnet and the MTU are written to',
    fallback: '/run/flannel/subnet.env',
    parse: filePath,
  },
  dockerOptsFile: {
    name: 'docker-opts-file',
    group: 'Files',
    placeholder: 'PATH',
    describe: "file dockerd's options are written to; empty: none",
    fallback: '/run/docker_opts.env',
    parse: filePathOrNone,
  },
  dockerOptsKey: {
    name: 'docker-opts-key',
    group: 'Files',
    placeholder: 'NAME',
    describe: 'variable in that file which holds the options',
    fallback: 'DOCKER_OPTS',
    parse: shellVariable,
  },
  routeProtocol: {
    name: 'route-protocol',
    group: 'Routes',
    placeholder: 'NUMBER',
    describe: 'protocol number that marks our routes in the kernel, 5 to 255',
    fallback: '102',
    parse: routeProtocol,
  },
  ipBlackholeRoute: {
    ...toggle,
    name: 'ip-blackhole-route',
    group: 'Routes',
    describe:
      'drop packets to the own subnet while no bridge has it, instead of sending them to the default route',
  },
  setIpForward: {
    ...toggle,
    name: 'set-ip-forward',
    group: 'Routes',
    describe: 'switch forwarding on in the kernel, whenever it is off',
  },
  ipMasq: {
    ...toggle,
    name: 'ip-masq',
    group: 'Firewall',
    describe: "masquerade what leaves the containers' network",
  },
  ipMasqFullyRandom: {
    name: 'ip-masq-fully-random-disable',
    group: 'Firewall',
    describe: 'masquerade without fully random ports',
    fallback: 'false',
    parse: not,
    boolean: true,
  },
  iptablesForwardRules: {
    name: 'iptables-forward-rules',
    group: 'Firewall',
    placeholder: 'BOOL',
    describe: 'let what is forwarded from and to the network pass',
    fallback: 'true',
    parse: boolean,
    boolean: true,
  },
  iptablesForwardPosition: {
    name: 'iptables-forward-position',
    group: 'Firewall',
    placeholder: 'WHERE',
    describe: 'where in FORWARD: first, last, or auto: last, but before a final REJECT or DROP',
    fallback: 'auto',
    parse: choice('auto', 'first', 'last'),
  },
  iptablesResyncMs: {
    name: 'iptables-resync',
    group: 'Firewall',
    placeholder: 'SECONDS',
    describe: 'seconds between two checks of the rules, at least 1',
    fallback: '5',
    parse: seconds,
  },
} as const satisfies Table;

/** The process itself: health, log, help. */
export const processFlags = {
  healthzIp: {
    name: 'healthz-ip',
    group: 'Health',
    placeholder: 'IP',
    describe: 'address /healthz, /readyz and /metrics are served at',
    fallback: '0.0.0.0',
    parse: listenAddress,
  },
  healthzPort: {
    name: 'healthz-port',
    group: 'Health',
    placeholder: 'PORT',
    describe: 'port they are served at; 0 switches them off',
    fallback: '0',
    parse: portOrOff,
  },
  statusSocket: {
    name: 'status-socket',
    group: 'Health',
    placeholder: 'PATH',
    describe:
      'unix socket at which status is answered; empty: none (default: beside --subnet-file, .sock for .env)',
    parse: filePathOrNone,
  },
  verbosity: {
    name: 'v',
    group: 'Log',
    placeholder: 'NUMBER',
    describe: 'verbosity; 1 and above is --log-level=debug',
    fallback: '0',
    parse: verbosity,
  },
  logLevel: {
    name: 'log-level',
    group: 'Log',
    placeholder: 'LEVEL',
    describe: 'debug, info, warn or error; wins over -v (default: info)',
    parse: choice('debug', 'info', 'warn', 'error'),
  },
  logFormat: {
    name: 'log-format',
    group: 'Log',
    placeholder: 'FORMAT',
    describe:
      "json or pretty (default: pretty on a terminal and in systemd's journal, else json); the journal gets priorities",
    parse: choice('json', 'pretty'),
  },
  help: { ...askedAlone, name: 'help', describe: 'print this and exit; -h too' },
  version: { ...askedAlone, name: 'version', describe: 'print the version and exit' },
} as const satisfies Table;

/** Every flag of the daemon by the name it has in the code, in the order of the help text. */
export const flags = { ...etcdFlags, ...interfaceFlags, ...workFlags, ...processFlags } as const;

/** All rows. */
export const flagTable: readonly Flag<unknown>[] = Object.values(flags);

/**
 * Which interface and addresses of this host the others are to use. `ifaces` are names or addresses in order of preference, as given,
 * `ifaceRegexes` patterns in Go's syntax, asked after them; '' stands for the default route's interface. Addresses are canonical.
 */
export type InterfaceWish = Values<typeof interfaceFlags>;

/** What the daemon itself needs to know; the other options choose its parts. */
export type DaemonOptions = InterfaceWish & Values<typeof workFlags> & { readonly etcdPrefix: string };

/** Of commands that change something. */
export const dryRun = switchFlag('dry-run', 'say what would be done, and change nothing');

/** By which a command finds the daemon of this host. */
export const daemonsPlace = {
  statusSocket: {
    ...flags.statusSocket,
    group: 'Options',
    describe: 'socket of the daemon (default: beside --subnet-file, .sock for .env)',
  },
  subnetFile: { ...flags.subnetFile, group: 'Options', describe: "the daemon's --subnet-file" },
} as const;

/** The flags as a Markdown table, for README. */
export function flagsMarkdown(): string {
  const rows = flagTable.map((flag) => {
    const variables = flag.noEnvironment ? [] : [environmentName(flag), ...(flag.sysconfig ?? [])];
    const cells = [
      `\`${flagName(flag)}${flag.placeholder === undefined ? '' : `=${flag.placeholder}`}\``,
      flag.fallback === undefined ? '' : `\`${flag.fallback}\``,
      flag.describe,
      variables.map((name) => `\`${name}\``).join(', '),
    ];
    return `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
  });
  return ['| flag | default | | environment |', '|---|---|---|---|', ...rows, ''].join('\n');
}
