import { join } from 'node:path';
import { VirtualClock } from '../../sim/clock.ts';
import { SimLog } from '../../sim/log.ts';
import { systemClock } from '../../src/daemon/host/clock.ts';
import { nodeFiles } from '../../src/daemon/host/files.ts';
import { TroubleLog } from '../../src/runtime/trouble.ts';
import { EtcdSecurity } from '../../src/subnet/etcd/security.ts';
import { Authority } from '../testbed/certificates.ts';
import { freePorts, startEtcd } from '../testbed/etcd.ts';
import { registryContract } from './registry.ts';
import { realRegistry, temporaryFolder } from './registry-real.ts';

const dir = temporaryFolder();
const password = 'its password';

registryContract(
  'etcd with client certificates and a user whose token lives for a second',
  async () => {
    const ca = await Authority.create(join(dir, 'ca'), 'a CA');
    const [server, client] = await Promise.all([ca.issue('server'), ca.issue('client')]);
    const [port] = await freePorts(1);
    const metrics = `http://127.0.0.1:${port}`;
    const args = ['--auth-token-ttl=1', '--bcrypt-cost=4', `--listen-metrics-urls=${metrics}`];
    const etcd = await startEtcd({ dir: join(dir, 'etcd'), tls: { server, ca, client }, args });
    await etcd.ctl('role', 'add', 'everything');
    await etcd.ctl('role', 'grant-permission', 'everything', '--prefix=true', 'readwrite', '');
    await etcd.ctl('user', 'add', `flannel:${password}`);
    await etcd.ctl('user', 'grant-role', 'flannel', 'everything');
    await etcd.enableAuth('root’s password');
    const log = new SimLog(new VirtualClock()).of('host');
    const security = new EtcdSecurity({
      tls: { caFile: ca.certFile, ...client },
      user: { username: 'flannel', password },
      etcdPrefix: '/test',
      files: nodeFiles,
      clock: systemClock,
      log,
      notices: new TroubleLog(systemClock, log),
    });
    return realRegistry(etcd, `${metrics}/metrics`, security);
  },
  // What leases do, and silence, has nothing to do with TLS and users, and takes its time.
  ['range', 'txn', 'watch'],
);
