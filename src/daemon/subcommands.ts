import process from 'node:process';
import { runCleanup } from '../cli/cleanup.ts';
import { runDoctor } from '../cli/doctor/doctor.ts';
import { runLeaseRelease } from '../cli/lease.ts';
import { fetchStatus, runStatus, type StatusCode } from '../cli/status.ts';
import { addressesOfThisHost, type ThisHost } from '../cli/this-host.ts';
import type { Family, PerFamily } from '../ip/ip.ts';
import type { Kernel, RouteFinder } from '../kernel/kernel.ts';
import { openNetlinkKernel } from '../kernel/netlink-kernel.ts';
import { TroubleLog } from '../runtime/trouble.ts';
import { rotate } from '../subnet/rotation.ts';
import { type EtcdMembers, etcdMembers } from './etcd-members.ts';
import { nodeFiles } from './files.ts';
import { chooseInterface, type HostInterface } from './interface/choose-interface.ts';
import { readHostNetwork } from './interface/host-network.ts';
import { createLogger } from './logger.ts';
import type { CleanupOptions } from './options/cleanup-options.ts';
import type { EtcdAccess } from './options/etcd-access.ts';
import type { LeaseReleaseOptions } from './options/lease-release-options.ts';
import type { InterfaceWish, Options } from './options/run-options.ts';
import type { StatusOptions } from './options/status-options.ts';
import { networksInSubnetEnv } from './subnet-env.ts';
import { systemClock } from './system-clock.ts';
import { systemCommands } from './system-commands.ts';

// The commands beside the daemon: each is given its parts, prints, and resolves to the exit code.

const say = (line: string) => process.stdout.write(`${line}\n`);
const complain = (line: string) => process.stderr.write(`${line}\n`);

/**
 * Whoever reads no further (`doctor | grep -q x`) ends nothing: what is under way is done, and the exit code says how it went. A text
 * that cannot be written for another reason, such as a full disk, ends the command.
 */
export function outliveReaders(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') return;
    complain(`flanneld-ts: the output cannot be written: ${error.message}`);
    process.exit(1);
  });
  process.stderr.on('error', () => {});
}

/** `cleanup`. */
export function cleanUp({ routes, routeProtocol }: CleanupOptions): Promise<0 | 1> {
  return withKernel((kernel) =>
    runCleanup({
      commands: systemCommands(),
      say,
      ...(routes ? { routes: { kernel, protocol: routeProtocol } } : {}),
    }),
  );
}

/** `status`. */
export function showStatus(options: StatusOptions): Promise<StatusCode> {
  const out = (text: string) => process.stdout.write(text);
  // What has no end of its own, `status --watch | head`, is over when its reader is.
  process.stdout.on('error', () => process.exit(0));
  const onTerminal = process.stdout.isTTY;
  const parts = { ...options, clock: systemClock, onTerminal, out, err: complain };
  return runStatus(parts, new AbortController().signal);
}

/** `lease release`. */
export async function releaseLease(
  options: LeaseReleaseOptions,
  warnings: readonly string[],
): Promise<0 | 1> {
  for (const warning of warnings) complain(warning);
  const { lease, etcdPrefix, force } = options;
  const { members, oldStore } = await connect(options);
  const registry = rotate(members);
  const { signal } = new AbortController();
  try {
    const target =
      'subnet' in lease ? lease : await hostTarget({ registry, oldStore, etcdPrefix }, lease.host, signal);
    if (typeof target === 'string') {
      complain(target);
      complain('A lease can be named, too: lease release SUBNET, or --public-ip=ADDRESS');
      return 1;
    }
    return await runLeaseRelease({ registry, etcdPrefix, force, target, out: say, err: complain }, signal);
  } finally {
    registry.close();
  }
}

/** By which addresses a host's lease is known: those given, else those its daemon would choose. */
async function hostTarget(
  etcd: Omit<ThisHost, 'chooseInterface'>,
  wish: InterfaceWish,
  signal: AbortSignal,
): Promise<{ readonly addresses: PerFamily<string> } | string> {
  const { publicIP: ipv4, publicIPv6: ipv6 } = wish;
  if (ipv4 !== undefined || ipv6 !== undefined) {
    return { addresses: { ...(ipv4 !== undefined && { ipv4 }), ...(ipv6 !== undefined && { ipv6 }) } };
  }
  const addresses = await withKernel((kernel) =>
    addressesOfThisHost(
      { ...etcd, chooseInterface: (families, inner) => choose(kernel, wish, families, inner) },
      signal,
    ),
  );
  return typeof addresses === 'string' ? addresses : { addresses };
}

/** `doctor`. */
export async function diagnose(options: Options, warnings: readonly string[]): Promise<0 | 1> {
  for (const warning of warnings) complain(warning);
  const { members, oldStore, notices, addresses } = await connect(options);
  const { statusSocket } = options;
  try {
    return await withKernel((kernel) =>
      runDoctor(
        {
          ...options,
          members,
          oldStore,
          notices,
          kernel,
          commands: systemCommands(),
          files: nodeFiles,
          askDaemon: async () =>
            statusSocket === undefined
              ? { silent: 'no daemon can be asked: --status-socket is empty' }
              : await fetchStatus(statusSocket),
          parseSubnetFile: networksInSubnetEnv,
          etcdAddresses: () => addresses.current,
          chooseInterface: (families, signal) => choose(kernel, options, families, signal),
          write: say,
        },
        new AbortController().signal,
      ),
    );
  } finally {
    for (const member of members) member.close();
  }
}

async function connect(options: EtcdAccess): Promise<EtcdMembers & { readonly notices: TroubleLog }> {
  const log = await createLogger({ level: 'error', format: 'pretty', colors: false });
  const notices = new TroubleLog(systemClock, log);
  return { ...etcdMembers(options, log, notices), notices };
}

async function withKernel<T>(use: (kernel: Kernel & RouteFinder) => Promise<T>): Promise<T> {
  const kernel = openNetlinkKernel({ clock: systemClock });
  try {
    return await use(kernel);
  } finally {
    kernel.close();
  }
}

async function choose(
  kernel: Kernel,
  wish: InterfaceWish,
  families: readonly Family[],
  signal: AbortSignal,
): Promise<HostInterface | string> {
  const wanted = { ...wish, families };
  const choice = chooseInterface(await readHostNetwork(kernel, wanted, signal), wanted);
  return 'chosen' in choice ? choice.chosen : choice.problem;
}
