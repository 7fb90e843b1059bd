import { routeProtocol, type SimHost } from '../host.ts';
import { SeededRandom } from '../random.ts';
import { atOnce, type Faults, onHost, onKernel } from './fault.ts';
import { hasNic } from './oracle.ts';
import type { World } from './world.ts';

const short = [1, 20_000] as const;

/** A destination that some host has a route of ours for. */
function somePeer({ hosts }: World, host: SimHost, dice: number): string | undefined {
  const routes = [host, ...hosts].flatMap((one) => one.routes(4));
  return routes[dice % Math.max(1, routes.length)]?.split(' ')[0];
}

/** The index of the host's card; undefined while that is away or down, and takes no route. */
function usableNic(host: SimHost): number | undefined {
  if (!hasNic(host)) return undefined;
  const { index, up } = host.kernel.link('eth0');
  return up ? index : undefined;
}

/** Deletes those of the daemon's routes that `isChosen` says; they have to be back in time once the returned function is called. */
function deleteRoutes(world: World, host: SimHost, isChosen: () => boolean): () => void {
  const isBack = world.watchRepair(host);
  for (const { dst, protocol } of host.kernel.routes(4)) {
    if (protocol === routeProtocol && isChosen()) host.kernel.deleteRoute({ dst, protocol });
  }
  return isBack;
}

/** What happens to a host's routes, and to the daemon's sockets. */
export const kernelFaults: Faults = {
  'foreign routes elsewhere': onHost(2, short, (host, _, { dice }) => {
    const { kernel } = host;
    const linkIndex = usableNic(host);
    if (linkIndex === undefined) return undefined;
    const dst = `${dice % 2 ? '192.168' : '172.20'}.${dice % 9}.0/${dice % 3 ? 24 : 25}`;
    const protocol = [3, 4, 16, 186, 102][dice % 5] as number;
    // With our number, or in our network, only where it cannot be ours.
    if ((protocol === 102 || protocol === 3) && dst.startsWith('172.20')) return undefined;
    const route = { dst, gateway: '10.211.0.1', linkIndex, protocol, metric: dice % 4 };
    quietly(() => kernel.addRoute(route, 'append'));
    return () => quietly(() => kernel.deleteRoute(route));
  }),
  // Ours behind a foreign one can only be brought forward by being removed first.
  "foreign route in a peer's place": onKernel(2, short, (host, world, { dice }) => {
    const dst = somePeer(world, host, dice);
    const linkIndex = usableNic(host);
    if (dst === undefined || linkIndex === undefined) return undefined;
    const mode = (['append', 'prepend', 'replace'] as const)[dice % 3] as 'append' | 'prepend' | 'replace';
    const route = { dst, gateway: '10.211.0.1', linkIndex, protocol: 4 };
    quietly(() => host.kernel.addRoute(route, mode));
    return () => quietly(() => host.kernel.deleteRoute(route));
  }),
  "bridge in a peer's subnet": onKernel(3, short, (host, world, { dice }) => {
    const dst = somePeer(world, host, dice);
    if (dst === undefined || host.kernel.links().some(({ name }) => name === 'br0')) return undefined;
    // Every other time it comes while the peer's route is away.
    if (dice & 8) quietly(() => host.kernel.deleteRoute({ dst, protocol: routeProtocol }));
    host.kernel.createLink('br0');
    host.kernel.addAddress('br0', dst.replace('.0/', '.1/'));
    return () => host.kernel.deleteLink('br0');
  }),
  'operator deletes routes': onKernel(3, atOnce, (host, world, { dice }) => {
    const random = new SeededRandom(dice);
    deleteRoutes(world, host, () => random.next() < 0.5)();
  }),
  'stale routes of a dead daemon': onKernel(2, short, (host, world, { dice }) => {
    const linkIndex = usableNic(host);
    if (linkIndex === undefined) return undefined;
    const dst = `172.20.${10 + (dice % 200)}.0/24`;
    const protocol = dice % 2 ? 102 : 3;
    if (protocol === 3) world.crash(host);
    quietly(() =>
      host.kernel.addRoute({ dst, gateway: `10.211.8.${1 + (dice % 200)}`, linkIndex, protocol }),
    );
    return () => world.up(host);
  }),
  'kernel events lost': onKernel(4, atOnce, (host, world, { dice }) => {
    const isBack = deleteRoutes(world, host, () => dice % 2 === 1);
    host.kernel.overflowEvents();
    isBack();
  }),
  'kernel answers lost': onKernel(2, short, (host, _, { dice }) => {
    host.kernel.faults.loseNextReplies(dice % 3);
    return () => host.kernel.faults.clear();
  }),
  'kernel refuses': onKernel(1, short, (host, _, { dice }) => {
    const { faults } = host.kernel;
    for (let i = 0; i <= dice % 3; i++)
      faults.failNextApply(['ENOBUFS', 'ENETUNREACH', 'EPERM'][dice % 3] as string);
    return () => faults.clear();
  }),
  'dumps disturbed': onKernel(2, short, (host, _, { dice }) => {
    const { faults } = host.kernel;
    if (dice % 4 === 0) faults.failNextDump('ENOBUFS');
    if (dice % 4 === 1) faults.interruptNextDump(1 + (dice % 12));
    if (dice % 4 === 2) faults.slowNextDump(1 + (dice % 2_000));
    host.kernel.overflowEvents();
    return () => faults.clear();
  }),
};

/** Does what another program does; that it may be refused is its own affair. */
function quietly(change: () => void): void {
  try {
    change();
  } catch {
    // Refused: there already, or the link is gone.
  }
}
