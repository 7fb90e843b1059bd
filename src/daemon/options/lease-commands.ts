import { canonicalAddress, type PerFamily, parseAddress, parseSubnet, type Subnet } from '../../ip/ip.ts';
import type { Command, CommandInput, ParsedCommand } from './commands.ts';
import {
  daemonsPlace,
  dryRun,
  etcdFlags,
  type Flag,
  flags,
  type InterfaceWish,
  interfaceFlags,
  switchFlag,
} from './flags.ts';
import { type EtcdAccess, etcdAccess, statusSocket, tellWhere, type Warn } from './options.ts';
import { flagName, InvalidValue, type Settings, UsageError } from './settings.ts';
import { choice } from './values.ts';

/** `lease release`: one lease, or that of a host; this one, where `host` names none by its public address. */
export interface LeaseReleaseOptions extends EtcdAccess {
  readonly lease: { readonly subnet: Subnet } | { readonly host: InterfaceWish };
  /** A reservation, too, and the lease of a daemon that runs; without a question. */
  readonly force: boolean;
  readonly dryRun: boolean;
  readonly json: boolean;
  /** The daemon of this host. */
  readonly subnetFile: string;
  readonly statusSocket?: string;
}

/** A lease by its subnet, or by its host's address. */
type Target = { readonly subnet: Subnet } | { readonly address: string };

/** The other verbs of `lease`, and `status --cluster`. */
export type LeaseOptions = EtcdAccess & { readonly json: boolean } & (
    | { readonly verb: 'free' }
    | { readonly verb: 'cluster'; readonly watch: boolean }
    | { readonly verb: 'list'; readonly watch: boolean; readonly sort: 'subnet' | 'host' | 'left' | 'age' }
    | { readonly verb: 'show'; readonly target: Target }
    | {
        readonly verb: 'reserve';
        readonly subnets: PerFamily<Subnet>;
        readonly addresses: PerFamily<string>;
        readonly dryRun: boolean;
      }
    | { readonly verb: 'unreserve'; readonly target: Target; readonly dryRun: boolean }
    | {
        readonly verb: 'prune';
        readonly olderThanSeconds: number;
        readonly yes: boolean;
        readonly force: boolean;
        /** The daemon of this host. */
        readonly subnetFile: string;
        readonly statusSocket?: string;
      }
  );

const { help } = flags;
const json = switchFlag('json', 'print one JSON document');

const releaseFlags = {
  force: switchFlag('force', 'release a reservation, too, and the lease of a host that lives; asks nothing'),
  dryRun,
  json,
  subnetFile: daemonsPlace.subnetFile,
} as const;

const listFlags = {
  sort: {
    name: 'sort',
    group: 'Options',
    placeholder: 'ORDER',
    describe: 'subnet, host, left (the one that ends first) or age (the oldest first)',
    fallback: 'subnet',
    parse: choice('subnet', 'host', 'left', 'age'),
    noEnvironment: true,
  },
  watch: switchFlag('watch', 'ask again every 2 seconds'),
  json,
} as const;

const pruneFlags = {
  olderThanSeconds: {
    name: 'older-than',
    group: 'Options',
    placeholder: 'TIME',
    describe: 'leave leases alone that were renewed later than this: 30m, 12h, 2d',
    fallback: '12h',
    parse: span,
    noEnvironment: true,
  },
  yes: switchFlag('yes', 'release them; without it the command only says which'),
  force: switchFlag('force', 'release them although no host at all answers ping or ARP here'),
  json,
  ...daemonsPlace,
} as const satisfies Readonly<Record<string, Flag<unknown>>>;

/** A time like `12h`, in seconds. */
function span(text: string): number {
  const [, count = '', unit = ''] = /^([1-9]\d{0,6})(s|m|h|d)$/.exec(text) ?? [];
  const seconds = { s: 1, m: 60, h: 3_600, d: 86_400 }[unit];
  if (seconds === undefined) throw new InvalidValue('must be a time like 30m, 12h or 2d');
  return Number(count) * seconds;
}

/** What a verb is asked for beside etcd. */
type Asked = LeaseOptions extends infer O
  ? O extends LeaseOptions
    ? Omit<O, keyof EtcdAccess>
    : never
  : never;

function lease({ settings, warn, warnings }: CommandInput, asked: Asked): ParsedCommand {
  tellWhere(settings, warn);
  return { command: 'lease', options: { ...etcdAccess(settings, warn), ...asked }, warnings };
}

