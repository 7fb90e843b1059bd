import type { Route, RouteChange, RouteSpec } from '../../kernel/kernel.ts';
import type { Reason } from '../backend.ts';
import type { DesiredRoute } from './claims.ts';
import type { Owner, Ownership } from './ownership.ts';

/** Everything a plan depends on. Nothing in here is changed by planning. */
export interface PlanInput {
  /** The destinations to look at: those that may have changed, or all. */
  readonly dsts: Iterable<string>;
  readonly desired: { get(dst: string): DesiredRoute | undefined };
  /** Routes of the main table by destination, in the kernel's order: the first of a key is the one in use. */
  readonly actual: { get(dst: string): readonly Route[] | undefined };
  readonly ownership: Ownership;
  readonly own: OwnSubnet;
  readonly link: LinkState;
  /** Addresses of this host: as a gateway the kernel would accept one, and loop. */
  readonly ownAddresses: ReadonlySet<string>;
  /** Why no route may lead to a destination, whatever its lease says: it would cut this host off from something of its own. */
  readonly refusal: (dst: string) => Reason | undefined;
  /** Why no route may be put to (`put`) or removed from (`removal`) a destination just now; undefined when it may. */
  readonly held: Readonly<Record<'put' | 'removal', (dst: string) => Reason | undefined>>;
  /** Destinations this process has programmed: its routes there are its own wherever they lie. */
  readonly programmed: ReadonlySet<string>;
  /** Whether stale legacy routes go: only on the first full sync, when leases and kernel are both known completely. */
  readonly removeLegacy: boolean;
  /** Whether a foreign route at this destination may be replaced just now (three times a minute). */
  readonly mayReplaceForeign: (dst: string) => boolean;
}

/** This host's own subnet. */
export interface OwnSubnet {
  readonly dst: string;
  /** Whether what is sent to it is dropped while no bridge has it. */
  readonly blackhole: boolean;
}

/** Our interface: usable, or why not. */
export type LinkState =
  | { readonly index: number; readonly problem?: undefined }
  | { readonly index?: number; readonly problem: string };

export type PlannedChange = Exclude<RouteChange, { readonly op: 'prepend' }> & {
  /** The route whose place a replacement takes, if a removal can name it and nothing else. */
  readonly seen?: RouteSpec;
  readonly cause: 'missing' | 'wrong' | 'adopt' | 'foreign' | 'stale' | 'stale-legacy' | 'shadowed';
};

export interface Plan {
  /** In the order to be sent. */
  readonly changes: readonly PlannedChange[];
  /** Desired destinations that are exactly as wanted. */
  readonly installed: readonly string[];
  /** Those whose route is there as wanted, and takes no packets: they are in conflict. */
  readonly shadowed: readonly string[];
  /** Desired destinations that cannot be programmed now, and why. */
  readonly parked: ReadonlyMap<string, Reason>;
  /** Desired destinations where a route lies that we may not touch. */
  readonly conflicts: ReadonlyMap<string, Reason>;
  /** A stale route of flanneld's stays for now, because its removal is put off. */
  readonly legacyHeld: boolean;
}

/** What to do for one destination, and the state it is in; none while its route is being put there. */
export type Verdict = { readonly changes: readonly PlannedChange[] } & (
  | { readonly state?: 'installed' }
  | {
      readonly state: 'parked' | 'conflict';
      readonly reason: Reason;
      /** In conflict although the route is there as wanted: another one takes its packets. */
      readonly shadowed?: true;
    }
);

/** A reason that an operator can only mend on this host. */
export function ownFault(text: string): Reason {
  return { text, fault: 'own' };
}

/** A route of a desired destination. */
export interface Held {
  readonly route: Route;
  readonly owner: Owner;
}
