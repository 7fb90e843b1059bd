import { cpSync, existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { removeControlGroup, topControlGroups } from './cgroups.ts';
import { type HostPlace, onHost, runFolder } from './host.ts';
import { RunningProcess, runToEnd } from './process.ts';
import { RUN_VARIABLE, runId, uniqueName } from './run.ts';

export interface DockerOptions extends HostPlace {
  /** A file with `DOCKER_OPTS="…"`, used as the systemd unit uses it: split at blanks. */
  readonly optionsFile?: string;
  /** More command line. */
  readonly args?: readonly string[];
}

/** How a dockerd is told to leave the network alone, for one that only builds and runs with `--net=host`. */
export const withoutNetwork: readonly string[] = ['--bridge=none', '--iptables=false', '--ip-forward=false'];

const DEADLINE_MS = 60_000;

/**
 * One dockerd with its own containerd, in a PID namespace of its own: when its first process is killed all of its
 * containers and shims end, and their mounts go with the last of them, so that not even a killed test run leaves any.
 */
export class Docker {
  /** What `docker --host` takes. */
  readonly endpoint: string;
  /** The process whose namespaces are the host's, for `nsenter --target`. */
  readonly pid: number;
  readonly #process: RunningProcess;
  readonly #controlGroup: string;

  constructor(endpoint: string, pid: number, process: RunningProcess, controlGroup: string) {
    this.endpoint = endpoint;
    this.pid = pid;
    this.#process = process;
    this.#controlGroup = controlGroup;
  }

  /** Runs the docker client; resolves to its standard output, rejects with all it said. */
  async docker(...argv: string[]): Promise<string> {
    return await runDocker(this.endpoint, argv);
  }

  /** Starts a container that stays until it is removed. Its processes carry the run's name. */
  async run(name: string, image: string, ...command: string[]): Promise<void> {
    const environment = `${RUN_VARIABLE}=${runId()}`;
    await this.docker('run', '--detach', '--name', name, '--env', environment, image, ...command);
  }

  /** The container's address on docker0. */
  async address(name: string): Promise<string> {
    return (await this.docker('inspect', '--format', '{{.NetworkSettings.IPAddress}}', name)).trim();
  }

  /** Runs a command in a container; resolves to its standard output. */
  async exec(name: string, ...command: string[]): Promise<string> {
    return await this.docker('exec', name, ...command);
  }

  /** The words before one of the machine's commands that run it in a container's network. */
  async inNetworkOf(name: string): Promise<readonly string[]> {
    // The pid is one of dockerd's PID namespace.
    const pid = (await this.docker('inspect', '--format', '{{.State.Pid}}', name)).trim();
    const host = ['nsenter', `--target=${this.pid}`, '--pid', '--mount', '--'];
    return [...host, 'setpriv', '--pdeathsig', 'KILL', '--', 'nsenter', `--target=${pid}`, '--net', '--'];
  }

  /** Removes the containers and ends dockerd. */
  async close(): Promise<void> {
    if (this.#process.running) {
      const ids = await this.docker('ps', '--all', '--quiet').catch(() => '');
      // Removed rather than stopped: a container's first process ignores SIGTERM, and nobody waits for it.
      const names = ids.split('\n').filter(Boolean);
      if (names.length > 0) await this.docker('rm', '--force', '--volumes', ...names).catch(() => '');
    }
    await endDockerd(this.#process, this.pid);
    // dockerd makes the group above its containers' and leaves it.
    for (const path of topControlGroups((name) => name === this.#controlGroup)) removeControlGroup(path);
  }

  /** The end of dockerd's log, for messages. */
  logTail(): string {
    return this.#process.tail();
  }
}

/** Starts a dockerd and waits until it answers. On failure nothing is left running. */
export async function startDocker(options: DockerOptions): Promise<Docker> {
  keepNameServers(runFolder(options));
  const controlGroup = uniqueName();
  const args = [
    '--data-root',
    join(options.dir, 'docker'),
    '--cgroup-parent',
    `/${controlGroup}`,
    '--userland-proxy=false',
  ];
  const dockerd = [
    'sh',
    '-ec',
    START,
    'sh',
    options.dir,
    options.optionsFile ?? '',
    ...args,
    ...(options.args ?? []),
  ];
  // With --kill-child the end of unshare, which itself ends with this process, is the end of everything in there.
  const child = new RunningProcess(
    onHost(options, dockerd, ['--pid', '--fork', '--kill-child', '--mount-proc']),
  );
  const endpoint = `unix://${join(runFolder(options), 'docker.sock')}`;
  try {
    await child.waitFor(
      (lines) => lines.find((line) => line.includes('API listen on')),
      DEADLINE_MS,
      'starting dockerd',
    );
    return new Docker(endpoint, onlyChildOf(child.pid), child, controlGroup);
  } catch (error) {
    await child.stop('SIGKILL');
    throw error;
  }
}

/**
 * Arguments: the host's folder, the file with DOCKER_OPTS, then dockerd's own. As docker.service does it, with containerd
 * beside dockerd and not below it: dockerd kills a containerd of its own that takes over 1.5 s to answer, as happens on a
 * busy machine. Its CRI plugin, for Kubernetes, would listen on a port.
 */
const START = `
DOCKER_OPTS=
[ -z "$2" ] || . "$2"
printf 'version = 2\\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\\n' >"$1/containerd.toml"
containerd --config "$1/containerd.toml" --root "$1/containerd" --log-level warn &
shift 2
exec dockerd --containerd /run/containerd/containerd.sock "$@" $DOCKER_OPTS`;

async function endDockerd(child: RunningProcess, pid: number): Promise<void> {
  if (child.running) {
    try {
      process.kill(pid, 'SIGTERM');
    } catch {
      // It has just ended by itself.
    }
  }
  const killer = setTimeout(() => child.signal('SIGKILL'), 10_000);
  await child.exit.finally(() => clearTimeout(killer)).catch(() => undefined);
}

/** The process unshare has forked. */
function onlyChildOf(pid: number): number {
  const child = Number.parseInt(readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8'), 10);
  if (!Number.isInteger(child)) throw new Error(`process ${pid} has no child`);
  return child;
}

/** /etc/resolv.conf may be a link into /run; builds need the machine's name servers. */
function keepNameServers(run: string): void {
  const resolved = '/run/systemd/resolve';
  if (existsSync(join(resolved, 'resolv.conf'))) {
    cpSync(join(resolved, 'resolv.conf'), join(run, 'systemd/resolve/resolv.conf'));
    cpSync(join(resolved, 'resolv.conf'), join(run, 'systemd/resolve/stub-resolv.conf'));
  }
}

async function runDocker(endpoint: string, argv: readonly string[]): Promise<string> {
  const { exit, stdout, output } = await runToEnd(['docker', '--host', endpoint, ...argv]);
  if (exit.code !== 0)
    throw new Error(`docker ${argv.join(' ')}: ${output.trim() || `exit ${exit.code ?? exit.signal}`}`);
  return stdout;
}
