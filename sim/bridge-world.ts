import { isDeepStrictEqual } from 'node:util';
import { Bridge, type BridgeView } from '../src/migrate/bridge.ts';
import { TroubleLog } from '../src/runtime/trouble.ts';
import { V2Client } from '../src/subnet/etcd-v2/client.ts';
import { rotate } from '../src/subnet/registry/rotation.ts';
import { SimCluster, type SimHost, scenarioConfig } from './cluster.ts';
import { SimV2Etcd } from './etcd-v2.ts';
import { Flannel071Host } from './flannel-071-host.ts';
import { prefix } from './host.ts';
import { HostClock } from './host-clock.ts';
import { SimProcess } from './process.ts';
import { SeededRandom } from './random.ts';

const dir = `${prefix}/subnets`;

/** A host that runs flannel 0.7.1 or our daemon, one at a time, over the same kernel and files. */
export interface MovingHost {
  readonly ours: SimHost;
  readonly old: Flannel071Host;
}

/** A bridge that runs as a process, which may be killed between any two steps. */
class SimBridge {
  readonly #world: BridgeWorld;
  readonly #name: string;
  #run:
    | {
        readonly bridge: Bridge;
        readonly process: SimProcess;
        readonly controller: AbortController;
        readonly ended: Promise<unknown>;
      }
    | undefined;

  constructor(world: BridgeWorld, name: string) {
    this.#world = world;
    this.#name = name;
  }

  get running(): boolean {
    return this.#run !== undefined;
  }

