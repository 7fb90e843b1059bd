import type { Clock } from '../../runtime/effects.ts';
import { aligned, counted, excerpt, plural } from '../../runtime/texts.ts';
import type { NetworkConfig, PoolConfig } from '../../subnet/config/config.ts';
import { judgeConfig } from '../../subnet/config/judge.ts';
import { configKey, occupiedSubnets, subnetsPrefix } from '../../subnet/keys.ts';
import {
  type LeaseMark,
  type LeaseOrder,
  type LeaseRow,
  overviewOf,
  sortRows,
} from '../../subnet/lease/overview.ts';
import { type PoolRoom, poolRoom } from '../../subnet/lease/pool.ts';
import {
  type KeyValue,
  listRange,
  type Registry,
  type RemainingTtl,
} from '../../subnet/registry/registry.ts';
import { askingEtcd, type ExitCode, type Output, paint, printJson, wrapped } from '../output.ts';
import { duration } from '../status.ts';

export interface LeaseParts extends Output {
  readonly registry: Registry;
  /** As given by the user. */
  readonly etcdPrefix: string;
  readonly clock: Clock;
}

/** The leases of a cluster, and what is known of its configuration. */
export interface ClusterView {
  readonly leasesPrefix: string;
  readonly revision: number;
  readonly kvs: readonly KeyValue[];
  readonly rows: readonly LeaseRow[];
  /** Absent when there is none that can be used; `configFault` says why. */
  readonly config?: NetworkConfig;
  readonly configFault?: string;
}

/** etcd is asked for the time left of so many leases at once. */
const asked = 64;

/** Reads the leases, the time left of each, and the configuration. Rejects as the registry does. */
export async function readCluster(
  { registry, etcdPrefix }: LeaseParts,
  signal: AbortSignal,
): Promise<ClusterView> {
  const leasesPrefix = subnetsPrefix(etcdPrefix);
  const [{ kvs, header }, configs] = await Promise.all([
    listRange(registry, leasesPrefix, signal),
    registry.range({ key: configKey(etcdPrefix) }, signal),
  ]);
  const ids = [...new Set(kvs.map(({ lease }) => lease))].filter((id) => id !== '0');
  const ttls = new Map<string, RemainingTtl>();
  for (let at = 0; at < ids.length; at += asked)
    await Promise.all(
      ids.slice(at, at + asked).map(async (id) => ttls.set(id, await registry.leaseTimeToLive(id, signal))),
    );
  const text = configs.kvs[0]?.value;
  const { config, faults } = text === undefined ? missing : judgeConfig(text, { isStored: true });
  const [fault] = faults;
  const rows = overviewOf({ leasesPrefix, kvs, ttls, ...(config && { config }) });
  return {
    leasesPrefix,
    revision: header.revision,
    kvs,
    rows,
    ...(config && { config }),
    ...(fault && { configFault: fault.text }),
  };
}

const missing = { config: undefined, faults: [{ text: 'there is none' }] } as const;

/** The pools of a cluster that are on, with what is left of each. */
export function poolsOf({
  config,
  kvs,
  leasesPrefix,
}: ClusterView): readonly { readonly pool: PoolConfig; readonly room: PoolRoom }[] {
  const taken = kvs.flatMap(({ key }) => occupiedSubnets(leasesPrefix, key));
  return [config?.ipv4, config?.ipv6].flatMap((pool) =>
    pool === undefined ? [] : [{ pool, room: poolRoom(pool, taken) }],
  );
}

export interface ListOptions {
  readonly sort: LeaseOrder;
  /** Says where the network stands before the table. */
  readonly heading: boolean;
}

/**
 * `lease list`, and with `heading` `status --cluster`: a row for each lease, with what is odd about it. Resolves to the exit code: 0; 1
 * when a lease keeps hosts from reaching each other, or the configuration cannot be used; 3 when etcd cannot be asked.
 */
export async function listLeases(
  parts: LeaseParts,
  { sort, heading }: ListOptions,
  signal: AbortSignal,
): Promise<ExitCode> {
  return await askingEtcd(parts, signal, async () => {
    const view = await readCluster(parts, signal);
    const rows = sortRows(view.rows, sort);
    const problems = rows.flatMap(({ marks }) => marks).filter(({ problem }) => problem).length;
    const isConfigured = view.configFault === undefined;
    if (parts.json) printJson(parts, { ...jsonOf(parts, view), leases: rows, problems });
    else {
      if (heading) for (const line of headingLines(parts, view)) parts.out(line);
      for (const line of tableLines(parts, rows)) parts.out(line);
      parts.out(summaryText(view, problems));
    }
    return problems === 0 && (isConfigured || !heading) ? 0 : 1;
  });
}

const watchIntervalMs = 2_000;
const wipe = '\u001b[H\u001b[2J\u001b[3J';

