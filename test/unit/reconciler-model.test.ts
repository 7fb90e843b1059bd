import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SimKernel } from '../../sim/kernel.ts';
import type { Family } from '../../src/ip/ip.ts';
import { inFamily } from './family-texts.ts';
import {
  type Action,
  act,
  action,
  faultsOf,
  foreignDsts,
  leaseAction,
  mainAddress,
} from './reconciler-actions.ts';
import { peers, ReconcilerHost } from './reconciler-host.ts';

interface Step {
  readonly what: Action;
  readonly thenMs: number;
}

const step: fc.Arbitrary<Step> = fc.record({
  what: action,
  thenMs: fc.constantFrom(0, 0, 0, 1, 2, 5, 40, 60, 300, 3_000, 12_000),
});

/** Runs `body` on a host that is at work, beside a kernel to which the same is done by operators alone. */
async function withHost(
  family: Family,
  seed: number,
  body: (host: ReconcilerHost, undisturbed: SimKernel) => Promise<void>,
): Promise<void> {
  const host = new ReconcilerHost({ family, seed });
  const undisturbed = new SimKernel();
  undisturbed.createLink('eth0');
  undisturbed.addAddress('eth0', inFamily(family, mainAddress));
  for (const kernel of [host.kernel, undisturbed]) kernel.createLink('br0');
  try {
    await host.settled(peers);
    await body(host, undisturbed);
  } finally {
    await host.stop();
  }
}

async function run(host: ReconcilerHost, undisturbed: SimKernel, steps: readonly Step[]): Promise<void> {
  for (const { what, thenMs } of steps) {
    act(host, host.kernel, what);
    act(host, undisturbed, what);
    await host.clock.advance(thenMs);
  }
}

/** Lets holds, foreign limits and planned faults run out (those of batches stay when the link is down: nothing is sent). */
async function comeToRest(host: ReconcilerHost): Promise<void> {
  for (let i = 0; host.kernel.faults.pending.length > 0 && i < 30; i++) {
    host.put('172.20.60.0/24', i % 2 === 0 ? '10.211.55.101' : '10.211.55.102');
    await host.clock.advance(15_000);
  }
  host.remove('172.20.60.0/24');
  await host.clock.advance(300_000);
}

const ofOthers = (kernel: SimKernel, family: Family) =>
  kernel
    .routes(family)
    .filter(({ dst, protocol }) => protocol === 2 || foreignDsts.some((at) => inFamily(family, at) === dst))
    .map(({ dst, protocol, gateway, metric }) => `${dst} ${protocol} ${gateway} ${metric}`)
    .toSorted();

describe.each([4, 6] as const)('whatever happens, IPv%d', (family) => {
  const runs = family === 4 ? 200 : 100;

  it('at rest the routes are those the leases ask for, nothing more is sent, and others’ routes are untouched', async () => {
    const property = fc.asyncProperty(
      fc.nat(),
      fc.array(step, { maxLength: 40, size: 'max' }),
      (seed, steps) =>
        withHost(family, seed, async (host, undisturbed) => {
          await run(host, undisturbed, steps);
          await comeToRest(host);
          expect(faultsOf(host)).toEqual([]);
          expect(ofOthers(host.kernel, family)).toEqual(ofOthers(undisturbed, family));
          // What is off link is tried once a minute; everything else is at rest.
          const unreachable = [...host.wanted.keys()].filter((dst) =>
            /is not on|is gone from|and no other address/.test(host.state(dst)),
          );
          const { messages } = host.kernel.counters;
          await host.clock.advance(30_000);
          expect(host.kernel.counters.messages - messages).toBeLessThanOrEqual(unreachable.length);
          expect(host.trouble.current).toEqual([]);
        }),
    );
    await fc.assert(property, { numRuns: runs });
  }, 120_000);

  it('a repair takes at most 250 ms from the event that makes it possible', async () => {
    const calm: fc.Arbitrary<Action> = action.filter(
      ({ type }) => !type.startsWith('apply') && !type.startsWith('dump') && type !== 'lost-replies',
    );
    const property = fc.asyncProperty(
      fc.nat(),
      fc.array(calm, { maxLength: 25, size: 'max' }),
      (seed, actions) =>
        withHost(family, seed, async (host) => {
          const replaced: string[] = [];
          for (const what of actions) {
            act(host, host.kernel, what);
            if (what.type === 'route') replaced.push(host.in(what.dst));
            await host.clock.advance(250);
            // A fourth foreign route within a minute is a conflict.
            const limited = new Set(replaced.filter((dst) => replaced.filter((d) => d === dst).length > 3));
            expect(faultsOf(host, limited)).toEqual([]);
            await host.clock.advance(2_000);
          }
        }),
    );
    await fc.assert(property, { numRuns: runs });
  }, 120_000);

  it('no change of a lease or of a route costs a dump', async () => {
    // In IPv6 a second route of a key is merged with the first: what came of it only a dump tells.
    const isCheap = (what: Action) =>
      what.type === 'delete-route' || (what.type === 'route' && (family === 4 || what.mode === 'replace'));
    const cheap = fc.oneof(leaseAction, action.filter(isCheap));
    const property = fc.asyncProperty(
      fc.nat(),
      fc.array(cheap, { minLength: 5, maxLength: 20 }),
      (seed, actions) =>
        withHost(family, seed, async (host) => {
          await host.clock.advance(9_000);
          const dumps = host.kernel.counters.dumps;
          for (const what of actions) {
            act(host, host.kernel, what);
            await host.clock.advance(1_100);
          }
          const checks = Math.ceil((actions.length * 1_100) / 9_000) + 1;
          expect((host.kernel.counters.dumps - dumps) / 3).toBeLessThanOrEqual(checks);
        }),
    );
    await fc.assert(property, { numRuns: runs });
  }, 120_000);
});
