import { hostname } from 'node:os';
import process from 'node:process';
import { Bridge } from '../migrate/bridge.ts';
import { BridgeState } from '../migrate/bridge-state.ts';
import { Activity } from '../runtime/activity.ts';
import type { Logger } from '../runtime/effects.ts';
import { TroubleLog } from '../runtime/trouble.ts';
import { subnetsPrefix } from '../subnet/keys.ts';
import { stuckWithEtcdMs } from '../subnet/registry/registry.ts';
import { rotate } from '../subnet/registry/rotation.ts';
import { watchLoops } from './daemon.ts';
import { EtcdCalls, etcdMembers, tellFitness, urlsOf, v2Store } from './etcd-members.ts';
import { systemClock, systemRandom } from './host/clock.ts';
import { systemdNotifier } from './host/notifier.ts';
import type { FollowOptions } from './options/migrate.ts';
import { metricsPage, runHealthServer } from './report/health.ts';

/** How often faults are looked for, and the time left until something is said. */
const lookIntervalMs = 5_000;

interface FollowParts {
  readonly log: Logger;
  /** Shows a line that says where things stand. */
  readonly show: (text: string) => void;
}

/** `migrate --follow`: the bridge between both stores as a process, until `signal` aborts; then it resolves. */
export async function followStores(
  { from, to, healthz }: FollowOptions,
  { log, show }: FollowParts,
  signal: AbortSignal,
): Promise<void> {
  const clock = systemClock;
  const trouble = new TroubleLog(clock, log);
  const notices = new TroubleLog(clock, log);
  const activity = new Activity(clock);
  const notifier = systemdNotifier(process.env, log);
  const calls = new EtcdCalls();
  const { members, security } = etcdMembers(to, log, notices, (call) => calls.add(call));
  const registry = rotate(members, {
    leasesPrefix: subnetsPrefix(to.etcdPrefix),
    clock,
    random: systemRandom,
    ...(members.length > 1 && { onFitness: tellFitness(notices) }),
  });
  const old = v2Store(from, log, notices);
  let isReady = false;
  const bridge = new Bridge({
    from: { store: old.store, prefix: from.etcdPrefix, endpoints: urlsOf(from) },
    to: { registry, prefix: to.etcdPrefix },
    owner: `${hostname()}, process ${process.pid}`,
    clock,
    random: systemRandom,
    log,
    trouble,
    onChange: () => {
      const { summary } = state;
      show(summary);
      notifier.status(summary);
      if (!isReady && bridge.view.inStep) {
        isReady = true;
        log.info({ event: 'bridge-in-step' }, `both stores are alike: ${summary}`);
        notifier.ready();
      }
    },
    onRound: () => activity.round('bridge', stuckWithEtcdMs),
  });
  const state = new BridgeState({ bridge, clock, log, trouble, notices });
  log.info(
    { event: 'bridge-started', from: urlsOf(from), to: urlsOf(to) },
    `following the v2 store at ${urlsOf(from)} under ${from.etcdPrefix} and the v3 store at ${urlsOf(to)} under ${to.etcdPrefix}`,
  );
  const lookAtFaults = async (): Promise<never> => {
    for (;;) {
      await clock.sleep(lookIntervalMs, signal);
      state.logFaults();
      show(state.summary);
    }
  };
  const metrics = metricsPage(() =>
    import('./report/bridge-metrics.ts').then(({ bridgeMetrics }) => bridgeMetrics(state, calls)),
  );
  const serving = healthz && { ...healthz, clock, log, notices, activity, metrics };
  const running = [
    bridge.run(signal),
    security.run(activity, signal),
    old.security.run(activity, signal),
    registry.run(clock, signal, activity),
    watchLoops({ activity, clock, notifier, trouble }, signal),
    lookAtFaults(),
    ...(serving ? [runHealthServer({ ...serving, readiness: () => state.snapshot() }, signal)] : []),
  ];
  try {
    await Promise.all(running);
  } catch (error) {
    if (!signal.aborted) throw error;
    notifier.stopping();
    await Promise.allSettled(running);
  } finally {
    registry.close();
  }
}
