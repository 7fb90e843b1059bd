import { DaemonProcess } from '../testbed/daemon.ts';
import type { HostPlace } from '../testbed/host.ts';
import { untilLines } from '../testbed/netns.ts';

export interface BridgeOptions extends HostPlace {
  readonly endpoints: string;
  readonly prefix: string;
  /** Where it serves its probes, on 127.0.0.1. */
  readonly port: number;
  readonly flags?: readonly string[];
}

const DEADLINE_MS = 40_000;

/** `flanneld-ts migrate --follow`, and what it answers. Requests go out of the network that this process is in. */
export class BridgeProcess extends DaemonProcess {
  readonly #port: number;

  constructor({ port, flags = [], ...options }: BridgeOptions) {
    const own = ['migrate', '--follow', '--healthz-ip=127.0.0.1', `--healthz-port=${port}`];
    super({ ...options, flags: [...own, ...flags] });
    this.#port = port;
  }

  /** Undefined when it does not listen. */
  async ask(
    page: 'healthz' | 'readyz' | 'metrics',
  ): Promise<readonly [status: number, text: string] | undefined> {
    const answer = await fetch(`http://127.0.0.1:${this.#port}/${page}`).catch(() => undefined);
    return answer && [answer.status, await answer.text()];
  }

  /** Waits until `/metrics` has these, each with its name as it stands there: `flannel_bridge_leases{store="v2"}`. */
  async untilMetrics(wanted: Readonly<Record<string, number>>): Promise<void> {
    const lines = Object.entries(wanted).map(([name, value]) => `${name} ${value}`);
    const read = async () => {
      const [, text = ''] = (await this.ask('metrics')) ?? [];
      const found = text.split('\n');
      return Object.keys(wanted).map((name) => found.find((line) => line.startsWith(`${name} `)) ?? '');
    };
    await untilLines(read, lines, DEADLINE_MS, () => this.process.tail());
  }

  /** Waits until both stores are alike, and these many hosts use each. */
  async inStep(onV2: number, onV3: number): Promise<void> {
    await this.untilMetrics({
      flannel_bridge_in_step: 1,
      'flannel_bridge_leases{store="v2"}': onV2,
      'flannel_bridge_leases{store="v3"}': onV3,
      flannel_bridge_conflicts: 0,
      flannel_bridge_orphans: 0,
    });
  }
}
