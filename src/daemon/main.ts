import { fstatSync } from 'node:fs';
import process from 'node:process';
import { isatty } from 'node:tty';
import { setFlagsFromString, startupSnapshot } from 'node:v8';
import { linuxArp } from '../arp/linux-arp.ts';
import { runHealth } from '../cli/ask-daemon.ts';
import { StatusLine } from '../cli/status-line.ts';
import { openNetlinkKernel } from '../kernel/netlink-kernel.ts';
import { exitNow } from '../native/libc.ts';
import type { Logger } from '../runtime/effects.ts';
import { explanationOf, FlannelError, messageOf } from '../runtime/errors.ts';
import { TroubleLog } from '../runtime/trouble.ts';
import { subnetsPrefix } from '../subnet/keys.ts';
import type { RegistryError } from '../subnet/registry/registry.ts';
import { rotate } from '../subnet/registry/rotation.ts';
import { Daemon } from './daemon.ts';
import { EtcdCalls, etcdMembers, tellFitness } from './etcd-members.ts';
import { followStores } from './follow.ts';
import { systemClock, systemRandom } from './host/clock.ts';
import { systemCommands } from './host/commands.ts';
import { FileLock, holderText } from './host/file-lock.ts';
import { nodeFiles } from './host/files.ts';
import { createLogger, journalPrefix } from './host/logger.ts';
import { systemdNotifier } from './host/notifier.ts';
import { hostIdentity, inputSignals, nameDaemon } from './host/processes.ts';
import { CannotRunError, requireCapabilities } from './host-checks.ts';
import { parseOptions } from './options/command-line.ts';
import type { ParsedCommand } from './options/commands.ts';
import type { FollowOptions } from './options/migrate.ts';
import type { Options } from './options/options.ts';
import { readServiceSettings } from './options/service-settings.ts';
import { UsageError } from './options/settings.ts';
import { metricsPage, runHealthServer } from './report/health.ts';
import type { ServerOptions } from './report/http.ts';
import { runStatusServer } from './report/status-server.ts';
import {
  checkForMigration,
  cleanUp,
  diagnose,
  migrateNetwork,
  outliveReaders,
  outputWritten,
  releaseLease,
  showStatus,
  workOnConfig,
  workOnLeases,
} from './subcommands.ts';

/** A stop must end within 5 s, whatever hangs. The timer starts before the clean-up. */
const stopDeadlineMs = 4_500;

/** Left alone, SIGUSR1 opens Node's debugger to every user of the host, and SIGUSR2 ends the process; flanneld ignores both. */
const userSignals: readonly NodeJS.Signals[] = ['SIGUSR1', 'SIGUSR2'];

/** For an operator who sends SIGHUP to have a change applied. */
const whatIsRead =
  'flags and environment are read at the next start; changed certificate and password files are picked up without a signal';

const movesIntervalMs = 5 * 60_000;

/** Servers wait for the first routes, which they would hold up, and so long at most. */
const serveWithinMs = 1_000;

/** Ends the process as a whole: after a stop nothing may keep it alive, and a log line must not be lost. */
async function main(): Promise<number> {
  let parsed: ParsedCommand;
  try {
    parsed = await parseOptions({
      argv: process.argv.slice(2),
      env: process.env,
      service: () => readServiceSettings(nodeFiles),
    });
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    complain(error.message);
    return error.exitCode;
  }
  if (parsed.command === 'run') return await execute(parsed);
  outliveReaders();
  const exitCode = await execute(parsed);
  await outputWritten();
  return exitCode;
}

/** Resolves to the exit code. */
async function execute(parsed: ParsedCommand): Promise<number> {
  switch (parsed.command) {
    case 'print':
      process.stdout.write(`${parsed.text}\n`);
      return 0;
    case 'completion':
      await parsed.print();
      return 0;
    case 'health':
      return runHealth(parsed.options);
    case 'status':
      return showStatus(parsed.options);
    case 'cleanup':
      return cleanUp(parsed.options);
    case 'config':
      return workOnConfig(parsed.options, parsed.warnings);
    case 'lease':
      return workOnLeases(parsed.options, parsed.warnings);
    case 'lease-release':
      return releaseLease(parsed.options, parsed.warnings);
    case 'migrate':
      return migrateNetwork(parsed.options, parsed.warnings);
    case 'migrate-follow':
      return runFollow(parsed.options, parsed.warnings);
    case 'migrate-check':
      return checkForMigration(parsed.options);
    case 'doctor':
      return diagnose(parsed.options, parsed.warnings);
    case 'run':
      return runDaemon(parsed.options, parsed.warnings);
  }
}

