import type { SimHost } from '../host.ts';
import { SeededRandom } from '../random.ts';
import { atOnce, type Faults, onAll, onHost, onKernel } from './fault.ts';
import { dockerOptsFile, holderOf, subnetFile } from './oracle.ts';
import type { World } from './world.ts';

const short = [1, 20_000] as const;
const long = [1_000, 400_000] as const;
const written = [subnetFile, dockerOptsFile] as const;

/** What `lease release` does: the keys that carry the host's address go, and their leases. */
function release({ cluster: { etcd }, kvs }: World, { address }: SimHost): void {
  for (const kv of kvs) {
    if (holderOf(kv) !== address || kv.lease === '0') continue;
    etcd.delete(kv.key);
    etcd.revoke(kv.lease);
  }
}

/** What happens to a host and its daemon. */
export const hostFaults: Faults = {
  crash: onHost(3, short, (host, world) => {
    world.crash(host);
    return () => world.up(host);
  }),
  'crash at a step': onHost(6, short, async (host, world, event) => {
    // Most steps that matter are those of a start.
    if (event.dice % 3 > 0) {
      await world.down(host);
      world.up(host);
    }
    // Mostly the first few, at times far into what follows.
    const steps = Math.floor(400 ** new SeededRandom(event.dice).next());
    const { notifier } = host;
    world.crashAfter(host, steps / 2);
    return () => {
      if (host.notifier === notifier) world.crash(host);
      world.up(host);
    };
  }),
  stop: onHost(3, long, async (host, world) => {
    await world.down(host);
    return () => world.up(host);
  }),
  reboot: onKernel(2, long, (host, world) => {
    world.crash(host);
    host.reboot();
    world.unplug(host);
    return () => {
      world.plug(host);
      world.up(host);
    };
  }),
  'torn file': onHost(2, short, (host, world, event) => {
    world.crash(host);
    const path = written[event.dice % 2] ?? written[0];
    const text = host.files.peek(path) ?? '';
    world.torn.add(host);
    host.files.spoil(path, text.slice(0, (event.dice >> 1) % (text.length + 1)));
    return () => world.up(host);
  }),
  'disk full': onHost(1, long, (host, _, event) => {
    host.files.writeError = event.dice % 2 ? 'ENOSPC' : 'EROFS';
    return () => {
      host.files.writeError = undefined;
    };
  }),
  suspend: onHost(3, long, (host, world) => {
    host.clock.suspend();
    // What its sockets hold is read piece by piece afterwards.
    const caughtUp = world.delay(host);
    return () => {
      host.clock.resume();
      caughtUp();
    };
  }),
  'clock jump': onHost(2, atOnce, (host, _, event) => {
    host.clock.jumpWallClock(((event.dice % 7_200) - 3_600) * 1_000);
  }),
  // Pulled out, or taken out of service as it should be.
  'leave for good': onHost(1, atOnce, async (host, world, event) => {
    if (world.present.length <= 2) return undefined;
    if (event.dice % 3 > 0) await world.down(host);
    world.leave(host);
    if (event.dice % 3 === 2) release(world, host);
  }),
  'stop all and start all': onAll(1, short, async (world) => {
    for (const host of world.present) await world.down(host);
    return () => {
      for (const host of world.present) world.up(host);
    };
  }),
};
