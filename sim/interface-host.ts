import { chooseInterface, type HostInterface } from '../src/daemon/interface/choose-interface.ts';
import { readHostNetwork, type WantedInterface } from '../src/daemon/interface/host-network.ts';
import { InterfaceWatch } from '../src/daemon/interface/interface-watch.ts';
import { waitForInterface } from '../src/daemon/interface/wait.ts';
import type { PerFamily } from '../src/ip/ip.ts';
import type { Kernel } from '../src/kernel/kernel.ts';
import type { VirtualClock } from './clock.ts';
import { SimKernel } from './kernel.ts';
import { SimPart } from './part.ts';

export type Wishes = Partial<WantedInterface>;

/** Nothing asked for, IPv4 alone. */
export function wishes(over: Wishes = {}): WantedInterface {
  return { ifaces: [], ifaceRegexes: [], families: [4], ...over };
}

/** eth0 with two addresses of each family and the default routes, eth1 with one of each, eth2 with none, down. */
export function makeHost(clock?: VirtualClock): SimKernel {
  const kernel = new SimKernel(clock === undefined ? {} : { clock, latencyMs: 1 });
  const linkIndex = kernel.createLink('eth0', { mtu: 1450 });
  kernel.addAddress('eth0', '10.211.55.100/24');
  kernel.addAddress('eth0', '10.211.55.200/24');
  kernel.addAddress('eth0', 'fd00:55::200/64');
  kernel.addAddress('eth0', 'fd00:55::100/64');
  kernel.createLink('eth1');
  kernel.addAddress('eth1', '192.168.7.1/24');
  kernel.addAddress('eth1', 'fd00:7::1/64');
  kernel.createLink('eth2', { up: false });
  kernel.addRoute({ dst: '0.0.0.0/0', gateway: '10.211.55.1', linkIndex });
  kernel.addRoute({ dst: '::/0', gateway: 'fd00:55::1', linkIndex });
  return kernel;
}

/** `name IPv4 IPv6 MTU`, without what there is not. */
function brief({ name, addresses: { ipv4, ipv6 }, mtu }: HostInterface): string {
  return [name, ipv4, ipv6, mtu].filter((part) => part !== undefined).join(' ');
}

/** The choice as {@link brief} writes it, with what was skipped; or the problem. */
export async function choose(kernel: SimKernel, over: Wishes = {}): Promise<string> {
  const connection = kernel.open();
  const wanted = wishes(over);
  const host = await readHostNetwork(connection, wanted, new AbortController().signal);
  connection.close();
  const choice = chooseInterface(host, wanted);
  return 'problem' in choice ? choice.problem : [brief(choice.chosen), ...choice.skipped].join('; ');
}

/** The host of {@link makeHost}, and what waits for its interface or watches it. */
export class InterfaceHost extends SimPart {
  readonly kernel = makeHost(this.clock);
  /** What the watch or the wait told: as {@link brief} writes it, or why it ended. */
  readonly told: string[] = [];
  /** How often etcd was asked which address the lease names. */
  asked = 0;

  /** Watches what is chosen at the start. */
  async watch(over: Wishes = {}): Promise<void> {
    const wanted = wishes(over);
    const kernel = this.#connect();
    const reading = readHostNetwork(kernel, wanted, new AbortController().signal);
    await this.clock.advance(100);
    const choice = chooseInterface(await reading, wanted);
    if (!('chosen' in choice)) throw new Error(choice.problem);
    const onChange = (next: HostInterface) => void this.told.push(brief(next));
    const watch = new InterfaceWatch({
      ...this.outside,
      kernel,
      ...wanted,
      host: choice.chosen,
      onChange,
    });
    this.begin((signal) => watch.run(signal));
  }

  wait(over: Wishes, named: PerFamily<string> = {}): void {
    const leased = async () => {
      this.asked++;
      return named;
    };
    const options = { ...this.outside, kernel: this.#connect(), leased, ...wishes(over) };
    this.begin((signal) =>
      waitForInterface(options, signal).then(
        (host) => this.told.push(brief(host)),
        (error: unknown) => this.told.push(String(error)),
      ),
    );
  }

  #connect(): Kernel {
    const connection = this.kernel.open();
    this.atEnd(() => connection.close());
    return connection;
  }
}
