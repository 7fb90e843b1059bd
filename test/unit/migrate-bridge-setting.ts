import { expect, onTestFinished } from 'vitest';
import { BridgeWorld, holdersOf } from '../../sim/bridge-world.ts';

/** A world that is closed with its test; no flannel 0.7.1 may have crashed by then. */
export function worldOf(options: ConstructorParameters<typeof BridgeWorld>[0] = {}): BridgeWorld {
  const world = new BridgeWorld(options);
  onTestFinished(async () => {
    for (const { old } of world.hosts) expect(old.ended).toBeUndefined();
    await world.close();
    await world.clock.settle();
    expect(world.v2.polls).toBe(0);
  });
  return world;
}

/** Three hosts: two on flannel 0.7.1, one on our daemon, with a bridge between. */
export async function mixed(options: Parameters<typeof worldOf>[0] = {}): Promise<BridgeWorld> {
  const world = worldOf(options);
  world.host(0).old.start();
  world.host(1).old.start();
  world.bridge.start();
  await world.clock.advance(1_000);
  world.host(2).ours.start();
  await inStep(world, 3);
  return world;
}

/** Waits until both stores hold these many leases, the same, and all hosts have routes to each other. */
export async function inStep(world: BridgeWorld, leases: number, withinMs = 20_000): Promise<void> {
  await world.clock.until('both stores alike', () => isInStep(world, leases), withinMs);
  await world.clock.advance(1_500);
  expect(await world.missingRoutes()).toEqual([]);
  expect(oddLines(world)).toEqual([]);
}

export function isInStep(world: BridgeWorld, leases: number): boolean {
  return (
    world.alike &&
    Object.keys(world.inV2).length === leases &&
    world.bridge.running &&
    world.bridge.view.inStep
  );
}

/** What flannel 0.7.1 logged of events that it does not understand: it hears of no later one. */
export function oddLines(world: BridgeWorld): readonly string[] {
  const isOdd = (line: string) => /^(?:Watch subnets|Subnet watch failed): .*(?:action|JSON|"\/)/.test(line);
  return world.hosts.flatMap(({ old }) => old.log.filter(isOdd));
}

/** Passes time, and looks ten times a second whether a route between hosts is missing that had all before. */
export async function passWithRoutes(world: BridgeWorld, ms: number): Promise<void> {
  for (let passedMs = 0; passedMs < ms; passedMs += 100) {
    await world.clock.advance(100);
    expect(await world.missingRoutes()).toEqual([]);
  }
}

/** The key of the subnet of a host in both stores: `10.5.1.0-24`. */
export function keyOf(world: BridgeWorld, index: number): string {
  const { address } = world.host(index).ours;
  const holders = { ...holdersOf(world.inV3), ...holdersOf(world.inV2) };
  const found = Object.entries(holders).find(([, holder]) => holder === address);
  if (found === undefined) throw new Error(`h${index} has no lease`);
  return found[0];
}

/** A host's lease in both stores as a text: `v2` or `v3` names the one that is a copy. */
export function copiesOf(world: BridgeWorld): Readonly<Record<string, string>> {
  const isCopy = (value: string) => value.includes('CopiedFrom');
  return Object.fromEntries(
    Object.entries(world.inV2).map(([name, value]) => [name, isCopy(value) ? 'v3' : 'v2']),
  );
}

export const subnetsIn = '/atomic.io/network/subnets/';
