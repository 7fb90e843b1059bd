import { join } from 'node:path';
import { expect, onTestFinished } from 'vitest';
import type { Registry } from '../../src/subnet/registry/registry.ts';
import { type EtcdCluster, startEtcd, startLearner } from '../testbed/etcd.ts';
import { connect, temporaryFolder } from './registry-real.ts';
import { put } from './registry-suite.ts';
import { type UnfitCluster, type UnfitKind, unfitContract } from './registry-unfit.ts';

const dir = temporaryFolder();

async function started(name: string, members: number, args: readonly string[] = []): Promise<EtcdCluster> {
  const etcd = await startEtcd({ dir: join(dir, name), members, args });
  onTestFinished(() => etcd.close());
  return etcd;
}

const connected = ({ members }: EtcdCluster): readonly Registry[] =>
  members.map(({ clientUrl }) => connect(clientUrl));

const setups: Readonly<Record<UnfitKind, () => Promise<readonly Registry[]>>> = {
  'a learner': async () => {
    // Its check wants members that know each other for five seconds.
    const etcd = await started('learner', 2, ['--strict-reconfig-check=false']);
    const learner = await startLearner(etcd, join(dir, 'learner'));
    onTestFinished(() => learner.kill());
    const unfit = connect(learner.clientUrl);
    await expect
      .poll(() => unfit.range({ key: 'a' }).catch((error: Error) => error.message), { timeout: 30_000 })
      .toMatch(/learner/);
    return [unfit, ...connected(etcd)];
  },
  'of another cluster': async () => {
    const [etcd, stranger] = await Promise.all([started('own', 2), started('other', 1)]);
    return [...connected(stranger), ...connected(etcd)];
  },
  // The two others go on with the third; this one hears of nobody.
  'cut off': async () => {
    const etcd = await started('cut', 3);
    const alone = await started('alone', 3);
    const [first, ...others] = alone.members;
    for (const other of others) await other.kill();
    const unfit = connect(first?.clientUrl ?? '');
    await expect
      .poll(() => unfit.txn({ compare: [], success: [] }).catch(String), { timeout: 30_000 })
      .toMatch(/no leader/);
    return [unfit, ...connected(etcd)];
  },
  full: async () => {
    const etcd = await started('full', 1, ['--quota-backend-bytes=100000']);
    const unfit = connect(etcd.first.clientUrl);
    const write = (n: number) =>
      unfit.txn({ compare: [], success: [put(`k${n}`, 'x'.repeat(10_000))] }).then(
        () => true,
        () => false,
      );
    for (let n = 0; await write(n); n++) expect(n).toBeLessThan(1_000);
    return [unfit, ...[1, 2].map(() => connect(etcd.first.clientUrl))];
  },
};

unfitContract('etcd', async (kind): Promise<UnfitCluster> => {
  const [unfit, one, other] = await setups[kind]();
  if (unfit === undefined || one === undefined || other === undefined)
    throw new RangeError('too few members');
  return { unfit, fit: [one, other], settled: (promise) => promise, close: async () => {} };
});