/** As {@link listLeases}, every two seconds until `signal` aborts; then rejects with its reason. `clear`: the screen, each time. */
export async function watchLeases(
  parts: LeaseParts,
  options: ListOptions,
  clear: boolean,
  signal: AbortSignal,
): Promise<never> {
  for (;;) {
    const lines: string[] = [];
    // The screen is empty for no longer than it takes to write.
    const gathered = { ...parts, out: (line: string) => void lines.push(line) };
    await listLeases(gathered, options, signal);
    if (lines.length > 0) parts.out((clear && !parts.json ? wipe : '') + lines.join('\n'));
    await parts.clock.sleep(watchIntervalMs, signal);
  }
}

function jsonOf({ registry }: LeaseParts, view: ClusterView): object {
  const { config, configFault = null, leasesPrefix, revision } = view;
  const pools = poolsOf(view).map(({ pool, room }) => ({
    network: pool.network.text,
    subnetLength: pool.subnetLength,
    min: pool.min.text,
    max: pool.max.text,
    size: Number(room.size),
    free: Number(room.free),
  }));
  return {
    prefix: leasesPrefix,
    endpoint: registry.endpoint,
    revision,
    configured: config !== undefined,
    configFault,
    pools,
  };
}

function headingLines(parts: LeaseParts, view: ClusterView): readonly string[] {
  const { registry, etcdPrefix } = parts;
  const key = configKey(etcdPrefix);
  const fault = view.configFault;
  const pools = poolsOf(view).flatMap(({ pool: { network, subnetLength, min, max }, room }) => {
    const text = `${network.text}: /${subnetLength} from ${min.text} to ${max.text}`;
    return [`network  ${text}`, `         ${room.free} of ${counted(Number(room.size), 'subnet')} free`];
  });
  const trouble =
    fault === undefined
      ? []
      : wrapped(`network  ${paint(parts, 'red', `${key} cannot be used`)}: ${excerpt(fault, 200)}`, 9);
  return [...wrapped(`etcd     ${registry.endpoint}, under ${etcdPrefix}`, 9), ...pools, ...trouble, ''];
}

function summaryText({ rows }: ClusterView, problems: number): string {
  const reserved = rows.filter((row) => row.reserved).length;
  const of =
    reserved === 0 ? '' : `, ${reserved} of them ${plural(reserved, 'a reservation', 'reservations')}`;
  return `${counted(rows.length, 'lease')}${of}; ${problems === 0 ? 'no problems' : counted(problems, 'problem')}`;
}

/** The rows as a table of 80 columns (with IPv4, and usual IPv6 addresses), each with its marks below it. */
export function tableLines(output: Output, rows: readonly LeaseRow[]): readonly string[] {
  const cells = rows.map(cellsOf);
  const [head = '', ...lines] = aligned([
    ['SUBNET', 'HOST', 'FAM', 'LEFT', 'AGE', 'ETCD LEASE'],
    ...cells.flat(),
  ]);
  let at = 0;
  const body = rows.flatMap(({ marks }, index) => {
    const own = lines.slice(at, (at += cells[index]?.length ?? 0));
    return [...own, ...marks.flatMap((mark) => markLines(output, mark))];
  });
  return rows.length === 0 ? [] : [paint(output, 'bold', head), ...body];
}

/** A mark as lines: `!` before a problem, `-` before what is worth knowing. */
export function markLines(output: Output, { problem, text }: LeaseMark): readonly string[] {
  const lines = wrapped(`  ${problem ? '!' : '-'} ${text}`, 4);
  return problem ? lines.map((line) => paint(output, 'yellow', line)) : lines;
}

/** One row for each family; what both share stands in the first. */
function cellsOf(row: LeaseRow): readonly (readonly string[])[] {
  const { subnets, addresses, name, etcdLease } = row;
  const families = (['ipv4', 'ipv6'] as const).filter((family) => subnets[family] !== undefined);
  const left = row.reserved ? 'reserved' : row.secondsLeft === null ? '-' : shortDuration(row.secondsLeft);
  const age = row.renewedSecondsAgo === null ? '-' : shortDuration(row.renewedSecondsAgo);
  if (families.length === 0) return [[excerpt(name, 30), '-', '-', left, age, etcdLease ?? '-']];
  return families.map((family, index) => {
    const own = [subnets[family] ?? '', addresses[family] ?? '-', family === 'ipv4' ? '4' : '6'];
    return index === 0 ? [...own, left, age, etcdLease ?? '-'] : own;
  });
}

/** `23h59m`: for a table. */
export function shortDuration(seconds: number): string {
  return duration(seconds)
    .replaceAll(' min', 'm')
    .replaceAll(/ (?=[dhms])/g, '')
    .replaceAll(' ', '');
}
