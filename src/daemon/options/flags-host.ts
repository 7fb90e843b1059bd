import type { Flag } from './flag.ts';
import {
  addressOrNone,
  anyText,
  filePath,
  filePathOrNone,
  goRegexp,
  integer,
  shellVariable,
} from './values.ts';

/** Where this host is reached at. */
export const interfaceFlags = {
  iface: {
    name: 'iface',
    group: 'Interface and address',
    placeholder: 'NAME|IP',
    describe:
      'interface the other hosts reach this one at, by name or address; may be repeated, the first that fits is used (default: the interface of the default route)',
    parse: anyText,
    repeatable: true,
  } satisfies Flag<string>,
  ifaceRegex: {
    name: 'iface-regex',
    group: 'Interface and address',
    placeholder: 'REGEX',
    describe: 'the same by a regular expression on addresses and names, asked after --iface; may be repeated',
    parse: goRegexp,
    repeatable: true,
  } satisfies Flag<string>,
  ifaceCanReach: {
    name: 'iface-can-reach',
    group: 'Interface and address',
    placeholder: 'IP',
    describe: 'the interface the kernel routes to this address by, asked last',
    parse: addressOrNone(),
  } satisfies Flag<string | undefined>,
  publicIP: {
    name: 'public-ip',
    group: 'Interface and address',
    placeholder: 'IP',
    describe: 'IPv4 address the other hosts reach this one at; has to be on the interface',
    parse: addressOrNone(4),
  } satisfies Flag<string | undefined>,
  publicIPv6: {
    name: 'public-ipv6',
    group: 'Interface and address',
    placeholder: 'IP',
    describe: 'the same for IPv6',
    parse: addressOrNone(6),
  } satisfies Flag<string | undefined>,
} as const;

/** The lease, and the files that tell of it. */
export const leaseFlags = {
  leaseTtl: {
    name: 'subnet-lease-ttl',
    group: 'Lease',
    placeholder: 'SECONDS',
    describe: 'how long a host that is off keeps its subnet, 30 to 31536000 seconds',
    fallback: '86400',
    // Below, one slow answer of etcd could cost the subnet; above, a year, nothing is gained over a reservation.
    parse: integer(30, 31_536_000),
  } satisfies Flag<number>,
  renewMargin: {
    name: 'subnet-lease-renew-margin',
    group: 'Lease',
    placeholder: 'MINUTES',
    describe: 'renew the lease at the latest this long before it ends, 1 to 1439; at most a third of its TTL',
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
} as const;
