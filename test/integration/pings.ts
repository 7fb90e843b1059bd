import type { ClusterHost } from '../testbed/cluster.ts';
import { type RunningPing, startPing } from '../testbed/ping.ts';
import { gatewayOf } from './route-watch.ts';

/** Gives the host the bridge that docker would make from docker_opts.env: its subnet's first address on docker0. */
export async function addDocker0(host: ClusterHost): Promise<void> {
  await host.net.ip('link add docker0 type bridge');
  await host.net.ip(`addr add ${gatewayOf(host)} dev docker0`);
  await host.net.ip('link set docker0 up');
}

/** A ping every 10 ms from a host's subnet to another host's subnet. */
async function pinging(from: ClusterHost, to: ClusterHost): Promise<RunningPing> {
  const [source = '', target = ''] = [from, to].map((host) => gatewayOf(host).split('/')[0]);
  return await startPing(['nsenter', `--net=/run/netns/${from.net.namespace}`, '--'], target, source);
}

/**
 * Pings between all pairs while `act` runs, from before it begins until after it has ended. Resolves to what went wrong
 * with the packets; the pings end also when `act` fails.
 */
export async function whilePinging(
  pairs: readonly (readonly [ClusterHost, ClusterHost])[],
  act: () => Promise<void>,
): Promise<readonly string[]> {
  const pings: RunningPing[] = [];
  try {
    for (const [from, to] of pairs) pings.push(await pinging(from, to));
    await act();
    const results = await Promise.all(pings.map((ping) => ping.stop()));
    return results.flatMap(({ lost, sent, complaints }, index) => {
      const name = pairs[index]?.map((host) => host.name).join(' to ');
      return [...lost.map((sequence) => `${name}: packet ${sequence} of ${sent} was lost`), ...complaints];
    });
  } finally {
    await Promise.all(pings.map((ping) => ping.close()));
  }
}
