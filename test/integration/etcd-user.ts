import { PREFIX } from '../testbed/cluster.ts';
import { type EtcdCluster, startEtcd } from '../testbed/etcd.ts';

export const configKey = `${PREFIX}/config`;
export const leaseKey = `${PREFIX}/subnets/172.20.9.0-24`;
export const user = { username: 'flannel', password: 'its password' };

/** What the README tells to grant, and nothing more. */
export async function addUser(etcd: EtcdCluster, { username, password } = user): Promise<void> {
  await etcd.ctl('role', 'add', 'flannel');
  await etcd.ctl('role', 'grant-permission', 'flannel', 'read', configKey);
  await etcd.ctl('role', 'grant-permission', 'flannel', '--prefix=true', 'readwrite', `${PREFIX}/subnets/`);
  await addToRole(etcd, { username, password });
}

/** Adds a user to the role that {@link addUser} makes. */
async function addToRole(etcd: EtcdCluster, { username, password }: typeof user): Promise<void> {
  await etcd.ctl('user', 'add', `${username}:${password}`);
  await etcd.ctl('user', 'grant-role', username, 'flannel');
}

/**
 * An etcd with authentication enabled, with that user in it and the others. All of them are added before: for a moment after a
 * user was added to an etcd 3.5.16 with authentication on it may deny root whatever takes the root role.
 */
export async function startWithUser(
  dir: string,
  args: readonly string[] = [],
  others: readonly (typeof user)[] = [],
): Promise<EtcdCluster> {
  const etcd = await startEtcd({ dir, args: ['--bcrypt-cost=4', ...args] });
  await addUser(etcd);
  for (const other of others) await addToRole(etcd, other);
  await etcd.enableAuth('root’s password');
  return etcd;
}

/** How many tokens etcd was asked for since it started. */
export async function authentications(etcd: EtcdCluster): Promise<number> {
  const metrics = await (await fetch(`${etcd.endpoints}/metrics`)).text();
  const count = /^grpc_server_handled_total\{[^}]*grpc_method="Authenticate"[^}]*\} (\d+)$/gm;
  return [...metrics.matchAll(count)].reduce((sum, [, value]) => sum + Number(value), 0);
}

/** A put without a lease. */
export const put = (key: string, value: string) => ({ op: 'put', key, value, lease: '0' }) as const;
