import { expect, onTestFinished } from 'vitest';
import { SimCluster } from '../../sim/cluster.ts';
import { LeaseWorld } from '../../sim/lease-world.ts';

/** A cluster that is closed after the test: nothing that was started outlives its daemon, no timer is left on the clock. */
export function makeCluster(options: ConstructorParameters<typeof SimCluster>[0]): SimCluster {
  const cluster = new SimCluster(options);
  onTestFinished(async () => {
    await cluster.close();
    expect(cluster.clock.pending).toBe(0);
  });
  return cluster;
}

/** An etcd with what hosts keep there, closed after the test: nothing is left running. */
export function makeWorld(options?: ConstructorParameters<typeof LeaseWorld>[0]): LeaseWorld {
  const world = new LeaseWorld(options);
  onTestFinished(async () => expect(await world.close()).toBe(true));
  return world;
}