/** The rows of `lease`. */
export const leaseCommands: readonly Command[] = [
  {
    words: ['lease', 'list'],
    describe:
      'Shows the leases of all hosts, and what is wrong with them: overlaps, addresses used twice, other backends, leases outside Network. Exits 1 when something is wrong.',
    flags: { ...listFlags, ...etcdFlags, help },
    asService: () => true,
    read: (input) => lease(input, { verb: 'list', ...input.settings.values(listFlags) }),
  },
  {
    words: ['lease', 'show'],
    operand: '<SUBNET|HOST>',
    describe:
      'Shows all about the lease of SUBNET, or of the host or container with the address HOST, and whether the host answers ping or ARP.',
    flags: { json, ...etcdFlags, help },
    asService: () => true,
    read: (input) =>
      lease(input, {
        verb: 'show',
        target: targetOf(input.operands[0]),
        ...input.settings.values({ json }),
      }),
  },
  {
    words: ['lease', 'reserve'],
    operand: '<SUBNET> <HOST>',
    describe:
      'Reserves SUBNET for the host with the address HOST: the host takes it at its next start, and never loses it. With IPv6: SUBNET,SUBNET HOST,HOST. Refuses what another host has, and what the host would not keep.',
    flags: { dryRun, json, ...etcdFlags, help },
    asService: () => true,
    read: (input) =>
      lease(input, { verb: 'reserve', ...reservation(input), ...input.settings.values({ dryRun, json }) }),
  },
  {
    words: ['lease', 'unreserve'],
    operand: '<SUBNET|HOST>',
    describe:
      'Turns the reservation of SUBNET or HOST into a lease of a day. A host that runs keeps and renews it; else it ends by itself.',
    flags: { dryRun, json, ...etcdFlags, help },
    asService: () => true,
    read: (input) =>
      lease(input, {
        verb: 'unreserve',
        target: targetOf(input.operands[0]),
        ...input.settings.values({ dryRun, json }),
      }),
  },
  {
    words: ['lease', 'release'],
    operand: '[SUBNET|HOST]',
    describe:
      'Gives back the lease of SUBNET, of HOST (an address; or --public-ip), or of this host. Refuses while that host lives, and asks before it releases when there is a terminal to ask at.',
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
    words: ['lease', 'prune'],
    describe:
      'Releases the leases of hosts that are gone: not renewed for --older-than, and no answer to ping, ARP or a question by etcd. Without --yes it only says which, and exits 1 when there are any. Never releases a reservation.',
    flags: { ...pruneFlags, ...etcdFlags, help },
    asService: () => true,
    read(input) {
      const { settings } = input;
      const { statusSocket: _, ...asked } = settings.values(pruneFlags);
      const socket = statusSocket(settings);
      return lease(input, { verb: 'prune', ...asked, ...(socket !== undefined && { statusSocket: socket }) });
    },
  },
  {
    words: ['lease', 'free'],
    describe:
      'Says how many subnets are left, the largest gap, and when the next lease ends. Exits 1 when none is left.',
    flags: { json, ...etcdFlags, help },
    asService: () => true,
    read: (input) => lease(input, { verb: 'free', ...input.settings.values({ json }) }),
  },
];

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
  const target = targetOf(operand);
  if ('subnet' in target) return { ...common, lease: target };
  const { address } = target;
  const wish = address.includes(':') ? { publicIPv6: address } : { publicIP: address };
  return { ...common, lease: { host: { ifaces: [], ifaceRegexes: [], ...wish } } };
}

/** `SUBNET|HOST`. */
function targetOf(text = ''): Target {
  const address = canonicalAddress(text);
  return address === undefined ? { subnet: subnetOf(text) } : { address };
}

/** `SUBNET HOST`, each with a second one of the other family behind a comma. */
function reservation({ operands: [first = '', second = ''] }: CommandInput) {
  const subnets = byFamily(first.split(',').map(subnetOf), ({ family }) => family);
  const addresses = byFamily(second.split(',').map(hostOf), (address) => parseAddress(address)?.family);
  const given = ({ ipv4, ipv6 }: PerFamily<unknown>) => [ipv4 !== undefined, ipv6 !== undefined].join();
  if (given(subnets) !== given(addresses))
    throw new UsageError(
      'BAD_VALUE',
      'SUBNET and HOST must be of the same families: SUBNET,SUBNET HOST,HOST for both',
    );
  return { subnets, addresses };
}

function byFamily<T>(values: readonly T[], familyOf: (value: T) => number | undefined): PerFamily<T> {
  const [ipv4, ...more4] = values.filter((value) => familyOf(value) === 4);
  const [ipv6, ...more6] = values.filter((value) => familyOf(value) === 6);
  if (more4.length > 0 || more6.length > 0)
    throw new UsageError('BAD_VALUE', 'SUBNET and HOST must each be one of a family');
  return { ...(ipv4 !== undefined && { ipv4 }), ...(ipv6 !== undefined && { ipv6 }) };
}

function hostOf(text: string): string {
  const address = canonicalAddress(text);
  if (address === undefined) throw new UsageError('BAD_VALUE', 'HOST must be an address like 10.0.0.1');
  return address;
}

export function subnetOf(text: string): Subnet {
  // As in the key, too: 10.5.1.0-24.
  const slashed = text.replace(/-(?=\d+$)/, '/');
  const subnet = parseSubnet(slashed);
  const address = canonicalAddress(slashed.split('/', 1)[0] ?? '');
  if (subnet === undefined) throw new UsageError('BAD_VALUE', 'SUBNET must be a subnet like 10.5.1.0/24');
  if (subnet.text.startsWith(`${address}/`)) return subnet;
  throw new UsageError('BAD_VALUE', `SUBNET has host bits; did you mean ${subnet.text}?`);
}
