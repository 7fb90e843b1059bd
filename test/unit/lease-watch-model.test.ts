import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Snapshot } from '../../sim/etcd.ts';
import { WatchHost } from '../../sim/lease-watch-host.ts';
import { prefix, valueOf } from '../../sim/leases.ts';

type Step = (world: { readonly host: WatchHost; backup: Snapshot | undefined }) => void | Promise<void>;

const step = (name: string, run: Step) => Object.assign(run, { toString: () => name });

const keys = [
  '10.1.1.0-24',
  '10.1.2.0-24',
  '10.1.3.0-24',
  '10.1.4.0-24&fc00:4::-64',
  '10.1.5.0-24',
  '10.1.6.0-24',
] as const;
const key = fc.constantFrom(...keys);
const junkKey = fc.constantFrom(
  '',
  'x',
  '10.1.1.1-24',
  '10.1.1.0-24/',
  '10.1.1.0-24&',
  '010.1.1.0-24',
  '\u{1f4a9}',
);
const junkValue = fc.constantFrom('', 'null', '{', '[]', '{"PublicIP":1}', '{"PublicIP":"x"}', '\ufffd');
const members = ['m0', 'm1', 'm2'];

const steps = fc.oneof(
  {
    weight: 6,
    arbitrary: fc
      .tuple(key, fc.integer({ min: 1, max: 9 }))
      .map(([name, ip]) =>
        step(`put ${name} ${ip}`, ({ host }) => host.etcd.put(prefix + name, valueOf(`10.0.0.${ip}`))),
      ),
  },
  {
    weight: 3,
    arbitrary: key.map((name) => step(`delete ${name}`, ({ host }) => host.etcd.delete(prefix + name))),
  },
  {
    weight: 2,
    arbitrary: fc
      .uniqueArray(key, { minLength: 2 })
      .map((names) =>
        step(`delete ${names.join()}`, ({ host }) => host.etcd.delete(...names.map((name) => prefix + name))),
      ),
  },
  {
    weight: 2,
    arbitrary: fc.subarray([...keys], { minLength: 4 }).map((names) =>
      step(`put ${names.join()}`, ({ host }) => {
        for (const name of names) host.etcd.put(prefix + name, valueOf('10.0.0.7'));
      }),
    ),
  },
  {
    weight: 2,
    arbitrary: fc
      .subarray([...keys], { minLength: 4 })
      .map((names) =>
        step(`delete ${names.join()}`, ({ host }) => host.etcd.delete(...names.map((name) => prefix + name))),
      ),
  },
  {
    weight: 1,
    arbitrary: fc
      .tuple(junkKey, junkValue)
      .map(([name, value]) => step(`junk key ${name}`, ({ host }) => host.etcd.put(prefix + name, value))),
  },
  {
    weight: 1,
    arbitrary: fc
      .tuple(key, junkValue)
      .map(([name, value]) =>
        step(`junk value ${name}=${value}`, ({ host }) => host.etcd.put(prefix + name, value)),
      ),
  },
  { weight: 3, arbitrary: fc.constant(step('cut', ({ host }) => host.etcd.cutWatches())) },
  {
    weight: 3,
    arbitrary: fc
      .integer({ min: 0, max: 4 })
      .map((messages) =>
        step(`cut the next after ${messages}`, ({ host }) => host.etcd.cutNextWatchAfter(messages)),
      ),
  },
  {
    weight: 2,
    arbitrary: fc.integer({ min: 0, max: 3 }).map((back) =>
      step(`compact ${back} ago`, ({ host }) => {
        try {
          host.etcd.compact(Math.max(1, host.etcd.revision - back));
        } catch (error) {
          if (!(error instanceof RangeError)) throw error;
        }
      }),
    ),
  },
  {
    weight: 1,
    arbitrary: fc.constant(
      step('backup', (world) => {
        world.backup = world.host.etcd.snapshot();
      }),
    ),
  },
  {
    weight: 1,
    arbitrary: fc.constant(
      step('restore', ({ host, backup }) => {
        if (backup !== undefined) host.etcd.restore(backup);
      }),
    ),
  },
  {
    weight: 2,
    arbitrary: fc
      .constantFrom(...members)
      .map((name) => step(`stop ${name}`, ({ host }) => host.etcd.stop(name))),
  },
  {
    weight: 1,
    arbitrary: fc
      .constantFrom(...members)
      .map((name) => step(`isolate ${name}`, ({ host }) => host.etcd.isolate(name))),
  },
  {
    weight: 3,
    arbitrary: fc
      .constantFrom(...members)
      .map((name) => step(`start ${name}`, ({ host }) => host.etcd.start(name))),
  },
  {
    weight: 6,
    arbitrary: fc
      .constantFrom(0, 1, 60, 200, 4_000, 20_000)
      .map((ms) => step(`+${ms}`, ({ host }) => host.clock.advance(ms))),
  },
);

describe('a consumer of the lease watch, whatever happens to etcd and the stream', () => {
  it('ends with what a full list gives, and never sees a state go back', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(steps, { maxLength: 40 }),
        fc.record({
          seed: fc.integer(),
          fragmentEvents: fc.constantFrom(1, 2, 3, 1_000),
          latencyMs: fc.constantFrom(0, 3),
        }),
        async (run, { seed, ...options }) => {
          const host = new WatchHost({ members, progressIntervalMs: 10_000, ...options }, seed);
          const world = { host, backup: undefined };
          for (const each of run) await each(world);
          for (const name of members) host.etcd.start(name);
          await host.clock.advance(60_000);
          expect(host.believed).toEqual(host.listed);
          host.etcd.put(`${prefix}10.9.9.0-24`, valueOf('10.0.9.9'));
          await host.clock.advance(60_000);
          expect(host.believed).toEqual(host.listed);
          expect(host.watch.watching).toBe(true);
          checkOrder(host);
          checkRemovals(host);
          await host.stop();
          expect(host.clock.pending).toBe(0);
        },
      ),
      { numRuns: 400 },
    );
  }, 120_000);
});

/** Between two snapshots revisions only grow, and a delta tells nothing that a snapshot or an earlier delta had told. */
function checkOrder({ updates }: WatchHost): void {
  let seen = 0;
  for (const update of updates) {
    if (update.type === 'snapshot') seen = update.revision;
    else {
      for (const lease of update.put) expect(lease.modRevision).toBeGreaterThan(seen);
      expect(update.revision).toBeGreaterThan(seen);
      seen = update.revision;
    }
  }
}

/** Most leases that a route can come of go by a list alone, and only after they had been missed before. */
function checkRemovals({ updates, log }: WatchHost): void {
  const doubts = log.events('trouble').filter(({ fields }) => fields['what'] === 'mass-removal').length;
  let known: ReadonlySet<string> = new Set();
  let masses = 0;
  for (const update of updates) {
    const told = update.type === 'snapshot' ? update.leases : update.put;
    const kept = new Set(update.type === 'snapshot' ? [] : known);
    for (const name of update.type === 'snapshot' ? [] : update.removed) kept.delete(name);
    for (const { key: name, value } of told) {
      if (value.publicIP === undefined) kept.delete(name);
      else kept.add(name);
    }
    const missed = [...known].filter((name) => !kept.has(name)).length;
    if (missed > 3 && 2 * missed > known.size) {
      expect(update.type).toBe('snapshot');
      masses++;
    }
    known = kept;
  }
  // The same words are not logged over and over.
  if (masses > 0) expect(doubts).toBeGreaterThan(0);
}
