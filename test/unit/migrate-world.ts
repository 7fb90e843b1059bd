import { expect, onTestFinished } from 'vitest';
import { altered } from '../../sim/altered.ts';
import { SimV2Etcd } from '../../sim/etcd-v2.ts';
import type { V2WireNode } from '../../sim/etcd-v2-store.ts';
import { HostClock } from '../../sim/host-clock.ts';
import { LeaseWorld } from '../../sim/lease-world.ts';
import { poolOf, prefix } from '../../sim/leases.ts';
import { SimProcess } from '../../sim/process.ts';
import { runMigrate } from '../../src/cli/migrate.ts';
import { runRepair } from '../../src/cli/migrate-repair.ts';
import { V2Client } from '../../src/subnet/etcd-v2/client.ts';
import { prefixEnd, type Registry } from '../../src/subnet/registry/registry.ts';
import { rotate } from '../../src/subnet/registry/rotation.ts';

/** A call to the v3 store that changes something. */
export type Write = 'leaseGrant' | 'leaseKeepAlive' | 'txn';

export interface MigrateRun {
  readonly dryRun?: boolean;
  readonly fromPrefix?: string;
  /** Runs `--repair` instead, with these subnets named. */
  readonly repair?: readonly string[];
  /** Kills it at this step: see SimProcess.killAfter. */
  readonly killAfter?: number;
  /** Told of each of these calls, before it is made. */
  readonly onWrite?: (call: Write) => void;
}

export interface MigrateResult {
  readonly code: 0 | 1;
  readonly lines: readonly string[];
  readonly errors: readonly string[];
}

/** The value of a lease as flannel 0.7.1 writes it. */
export const oldValue = (ip: string) => `{"PublicIP":"${ip}","BackendType":"host-gw"}`;
export const config = '{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}';

/** Both stores of an etcd in memory, and what a migration makes of them. The network is at /old in v2, at /net in v3. */
export class MigrateWorld {
  /** The v3 store, and the hosts that use it. */
  readonly #hosts = new LeaseWorld();
  readonly clock = this.#hosts.clock;
  readonly v3 = this.#hosts.etcd;
  readonly v2 = new SimV2Etcd(this.clock);
  /** The leases of v2, as they were written last. */
  readonly #old = new Map<string, V2WireNode>();

  constructor() {
    onTestFinished(async () => {
      this.v2.close();
      expect(await this.#hosts.close()).toBe(true);
      expect(this.v2.polls).toBe(0);
    });
  }

  /** The lease of a subnet of v2, as 10.5.1.0-24; without a TTL a reservation. */
  lease(name: string, ip: string, ttlSeconds?: number): this {
    const { node } = this.v2.set(`/old/subnets/${name}`, oldValue(ip), ttlSeconds);
    this.#old.set(name, node);
    return this;
  }

  configure(text = config): this {
    this.v2.set('/old/config', text);
    return this;
  }

  /** A key of v3 that somebody else puts, on an etcd lease of a day. */
  put(name: string, value: string): void {
    this.v3.put(prefix + name, value, this.v3.grant(86_400));
  }

  /**
   * What `etcdctl migrate` makes of the leases of v2, on a v3 store that was empty: keys without an etcd lease, at the revisions that are
   * v2's indexes.
   */
  convert(): this {
    for (const { key, value = '', createdIndex } of this.#old.values()) {
      while (this.v3.revision < createdIndex - 1) this.v3.put('/unrelated', '');
      this.v3.put(prefix + key.slice('/old/subnets/'.length), value);
      expect(this.v3.revision).toBe(createdIndex);
    }
    return this;
  }

  /** Starts the daemon of a host on v3; resolves to the subnet that it gets. */
  async join(ip: string): Promise<string | undefined> {
    const pools = { ipv4: poolOf('10.5.1.0/24', '10.5.255.0/24') };
    return (await this.#hosts.host(ip, { pools }).hold()).held;
  }

  /** What v3 holds: the value of each lease by its name, and the seconds that it has left. */
  get leases(): Readonly<Record<string, { readonly value: string; readonly left: number | undefined }>> {
    const kvs = this.v3.list(prefix, prefixEnd(prefix));
    return Object.fromEntries(
      kvs.map(({ key, value, lease }) => {
        const left = lease === '0' ? undefined : this.v3.access.leases.timeToLive(lease).ttlSeconds;
        return [key.slice(prefix.length), { value, left }];
      }),
    );
  }

  /** Ids of the etcd leases without a key. */
  get idleLeases(): readonly string[] {
    const used = new Set(this.v3.list(prefix, prefixEnd(prefix)).map(({ lease }) => lease));
    return this.v3.leaseIds.filter((id) => !used.has(id));
  }

  /** Runs to its end. */
  async run(options: MigrateRun = {}): Promise<MigrateResult> {
    const { ended, process } = this.#start(options);
    const result = await this.clock.complete(ended);
    process.kill();
    return result;
  }

  /** Runs until it is killed; resolves to whether it was, and had not ended before. */
  async runAndKill(killAfter: number, options: MigrateRun = {}): Promise<boolean> {
    const { ended, process } = this.#start({ ...options, killAfter });
    let hasEnded = false;
    void ended.then(() => {
      hasEnded = true;
    });
    await this.clock.advance(20_000);
    process.kill();
    return !hasEnded;
  }

  #start({ dryRun = false, fromPrefix = '/old', repair, killAfter, onWrite }: MigrateRun) {
    const process = new SimProcess(new HostClock(this.clock));
    const lines: string[] = [];
    const errors: string[] = [];
    const store = new V2Client([this.v2.member('etcd-0')], { clock: this.clock });
    const registry = rotate(this.v3.connect('admin'));
    if (killAfter !== undefined) process.killAfter(killAfter);
    const parts = {
      from: { store: process.v2Store(store), prefix: fromPrefix, endpoints: 'http://etcd-0:2379' },
      to: { registry: process.registry(observed(registry, onWrite)), prefix: '/net' },
      toEndpoints: 'http://etcd-0:2379',
      dryRun,
      clock: this.clock,
      out: (line: string) => void lines.push(line),
      err: (line: string) => void errors.push(line),
    };
    const { signal } = new AbortController();
    const running =
      repair === undefined ? runMigrate(parts, signal) : runRepair({ ...parts, named: repair }, signal);
    return { ended: running.then((code) => ({ code, lines, errors })), process };
  }
}

/** The registry, which says what it is asked for. */
function observed(registry: Registry, onWrite: (call: Write) => void = () => {}): Registry {
  return altered<Registry>(registry, {
    leaseGrant: (...call) => {
      onWrite('leaseGrant');
      return registry.leaseGrant(...call);
    },
    leaseKeepAlive: (...call) => {
      onWrite('leaseKeepAlive');
      return registry.leaseKeepAlive(...call);
    },
    txn: (...call) => {
      onWrite('txn');
      return registry.txn(...call);
    },
  });
}

/** A row of the table by its subnet: host, times left, result, why. */
export function rowOf({ lines }: MigrateResult, subnet: string): readonly string[] {
  const line = lines.find((one) => one.startsWith(`${subnet} `));
  return line?.split(/ {2,}/).slice(1) ?? [];
}
