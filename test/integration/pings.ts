import type { ClusterHost } from '../testbed/cluster.ts';
import { until } from '../testbed/netns.ts';
import { RunningProcess } from '../testbed/process.ts';
import { gatewayOf } from './route-watch.ts';

/** Gives the host the bridge that docker would make from docker_opts.env: its subnet's first address on docker0. */
export async function addDocker0(host: ClusterHost): Promise<void> {
  await host.net.ip('link add docker0 type bridge');
  await host.net.ip(`addr add ${gatewayOf(host)} dev docker0`);
  await host.net.ip('link set docker0 up');
}

/** A ping every 10 ms from a host's subnet to another host's subnet. */
class Pinger {
  readonly #name: string;
  readonly #process: RunningProcess;

  constructor(from: ClusterHost, to: ClusterHost) {
    const [source = '', target = ''] = [from, to].map((host) => gatewayOf(host).split('/')[0]);
    this.#name = `${from.name} to ${to.name}`;
    this.#process = new RunningProcess([
      'nsenter',
      `--net=/run/netns/${from.net.namespace}`,
      '--',
      'ping',
      '-n',
      '-i',
      '0.01',
      '-I',
      source,
      target,
    ]);
  }

  /** Waits until replies have come to `count` packets more than now; a lost packet is no obstacle. */
  async flowing(count = 20): Promise<void> {
    const last = Math.max(0, ...this.#answered());
    await until(
      () => Math.max(0, ...this.#answered()) >= last + count,
      10_000,
      () => `${this.#name}: no replies\n${this.#process.tail(5)}`,
    );
  }

  /** Ends it; resolves to what went wrong: packets without a reply, and what ping complained about. */
  async stop(): Promise<readonly string[]> {
    await this.#process.stop('SIGINT');
    const answered = new Set(this.#answered());
    // The very last packet may be on its way when the signal comes, so only holes count; flowing() sees to the end.
    const last = Math.max(0, ...answered);
    const holes = Array.from({ length: last }, (_, index) => index + 1).filter((seq) => !answered.has(seq));
    const complaints = this.#process.lines.filter((line) => /unreachable|error|sendmsg|exceeded/i.test(line));
    return [...holes.map((seq) => `${this.#name}: packet ${seq} of ${last} was lost`), ...complaints];
  }

  #answered(): readonly number[] {
    return this.#process.lines.flatMap((line) => {
      const seq = /^\d+ bytes from .*icmp_seq=(\d+) /.exec(line)?.[1];
      return seq === undefined ? [] : [Number(seq)];
    });
  }
}

/**
 * Pings between all pairs while `act` runs, from before it begins until after it has ended. Resolves to what went wrong
 * with the packets; the pings end also when `act` fails.
 */
export async function whilePinging(
  pairs: readonly (readonly [ClusterHost, ClusterHost])[],
  act: () => Promise<void>,
): Promise<readonly string[]> {
  const pingers = pairs.map(([from, to]) => new Pinger(from, to));
  const allFlow = () => Promise.all(pingers.map((pinger) => pinger.flowing()));
  let problems: readonly string[] = [];
  try {
    await allFlow();
    await act();
    await allFlow();
  } finally {
    problems = (await Promise.all(pingers.map((pinger) => pinger.stop()))).flat();
  }
  return problems;
}
