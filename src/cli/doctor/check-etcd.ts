import { explanationOf } from '../../runtime/errors.ts';
import type { TroubleLog } from '../../runtime/trouble.ts';
import { poolSize } from '../../subnet/allocate.ts';
import {
  type NetworkConfig,
  NetworkConfigError,
  type PoolConfig,
  parseNetworkConfig,
} from '../../subnet/config.ts';
import { describeMissing } from '../../subnet/config-missing.ts';
import type { OldStore } from '../../subnet/old-store.ts';
import type { Registry } from '../../subnet/registry.ts';
import { configKey } from '../../subnet/subnet-key.ts';
import { type Finding, failed, note, ok, problem } from './finding.ts';

/** What etcd says, and the first member that says it. */
export interface EtcdReport {
  readonly findings: readonly Finding[];
  readonly registry?: Registry;
  readonly config?: NetworkConfig;
}

export interface EtcdFacts {
  /** One for each endpoint. */
  readonly members: readonly Registry[];
  readonly oldStore: OldStore;
  readonly etcdPrefix: string;
  /** What was noticed on the way to etcd. */
  readonly notices: Pick<TroubleLog, 'current'>;
}

/** Asks every endpoint by itself: behind a rotation a dead one is not noticed until the others are gone. */
export async function checkEtcd(
  { members, oldStore, etcdPrefix, notices }: EtcdFacts,
  signal: AbortSignal,
): Promise<EtcdReport> {
  const findings: Finding[] = [];
  const clusters = new Set<string>();
  const key = configKey(etcdPrefix);
  let found: { readonly registry: Registry; readonly text: string | undefined } | undefined;
  const asked = await Promise.allSettled(members.map((registry) => registry.range({ key }, signal)));
  signal.throwIfAborted();
  for (const [index, registry] of members.entries()) {
    const answer = asked[index];
    if (answer?.status === 'fulfilled') {
      const { kvs, header } = answer.value;
      findings.push(ok(`etcd at ${registry.endpoint} answers (revision ${header.revision})`));
      clusters.add(header.clusterId);
      found ??= { registry, text: kvs[0]?.value };
    } else findings.push(problem(explanationOf(answer?.reason)));
  }
  findings.push(...notices.current.map((text) => note(text)));
  if (clusters.size > 1)
    findings.push(
      problem(
        'the etcd endpoints belong to different clusters',
        'Give --etcd-endpoints of one cluster only.',
      ),
    );
  if (found === undefined) return { findings };
  const { registry, text } = found;
  if (text === undefined) {
    const missing = await describeMissing({ registry, oldStore }, key, signal);
    findings.push(problem(missing.problem, missing.remedy));
    return { findings, registry };
  }
  const read = readConfig(key, text);
  return { findings: [...findings, ...read.findings], registry, ...(read.config && { config: read.config }) };
}

function readConfig(key: string, text: string): { findings: readonly Finding[]; config?: NetworkConfig } {
  try {
    const config = parseNetworkConfig(text);
    const pools = [config.ipv4, config.ipv6].filter((pool) => pool !== undefined);
    return {
      findings: [
        ok(`${key}: ${pools.map(describePool).join('; ')}`),
        ...config.warnings.map((warning) => note(`${key}: ${warning}`)),
      ],
      config,
    };
  } catch (error) {
    if (!(error instanceof NetworkConfigError)) throw error;
    return { findings: [failed(`the network configuration at ${key} cannot be used`, error)] };
  }
}

function describePool(pool: PoolConfig): string {
  const { network, min, max } = pool;
  return `network ${network.text}, ${poolSize(pool)} subnets from ${min.text} to ${max.text}`;
}
