import { once } from 'node:events';
import { networkInterfaces } from 'node:os';
import process from 'node:process';
import { createInterface } from 'node:readline/promises';
import { linuxArp } from '../arp/linux-arp.ts';
import { fetchStatus } from '../cli/ask-daemon.ts';
import { runCleanup } from '../cli/cleanup.ts';
import { runDoctor } from '../cli/doctor/doctor.ts';
import type { DaemonAnswer } from '../cli/doctor/finding.ts';
import { type Answer, askHost } from '../cli/lease/alive.ts';
import { addressesOfThisHost, type LeaseReleaseParts, runLeaseRelease, type ThisHost } from '../cli/lease.ts';
import { runMigrate } from '../cli/migrate.ts';
import { runMigrateCheck } from '../cli/migrate-check/check.ts';
import { runRepair } from '../cli/migrate-repair.ts';
import type { ExitCode } from '../cli/output.ts';
import { runStatus, type StatusCode } from '../cli/status.ts';
import type { Family, PerFamily } from '../ip/ip.ts';
import type { Kernel, RouteFinder } from '../kernel/kernel.ts';
import { openNetlinkKernel } from '../kernel/netlink-kernel.ts';
import type { Logger } from '../runtime/effects.ts';
import { explanationOf } from '../runtime/errors.ts';
import { escapeControls } from '../runtime/texts.ts';
import { TroubleLog } from '../runtime/trouble.ts';
import { subnetsPrefix } from '../subnet/keys.ts';
import { holderText } from '../subnet/lease/lease.ts';
import { type KeyValue, RegistryError } from '../subnet/registry/registry.ts';
import { rotate } from '../subnet/registry/rotation.ts';
import { type EtcdMembers, etcdMembers, urlsOf, v2Store } from './etcd-members.ts';
import { findFlanneld } from './flanneld/find.ts';
import { etcdFlagsOf, judgeFlags } from './flanneld/flags.ts';
import { systemClock, systemRandom } from './host/clock.ts';
import { systemCommands } from './host/commands.ts';
import { daemonOf, daemonsBeside, holderText as lockHolderText } from './host/file-lock.ts';
import { listFolder, nodeFiles } from './host/files.ts';
import { createLogger } from './host/logger.ts';
import { daemonsOfThisNetwork, findContainer, flannelds, inputSignals } from './host/processes.ts';
import { chooseInterface, type HostInterface } from './interface/choose-interface.ts';
import { readHostNetwork } from './interface/host-network.ts';
import type { OperatorTools } from './operator.ts';
import type { CleanupOptions, StatusOptions } from './options/commands.ts';
import type { ConfigOptions } from './options/config-commands.ts';
import type { InterfaceWish } from './options/flags.ts';
import type { LeaseOptions, LeaseReleaseOptions } from './options/lease-commands.ts';
import type { MigrateCheckOptions, MigrateOptions } from './options/migrate.ts';
import type { EtcdAccess, Options } from './options/options.ts';
import { UsageError } from './options/settings.ts';
import { networksInSubnetEnv } from './subnet-env.ts';

// The commands beside the daemon: each is given its parts, prints, and resolves to the exit code.

const say = (line: string) => process.stdout.write(`${line}\n`);
const complain = (line: string) => process.stderr.write(`${line}\n`);

/**
 * A reader that stops (`doctor | grep -q x`) ends nothing: the command finishes, and its exit code says how it went. Output that
 * cannot be written for another reason, such as a full disk, ends the command.
 */
export function outliveReaders(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') return;
    complain(`flanneld-ts: the output cannot be written: ${error.message}`);
    process.exit(1);
  });
  process.stderr.on('error', () => {});
}

/**
 * Resolves when all that was printed is with its reader, or the reader is gone. A pipe takes 64 KiB; what is behind that waits in this
 * process, and would be lost with it.
 */
export async function outputWritten(): Promise<void> {
  const written = (stream: NodeJS.WriteStream) =>
    new Promise<void>((resolve) => void stream.write('', () => resolve()));
  await Promise.all([process.stdout, process.stderr].map(written));
}