function runDaemon(options: Options, warnings: readonly string[]): Promise<number> {
  nameDaemon();
  return runLogged(options, warnings, ({ log, signal }) => work(options, log, signal));
}

/** A terminal gets a line that says where things stand, below the log. */
function runFollow(options: FollowOptions, warnings: readonly string[]): Promise<number> {
  const terminal = new StatusLine(
    (text) => process.stderr.write(text),
    () => process.stderr.columns,
  );
  return runLogged(
    options,
    warnings,
    ({ log, signal, onTerminal }) => {
      const show = onTerminal ? (text: string) => terminal.show(text) : () => {};
      return followStores(options, { log, show }, signal).finally(() => onTerminal && terminal.end());
    },
    (line) => terminal.print(line),
  );
}

/** What runs until it is asked to stop. */
interface Running {
  readonly log: Logger;
  readonly signal: AbortSignal;
  readonly onTerminal: boolean;
}

/** Runs `run`, whose log is standard error, and resolves to the exit code; `print` takes the lines for a terminal. */
async function runLogged(
  { logLevel: level, logFormat }: Pick<Options, 'logLevel' | 'logFormat'>,
  warnings: readonly string[],
  run: (running: Running) => Promise<void>,
  print?: (line: string) => void,
): Promise<number> {
  // Asking process.stderr would open it as a stream, and make a pipe non-blocking under the logger.
  const onTerminal = isatty(2);
  const journal = goesToJournal();
  const format = logFormat ?? (onTerminal || journal ? 'pretty' : 'json');
  const write = onTerminal && print !== undefined ? { write: print } : {};
  const log = await createLogger({ level, format, colors: onTerminal, journal, ...write });
  const origin = fromSnapshot ? 'the start-up snapshot' : 'the bundle, without a start-up snapshot';
  log.debug(
    { event: 'started', fromSnapshot, node: process.version },
    `started from ${origin} by Node ${process.version}`,
  );
  for (const warning of warnings) log.warn({ event: 'options' }, warning);
  logCrashes(log);
  const signal = untilAskedToStop(log, onTerminal);
  try {
    await run({ log, signal, onTerminal });
    return 0;
  } catch (error) {
    const fields = error instanceof CannotRunError ? { code: error.code } : { error };
    log.error({ event: 'fatal', ...fields }, `fatal: ${explanationOf(error)}`);
    return 1;
  }
}

/** Says why the program ends where there is no log. Each line of a text of several is an error to the journal. */
function complain(text: string): void {
  const prefix = goesToJournal() ? journalPrefix('error') : '';
  process.stderr.write(`${prefix}flanneld-ts: ${text.replaceAll('\n', `\n${prefix}`)}\n`);
}

/** Whether standard error is the journal's: systemd says which file that is; after a redirection it is another one. */
function goesToJournal(): boolean {
  const { dev, ino } = fstatSync(2, { bigint: true });
  return process.env['JOURNAL_STREAM'] === `${dev}:${ino}`;
}

