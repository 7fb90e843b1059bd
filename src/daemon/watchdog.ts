import type { Activity } from '../runtime/activity.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Notifier } from '../runtime/notifier.ts';
import { plural } from '../runtime/plural.ts';
import type { TroubleLog } from '../runtime/trouble.ts';

export interface WatchedLoops {
  readonly activity: Activity;
  readonly clock: Clock;
  readonly notifier: Notifier;
  readonly trouble: TroubleLog;
}

/** How often the loops are looked at when no service manager asks. */
const intervalMs = 30_000;

/**
 * Tells the service manager twice within its time that the loops come round, and nothing once one does not: it then starts the process
 * anew, which costs no packet. Works until `signal` aborts, then rejects with its reason.
 */
export async function watchLoops(watched: WatchedLoops, signal: AbortSignal): Promise<never> {
  const { activity, clock, notifier, trouble } = watched;
  const everyMs = notifier.watchdogMs === undefined ? intervalMs : notifier.watchdogMs / 2;
  for (;;) {
    const startedMs = clock.monotonic();
    await clock.sleep(everyMs, signal);
    // The process was stopped for a while, and the loops with it: they deserve another round, and this look says nothing of them.
    const wasLate = clock.monotonic() - startedMs > 2 * everyMs;
    const { stuck } = activity;
    if (notifier.watchdogMs !== undefined && (wasLate || stuck.length === 0)) notifier.alive();
    if (wasLate) continue;
    if (stuck.length === 0) trouble.clear('stuck', 'all loops of the daemon come round again');
    else {
      const what = `${stuck.join(' and ')} ${plural(stuck.length, 'hangs', 'hang')}`;
      const remedy = 'Restart the daemon: systemctl restart flanneld';
      trouble.report(
        'stuck',
        `${plural(stuck.length, 'a loop', 'loops')} of the daemon: ${what}. ${remedy}`,
        {
          loops: stuck,
        },
      );
    }
  }
}
