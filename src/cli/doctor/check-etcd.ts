import type { PerFamily, Subnet } from '../../ip/ip.ts';
import { counted } from '../../runtime/texts.ts';
import type { TroubleLog } from '../../runtime/trouble.ts';
import {
  type NetworkConfig,
  NetworkConfigError,
  type PoolConfig,
  parseNetworkConfig,
} from '../../subnet/config/config.ts';
import { describeMissing } from '../../subnet/config/source.ts';
import { configKey } from '../../subnet/keys.ts';
import { findOwn } from '../../subnet/lease/acquire/own-keys.ts';
import { renewIntervalMs } from '../../subnet/lease/keep/schedule.ts';
import { isOwnLease, type Lease, parseLease } from '../../subnet/lease/lease.ts';
import { fits, poolSize } from '../../subnet/lease/pool.ts';
import {
  type EtcdAlarm,
  listRange,
  type OldStore,
  type Registry,
  RegistryError,
} from '../../subnet/registry/registry.ts';
import type { StatusView } from '../ask-daemon.ts';
import { duration } from '../status.ts';
import {
  attempt,
  type DaemonState,
  daemonRemedy,
  type Finding,
  failed,
  fewOf,
  note,
  ok,
  problem,
} from './finding.ts';

/** What etcd says, and the first member that says it. */
interface EtcdReport {
  readonly findings: readonly Finding[];
  readonly configFindings: readonly Finding[];
  readonly registry?: Registry;
  readonly config?: NetworkConfig;
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
interface AskedMember {
  readonly registry: Registry;
  readonly text: string | undefined;
}

/** Asks every endpoint: the daemon's failover hides a dead one until the others fail as well. */
export async function checkEtcd(
  { members, oldStore, etcdPrefix, notices, alarms }: EtcdFacts,
  signal: AbortSignal,
): Promise<EtcdReport> {
  const findings: Finding[] = [];
  const clusters = new Map<string, readonly AskedMember[]>();
  const key = configKey(etcdPrefix);
  const [asked, raised] = await Promise.all([
    Promise.allSettled(members.map((registry) => registry.range({ key }, signal))),
    alarms(signal),
  ]);
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
  findings.push(...raised.map(alarmFinding));
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

function differentClusters(clusters: ReadonlyMap<string, readonly AskedMember[]>): Finding {
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

function readConfig(key: string, text: string): Omit<EtcdReport, 'findings'> {
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

interface LeaseFacts {
  readonly registry: Registry;
  readonly subnetsPrefix: string;
  readonly config: NetworkConfig;
  /** Of this host, as its daemon would choose them. */
  readonly addresses: PerFamily<string>;
  readonly renewMarginMs: number;
  /** What the running daemon says; it decides which lease is this host's. */
  readonly view: StatusView | undefined;
  readonly daemon: DaemonState;
}

/** `peers`: the leases of other hosts. */
interface LeaseReport {
  readonly findings: readonly Finding[];
  readonly peers: readonly Lease[];
  readonly own: Lease | undefined;
}

/** Checks this host's lease, and looks for keys that are no leases. */
export async function checkLeases(facts: LeaseFacts, signal: AbortSignal): Promise<LeaseReport> {
  const { registry, subnetsPrefix, config, addresses, view } = facts;
  const { kvs } = await listRange(registry, subnetsPrefix, signal);
  const parsed = kvs.map((kv) => parseLease(subnetsPrefix, kv));
  const leases = parsed.flatMap((one) => ('lease' in one ? [one.lease] : []));
  const junk = parsed.flatMap((one) => ('problem' in one ? [one.problem] : []));
  const mine = leases.filter((lease) => isOwnLease(addresses, lease));
  const grants = { isOurs: () => false };
  const chosen = findOwn({ subnetsPrefix, addresses, pools: config, grants }, kvs).chosen?.lease ?? mine[0];
  const own = view === undefined ? chosen : leases.find(({ key }) => key === view.lease?.key);
  const others = mine.filter(({ key }) => key !== own?.key).map(({ key }) => key);
  const findings = [
    ok(`${counted(leases.length, 'lease')} under ${subnetsPrefix}`),
    ...fewOf(
      note,
      counted(junk.length, 'key is no lease', 'keys are no leases'),
      junk,
      'All hosts keep routing and report that they are degraded. Delete keys that nobody needs: etcdctl del KEY',
      3,
    ),
    ...(await ownFindings(facts, own, signal)),
    ...fewOf(
      note,
      "further keys carry this host's address",
      others,
      'Delete them (etcdctl del KEY) if no other host uses that address.',
    ),
  ];
  return { findings, peers: leases.filter((lease) => !mine.includes(lease)), own };
}

async function ownFindings(
  facts: LeaseFacts,
  own: Lease | undefined,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  const { view, daemon } = facts;
  // The daemon has already said why it does not hold a lease.
  if (view !== undefined && view.lease?.state !== 'held' && view.reasons.length > 0) return [];
  if (own === undefined)
    return [
      problem(
        view === undefined ? 'this host has no lease' : `this host has no lease: ${view.summary}`,
        daemonRemedy(daemon, 'takes one'),
      ),
    ];
  const findings = [...(await attempt(`own lease ${own.key}`, signal, () => lifeOf(facts, own, signal)))];
  const { key, subnets } = own;
  const { ipv4, ipv6 } = facts.config;
  const isFit = (pool: PoolConfig | undefined, subnet: Subnet | undefined) =>
    pool === undefined || (subnet !== undefined && fits(pool, subnet));
  if (!isFit(ipv4, subnets.ipv4) || !isFit(ipv6, subnets.ipv6))
    findings.push(
      problem(`${key} does not fit the network configuration`, 'Restart the daemon: it takes one that fits.'),
    );
  if (own.value.backendType !== 'host-gw')
    findings.push(
      problem(
        `${key} does not name the backend host-gw, so no peer routes to this host`,
        'Restart the daemon: it corrects the lease.',
      ),
    );
  return findings;
}

/** How long the lease lives, and whether a daemon renews it. */
async function lifeOf(
  { registry, renewMarginMs, daemon }: LeaseFacts,
  { key, leaseId }: Lease,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  if (leaseId === '0') return [ok(`own lease ${key}, a reservation`)];
  const { ttlSeconds, grantedTtlSeconds } = await registry.leaseTimeToLive(leaseId, signal);
  const remedy = daemonRemedy(daemon, 'renews it');
  if (ttlSeconds <= 0) return [problem(`own lease ${key} has expired`, remedy)];
  const left = `own lease ${key}: ${duration(ttlSeconds)} left`;
  // Twice the interval: one renewal may fail, or the daemon may have just started.
  const overdueS = grantedTtlSeconds - (2 * renewIntervalMs(grantedTtlSeconds, renewMarginMs)) / 1000;
  if (ttlSeconds < overdueS) return [problem(`${left}; its renewal is overdue`, remedy)];
  return [ok(`${left}, renewed ${duration(grantedTtlSeconds - ttlSeconds)} ago`)];
}
