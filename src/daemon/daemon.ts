import { AddressGuard } from '../arp/address-guard.ts';
import { SharedKernel } from '../kernel/shared-kernel.ts';
import { Activity } from '../runtime/activity.ts';
import { plural } from '../runtime/texts.ts';
import { firstOf, unlessAborted, untilAborted, Wake } from '../runtime/wake.ts';
import { waitForConfig } from '../subnet/config/source.ts';
import { ConfigWatch } from '../subnet/config/watch.ts';
import { Grants } from '../subnet/lease/grants.ts';
import { chooseInterface } from './interface/choose-interface.ts';
import { readHostNetwork } from './interface/host-network.ts';
import { Membership } from './membership.ts';
import type { DaemonOptions } from './options/flags.ts';
import type { DaemonParts, Parts } from './parts.ts';
import { State } from './state.ts';

/** How often the status line is updated, beside updates after events. */
const statusIntervalMs = 5_000;
/** Two status lines are at least so far apart, also when troubles alternate. */
const statusPauseMs = 250;
const statusLoop = 'status-line';
/** Nothing is waited for there but time. */
const stuckMs = 60_000;

/**
 * One host's daemon, from the first look at etcd to the signal that ends it. Constructing does nothing; `run` works.
 *
 * Each step of the boot waits until it has what it needs. Once the daemon is up, no trouble ends it: when etcd is gone, a route is
 * refused or the lease is lost, the host is not ready and the daemon keeps trying.
 */
export class Daemon {
  readonly #parts: Parts;
  readonly #options: DaemonOptions;
  /** What there is to tell of this daemon. */
  readonly state: State;
  #said = '';
  readonly #changed = new Wake();
  /** The steps of the boot, and when each began (monotonic ms); undefined once they have been told. */
  #steps: { readonly phase: string; readonly atMs: number }[] | undefined = [];

