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

type Undo = (() => void | Promise<void>) | undefined;

type When = Omit<Fault, 'whom' | 'apply'>;

/** What happens to the host of the event. */
export function onHost(
  when: When,
  apply: (host: SimHost, world: World, event: FaultEvent) => Promise<Undo> | Undo,
): Fault {
  return { ...when, whom: 'host', apply: (world, event) => apply(world.host(event.host), world, event) };
}

/** What disturbs all hosts. */
export function onAll(when: When, apply: Fault['apply']): Fault {
  return { ...when, whom: 'all', apply };
}
