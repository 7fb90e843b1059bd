import type { Fault } from './faults.ts';

const short = [1, 20_000] as const;
const long = [1_000, 400_000] as const;
const envFile = '/run/flannel/subnet.env';

/** What happens to a host and its daemon. */
export const hostFaults: Readonly<Record<string, Fault>> = {
  crash: {
    weight: 3,
    lastsMs: short,
    whom: 'host',
    apply: (world, event) => {
      const host = world.host(event.host);
      world.crash(host);
      return () => world.up(host);
    },
  },
  'crash at a step': {
    weight: 6,
    lastsMs: short,
    whom: 'host',
    apply: async (world, event) => {
      const host = world.host(event.host);
      // Most steps that matter are those of a start.
      if (event.dice % 3 > 0) {
        await world.down(host);
        world.up(host);
      }
      host.crashAfter(1 + (event.dice % 40) / 2);
      return () => {
        world.crash(host);
        world.up(host);
      };
    },
  },
  stop: {
    weight: 3,
    lastsMs: long,
    whom: 'host',
    apply: async (world, event) => {
      const host = world.host(event.host);
      await world.down(host);
      return () => world.up(host);
    },
  },
  reboot: {
    weight: 2,
    lastsMs: long,
    whom: 'host',
    kernel: true,
    apply: (world, event) => {
      const host = world.host(event.host);
      world.crash(host);
      host.reboot();
      world.unplug(host);
      return () => {
        world.plug(host);
        world.up(host);
      };
    },
  },
  'torn file': {
    weight: 1,
    lastsMs: short,
    whom: 'host',
    apply: (world, event) => {
      const host = world.host(event.host);
      world.crash(host);
      const text = host.files.peek(envFile) ?? '';
      host.files.spoil(envFile, text.slice(0, event.dice % (text.length + 1)));
      return () => world.up(host);
    },
  },
  'disk full': {
    weight: 1,
    lastsMs: long,
    whom: 'host',
    apply: (world, event) => {
      const host = world.host(event.host);
      host.files.writeError = event.dice % 2 ? 'ENOSPC' : 'EROFS';
      return () => {
        host.files.writeError = undefined;
      };
    },
  },
  suspend: {
    weight: 3,
    lastsMs: long,
    whom: 'host',
    apply: (world, event) => {
      const host = world.host(event.host);
      host.clock.suspend();
      // What its sockets hold is read piece by piece afterwards.
      world.delay(host, Number.POSITIVE_INFINITY);
      return () => {
        host.clock.resume();
        world.delay(host, world.nowMs + 120_000);
      };
    },
  },
  'clock jump': {
    weight: 2,
    lastsMs: [1, 2],
    whom: 'host',
    apply: (world, event) => {
      world.host(event.host).clock.jumpWallClock(((event.dice % 7_200) - 3_600) * 1_000);
      return undefined;
    },
  },
  'stop all and start all': {
    weight: 1,
    lastsMs: short,
    whom: 'all',
    apply: async (world) => {
      for (const host of world.hosts) await world.down(host);
      return () => {
        for (const host of world.hosts) world.up(host);
      };
    },
  },
};
