import type { Clock, Logger } from '../runtime/effects.ts';
import { counted } from '../runtime/texts.ts';
import { type Fault, FaultLog, type TroubleLog } from '../runtime/trouble.ts';
import type { Bridge, BridgeView } from './bridge.ts';
import { configRemedies, conflictRemedy } from './remedies.ts';

export interface BridgeStateParts {
  readonly bridge: Pick<Bridge, 'view'>;
  readonly clock: Clock;
  readonly log: Logger;
  readonly trouble: TroubleLog;
  readonly notices: TroubleLog;
}

/** A bridge at one moment, for probes and metrics. */
export interface BridgeSnapshot extends BridgeView {
  readonly ready: boolean;
  /** Why not; one line each. */
  readonly reasons: readonly string[];
  /** What an operator has to decide; the bridge goes on with all the rest. */
  readonly degraded: readonly string[];
  readonly notices: readonly string[];
}

/** More would hide the rest. */
const mostNamed = 20;

/** The one state of a bridge that probes, metrics, systemd and the terminal read; it keeps no copy. */
export class BridgeState {
  readonly #parts: BridgeStateParts;
  readonly #conflicts: FaultLog;
  readonly #remarks: FaultLog;

  constructor(parts: BridgeStateParts) {
    this.#parts = parts;
    this.#conflicts = new FaultLog(parts.clock, parts.log);
    this.#remarks = new FaultLog(parts.clock, parts.log);
  }

  snapshot(): BridgeSnapshot {
    const { bridge, trouble, notices } = this.#parts;
    const { view } = bridge;
    const reasons = [...trouble.current];
    if (reasons.length === 0 && !view.inStep) reasons.push(stepOf(view));
    return {
      ...view,
      ready: reasons.length === 0,
      reasons,
      degraded: first(conflictsOf(view)),
      notices: [...notices.current, ...first(remarksOf(view))],
    };
  }

  /** Logs what an operator should look at when it begins and when it ends. Call it every few seconds. */
  logFaults(): void {
    const { view } = this.#parts.bridge;
    // Out of step nothing is known of both stores: it is neither new nor over.
    if (!view.inStep) return;
    this.#conflicts.look(conflictsOf(view));
    this.#remarks.look(remarksOf(view));
  }

  /** One line. */
  get summary(): string {
    const { view } = this.#parts.bridge;
    const { onV2, onV3, conflicts, waitsFor } = view;
    if (waitsFor !== undefined) return stepOf(view);
    const hosts = `${counted(onV2, 'host')} on v2, ${onV3} on v3, ${counted(conflicts.length, 'conflict')}`;
    const [reason] = this.snapshot().reasons;
    return reason === undefined ? hosts : `${hosts}; ${reason}`;
  }
}

function stepOf({ waitsFor }: BridgeView): string {
  if (waitsFor !== undefined) return `another bridge (${waitsFor}) is at work; waiting until it ends`;
  return 'comparing both stores';
}

function conflictsOf({ conflicts, config }: BridgeView): readonly Fault[] {
  const faults = conflicts.map(({ subnet, why }) => ({
    what: `conflict ${subnet}`,
    text: `${subnet} is in conflict: ${why}. Nothing is done about it. ${conflictRemedy}`,
  }));
  if (config?.needsOperator !== true) return faults;
  const why = config.why === '' ? '' : ` (${config.why})`;
  return [{ what: 'config', text: `${configRemedies[config.what]}${why}` }, ...faults];
}

function remarksOf({ orphans, skipped }: BridgeView): readonly Fault[] {
  const ofOrphans = orphans.map(({ subnet, host, store }) => {
    const [original, command] =
      store === 'v2' ? ['v3', 'ETCDCTL_API=2 etcdctl rm KEY'] : ['v2', `flanneld-ts lease release ${subnet}`];
    return {
      what: `orphan ${store} ${subnet}`,
      text:
        `${subnet} of ${host} is in ${store} as a copy alone, and its lease was not in ${original} when this bridge first looked. ` +
        `It ends by itself within a day. If that host is gone: ${command}`,
    };
  });
  const ofSkipped = skipped.map(({ key, why }) => ({
    what: `skipped ${key}`,
    text: `${key} in v2 is left out: ${why}`,
  }));
  return [...ofOrphans, ...ofSkipped];
}

function first(faults: readonly Fault[]): readonly string[] {
  return faults.slice(0, mostNamed).map(({ text }) => text);
}