/** `cleanup`. */
export async function cleanUp(options: CleanupOptions): Promise<0 | 1> {
  const { routes, routeProtocol, subnetFile, force, dryRun } = options;
  // A lock tells of one whose process this one may not see, the process of one whose files lie elsewhere.
  const [running] = [...daemonsBeside(subnetFile), ...(await daemonsOfThisNetwork())];
  if (running !== undefined && !force) {
    const text = `a daemon (${lockHolderText(running)}) runs on this host`;
    if (!dryRun) {
      complain(
        `${text}; nothing was removed. Stop it first (systemctl stop flanneld), or remove all the same: --force`,
      );
      return 1;
    }
    complain(`${text}: stop it first`);
  }
  const parts = { commands: systemCommands(), say, dryRun };
  if (!routes) return await runCleanup(parts);
  return await withKernel((kernel) => runCleanup({ ...parts, routes: { kernel, protocol: routeProtocol } }));
}

/** `status`. */
export function showStatus(options: StatusOptions): Promise<StatusCode> {
  const out = (text: string) => process.stdout.write(text);
  // `status --watch | head` ends when its reader does.
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
  const { json } = options;
  if (!json) return await release(options, { out: say, err: complain });
  const [messages, errors]: [string[], string[]] = [[], []];
  const print = {
    out: (line: string) => void messages.push(line),
    err: (line: string) => void errors.push(line),
  };
  const code = await release(options, print);
  const released = code === 0 && !options.dryRun;
  say(escapeControls(JSON.stringify({ released, dryRun: options.dryRun, messages, errors })));
  return code;
}

/** As {@link releaseLease}, with the lines for `print`. */
async function release(
  options: LeaseReleaseOptions,
  print: Pick<LeaseReleaseParts, 'out' | 'err'>,
): Promise<0 | 1> {
  const { lease, etcdPrefix, json } = options;
  const { members, oldStore } = await connect(options);
  const registry = rotate(members, { leasesPrefix: subnetsPrefix(etcdPrefix), clock: systemClock });
  const { signal } = new AbortController();
  const onTerminal = process.stdin.isTTY && process.stderr.isTTY;
  try {
    const target =
      'subnet' in lease ? lease : await hostTarget({ registry, oldStore, etcdPrefix }, lease.host, signal);
    if (typeof target === 'string') {
      print.err(target);
      return 1;
    }
    const heldHere = await heldByThisHost(options);
    const parts = { ...options, registry, target, heldHere, clock: systemClock, random: systemRandom };
    const asking = { askHost: askOtherHost, ...(onTerminal && !json ? { confirm } : {}) };
    return await runLeaseRelease({ ...parts, ...print, ...asking }, signal);
  } catch (error) {
    if (!(error instanceof RegistryError)) throw error;
    print.err(explanationOf(error));
    return 1;
  } finally {
    registry.close();
  }
}

/** This host answers itself, whether a daemon runs or not: that one is asked by its lock. */
async function askOtherHost(address: string, signal: AbortSignal): Promise<Answer | undefined> {
  return addressesHere().includes(address) ? undefined : await askHost(systemCommands(), address, signal);
}

function addressesHere(): readonly string[] {
  return Object.values(networkInterfaces()).flatMap((list = []) => list.map(({ address }) => address));
}

/** `lease`, but for `release`, and `status --cluster`. Loaded now, too. */
export async function workOnLeases(options: LeaseOptions, warnings: readonly string[]): Promise<ExitCode> {
  const { runLease } = await import('./operator.ts');
  return await runLease(options, warnings, operatorTools);
}

/** `config`. Its code is loaded now: no daemon needs it. */
export async function workOnConfig(options: ConfigOptions, warnings: readonly string[]): Promise<ExitCode> {
  const { runConfig } = await import('./operator.ts');
  return await runConfig(options, warnings, operatorTools);
}

const operatorTools: OperatorTools = {
  say,
  complain,
  confirm,
  askHost: askOtherHost,
  heldByThisHost,
  async connect(access) {
    const { members, oldStore } = await connect(access);
    const leasesPrefix = subnetsPrefix(access.etcdPrefix);
    return { registry: rotate(members, { leasesPrefix, clock: systemClock }), oldStore };
  },
};

async function confirm(question: string): Promise<boolean> {
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  // Ctrl-D and Ctrl-C reject, and the end of a terminal that is gone closes.
  const ended = once(terminal, 'close').then(() => '');
  const answered = terminal.question(`${question} [y/N] `).catch(() => '');
  const answer = await Promise.race([answered, ended]);
  terminal.close();
  return /^y(es)?$/i.test(answer.trim());
}

/**
 * Tells the keys that a daemon of this host holds. It is asked itself; where it does not answer, a lock on its subnet file and an
 * address of this host say as much.
 */
