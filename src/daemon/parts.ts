import type { Arp } from '../arp/arp.ts';
import type { Kernel } from '../kernel/kernel.ts';
import type { Activity } from '../runtime/activity.ts';
import type { Clock, Commands, Files, Logger, Notifier, Random } from '../runtime/effects.ts';
import type { TroubleLog } from '../runtime/trouble.ts';
import type { EtcdAddresses } from '../subnet/registry/addresses.ts';
import type { OldStore, Registry } from '../subnet/registry/registry.ts';

/** Everything the daemon touches outside itself. */
export interface DaemonParts {
  readonly clock: Clock;
  readonly random: Random;
  /** A number below 2^31 that no other host has, the same until this one is booted again. */
  readonly hostIdentity: number;
  readonly registry: Registry;
  readonly oldStore: OldStore;
  /** Where etcd is. */
  readonly etcdAddresses: EtcdAddresses;
  readonly kernel: Kernel;
  readonly arp: Arp;
  readonly files: Files;
  readonly notifier: Notifier;
  readonly commands: Commands;
  /** Begins to answer probes and the status command, at the first call; resolves when that was tried. */
  readonly serve: () => Promise<void>;
  readonly log: Logger;
  /** The troubles of the whole process, those of the parts too: this host is not ready while there is one. */
  readonly trouble: TroubleLog;
  /** What the operator should know although this host does its work; of the parts, too. */
  readonly notices: TroubleLog;
}

/** What the daemon's own parts work with: they also report their loops. */
export interface Parts extends DaemonParts {
  readonly activity: Activity;
}
