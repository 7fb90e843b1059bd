import { addressFaults } from './faults-address.ts';
import { ownAddressFaults } from './faults-addresses.ts';
import { etcdFaults } from './faults-etcd.ts';
import { fileFaults } from './faults-files.ts';
import { firewallFaults } from './faults-firewall.ts';
import { forwardingFaults } from './faults-forwarding.ts';
import { hostFaults } from './faults-host.ts';
import { kernelFaults } from './faults-kernel.ts';
import { linkFaults } from './faults-links.ts';
import { networkFaults } from './faults-network.ts';
import { operatorFaults } from './faults-operator.ts';
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

/** Every kind by its name. */
export const faults: ReadonlyMap<string, Fault> = new Map(
  Object.entries({
    ...networkFaults,
    ...etcdFaults,
    ...hostFaults,
    ...linkFaults,
    ...kernelFaults,
    ...operatorFaults,
    ...firewallFaults,
    ...addressFaults,
    ...ownAddressFaults,
    ...fileFaults,
    ...forwardingFaults,
  }),
);
