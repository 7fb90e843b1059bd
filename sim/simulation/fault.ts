import type { SimHost } from '../host.ts';
import type { FaultEvent } from './scenario.ts';
import type { World } from './world.ts';

/** One kind of thing that goes wrong. */
export interface Fault {
  /** How often, beside the others. */
  readonly weight: number;
  /** Shortest and longest time until it is over. */
  readonly lastsMs: readonly [number, number];
  /** Whom it disturbs: the host of the event, or all. */
  readonly whom: 'host' | 'all';
  /** Whether it plays with the host's kernel. */
  readonly kernel?: true;
  /** Put right only after a first look at the healed cluster: it must do with it. */
  readonly lingers?: true;
  /** In every eighth cluster alone. */
  readonly apart?: true;
  /** Makes it happen; returns what puts it right again. */
  readonly apply: (world: World, event: FaultEvent) => Promise<Undo> | Undo;
}

/** Faults by their names. */
export type Faults = Readonly<Record<string, Fault>>;

// Nothing, of what is over at once.
type Undo = (() => void | Promise<void>) | undefined | void;

type LastsMs = Fault['lastsMs'];
type HostApply = (host: SimHost, world: World, event: FaultEvent) => Promise<Undo> | Undo;

/** Of what is over at once. */
export const atOnce: LastsMs = [1, 2];

/** What happens to the host of the event. */
export function onHost(weight: number, lastsMs: LastsMs, apply: HostApply): Fault {
  const toHost: Fault['apply'] = (world, event) => apply(world.host(event.host), world, event);
  return { weight, lastsMs, whom: 'host', apply: toHost };
}

/** What happens to the kernel of the host of the event. */
export function onKernel(weight: number, lastsMs: LastsMs, apply: HostApply): Fault {
  return { ...onHost(weight, lastsMs, apply), kernel: true };
}

/** What disturbs all hosts. */
export function onAll(weight: number, lastsMs: LastsMs, apply: Fault['apply']): Fault {
  return { weight, lastsMs, whom: 'all', apply };
}

/** What disturbs all hosts and plays with the kernel of one. */
export function onAllAndKernel(weight: number, lastsMs: LastsMs, apply: Fault['apply']): Fault {
  return { ...onAll(weight, lastsMs, apply), kernel: true };
}

/** Has these happen in every eighth cluster alone. */
export function apart(faults: Faults): Faults {
  return Object.fromEntries(Object.entries(faults).map(([name, one]) => [name, { ...one, apart: true }]));
}
