import type { DaemonOptions } from '../src/daemon/options/flags.ts';
import { VirtualClock } from './clock.ts';
import { SimEtcd, type SimEtcdOptions } from './etcd.ts';
import { prefix, SimHost, type Wrappers } from './host.ts';
import { SimLog } from './log.ts';
import { SeededRandom } from './random.ts';
import { Segment } from './segment.ts';

export { prefix, SimHost, type SimParts } from './host.ts';

export interface ClusterOptions {
  readonly seed: number;
  /** How many hosts; the first three hold an etcd member each. */
  readonly hosts: number;
  /** Text stored as the network configuration; absent: the scenario's. Null: none. */
  readonly config?: string | null;
  /** Whether hosts have an IPv6 address, too; default false. */
  readonly ipv6?: boolean;
  /** How the daemons' options differ from the usual ones. */
  readonly options?: Partial<DaemonOptions>;
  readonly etcd?: Partial<SimEtcdOptions>;
  /** How long the kernels take for a batch or a dump; default 0 ms. */
  readonly kernelLatencyMs?: number;
  readonly wrappers?: Wrappers;
}

export const scenarioConfig =
  '{"Network":"172.20.0.0/16","SubnetMin":"172.20.10.0","SubnetMax":"172.20.254.0","Backend":{"Type":"host-gw"}}';

/** A whole cluster in one process, on one virtual clock: the real core on an etcd, kernels and disks in memory. */
export class SimCluster {
  readonly clock = new VirtualClock();
  readonly etcd: SimEtcd;
  readonly segment = new Segment();
  readonly log: SimLog;
  readonly hosts: readonly SimHost[];
  readonly options: Partial<DaemonOptions>;
  readonly wrappers: Wrappers;

  constructor({ seed, hosts, config = scenarioConfig, ipv6 = false, ...more }: ClusterOptions) {
    this.options = more.options ?? {};
    this.wrappers = more.wrappers ?? {};
    const random = new SeededRandom(seed);
    this.log = new SimLog(this.clock);
    this.etcd = new SimEtcd({
      clock: this.clock,
      members: ['etcd-0', 'etcd-1', 'etcd-2'],
      latencyMs: 1,
      ...more.etcd,
    });
    if (config !== null) this.etcd.put(`${prefix}/config`, config);
    this.hosts = Array.from({ length: hosts }, (_, index) => {
      return new SimHost(this, { index, random, ipv6, kernelLatencyMs: more.kernelLatencyMs ?? 0 });
    });
  }

  /** The host at this place, from 0 on. */
  host(index: number): SimHost {
    const host = this.hosts[index];
    if (host === undefined) throw new RangeError(`no host ${index}`);
    return host;
  }

  /** Starts all hosts, and waits until each routes to all others. */
  async start(): Promise<this> {
    for (const host of this.hosts) host.start();
    await this.clock.until('full mesh', () => this.meshed, 60_000);
    return this;
  }

  /** Whether every running host is ready and has exactly one route to every other running host's lease. */
  get meshed(): boolean {
    const running = this.hosts.filter((host) => host.running);
    return running.every((host) => host.readiness.ready && host.ownRoutes.length === running.length - 1);
  }

  /** Stops everything; nothing waits on the clock afterwards. */
  async close(): Promise<void> {
    for (const host of this.hosts) await host.stop();
    this.etcd.close();
    await this.clock.settle();
  }
}