async function heldByThisHost({
  subnetFile,
  statusSocket,
}: Pick<LeaseReleaseOptions, 'subnetFile' | 'statusSocket'>): Promise<(kv: KeyValue) => string | undefined> {
  const holder = daemonOf(subnetFile);
  if (holder === undefined) return () => undefined;
  const answer = statusSocket === undefined ? undefined : await fetchStatus(statusSocket, 'lease release');
  return ({ key, value }) => {
    const held =
      answer !== undefined && 'view' in answer
        ? answer.view.lease?.key === key
        : addressesHere().includes(holderText(value));
    return held ? `the daemon of this host (${lockHolderText(holder)}) holds ${key}` : undefined;
  };
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

/** `migrate`. */
export async function migrateNetwork(
  { dryRun, repair, ...access }: MigrateOptions,
  warnings: readonly string[],
): Promise<0 | 1> {
  for (const warning of warnings) complain(warning);
  const { sides, urls, close } = await openSides(access);
  const parts = { ...sides, toEndpoints: urls, dryRun, clock: systemClock, out: say, err: complain };
  const { signal } = new AbortController();
  try {
    return await (repair === undefined
      ? runMigrate(parts, signal)
      : runRepair({ ...parts, named: repair.named }, signal));
  } finally {
    close();
  }
}

/** `migrate --check`. */
export async function checkForMigration({ etcdBeside }: MigrateCheckOptions): Promise<0 | 1> {
  const host = await findFlanneld({ files: nodeFiles, list: listFolder, flannelds });
  const addresses = Object.values(networkInterfaces()).flatMap((list = []) =>
    list.map(({ address }) => address),
  );
  const line = host.line ?? { argv: [], env: {} };
  const common = {
    host,
    flags: judgeFlags(line, addresses),
    own: networksInSubnetEnv(host.subnetFile.text ?? '')?.subnets.ipv4,
    out: say,
  };
  const { signal } = new AbortController();
  let access: ReturnType<typeof etcdBeside>;
  try {
    const { given, env } = etcdFlagsOf(line);
    access = etcdBeside(given, env);
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    return await runMigrateCheck({ ...common, sides: error.message }, signal);
  }
  const { sides, close } = await openSides(access);
  try {
    return await runMigrateCheck({ ...common, sides }, signal);
  } finally {
    close();
  }
}

/** Both stores; `urls`: of the v3 store, for messages. */
async function openSides({ from, to }: Pick<MigrateOptions, 'from' | 'to'>) {
  const { members, log, notices } = await connect(to);
  const registry = rotate(members, { leasesPrefix: subnetsPrefix(to.etcdPrefix), clock: systemClock });
  const sides = {
    from: { store: v2Store(from, log, notices).store, prefix: from.etcdPrefix, endpoints: urlsOf(from) },
    to: { registry, prefix: to.etcdPrefix },
  };
  return { sides, urls: urlsOf(to), close: () => registry.close() };
}

/** `doctor`. */
export async function diagnose(options: Options, warnings: readonly string[]): Promise<0 | 1> {
  for (const warning of warnings) complain(warning);
  const { members, oldStore, log, notices, alarms, addresses } = await connect(options);
  // The user is v3's: v2 has users of its own.
  const { etcdUser: _user, ...anybody } = options;
  try {
    return await withKernel((kernel) =>
      runDoctor(
        {
          ...options,
          members,
          oldStore,
          v2: v2Store(anybody, log, notices).store,
          notices,
          alarms,
          kernel,
          arp: linuxArp(inputSignals()),
          clock: systemClock,
          commands: systemCommands(),
          files: nodeFiles,
          findContainer,
          askDaemon: () => askDaemon(options),
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

/** One that does not answer is known by its lock. */
async function askDaemon({ statusSocket, subnetFile }: Options): Promise<DaemonAnswer> {
  const answer =
    statusSocket === undefined
      ? { silent: 'no daemon can be asked: --status-socket is empty' }
      : await fetchStatus(statusSocket, 'doctor');
  const holder = 'silent' in answer ? daemonOf(subnetFile) : undefined;
  return holder === undefined ? answer : { ...answer, holder: lockHolderText(holder) };
}

async function connect(
  options: EtcdAccess,
): Promise<EtcdMembers & { readonly log: Logger; readonly notices: TroubleLog }> {
  const log = await createLogger({ level: 'error', format: 'pretty', colors: false });
  const notices = new TroubleLog(systemClock, log);
  return { ...etcdMembers(options, log, notices), log, notices };
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
