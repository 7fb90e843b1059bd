import type { Kernel, KernelEvent, KernelEvents } from '../../kernel/kernel.ts';
import type { Activity } from '../../runtime/activity.ts';
import type { Clock } from '../../runtime/clock.ts';
import { messageOf } from '../../runtime/errors.ts';
import type { TroubleLog } from '../../runtime/trouble.ts';
import { firstOf } from '../../runtime/wake.ts';

export interface FollowHostOptions<T> {
  readonly kernel: Kernel;
  readonly clock: Clock;
  readonly trouble: TroubleLog;
  /** Told of each round of the loop. */
  readonly activity?: Activity;
  /** Looking takes dumps, and events come in bursts: at least so long from one look to the next. */
  readonly spacingMs: number;
  /** Whether to look again because of this event. */
  matters(event: KernelEvent): boolean;
  /** Looks at the kernel. Ends the following with `done`, or asks for the next look `againMs` from now at the latest. */
  look(signal: AbortSignal): Promise<Look<T>>;
}

export type Look<T> = { readonly done: T } | { readonly againMs?: number };

/** Looked again this often even when the kernel says nothing. */
const lookAgainMs = 10_000;
const loop = 'interface';
/** Longer than any answer of the kernel is waited for. */
const stuckMs = 120_000;

/**
 * Looks at the kernel's links, addresses and routes at once, after events that matter, and now and then. A kernel that
 * cannot be read is told and tried again. Rejects only with `signal.reason`.
 */
export async function followHost<T>(options: FollowHostOptions<T>, signal: AbortSignal): Promise<T> {
  const { activity, kernel, clock, trouble } = options;
  for (;;) {
    activity?.round(loop, stuckMs);
    try {
      const events = await kernel.subscribe();
      try {
        return await follow(options, events, signal);
      } finally {
        events.close();
      }
    } catch (error) {
      signal.throwIfAborted();
      const text = `the interfaces of this host cannot be read: ${messageOf(error)}`;
      trouble.report('interfaces', text, { error });
    }
    await clock.sleep(lookAgainMs, signal);
  }
}

async function follow<T>(
  options: FollowHostOptions<T>,
  events: KernelEvents,
  signal: AbortSignal,
): Promise<T> {
  const { activity, clock, trouble, spacingMs } = options;
  const change = async (inner: AbortSignal) => {
    while (!(await events.next(inner)).some((event) => options.matters(event)));
  };
  for (;;) {
    activity?.round(loop, stuckMs);
    const result = await options.look(signal);
    trouble.clear('interfaces', 'the interfaces of this host can be read again');
    if ('done' in result) return result.done;
    const againMs = Math.min(result.againMs ?? lookAgainMs, lookAgainMs);
    await firstOf(signal, (inner) => [change(inner), clock.sleep(againMs, inner)]);
    await clock.sleep(spacingMs, signal);
  }
}
