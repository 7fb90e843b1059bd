import { expect } from 'vitest';
import { VirtualClock } from '../../sim/clock.ts';
import { SimV2Etcd } from '../../sim/etcd-v2.ts';
import { Flannel071Host } from '../../sim/flannel-071-host.ts';
import { SimKernel } from '../../sim/kernel.ts';
import { SeededRandom } from '../../sim/random.ts';

export const prefix = '/net';
/** Where the leases are. */
export const dir = `${prefix}/subnets`;
export const config = {
  Network: '10.5.0.0/16',
  SubnetMin: '10.5.1.0',
  SubnetMax: '10.5.9.0',
  Backend: { Type: 'host-gw' },
};

/** flannel 0.7.1 on a host, and the host's kernel. */
export interface FlannelHost extends Flannel071Host {
  readonly kernel: SimKernel;
}

/** Hosts with flannel 0.7.1 on an etcd in memory. */
export class FlannelWorld {
  readonly clock = new VirtualClock();
  readonly etcd = new SimV2Etcd(this.clock);
  readonly #hosts: FlannelHost[] = [];

  constructor() {
    this.etcd.set(`${prefix}/config`, JSON.stringify(config));
  }

  /** The next host: 10.0.0.1, 10.0.0.2, … `next` draws its subnets; default: chance, by the host's number. */
  host(options: { readonly renewMarginMinutes?: number; readonly next?: () => number } = {}): FlannelHost {
    const number = this.#hosts.length + 1;
    const publicIp = `10.0.0.${number}`;
    const { clock, etcd } = this;
    const kernel = new SimKernel({ clock });
    kernel.createLink('eth0');
    kernel.addAddress('eth0', `${publicIp}/24`);
    const { next, ...more } = options;
    const random = next === undefined ? new SeededRandom(number) : { next };
    const flannel = new Flannel071Host({ clock, random, etcd, kernel }, { prefix, publicIp, ...more });
    const host = Object.assign(flannel, { kernel });
    this.#hosts.push(host);
    return host;
  }

  /** A host that has a lease. */
  async one(): Promise<FlannelHost> {
    const host = this.host();
    host.start();
    await this.clock.advance(100);
    expect(host.subnet).toBeDefined();
    return host;
  }

  /** Two hosts that have a lease each, and a route to the other. */
  async mesh(): Promise<readonly [FlannelHost, FlannelHost]> {
    const [one, two] = [await this.one(), await this.one()];
    expect(one.routes).toEqual([routeTo(two)]);
    expect(two.routes).toEqual([routeTo(one)]);
    return [one, two];
  }

  /** All leases: `10.5.1.0-24 by 10.0.0.1 for 86400 s`. */
  leases(): readonly string[] {
    const leaseOf = (key: string, value: string, expiresAtMs: number | undefined) => {
      const leftMs = expiresAtMs && expiresAtMs - this.clock.now();
      const left = leftMs === undefined ? 'ever' : `${Math.round(leftMs / 1000)} s`;
      return `${key.slice(dir.length + 1)} by ${JSON.parse(value).PublicIP} for ${left}`;
    };
    return [...this.etcd.snapshot().data.entries]
      .filter(([key, { dir: isDirectory }]) => key.startsWith(`${dir}/`) && !isDirectory)
      .map(([key, { value, expiresAtMs }]) => leaseOf(key, value, expiresAtMs))
      .toSorted();
  }

  /** The modifiedIndex of a key; 0 when there is none. */
  indexOf(key: string): number {
    return this.etcd.snapshot().data.entries.get(key)?.modifiedIndex ?? 0;
  }

  /** Ends all that runs; fails when a timer is left. */
  async close(): Promise<void> {
    for (const host of this.#hosts) await host.stop();
    this.etcd.close();
    await this.clock.settle();
    expect(this.clock.pending).toBe(0);
  }
}

export function routeTo({ subnet, publicIp }: FlannelHost): string {
  return `${subnet} via ${publicIp}`;
}

/** The key of a subnet. */
export function keyOf(subnet: string | undefined): string {
  return `${dir}/${subnet?.replace('/', '-')}`;
}

/** The value of a lease. */
export function valueOf(publicIp: string, type = 'host-gw'): string {
  return JSON.stringify({ PublicIP: publicIp, BackendType: type });
}
