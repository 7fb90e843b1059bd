import { environmentName, type Setting, type Settings, UsageError } from './settings.ts';
import { anyText, boolean } from './values.ts';

/** A flag of flanneld that old units and sysconfig files still carry. */
interface OldFlag extends Setting<string | boolean> {
  /** It changed what flanneld is: why that is refused when it is set, and what to do instead. */
  readonly refused?: string;
}

const word = (name: string): OldFlag => ({ name, parse: anyText });
const bool = (name: string): OldFlag => ({ name, parse: boolean, boolean: true });

/** flannel 0.28's for Kubernetes, and for its log; then those that went with flannel 0.7's server, networks and glog. */
export const oldFlags: readonly OldFlag[] = [
  {
    ...bool('kube-subnet-mgr'),
    refused: 'leases kept by Kubernetes are not supported, only those in etcd: leave it out, or run flanneld',
  },
  word('kube-api-url'),
  word('kubeconfig-file'),
  word('kube-annotation-prefix'),
  word('net-config-path'),
  bool('set-node-network-unavailable'),
  word('vmodule'),
  word('log_backtrace_at'),
  bool('logtostderr'),
  bool('alsologtostderr'),
  word('log_dir'),
  word('stderrthreshold'),
  word('subnet-dir'),
  {
    ...word('remote'),
    refused:
      "flannel's client mode is not supported: leave it out, and name etcd's members with --etcd-endpoints",
  },
  word('remote-keyfile'),
  word('remote-certfile'),
  word('remote-cafile'),
  {
    ...word('listen'),
    refused: "flannel's server mode is not supported: leave it out; each host asks etcd itself",
  },
  {
    ...word('networks'),
    refused:
      'several networks in one daemon are not supported: run one for each, with its own --etcd-prefix, --subnet-file and --docker-opts-file',
  },
  bool('watch-networks'),
];

/** The old flag of that name. They are in no help text and are never suggested. */
export function oldFlag(name: string): Setting<unknown> | undefined {
  return oldFlags.find((flag) => flag.name === name);
}

/** Whether a variable stands for an old flag. */
export function isOldVariable(name: string): boolean {
  return oldFlags.some((flag) => environmentName(flag) === name);
}

/**
 * Throws {@link UsageError} for an old flag that asks for another mode of flanneld; warns, once for all of them, about
 * those that are without effect.
 */
export function judgeOldFlags(settings: Settings, warn: (message: string) => void): void {
  const ignored: string[] = [];
  for (const flag of oldFlags) {
    const source = settings.sourceOf(flag);
    if (source === undefined) continue;
    const value = settings.value(flag);
    if (flag.refused === undefined) ignored.push(source);
    else if (value !== '' && value !== false)
      throw new UsageError('REFUSED_MODE', `${source}: ${flag.refused}`);
  }
  if (ignored.length > 0) warn(`ignored, because it has no effect here: ${ignored.join(', ')}`);
}
