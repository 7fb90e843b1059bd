import { execFileSync } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { RouteChange } from '../../src/kernel/kernel.ts';
import { ipBatch } from '../testbed/netns.ts';
import { tempDir } from '../testbed/run.ts';
import { makeNamespaceWorld, type NamespaceWorld } from './kernel-namespace.ts';
import { brief, DST, KernelFixture, PEER, routeEvents } from './kernel-world.ts';

const STORM = 10_000;

let world: NamespaceWorld;
let at: KernelFixture;
let folder: string;

beforeEach(async () => {
  folder = tempDir('kernel');
  world = await makeNamespaceWorld();
  at = await KernelFixture.of(world);
});
afterEach(async () => {
  await world.close();
  rmSync(folder, { recursive: true, force: true });
});

/** Another program changes routes while this process can do nothing at all: execFileSync blocks its only thread. */
function stormWhileBlocked(lines: readonly string[]): void {
  const file = join(folder, 'batch');
  writeFileSync(file, `${lines.join('\n')}\n`);
  execFileSync('nsenter', [`--net=/run/netns/${world.host.namespace}`, '--', 'ip', '-batch', file]);
}

function many(count: number): string[] {
  return Array.from({ length: count }, (_, i) => `172.${32 + (i >> 8)}.${i & 255}.0/24`);
}

function adds(count: number, gateway = PEER): RouteChange[] {
  return many(count).map((dst) => ({ op: 'add', route: at.ours(dst, gateway) }));
}

describe('an event storm', () => {
  const storm = many(STORM).map((dst) => `route add ${dst} via ${PEER}`);

  test('that fits into the buffer is told completely and in order', async () => {
    stormWhileBlocked(storm);
    const events = await at.events.drain();
    expect(routeEvents(events)).toEqual(many(STORM).map((dst) => `+ ${dst} via ${PEER} proto 3 metric 0`));
  });

  // The larger buffer holds more than is taken in one turn: it must have been emptied before an overflow is told.
  test.each([
    ['next', 64],
    ['drain', 64],
    ['next', 3072],
    ['drain', 3072],
  ] as const)(
    'that does not fit is one overflow; %s (%s kB) is live again after it',
    async (call, kilobytes) => {
      const kernel = world.open({ receiveBufferBytes: kilobytes << 10 });
      const events = await kernel.subscribe();
      stormWhileBlocked(storm);
      const told = call === 'next' ? await events.next(AbortSignal.timeout(10_000)) : await events.drain();
      expect(told).toEqual([{ type: 'overflow' }]);
      expect(await kernel.routes(4)).toHaveLength(STORM + 1);
      await at.operator.addRoute('add', { dst: DST, gateway: PEER });
      expect(routeEvents(await events.drain())).toEqual([`+ ${DST} via ${PEER} proto 3 metric 0`]);
      expect(routeEvents(await events.drain())).toEqual([]);
    },
  );

  test('is told by drain behind what an aborted next was waiting for', async () => {
    const aborted = new AbortController();
    const waiting = at.events.next(aborted.signal);
    aborted.abort(new Error('enough'));
    await expect(waiting).rejects.toThrow('enough');
    stormWhileBlocked(storm.slice(0, 100));
    const wanted = many(100).map((dst) => `+ ${dst} via ${PEER} proto 3 metric 0`);
    expect(await at.told()).toEqual(wanted);
  });

  test('while one waits is noticed too, also when it goes on', async () => {
    const kernel = world.open({ receiveBufferBytes: 64 << 10 });
    const events = await kernel.subscribe();
    const waiting = events.next(AbortSignal.timeout(10_000));
    stormWhileBlocked(storm);
    const first = await waiting;
    // The read that waited had taken the first notification before the buffer ran over.
    const told = first[0]?.type === 'overflow' ? first : await events.next(AbortSignal.timeout(10_000));
    expect(told).toEqual([{ type: 'overflow' }]);
    const going = ipBatch(
      world.host.namespace,
      storm.map((line) => line.replace('add', 'del')),
    );
    // As long as there are routes, something is still going to be told about them. How soon is up to who else changes routes
    // on this machine: Linux has one lock for that in all namespaces. The test's own limit ends a wait without end.
    while ((await kernel.routes(4)).length > 1) await events.next(new AbortController().signal);
    await going;
    await events.drain();
    await at.add(at.ours());
    expect(routeEvents(await events.drain())).toEqual([`+ ${DST} via ${PEER} proto 102 metric 0`]);
  });
});

