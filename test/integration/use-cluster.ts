import { afterAll, beforeAll } from 'vitest';
import { Cluster, type ClusterOptions } from '../testbed/cluster.ts';
import { RouteWatch } from './route-watch.ts';

interface UseOptions extends ClusterOptions {
  /** Whether etcd runs on the hosts, with the scenario's configuration; default true. */
  readonly etcd?: boolean;
  /** Whether each host runs a daemon and routes to all others; default false. */
  readonly daemons?: boolean;
}

/** Hosts that are there while the tests of a file or suite run. */
export function useCluster({ etcd = true, daemons = false, ...options }: UseOptions = {}): Cluster {
  const cluster = new Cluster(options);
  beforeAll(async () => {
    await cluster.make();
    if (!etcd) return;
    await cluster.startEtcd();
    await cluster.storeConfig();
    if (daemons) await cluster.startDaemons();
  });
  afterAll(() => cluster.close());
  return cluster;
}

/** What happens to the routes of these hosts while the tests run; default: of all. */
export function useRoutes(cluster: Cluster, hosts = () => cluster.hosts): RouteWatch {
  const routes = new RouteWatch();
  beforeAll(() => routes.start(hosts()));
  afterAll(() => routes.stop());
  return routes;
}