  constructor(parts: DaemonParts, options: DaemonOptions) {
    const kernel = new SharedKernel(parts.kernel, parts.clock);
    this.#parts = { ...parts, kernel, activity: new Activity(parts.clock) };
    this.#options = options;
    this.state = new State(this.#parts);
  }

  /**
   * Works until `signal` aborts, then resolves; routes, lease and files stay. Whether the process has the rights that this takes
   * is for the caller to find out before.
   */
  async run(signal: AbortSignal): Promise<void> {
    const { notifier, log } = this.#parts;
    // Said at once: what the work under way still needs to come to an end is part of the stop.
    const onAbort = () => {
      notifier.stopping();
      log.info({ event: 'stopping' }, 'stopping as asked; routes, lease and files stay');
    };
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
    const guard = new AddressGuard(this.#parts);
    try {
      await firstOf(signal, (inner) => [
        guard.run(inner),
        this.#work(guard, inner),
        this.#tellStatus(inner),
        watchLoops(this.#parts, inner),
      ]);
    } catch (error) {
      if (!signal.aborted) throw error;
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  async #work(guard: AddressGuard, signal: AbortSignal): Promise<never> {
    const { etcdPrefix } = this.#options;
    const { registry, random, hostIdentity } = this.#parts;
    const grants = new Grants(registry, random, hostIdentity);
    for (;;) {
      this.#enter('waiting for etcd and the network configuration');
      const config = await firstOf(signal, (inner) => [
        waitForConfig({ ...this.#parts, etcdPrefix }, inner),
        this.#guardEarly(guard, inner),
      ]);
      const membership = new Membership({
        parts: this.#parts,
        options: this.#options,
        config,
        grants,
        guard,
        onPhase: (phase) => this.#enter(phase),
        onReady: () => this.#noteReady(),
      });
      const isApplied = () => membership.hasLease;
      const watch = new ConfigWatch({ ...this.#parts, etcdPrefix, config, isApplied });
      this.state.follow(membership);
      await firstOf<void>(signal, (inner) => [watch.run(inner), membership.run(inner)]);
      this.#parts.log.info(
        { event: 'begin-again' },
        'configuration or interface changed before a subnet was acquired; starting over',
      );
    }
  }

  /**
   * Has ARP probe the address that this host will most likely use, while etcd is asked: a host without a lease waits for ARP.
   * Rejects with `signal.reason`.
   */
  async #guardEarly(guard: AddressGuard, signal: AbortSignal): Promise<never> {
    const { files, kernel } = this.#parts;
    const wanted = { ...this.#options, families: [4] as const };
    const lacksFile = (text: string | undefined) => text === undefined;
    // A disk that hangs must not hold up the start.
    const read = unlessAborted(files.readText(this.#options.subnetFile), signal);
    const isNew = await read.then(lacksFile, () => false);
    // Why the kernel cannot be read is told by whoever needs the interface.
    const network = isNew ? await readHostNetwork(kernel, wanted, signal).catch(() => undefined) : undefined;
    const choice = network && chooseInterface(network, wanted);
    signal.throwIfAborted();
    if (choice !== undefined && 'chosen' in choice) guard.follow(choice.chosen);
    return await untilAborted(signal);
  }

  #noteReady(): void {
    this.state.noteReady();
    this.#parts.notifier.ready();
    this.#sayStatus();
    this.#logSteps();
  }

  /** Where the time of the start went. The clock of a process begins with it. */
  #logSteps(): void {
    const begun = this.#steps;
    if (begun === undefined) return;
    this.#steps = undefined;
    const { clock, log } = this.#parts;
    const nowMs = clock.monotonic();
    const steps = begun.map(({ phase, atMs }, i) => ({
      phase,
      ms: Math.round((begun[i + 1]?.atMs ?? nowMs) - atMs),
    }));
    const beforeMs = Math.round(begun[0]?.atMs ?? nowMs);
    const text = [
      `before the first step ${beforeMs} ms`,
      ...steps.map(({ phase, ms }) => `${phase} ${ms} ms`),
    ];
    log.debug(
      { event: 'start-steps', beforeMs, steps },
      `the start took ${Math.round(nowMs)} ms: ${text.join('; ')}`,
    );
  }

  /** Keeps the line true that `systemctl status` shows: troubles at once, the count of routes after a few seconds. */
  async #tellStatus(signal: AbortSignal): Promise<never> {
    const { activity, clock, trouble, notices } = this.#parts;
    for (const log of [trouble, notices]) log.onChange = () => this.#changed.wake();
    for (;;) {
      activity.round(statusLoop, statusIntervalMs + stuckMs);
      await this.#changed.waitAtMost(clock, statusIntervalMs, signal);
      this.state.logFaults();
      this.#sayStatus();
      await clock.sleep(statusPauseMs, signal);
    }
  }

  #enter(phase: string): void {
    this.state.enter(phase);
    this.#steps?.push({ phase, atMs: this.#parts.clock.monotonic() });
    this.#sayStatus();
  }

  #sayStatus(): void {
    const status = this.state.statusLine();
    if (status !== this.#said) this.#parts.notifier.status(status);
    this.#said = status;
  }
}

/** How often the loops are looked at when no service manager asks. */
const intervalMs = 30_000;

/**
 * Tells the service manager twice per watchdog interval that all loops run, and nothing once one is stuck. The service manager then
 * restarts the process, which costs no packet. Works until `signal` aborts, then rejects with its reason.
 */
export async function watchLoops(
  { activity, clock, notifier, trouble }: Pick<Parts, 'activity' | 'clock' | 'notifier' | 'trouble'>,
  signal: AbortSignal,
): Promise<never> {
  const everyMs = notifier.watchdogMs === undefined ? intervalMs : notifier.watchdogMs / 2;
  for (;;) {
    const startedMs = clock.monotonic();
    await clock.sleep(everyMs, signal);
    // The process was stopped for a while, and the loops with it. Give them another round: this look says nothing about them.
    const wasLate = clock.monotonic() - startedMs > 2 * everyMs;
    const { stuck } = activity;
    if (notifier.watchdogMs !== undefined && (wasLate || stuck.length === 0)) notifier.alive();
    if (wasLate) continue;
    if (stuck.length === 0) trouble.clear('stuck', 'all loops of the daemon run again');
    else {
      const what = `${stuck.join(' and ')} ${plural(stuck.length, 'hangs', 'hang')}`;
      const remedy = 'Restart the daemon: systemctl restart flanneld';
      const text = `${plural(stuck.length, 'a loop', 'loops')} of the daemon: ${what}. ${remedy}`;
      trouble.report('stuck', text, { loops: stuck });
    }
  }
}
