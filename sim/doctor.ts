import { type DoctorOptions, runDoctor } from '../src/cli/doctor/doctor.ts';
import { chooseInterface } from '../src/daemon/interface/choose-interface.ts';
import { readHostNetwork } from '../src/daemon/interface/host-network.ts';
import { statusView } from '../src/daemon/report/status-server.ts';
import { networksInSubnetEnv } from '../src/daemon/subnet-env.ts';
import type { Family } from '../src/ip/ip.ts';
import { V2Client } from '../src/subnet/etcd-v2/client.ts';
import { prefix, type SimCluster, type SimHost } from './cluster.ts';
import { SimV2Etcd } from './etcd-v2.ts';
import { SimOldStore } from './old-store.ts';

export interface Examined {
  readonly exit: number;
  readonly text: string;
}

/** Runs the doctor on a host of the cluster, with the options its daemon has. */
export async function examineHost(
  cluster: SimCluster,
  host: SimHost,
  options: Partial<DoctorOptions> = {},
): Promise<Examined> {
  const lines: string[] = [];
  const members = cluster.etcd.connect('doctor');
  const oldEtcd = new SimV2Etcd(cluster.clock);
  oldEtcd.isServed = false;
  const kernel = host.kernel.open();
  const choose = async (families: readonly Family[], signal: AbortSignal) => {
    const wanted = { ifaces: [], ifaceRegexes: [], families };
    const choice = chooseInterface(await readHostNetwork(kernel, wanted, signal), wanted);
    return 'chosen' in choice ? choice.chosen : choice.problem;
  };
  let exit: number | undefined;
  const run = runDoctor(
    {
      members,
      oldStore: new SimOldStore(),
      v2: new V2Client([oldEtcd.member('etcd-0')], { clock: cluster.clock }),
      notices: { current: [] },
      alarms: async () => (cluster.etcd.unfit.full ? [{ name: 'NOSPACE', member: 'e7cd' }] : []),
      kernel,
      arp: host.arp,
      clock: cluster.clock,
      files: host.files,
      commands: host.firewall,
      findContainer: async () => undefined,
      etcdPrefix: prefix,
      subnetFile: '/run/flannel/subnet.env',
      dockerOptsFile: '/run/docker_opts.env',
      routeProtocol: 102,
      renewMarginMs: 3_600_000,
      ipMasq: false,
      ipMasqFullyRandom: true,
      iptablesForwardRules: true,
      iptablesForwardPosition: 'auto',
      chooseInterface: choose,
      askDaemon: async () => {
        const { state } = host;
        return state === undefined
          ? { silent: 'no daemon answers', absent: true }
          : { view: statusView(state.snapshot()) };
      },
      parseSubnetFile: networksInSubnetEnv,
      etcdAddresses: () => [],
      write: (line) => lines.push(line),
      ...options,
    },
    new AbortController().signal,
  ).then((code) => {
    exit = code;
  });
  await cluster.clock.until('the doctor is done', () => exit !== undefined, 60_000);
  await run;
  for (const member of members) member.close();
  kernel.close();
  oldEtcd.close();
  return { exit: exit ?? -1, text: lines.join('\n') };
}