/** Until `signal` aborts. Rejects, before anything is touched, when this process or this host cannot do it. */
async function work(given: Options, log: Logger, signal: AbortSignal): Promise<void> {
  const kernel = openNetlinkKernel({ clock: systemClock });
  // A thread that waits for notifications would delay every end of the process.
  process.on('exit', () => kernel.close());
  await requireCapabilities(kernel);
  const trouble = new TroubleLog(systemClock, log);
  const notices = new TroubleLog(systemClock, log);
  const { options, locks } = await lockFiles(given, notices);
  const calls = new EtcdCalls();
  const { members, security, oldStore, addresses } = etcdMembers(options, log, notices, (call) =>
    calls.add(call),
  );
  const registry = rotate(members, {
    leasesPrefix: subnetsPrefix(options.etcdPrefix),
    clock: systemClock,
    random: systemRandom,
    onMove: tellMoves(log),
    // What the only endpoint fails with is no notice.
    ...(members.length > 1 && { onFitness: tellFitness(notices) }),
  });
  let servers: Servers | undefined;
  const serve = async () => {
    servers ??= openServers(options, daemon, calls, { clock: systemClock, log, notices }, signal);
    await servers.tried;
  };
  const parts = {
    clock: systemClock,
    random: systemRandom,
    hostIdentity: hostIdentity(options.etcdPrefix),
    files: nodeFiles,
    registry,
    oldStore,
    etcdAddresses: addresses,
    kernel,
    arp: linuxArp(inputSignals()),
    notifier: systemdNotifier(process.env, log),
    commands: systemCommands(),
    serve,
    log,
    trouble,
    notices,
  };
  const daemon = new Daemon(parts, options);
  const { activity } = daemon.state;
  // They end with the signal and not before.
  for (const running of [
    security.run(activity, signal),
    registry.run(systemClock, signal, activity),
    ...locks.map((lock) => lock.keep({ clock: systemClock, trouble, activity }, signal)),
    systemClock.sleep(serveWithinMs, signal).then(serve),
  ])
    running.catch((error: unknown) => {
      if (!signal.aborted) throw error;
    });
  try {
    await daemon.run(signal);
  } finally {
    registry.close();
    // They end with the same signal; after a fatal error the process ends without them.
    if (signal.aborted) await servers?.ended;
  }
}

interface Servers {
  /** Resolves when each listens, or has said why it cannot. */
  readonly tried: Promise<unknown>;
  readonly ended: Promise<unknown>;
}

function openServers(
  { healthz, statusSocket: path }: Options,
  daemon: Daemon,
  calls: EtcdCalls,
  given: ServerOptions,
  signal: AbortSignal,
): Servers {
  const { state } = daemon;
  const readiness = () => state.readiness();
  const snapshot = () => state.snapshot();
  const metrics = metricsPage(() =>
    import('./report/metrics.ts').then(({ daemonMetrics }) => daemonMetrics(state, calls)),
  );
  const ended: Promise<void>[] = [];
  const tried: Promise<void>[] = [];
  const open = (run: (served: ServerOptions) => Promise<void>) =>
    tried.push(new Promise((onTried) => ended.push(run({ ...given, activity: state.activity, onTried }))));
  if (healthz) open((served) => runHealthServer({ ...healthz, ...served, readiness, metrics }, signal));
  if (path !== undefined) open((served) => runStatusServer({ path, ...served, snapshot }, signal));
  return { tried: Promise.all(tried), ended: Promise.all(ended) };
}

/**
 * Takes the files of this daemon for itself, as long as the process lives. Rejects with {@link CannotRunError} when another daemon
 * has the subnet file. Docker's options alone are no reason to leave a host without routes: the second daemon does not write them.
 */
async function lockFiles(
  options: Options,
  notices: TroubleLog,
): Promise<{ readonly options: Options; readonly locks: readonly FileLock[] }> {
  const { dockerOptsFile, ...others } = options;
  const { subnetFile } = options;
  const subnetLock = new FileLock(subnetFile);
  const holder = await subnetLock.take();
  if (holder !== undefined) {
    const text = `a daemon (${holderText(holder)}) already runs with ${subnetFile}`;
    const remedy =
      'Stop that one first (systemctl stop flanneld), or, for a second network, give this one files of its own: --subnet-file=PATH --docker-opts-file=PATH';
    throw new CannotRunError('ALREADY_RUNNING', text, { remedy });
  }
  if (dockerOptsFile === undefined) return { options, locks: [subnetLock] };
  const dockerLock = new FileLock(dockerOptsFile);
  const other = await dockerLock.take();
  if (other === undefined) return { options, locks: [subnetLock, dockerLock] };
  notices.report(
    'docker-opts-shared',
    `another daemon (${holderText(other)}) writes ${dockerOptsFile}: this one does not. ` +
      'Give it a file of its own, --docker-opts-file=PATH, or none, --docker-opts-file=',
  );
  return { options: others, locks: [subnetLock] };
}

