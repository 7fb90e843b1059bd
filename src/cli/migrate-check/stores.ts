import { bridgeAddress, type Subnet } from '../../ip/ip.ts';
import { type ConfigOutcome, judgeConfig } from '../../migrate/config.ts';
import { planLeases, type Row } from '../../migrate/plan.ts';
import { planRepairs, type Reservations, readReservations } from '../../migrate/repair.ts';
import { type Sides, v2ConfigKey } from '../../migrate/snapshot.ts';
import { explanationOf } from '../../runtime/errors.ts';
import { counted } from '../../runtime/texts.ts';
import { parseNetworkConfig } from '../../subnet/config/config.ts';
import { V2Error } from '../../subnet/etcd-v2/store.ts';
import { configKey, parseSubnetKey } from '../../subnet/keys.ts';
import { holderText } from '../../subnet/lease/lease.ts';
import { RegistryError } from '../../subnet/registry/registry.ts';
import { leftText } from '../migrate.ts';
import { duration } from '../status.ts';
import { blocks, changes, found, same, type Verdict } from './found.ts';

const migrate = 'Run once for the whole network: flanneld-ts migrate';

/**
 * What both stores hold of the network, and of this host, whose subnet.env names `own`: the backend, IPv6, leases that v3 lacks.
 * Rejects with `signal.reason` alone.
 */
export async function storeVerdicts(
  sides: Sides,
  own: Subnet | undefined,
  signal: AbortSignal,
): Promise<readonly Verdict[]> {
  const { from, to } = sides;
  try {
    const inV3 = (await to.registry.range({ key: configKey(to.prefix) }, signal)).kvs[0]?.value;
    const stored = await readReservations(sides, signal);
    // Without v2 there is nothing to migrate, and flanneld is a newer one that uses v3.
    const inV2 = stored.v2 && (await from.store.get(v2ConfigKey(from.prefix), signal)).node?.value;
    return [
      found(
        stored.v2 === undefined
          ? `etcd at ${to.registry.endpoint} serves the v3 store alone`
          : `etcd serves the v3 store, and the v2 store at ${from.endpoints}: ${counted(stored.v2.nodes.length, 'lease')} there`,
      ),
      ...configVerdicts(judgeConfig(inV2, inV3), inV2, inV3, configKey(to.prefix)),
      ...(stored.v2 === undefined ? [] : leaseVerdicts(stored, stored.v2)),
      ...(own === undefined ? [] : [ownVerdict(own, stored)]),
    ];
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof V2Error) {
      const text = explanationOf(error).replaceAll('--etcd-', '--from-');
      return [blocks(`the v2 store cannot be read: ${text}`)];
    }
    if (!(error instanceof RegistryError)) throw error;
    const remedy =
      error.kind === 'NOT_ETCD'
        ? 'etcd 2 has no v3 store: update it to 3.3 or later, with --enable-v2=true from 3.4 on.'
        : error.remedy;
    return [blocks(`the v3 store cannot be used: ${error.message}`, remedy)];
  }
}

/** The words for each outcome; `blocks` where hosts on v3 could not use the configuration, or would use it differently. */
function configVerdicts(
  { what, why, needsOperator }: ConfigOutcome,
  v2: string | undefined,
  v3: string | undefined,
  key: string,
): readonly Verdict[] {
  const store = `Store the one that is meant in v3: etcdctl put ${key} …`;
  switch (what) {
    case 'copied':
      return [
        blocks(`the configuration is in the v2 store alone (backend ${backendOf(v2)})`, migrate),
        ...ipv6Verdict(v2, true),
      ];
    case 'refused':
      return [blocks(`the configuration in the v2 store, backend ${backendOf(v2)}: ${why}`, store)];
    case 'differs':
      return [blocks(`the configurations of the v2 and the v3 store differ: ${why}`, store)];
    case 'there':
    case 'missing':
      if (needsOperator) return [blocks(`the configuration ${key}, backend ${backendOf(v3)}: ${why}`, store)];
      return [
        same(`the configuration ${key}: backend ${backendOf(v3)}`),
        ...ipv6Verdict(v3, v2 !== undefined),
      ];
  }
}

