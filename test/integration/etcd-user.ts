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
  await etcd.ctl('user', 'add', `${username}:${password}`);
  await etcd.ctl('user', 'grant-role', username, 'flannel');
}

/** An etcd with authentication enabled and that user in it. */
export async function startWithUser(dir: string, args: readonly string[] = []): Promise<EtcdCluster> {
  const etcd = await startEtcd({ dir, args: ['--bcrypt-cost=4', ...args] });
  await addUser(etcd);
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
