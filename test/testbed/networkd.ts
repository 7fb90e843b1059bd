import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type HostPlace, onHost, runFolder } from './host.ts';
import type { Host } from './netns.ts';
import { RunningProcess } from './process.ts';

const CONFIGURED = /\beth0: State changed: configuring -> configured/;

/**
 * systemd-networkd of this machine, for one host of the testbed alone, with its eth0 and its addresses to look after. It runs without
 * systemd and udev: it is told that udev has seen the links, as it deletes nothing of those it finds while it is in a container.
 */
export class Networkd {
  readonly #argv: readonly string[];
  #process: RunningProcess | undefined;

  private constructor(argv: readonly string[]) {
    this.#argv = argv;
  }

  /** Prepares the host's folders; `dropIn` is a file for networkd.conf.d. */
  static async prepare(host: Host, dir: string, dropIn?: string): Promise<Networkd> {
    const place: HostPlace = { namespace: host.namespace, dir };
    const folder = (path: string) => {
      const made = join(runFolder(place), path);
      mkdirSync(made, { recursive: true });
      return made;
    };
    const addresses = host.addresses.map((address) => `Address=${address}`).join('\n');
    writeFileSync(
      join(folder('systemd/network'), '10-eth0.network'),
      `[Match]\nName=eth0\n[Network]\nLinkLocalAddressing=no\n${addresses}\n`,
    );
    const udev = folder('udev/data');
    for (const link of ['lo', 'eth0']) writeFileSync(join(udev, `n${await host.linkIndex(link)}`), 'I:1\n');
    if (dropIn !== undefined) {
      // Not copied with its mode: a checkout that was made under a strict umask keeps it from networkd's own user.
      const target = join(folder('systemd/networkd.conf.d'), 'drop-in.conf');
      writeFileSync(target, readFileSync(dropIn));
    }
    return new Networkd(onHost(place, ['sh', '-ec', START]));
  }

  /** Resolves when eth0 is as networkd wants it. */
  async start(): Promise<void> {
    this.#process = new RunningProcess(this.#argv);
    const configured = (lines: readonly string[]) => lines.find((line) => CONFIGURED.test(line));
    await this.#process.waitFor(configured, 30_000, 'eth0 is not configured');
  }

  async stop(): Promise<void> {
    await this.#process?.stop();
  }
}

const START = `
mount -t sysfs sysfs /sys
for own in /etc/systemd/network /etc/systemd/networkd.conf.d; do
  [ ! -d $own ] || mount -t tmpfs tmpfs $own
done
mkdir -p /run/systemd/netif/links /run/systemd/netif/leases
chown -R systemd-network /run/systemd/netif
export SYSTEMD_LOG_LEVEL=debug SYSTEMD_LOG_TARGET=console
exec /lib/systemd/systemd-networkd`;