/** flannel means udp where none is named. */
function backendOf(config: string | undefined): string {
  if (config === undefined) return 'none';
  const [, type] = /"Type"\s*:\s*"([^"]{1,40})"/i.exec(config) ?? [];
  return type ?? 'udp, which flannel means by none';
}

/** `isOld`: hosts have it from v2, where flannel 0.7.1 does not know IPv6. */
function ipv6Verdict(config: string | undefined, isOld: boolean): readonly Verdict[] {
  const isOn = parseNetworkConfig(config ?? '').ipv6 !== undefined;
  if (!isOn) return [same('EnableIPv6 is off', 'Leave it off until no flanneld is left.')];
  if (!isOld) return [same('EnableIPv6 is on', 'Leave it on until no flanneld is left.')];
  return [
    changes(
      'EnableIPv6 is on: flannel 0.7.1 ignores it, flanneld-ts gives each host an IPv6 subnet, too',
      'Take it out of the configuration until no flanneld is left: a newer one without IPv6 crashes at such a lease.',
    ),
  ];
}

function leaseVerdicts({ v3 }: Reservations, v2: NonNullable<Reservations['v2']>): readonly Verdict[] {
  const rows = rowsOf({ v2, v3 });
  const count = (what: Row['what']) => rows.filter((row) => row.what === what).length;
  const repairs = planRepairs({ v2, v3 }, new Set()).filter(({ leaseId }) => leaseId !== undefined).length;
  const live = rows.flatMap(({ left }) => (left === 'reservation' ? [] : [left]));
  return [
    ...(count('there') > 0 ? [same(`${counted(count('there'), 'lease')} of the v2 store in v3, too`)] : []),
    ...(count('copied') > 0
      ? [blocks(`${counted(count('copied'), 'lease is', 'leases are')} in the v2 store alone`, migrate)]
      : []),
    ...(count('conflict') > 0
      ? [
          blocks(
            `${counted(count('conflict'), 'lease')} of the v2 store in conflict with the v3 store`,
            'flanneld-ts migrate --dry-run says which.',
          ),
        ]
      : []),
    ...(repairs > 0
      ? [
          changes(
            `${counted(repairs, 'lease')} of the v2 store without an end in v3, as etcdctl migrate leaves them`,
            'Give them leases: flanneld-ts migrate --repair',
          ),
        ]
      : []),
    ...(live.length > 0
      ? [
          changes(
            `hosts that use v3 do not renew their leases in v2, where the first one ends in ${duration(Math.min(...live))}`,
            'Move all hosts until then.',
          ),
        ]
      : []),
  ];
}

function rowsOf({ v2, v3 }: Pick<Reservations, 'v3'> & { readonly v2: NonNullable<Reservations['v2']> }) {
  const position = { index: 0, clusterId: '' };
  const snapshot = { v2: { ...v2, position }, v3: { ...v3, leftSeconds: new Map<string, number>() } };
  return planLeases(snapshot).steps.map(({ row }) => row);
}

/** This host's own lease, which subnet.env names. */
function ownVerdict(own: Subnet, { v2, v3 }: Reservations): Verdict {
  const row = v2 && rowsOf({ v2, v3 }).find(({ subnet }) => subnet === own.text);
  const kv = v3.kvs.find(({ key }) => parseSubnetKey(v3.leasesPrefix, key)?.ipv4?.text === own.text);
  const what = `this host's lease ${own.text} (${bridgeAddress(own)} in subnet.env)`;
  if (row !== undefined && row.what !== 'there') {
    const why = row.why === '' ? '' : `: ${row.why}`;
    const remedy = row.what === 'copied' ? migrate : 'flanneld-ts migrate --dry-run says more.';
    return blocks(`${what}, ${leftText(row.left)}, is not in the v3 store${why}`, remedy);
  }
  if (kv !== undefined) return same(`${what} is in the v3 store, for ${holderText(kv.value)}`);
  return changes(
    `${what} is in no store`,
    'flanneld-ts takes that subnet if it is free; else Docker must be restarted with another one.',
  );
}
