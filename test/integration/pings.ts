import type { ClusterHost } from '../testbed/cluster.ts';
import { lostWhile } from '../testbed/ping.ts';
import { gatewayOf } from './route-watch.ts';

/** Gives the host the bridge that docker would make from docker_opts.env: its subnet's first address on docker0. */
export async function addDocker0(host: ClusterHost): Promise<void> {
  await host.net.ip('link add docker0 type bridge');
  await host.net.ip(`addr add ${gatewayOf(host)} dev docker0`);
  await host.net.ip('link set docker0 up');
}

/** Pings between the subnets of all pairs while `act` runs; resolves to what went wrong with the packets. */
export async function whilePinging(
  pairs: readonly (readonly [ClusterHost, ClusterHost])[],
  act: () => Promise<void>,
): Promise<readonly string[]> {
  const ways = pairs.map(([from, to]) => {
    const [source = '', destination = ''] = [from, to].map((host) => gatewayOf(host).split('/')[0]);
    return { where: from.net.command(), destination, source };
  });
  return await lostWhile(ways, act);
}
