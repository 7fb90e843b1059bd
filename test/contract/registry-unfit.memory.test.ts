import { VirtualClock } from '../../sim/clock.ts';
import { SimEtcd } from '../../sim/etcd.ts';
import { type UnfitCluster, type UnfitKind, unfitContract } from './registry-unfit.ts';

unfitContract('in memory', async (kind): Promise<UnfitCluster> => {
  const clock = new VirtualClock();
  const etcd = new SimEtcd({ clock, members: ['etcd-0', 'etcd-1', 'etcd-2'] });
  const spoil: Readonly<Record<UnfitKind, () => void>> = {
    'a learner': () => etcd.spoil('etcd-0', 'learner'),
    'of another cluster': () => etcd.replace('etcd-0'),
    'cut off': () => etcd.isolate('etcd-0'),
    full: () => etcd.fill(true),
  };
  spoil[kind]();
  return {
    unfit: etcd.member('etcd-0'),
    fit: [etcd.member('etcd-1'), etcd.member('etcd-2')],
    settled: (promise) => clock.complete(promise),
    close: async () => etcd.close(),
  };
});
