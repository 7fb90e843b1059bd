import { judgeConfig } from '../../migrate/config.ts';
import { planLeases, type Row } from '../../migrate/plan.ts';
import { planRepairs } from '../../migrate/repair.ts';
import { v2ConfigKey } from '../../migrate/snapshot.ts';
import type { Clock } from '../../runtime/effects.ts';
import { counted, plural } from '../../runtime/texts.ts';
import { firstOf } from '../../runtime/wake.ts';
import { V2Error, type V2Listing, type V2Store } from '../../subnet/etcd-v2/store.ts';
import { configKey, joinKey, subnetsPrefix } from '../../subnet/keys.ts';
import { listRange, type Registry } from '../../subnet/registry/registry.ts';
import { type Finding, few, fewOf, note, ok, problem } from './finding.ts';

/** Most etcds of today do not serve it, and then nothing is missed. */
const deadlineMs = 2_000;

export interface V2Facts {
  readonly v2: V2Store;
  readonly etcdPrefix: string;
  readonly clock: Clock;
}

interface OldNetwork {
  readonly listing: V2Listing;
  readonly config: string | undefined;
}

/**
 * Compares etcd's v2 store, where flannel 0.7.1 keeps its network, with the v3 store: what has not been copied, what differs, and what
 * `etcdctl migrate` has made reservations of. Says nothing where v2 is not served, may not be read, or has no network at the daemon's
 * prefix. Rejects with RegistryError or `signal.reason`.
 */
export async function checkV2(
  facts: V2Facts,
  registry: Registry,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  const { etcdPrefix } = facts;
  const old = await readOld(facts, signal);
  if (old === undefined || (old.config === undefined && old.listing.nodes.length === 0)) return [];
  const v3Prefix = subnetsPrefix(etcdPrefix);
  const { kvs } = await listRange(registry, v3Prefix, signal);
  const stored = (await registry.range({ key: configKey(etcdPrefix) }, signal)).kvs[0]?.value;
  const { nodes, ...position } = old.listing;
  const v2 = { leasesPrefix: oldPrefix(etcdPrefix), nodes, position };
  const v3 = { leasesPrefix: v3Prefix, kvs, leftSeconds: new Map<string, number>() };
  const rows = planLeases({ v2, v3 }).steps.map(({ row }) => row);
  const converted = planRepairs({ v2, v3 }, new Set()).flatMap(({ leaseId, row }) =>
    leaseId === undefined ? [] : [row],
  );
  return [
    ...configFindings(etcdPrefix, old.config, stored, rows.some(isLive)),
    ...leaseFindings(rows),
    ...fewOf(
      note,
      `${counted(converted.length, 'reservation')} in the v3 store ${plural(converted.length, 'is a lease', 'are leases')} ` +
        'in the v2 store, as etcdctl migrate leaves them: they do not end when their hosts are gone',
      converted.map(nameOf),
      'Give them leases: flanneld-ts migrate --repair',
    ),
  ];
}

const oldPrefix = (etcdPrefix: string) => subnetsPrefix(joinKey('/', etcdPrefix));

async function readOld(
  { v2, etcdPrefix, clock }: V2Facts,
  signal: AbortSignal,
): Promise<OldNetwork | undefined> {
  const read = async (inner: AbortSignal): Promise<OldNetwork> => {
    const { node } = await v2.get(v2ConfigKey(etcdPrefix), inner);
    return { listing: await v2.list(oldPrefix(etcdPrefix).slice(0, -1), inner), config: node?.value };
  };
  const giveUp = (inner: AbortSignal) => clock.sleep(deadlineMs, inner).then(() => undefined);
  try {
    return await firstOf<OldNetwork | undefined>(signal, (inner) => [read(inner), giveUp(inner)]);
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof V2Error) return undefined;
    throw error;
  }
}

const isLive = ({ left }: Row) => left !== 'reservation';
const nameOf = ({ subnet, host }: Pick<Row, 'subnet' | 'host'>) => `${subnet} of ${host}`;

/** A configuration that v3 lacks is no finding here: who misses it there names the one of v2. */
function configFindings(
  etcdPrefix: string,
  v2: string | undefined,
  v3: string | undefined,
  isInUse: boolean,
): readonly Finding[] {
  const { what, why } = judgeConfig(v2, v3);
  const say = isInUse ? problem : note;
  const key = v2ConfigKey(etcdPrefix);
  if (what === 'refused')
    return [
      say(
        `the configuration in the v2 store at ${key} is none for flanneld-ts: ${why}`,
        `Store the one that is meant in v3: etcdctl put ${configKey(etcdPrefix)} …`,
      ),
    ];
  if (what !== 'differs') return [];
  return [
    say(
      `the configuration in the v2 store at ${key} is not that of the v3 store: ${why}`,
      'Hosts that use the v2 store and hosts that use the v3 store must have the same one: change one of the two.',
    ),
  ];
}

function leaseFindings(rows: readonly Row[]): readonly Finding[] {
  const missing = rows.filter(({ what }) => what === 'copied');
  const [live, reserved] = [missing.filter(isLive), missing.filter((row) => !isLive(row))];
  const conflicts = rows.filter(({ what }) => what === 'conflict');
  const there = rows.filter(({ what }) => what === 'there');
  const remedy = 'Copy what is missing: flanneld-ts migrate';
  const names = few(conflicts.map((row) => `${nameOf(row)} (${row.why})`));
  return [
    ...fewOf(
      problem,
      `${counted(live.length, 'lease is', 'leases are')} in etcd's v2 store alone, so that hosts which use the v3 store have no route there`,
      live.map(nameOf),
      remedy,
    ),
    ...fewOf(
      note,
      `${counted(reserved.length, 'reservation is', 'reservations are')} in etcd's v2 store alone`,
      reserved.map(nameOf),
      remedy,
    ),
    ...(conflicts.length === 0
      ? []
      : [
          problem(
            `${counted(conflicts.length, 'lease')} of etcd's v2 store ${plural(conflicts.length, 'is', 'are')} in conflict with the v3 store: ${names}`,
            'Find out which host uses the subnet: flanneld-ts migrate --dry-run',
          ),
        ]),
    ...(there.length > 0 && missing.length + conflicts.length === 0
      ? [ok(`the leases of etcd's v2 store (${there.length}) are all in the v3 store`)]
      : []),
  ];
}