  get view(): BridgeView {
    if (this.#run === undefined) throw new Error('no bridge runs');
    return this.#run.bridge.view;
  }

  start(): this {
    const { cluster, v2 } = this.#world;
    const process = new SimProcess(new HostClock(cluster.clock));
    const clock = process.clock();
    const log = process.telling(cluster.log.of(this.#name));
    const store = new V2Client(
      v2.members.map((member) => v2.member(member)),
      { clock: cluster.clock },
    );
    const members = cluster.etcd.connect(this.#name).map((member) => process.registry(member));
    const bridge = new Bridge({
      from: { store: process.v2Store(store), prefix, endpoints: 'http://etcd-0:2379' },
      to: { registry: rotate(members, { leasesPrefix: `${dir}/`, clock }), prefix },
      owner: this.#name,
      clock,
      random: new SeededRandom(99),
      log,
      trouble: new TroubleLog(clock, log),
    });
    const controller = new AbortController();
    const ended = bridge.run(controller.signal).catch((error: unknown) => error);
    this.#run = { bridge, process, controller, ended };
    return this;
  }

  /** Kills it; `afterSteps`: at one of its next steps, see SimProcess.killAfter. */
  kill(afterSteps?: number): void {
    if (afterSteps !== undefined) return this.#run?.process.killAfter(afterSteps);
    this.#run?.process.kill();
    this.#run = undefined;
  }

  /** Stops it as a signal does; resolves to what it ended with when that is a mistake. */
  async stop(): Promise<unknown> {
    const run = this.#run;
    this.#run = undefined;
    if (run === undefined || run.process.dead) return undefined;
    const reason = new Error('stopped');
    run.controller.abort(reason);
    let outcome: unknown;
    void run.ended.then((error) => {
      outcome = error;
    });
    await this.#world.clock.until(
      'the bridge stops',
      () => outcome !== undefined || run.process.dead,
      10_000,
    );
    run.process.kill();
    return outcome === reason ? undefined : outcome;
  }
}

interface BridgeWorldOptions {
  readonly seed?: number;
  readonly hosts?: number;
  /** Of messages to the v3 store, one way. Default: 1 ms. */
  readonly latencyMs?: number;
  /** Of flannel 0.7.1: it renews so long before the end of its day. */
  readonly renewMarginMinutes?: number;
}

/** A cluster on its way from flannel 0.7.1: both stores of etcd, hosts that may use either, and a bridge. */
export class BridgeWorld {
  readonly cluster: SimCluster;
  readonly v2: SimV2Etcd;
  readonly hosts: readonly MovingHost[];
  readonly bridge: SimBridge = new SimBridge(this, 'bridge');

  constructor({ seed = 1, hosts = 3, latencyMs = 1, renewMarginMinutes = 60 }: BridgeWorldOptions = {}) {
    this.cluster = new SimCluster({ seed, hosts, config: null, etcd: { latencyMs } });
    const { clock } = this.cluster;
    this.v2 = new SimV2Etcd(clock, ['etcd-0', 'etcd-1', 'etcd-2']);
    this.v2.set(`${prefix}/config`, scenarioConfig);
    this.hosts = this.cluster.hosts.map((ours, index) => {
      const { kernel, files, address: publicIp } = ours;
      const random = new SeededRandom(1_000 * seed + index);
      const place = { clock, random, etcd: this.v2, kernel, files };
      return { ours, old: new Flannel071Host(place, { prefix, publicIp, renewMarginMinutes }) };
    });
  }

  get clock() {
    return this.cluster.clock;
  }

  host(index: number): MovingHost {
    const host = this.hosts[index];
    if (host === undefined) throw new RangeError(`no host ${index}`);
    return host;
  }

  /** A bridge beside the first one. */
  another(name: string): SimBridge {
    return new SimBridge(this, name);
  }

  /** The leases of the v2 store: the value by `10.5.1.0-24`. */
  get inV2(): Readonly<Record<string, string>> {
    return Object.fromEntries(
      [...this.v2.snapshot().data.entries]
        .filter(([key, { dir: isDirectory }]) => key.startsWith(`${dir}/`) && !isDirectory)
        .map(([key, { value }]) => [key.slice(dir.length + 1), value]),
    );
  }

  /** Those of the v3 store. */
  get inV3(): Readonly<Record<string, string>> {
    const kvs = this.cluster.etcd.list(`${dir}/`, `${dir}0`);
    return Object.fromEntries(kvs.map(({ key, value }) => [key.slice(dir.length + 1), value]));
  }

  /** Whether both stores name the same holders. */
  get alike(): boolean {
    return isDeepStrictEqual(holdersOf(this.inV2), holdersOf(this.inV3));
  }

  /** The subnet that a host uses, from its subnet.env. */
  async subnetOf(index: number): Promise<string | undefined> {
    return (await this.host(index).ours.subnet())?.text;
  }

  /** Routes that hosts lack which have a daemon of either kind running: `h0 -> 172.20.11.0/24`. */
  async missingRoutes(): Promise<readonly string[]> {
    const running = this.hosts.filter(({ ours, old }) => ours.running || old.running);
    const missing: string[] = [];
    for (const { ours: peer } of running) {
      const subnet = await peer.subnet();
      if (subnet === undefined) continue;
      for (const { ours } of running) {
        const routes = ours.kernel.routes(4);
        const isThere = routes.some(({ dst, gateway }) => dst === subnet.text && gateway === peer.address);
        if (ours !== peer && !isThere) missing.push(`${ours.name} -> ${subnet.text} of ${peer.name}`);
      }
    }
    return missing;
  }

  /** Stops flannel 0.7.1 on a host and starts our daemon, or the other way. */
  async move(index: number, to: 'ours' | 'old'): Promise<void> {
    const { ours, old } = this.host(index);
    if (to === 'ours') {
      await old.stop();
      ours.start();
    } else {
      await ours.stop();
      old.start();
    }
  }

  async close(): Promise<void> {
    await this.bridge.stop();
    for (const { old } of this.hosts) await old.stop();
    this.v2.close();
    await this.cluster.close();
  }
}

/** Which host has each subnet: its address by the subnet. */
export function holdersOf(leases: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  const addressIn = (value: string) => (JSON.parse(value) as { PublicIP: string }).PublicIP;
  return Object.fromEntries(Object.entries(leases).map(([name, value]) => [name, addressIn(value)]));
}
