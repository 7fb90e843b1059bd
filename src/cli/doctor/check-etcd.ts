import type { TroubleLog } from '../../runtime/trouble.ts';
import {
  type NetworkConfig,
  NetworkConfigError,
  type PoolConfig,
  parseNetworkConfig,
} from '../../subnet/config/config.ts';
import { describeMissing } from '../../subnet/config/source.ts';
import { configKey } from '../../subnet/keys.ts';
import { poolSize } from '../../subnet/lease/pool.ts';
import {
  type EtcdAlarm,
  type OldStore,
  type Registry,
  RegistryError,
} from '../../subnet/registry/registry.ts';
import { type Finding, failed, note, ok, problem } from './finding.ts';

/** What there is to say about the network configuration, and the configuration when it can be used. */
interface ConfigReport {
  readonly configFindings: readonly Finding[];
  readonly config?: NetworkConfig;
}

/** What etcd says, and the first member that says it. */
export interface EtcdReport extends ConfigReport {
  readonly findings: readonly Finding[];
  readonly registry?: Registry;
}

export interface EtcdFacts {
  /** One for each endpoint. */
  readonly members: readonly Registry[];
  readonly oldStore: OldStore;
  readonly etcdPrefix: string;
  /** Notices about the connections. */
  readonly notices: Pick<TroubleLog, 'current'>;
  /** The alarms of etcd's members; none when etcd does not answer. */
  readonly alarms: (signal: AbortSignal) => Promise<readonly EtcdAlarm[]>;
}

/** A member that answered, and the text of the configuration there. */
interface Answer {
  readonly registry: Registry;
  readonly text: string | undefined;
}

/** Asks every endpoint: the daemon's failover hides a dead one until the others fail as well. */
export async function checkEtcd(
  { members, oldStore, etcdPrefix, notices, alarms }: EtcdFacts,
  signal: AbortSignal,
): Promise<EtcdReport> {
  const findings: Finding[] = [];
  const clusters = new Map<string, readonly Answer[]>();
  const key = configKey(etcdPrefix);
  const asked = await Promise.allSettled(members.map((registry) => registry.range({ key }, signal)));
  signal.throwIfAborted();
  const othersServe = asked.some(({ status }) => status === 'fulfilled');
  for (const [index, registry] of members.entries()) {
    const answer = asked[index];
    if (answer?.status !== 'fulfilled') {
      findings.push(unserved(answer?.reason, othersServe));
      continue;
    }
    const { kvs, header } = answer.value;
    findings.push(ok(`etcd at ${registry.endpoint} answers (revision ${header.revision})`));
    const text = kvs[0]?.value;
    clusters.set(header.clusterId, [...(clusters.get(header.clusterId) ?? []), { registry, text }]);
  }
  findings.push(...notices.current.map((text) => note(text)));
  if (clusters.size > 1) findings.push(differentClusters(clusters));
  findings.push(...(await alarms(signal)).map(alarmFinding));
  // The daemon, too, chooses the cluster that most endpoints belong to.
  const [[found] = []] = [...clusters.values()].toSorted((one, other) => other.length - one.length);
  if (found === undefined) return { findings, configFindings: [] };
  const { registry, text } = found;
  if (text !== undefined) return { findings, registry, ...readConfig(key, text) };
  const missing = await describeMissing({ registry, oldStore }, key, signal);
  return { findings, registry, configFindings: [problem(missing.problem, missing.remedy)] };
}

/** A learner does no harm while other members serve. */
function unserved(error: unknown, othersServe: boolean): Finding {
  if (!(error instanceof RegistryError)) return failed('etcd', error);
  const say = error.kind === 'NOT_SERVING' && othersServe ? note : problem;
  return say(error.message, error.remedy);
}

function differentClusters(clusters: ReadonlyMap<string, readonly Answer[]>): Finding {
  const each = [...clusters].map(
    ([id, answers]) =>
      `${answers.map(({ registry }) => registry.endpoint).join(', ')} to ${BigInt(id).toString(16)}`,
  );
  return problem(
    `the etcd endpoints belong to different clusters: ${each.join('; ')}`,
    'Pass --etcd-endpoints of one cluster only.',
  );
}

const alarmTexts: Readonly<Record<string, readonly [text: string, remedy: string]>> = {
  NOSPACE: [
    'the database is full, etcd accepts no writes',
    'Compact and defragment etcd, then: etcdctl alarm disarm',
  ],
  CORRUPT: [
    'the members hold different data, etcd accepts no writes',
    'Find the corrupt member (etcdctl endpoint hashkv --cluster), replace it, then: etcdctl alarm disarm',
  ],
};

function alarmFinding({ name, member }: EtcdAlarm): Finding {
  const [text, remedy] = alarmTexts[name] ?? ['see its documentation', 'etcdctl alarm list'];
  return problem(`etcd has raised the alarm ${name} (member ${member}): ${text}`, remedy);
}

function readConfig(key: string, text: string): ConfigReport {
  try {
    const config = parseNetworkConfig(text);
    const pools = [config.ipv4, config.ipv6].flatMap((pool) => (pool === undefined ? [] : [poolText(pool)]));
    const warnings = config.warnings.map((warning) => note(`${key}: ${warning}`));
    return { configFindings: [ok(`${key}: ${pools.join('; ')}`), ...warnings], config };
  } catch (error) {
    if (!(error instanceof NetworkConfigError)) throw error;
    return { configFindings: [failed(`the network configuration at ${key} cannot be used`, error)] };
  }
}

function poolText(pool: PoolConfig): string {
  const { network, min, max } = pool;
  const size = poolSize(pool);
  const subnets = size === 1n ? `1 subnet, ${min.text}` : `${size} subnets from ${min.text} to ${max.text}`;
  return `network ${network.text}, ${subnets}`;
}
