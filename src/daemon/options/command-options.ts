import { canonicalAddress, parseSubnet, type Subnet } from '../../ip/ip.ts';
import type { Settings } from './command-line.ts';
import { quote, UsageError } from './errors.ts';
import { type EtcdAccess, etcdAccess } from './etcd-access.ts';
import { type Flag, flagName } from './flag.ts';
import { etcdFlags } from './flags-etcd.ts';
import { interfaceFlags } from './flags-host.ts';
import { type InterfaceWish, interfaceWish } from './run-options.ts';
import { daemonsPlace, statusSocket } from './status-options.ts';
import { flags } from './table.ts';
import { boolean } from './values.ts';

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

const routesToo = {
  name: 'routes',
  group: 'Options',
  describe: 'remove the routes too',
  fallback: 'false',
  parse: boolean,
  boolean: true,
  noEnvironment: true,
} satisfies Flag<boolean>;

const forceCleanup = {
  name: 'force',
  group: 'Options',
  describe: 'remove them although a daemon runs, which puts its own back',
  fallback: 'false',
  parse: boolean,
  boolean: true,
  noEnvironment: true,
} satisfies Flag<boolean>;

/** Of every command that changes something. */
export const dryRun = {
  name: 'dry-run',
  group: 'Options',
  describe: 'say what would be done, and change nothing',
  fallback: 'false',
  parse: boolean,
  boolean: true,
  noEnvironment: true,
} satisfies Flag<boolean>;

/** The flags of `cleanup`. */
export const cleanupFlags: readonly Flag<unknown>[] = [
  routesToo,
  forceCleanup,
  dryRun,
  { ...flags.subnetFile, group: 'Options', describe: "the daemon's --subnet-file" },
  flags.routeProtocol,
  flags.help,
];

/** Reads them. Throws UsageError. */
export function cleanupOptions(settings: Settings): CleanupOptions {
  return {
    routes: settings.value(routesToo),
    routeProtocol: settings.value(flags.routeProtocol),
    subnetFile: settings.value(flags.subnetFile),
    force: settings.value(forceCleanup),
    dryRun: settings.value(dryRun),
  };
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

/** The word beside the flags. */
export interface Operand {
  readonly text: string;
  /** For a message: without what may be a password. */
  readonly shown: string;
}

const forceRelease = {
  name: 'force',
  group: 'Options',
  describe: 'release a reservation, too, and the lease of a daemon that runs; asks nothing',
  fallback: 'false',
  parse: boolean,
  boolean: true,
  noEnvironment: true,
} satisfies Flag<boolean>;

/** The flags of `lease release`. */
export const leaseReleaseFlags: readonly Flag<unknown>[] = [
  forceRelease,
  dryRun,
  ...daemonsPlace,
  ...Object.values(etcdFlags),
  ...Object.values(interfaceFlags),
  flags.help,
];

/** Reads them, and SUBNET if it is there. Throws {@link UsageError}. */
export function leaseReleaseOptions(
  settings: Settings,
  warn: (message: string) => void,
  operand: Operand | undefined,
): LeaseReleaseOptions {
  const socket = statusSocket(settings);
  const access = {
    ...etcdAccess(settings, warn),
    force: settings.value(forceRelease),
    dryRun: settings.value(dryRun),
    subnetFile: settings.value(flags.subnetFile),
    ...(socket === undefined ? {} : { statusSocket: socket }),
  };
  const host = interfaceWish(settings);
  if (operand === undefined) return { ...access, lease: { host } };
  // A variable names this host for its daemon; only a flag is meant for this command.
  const byAddress = [flags.publicIP, flags.publicIPv6].find(
    (flag) => settings.sourceOf(flag) === flagName(flag),
  );
  if (byAddress !== undefined) {
    throw new UsageError('SYNTAX', `lease release takes SUBNET or ${flagName(byAddress)}, not both`);
  }
  return { ...access, lease: { subnet: parseOperand(operand) } };
}

function parseOperand({ text, shown }: Operand): Subnet {
  // As in the key, too: 10.5.1.0-24.
  const slashed = text.replace(/-(?=\d+$)/, '/');
  const subnet = parseSubnet(slashed);
  const address = canonicalAddress(slashed.split('/', 1)[0] ?? '');
  if (subnet !== undefined && subnet.text.startsWith(`${address}/`)) return subnet;
  const mayBeNamed = shown === quote(text);
  throw new UsageError(
    'BAD_VALUE',
    subnet !== undefined && mayBeNamed
      ? `SUBNET is ${shown}: it has host bits; did you mean ${subnet.text}?`
      : `SUBNET is ${shown}: it must be a subnet like 10.5.1.0/24`,
  );
}