describe('large batches', () => {
  test('5,000 routes in one call, then gone in one call', async () => {
    expect(await at.apply(...adds(5000))).toEqual(adds(5000).map(() => 'done'));
    expect(await at.kernel.routes(4)).toHaveLength(5001);
    expect(await at.routeNews()).toHaveLength(5000);
    const removals = adds(5000).map(({ route }) => ({ op: 'remove', route }) as const);
    expect(new Set(await at.apply(...removals))).toEqual(new Set(['done']));
    expect(await at.kernel.routes(4)).toHaveLength(1);
  });

  // The kernel doubles what it is asked for. 212,992 bytes is what a process without CAP_NET_ADMIN has by default.
  test.each([212_992, 65_536, 4608])(
    'every answer arrives in a receive buffer of %d bytes',
    async (bytes) => {
      const kernel = world.open({ receiveBufferBytes: bytes / 2 });
      const refused = adds(2000, '10.99.0.1');
      const results = await kernel.apply([...refused, ...adds(2000)]);
      const outcomes = results.map((result) => (result.outcome === 'failed' ? result.errno : result.outcome));
      expect(outcomes).toEqual([...refused.map(() => 'ENETUNREACH'), ...adds(2000).map(() => 'done')]);
    },
  );

  test("the kernel's own words come with a refusal", async () => {
    const [result] = await at.kernel.apply([{ op: 'add', route: at.ours(DST, '10.99.0.1') }]);
    expect(result).toEqual({
      outcome: 'failed',
      errno: 'ENETUNREACH',
      message: expect.stringMatching(/gateway/i),
    });
  });

  test('what is no address fails alone, without being sent', async () => {
    const results = await at.apply(
      { op: 'add', route: at.ours(DST, 'fd00::1') },
      { op: 'add', route: at.ours('nonsense') },
      { op: 'add', route: at.ours() },
    );
    expect(results).toEqual(['EINVAL', 'EINVAL', 'done']);
  });

  test('an answer later than the deadline is unknown, and does not confuse the next batch', async () => {
    let hurry = true;
    const clock = {
      now: () => 0,
      monotonic: () => 0,
      sleep: (_ms: number, signal?: AbortSignal) =>
        hurry
          ? Promise.resolve()
          : new Promise<void>((_, reject) => signal?.addEventListener('abort', reject)),
    };
    const kernel = world.open({ clock });
    const late = await kernel.apply(adds(300));
    expect(new Set(late.map(({ outcome }) => outcome))).toEqual(new Set(['unknown']));
    hurry = false;
    const [again] = await kernel.apply([{ op: 'replace', route: at.ours() }]);
    expect(again).toEqual({ outcome: 'done' });
    expect(await at.table()).toContain(
      brief({ ...at.ours(), tos: 0, type: 'unicast', scope: 0, special: false }),
    );
  });

  test('10,000 routes are listed in a fraction of a second', async () => {
    await at.apply(...adds(STORM));
    await at.kernel.routes(4);
    const startMs = performance.now();
    expect(await at.kernel.routes(4)).toHaveLength(STORM + 1);
    // About 25 ms on an idle machine of two cores.
    expect(performance.now() - startMs).toBeLessThan(750);
  });
});

describe('routes of all kinds', () => {
  /** The words of `ip route add` beside the destination, and what is listed after it. */
  const kinds = [
    ['via inet6 fd00:55::7 dev eth0', 'proto 3 metric 0 special'],
    [`nexthop via ${PEER} nexthop via 10.211.55.102`, 'proto 3 metric 0 special'],
    ['nhid 7', 'proto 3 metric 0 special'],
    ['blackhole', 'proto 3 metric 0 blackhole'],
    ['unreachable', 'proto 3 metric 0 other'],
    ['prohibit', 'proto 3 metric 0 other'],
    ['throw', 'proto 3 metric 0 other'],
    ['via 10.99.0.1 dev eth0 onlink', 'via 10.99.0.1 proto 3 metric 0 special'],
    [`via ${PEER} mtu 1400`, `via ${PEER} proto 3 metric 0 special`],
    [`via ${PEER} realm 5`, `via ${PEER} proto 3 metric 0 special`],
    ['dev eth0 scope link', 'proto 3 metric 0'],
    [`via ${PEER} src 10.211.55.100`, `via ${PEER} proto 3 metric 0`],
  ] as const;
  const odd = kinds.map(([kind, listed], i) => {
    const dst = `172.20.${i + 1}.0/24`;
    return [kind.includes(' ') ? `${dst} ${kind}` : `${kind} ${dst}`, `${dst} ${listed}`] as const;
  });

  test('are told and listed, none hides the others, and other tables are left out', async () => {
    await at.operator.addRoute('add', { dst: '1.0.0.0/8', gateway: PEER });
    await world.host.ip('nexthop add id 7 via 10.211.55.101 dev eth0');
    for (const [words] of odd) await world.host.ip(`route add ${words}`);
    await world.host.ip(`route add 172.20.20.0/24 via ${PEER} table 100`);
    await world.host.ip(`route add 172.20.21.0/24 via ${PEER} table 10000`);
    const wanted = odd.map(([, listed]) => listed);
    expect(await at.table()).toEqual([
      '1.0.0.0/8 via 10.211.55.101 proto 3 metric 0',
      '10.211.55.0/24 proto 2 metric 0',
      ...wanted,
    ]);
    expect((await at.told()).slice(1)).toEqual(wanted.map((listed) => `+ ${listed}`));
  });

  test('a bridge port that leaves its bridge is no link removed', async () => {
    await world.host.ip('link add br9 type bridge');
    await world.host.ip('link set eth0 master br9');
    await at.events.drain();
    await world.host.ip('link set eth0 nomaster');
    const events = await at.events.drain();
    expect(events.map(({ type }) => type)).toContain('link-changed');
    expect(events.filter(({ type }) => type === 'link-removed')).toEqual([]);
  });
});

test('a dump names each policy rule with its selectors, and the route it leads to', async () => {
  const { host } = world;
  await host.ip('rule add to 172.20.0.0/16 lookup 99 pref 100');
  await host.ip('rule add from 10.9.0.0/24 fwmark 7 prohibit pref 101');
  await host.ip(`route add 172.20.0.0/16 via 10.211.55.9 table 99`);
  const { kernel } = at;
  expect((await kernel.rules(4)).slice(1, 3)).toEqual([
    { priority: 100, to: '172.20.0.0/16', table: 99, conditional: false },
    { priority: 101, from: '10.9.0.0/24', conditional: true },
  ]);
  expect(await kernel.routeFor('172.20.142.5')).toMatchObject({
    table: 99,
    route: { dst: '172.20.0.0/16', gateway: '10.211.55.9', linkIndex: at.eth0 },
  });
  await host.ip('-6 rule add to fd00:20::/32 lookup 1000 pref 5');
  expect((await kernel.rules(6))[1]).toEqual({
    priority: 5,
    to: 'fd00:20::/32',
    table: 1000,
    conditional: false,
  });
});