/** An uncaught bug: logs one line with its stack instead of loose lines, then exits. */
function logCrashes(log: Logger): void {
  const onCrash = (error: unknown) => {
    log.error({ event: 'crash', error }, `ended by a bug: ${messageOf(error)}. Please report it.`);
    exitNow(1);
  };
  process.on('uncaughtException', onCrash);
  process.on('unhandledRejection', onCrash);
}

/** Logs, every five minutes at most, that calls move to another member: one bad member of three shows nowhere else. */
function tellMoves(log: Logger): (from: string, to: string, reason: RegistryError) => void {
  let saidAtMs = Number.NEGATIVE_INFINITY;
  return (from, to, reason) => {
    if (systemClock.monotonic() - saidAtMs < movesIntervalMs) return;
    saidAtMs = systemClock.monotonic();
    log.info({ event: 'etcd-moved', from, to }, `asking etcd at ${to} instead: ${reason.message}`);
  };
}

/**
 * Aborts at SIGTERM or SIGINT; a second signal, or a clean-up that hangs, ends the process at once. At SIGHUP only when the log
 * goes to a terminal, which is gone then: Node undoes what nohup asks for, and others send it to have a configuration read.
 */
function untilAskedToStop(log: Logger, onTerminal: boolean): AbortSignal {
  const controller = new AbortController();
  const onSignal = (name: NodeJS.Signals) => {
    if (controller.signal.aborted) exitNow(0);
    setTimeout(() => {
      log.warn(
        { event: 'stop-deadline' },
        `the stop took longer than ${stopDeadlineMs} ms and was cut short`,
      );
      exitNow(0);
    }, stopDeadlineMs).unref();
    controller.abort(new Error(`stopped by ${name}`));
  };
  process.on('SIGTERM', onSignal);
  process.on('SIGINT', onSignal);
  if (onTerminal) process.on('SIGHUP', onSignal);
  ignoreSignals(log, onTerminal ? userSignals : [...userSignals, 'SIGHUP']);
  return controller.signal;
}

/** Logs each of them: the sender expects something to happen. */
function ignoreSignals(log: Logger, names: readonly NodeJS.Signals[]): void {
  const onSignal = (signal: NodeJS.Signals) =>
    log.info(
      { event: 'signal-ignored', signal },
      `${signal} is ignored${signal === 'SIGHUP' ? `: ${whatIsRead}` : ''}`,
    );
  for (const name of names) process.on(name, onSignal);
}

/**
 * Threads of Node's pool: the stream of kernel events holds one as long as it lives, and names of etcd's members that no server
 * resolves hold one each for many seconds; files and dumps need the rest. Read by Node when the first of them starts.
 */
const poolThreads = '8';

/** The program, when all of it is loaded. */
function start(): void {
  process.env['UV_THREADPOOL_SIZE'] ??= poolThreads;
  // Garbage is most of a daemon's weight after its start. The room for new objects does not grow with their number (7 MiB with
  // 1,000 peers), and that for old ones grows by 30 % between collections, not up to four times (30 MiB with 10,000 peers, for 3 % of
  // the processor time of a start).
  setFlagsFromString('--semi-space-growth-factor=1');
  setFlagsFromString('--heap-growing-percent=30');
  main().then(
    (exitCode) => process.exit(exitCode),
    (error: unknown) => {
      const bug = error instanceof Error ? (error.stack ?? error.message) : String(error);
      complain(error instanceof FlannelError ? explanationOf(error) : bug);
      process.exit(1);
    },
  );
}

let fromSnapshot = false;
// All up to here is in the start-up snapshot (script/build.ts); this is where a process that is made from it begins.
if (startupSnapshot.isBuildingSnapshot())
  startupSnapshot.setDeserializeMainFunction(() => {
    fromSnapshot = true;
    start();
  });
else start();
