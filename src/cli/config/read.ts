import { aligned, excerpt, oneLine } from '../../runtime/texts.ts';
import { parseNetworkConfig } from '../../subnet/config/config.ts';
import { judgeConfig } from '../../subnet/config/judge.ts';
import { describeMissing, type Stores } from '../../subnet/config/source.ts';
import { configChanges } from '../../subnet/config/watch.ts';
import { configKey } from '../../subnet/keys.ts';
import { type KeyValue, type Registry, RegistryError } from '../../subnet/registry/registry.ts';
import { askingEtcd, complain, type ExitCode, type Output, paint, printJson, wrapped } from '../output.ts';
import { judgementLines, valueLines, valuesOf } from './check.ts';

export interface ConfigParts extends Output, Stores {
  /** As given by the user. */
  readonly etcdPrefix: string;
}

/**
 * `config show`: the network configuration in etcd with its defaults. Resolves to the exit code: 0; 1 when there is none or it cannot be
 * used; 3 when etcd cannot be asked. Rejects only with `signal.reason`.
 */
export async function showConfig(parts: ConfigParts, signal: AbortSignal): Promise<ExitCode> {
  return await askingEtcd(parts, signal, async () => {
    const kv = await readConfig(parts, signal);
    if (kv === undefined) return await sayMissing(parts, signal);
    const judgement = judgeConfig(kv.value, { isStored: true });
    const { config, faults, warnings } = judgement;
    const place = { key: kv.key, endpoint: parts.registry.endpoint, revision: kv.modRevision };
    if (parts.json) {
      const values = config === undefined ? [] : valuesOf(judgement.text, config);
      printJson(parts, { ...place, text: kv.value, valid: config !== undefined, values, faults, warnings });
    } else if (config === undefined) {
      for (const line of judgementLines(parts, kv.key, judgement)) parts.out(line);
    } else {
      for (const line of wrapped(`${kv.key} at ${place.endpoint}, revision ${place.revision}`, 2))
        parts.out(line);
      for (const { text } of warnings) for (const line of wrapped(`warning: ${text}`, 2)) parts.out(line);
      for (const line of valueLines(parts, judgement.text, config)) parts.out(line);
    }
    return config === undefined ? 1 : 0;
  });
}

/** The key of the configuration; undefined when there is none. Rejects as the registry does. */
export async function readConfig(
  { registry, etcdPrefix }: Pick<ConfigParts, 'registry' | 'etcdPrefix'>,
  signal: AbortSignal,
): Promise<KeyValue | undefined> {
  return (await registry.range({ key: configKey(etcdPrefix) }, signal)).kvs[0];
}

async function sayMissing(parts: ConfigParts, signal: AbortSignal): Promise<1> {
  const { problem, remedy } = await describeMissing(parts, configKey(parts.etcdPrefix), signal);
  complain(parts, `${problem} ${remedy}`, 'CONFIG_MISSING');
  return 1;
}

/** One state of the key. */
interface Version {
  readonly revision: number;
  readonly text: string;
  /** Against the version before; undefined for the first that is known. */
  readonly changes: readonly string[] | undefined;
}

/** Why the chain of versions ends where it does. */
type Beginning = 'created' | 'compacted' | 'limit';

/** Older ones interest nobody, and each costs a call. */
const mostVersions = 100;

/**
 * `config history`: the versions of the configuration that etcd still has, newest first. Resolves to the exit code: 0; 1 when there is
 * no configuration; 3 when etcd cannot be asked. Rejects only with `signal.reason`.
 */
export async function showHistory(parts: ConfigParts, signal: AbortSignal): Promise<ExitCode> {
  return await askingEtcd(parts, signal, async () => {
    const newest = await readConfig(parts, signal);
    if (newest === undefined) return await sayMissing(parts, signal);
    const { kvs, beginning } = await versionsOf(parts.registry, newest, signal);
    const versions = kvs.map(({ modRevision, value }, index): Version => {
      const before = kvs[index + 1]?.value;
      const changes = before === undefined ? undefined : changesBetween(before, value);
      return { revision: modRevision, text: value, changes };
    });
    if (parts.json) printJson(parts, { key: newest.key, versions, beginning });
    else for (const line of historyLines(parts, versions, beginning)) parts.out(line);
    return 0;
  });
}

/** Follows the chain: right before the revision that wrote a version, etcd held the version before. */
async function versionsOf(
  registry: Registry,
  newest: KeyValue,
  signal: AbortSignal,
): Promise<{ readonly kvs: readonly KeyValue[]; readonly beginning: Beginning }> {
  const kvs = [newest];
  for (let oldest = newest; kvs.length < mostVersions; kvs.push(oldest)) {
    if (oldest.modRevision === oldest.createRevision) return { kvs, beginning: 'created' };
    try {
      const revision = oldest.modRevision - 1;
      const [before] = (await registry.range({ key: newest.key, revision }, signal)).kvs;
      if (before === undefined) return { kvs, beginning: 'created' };
      oldest = before;
    } catch (error) {
      if (!(error instanceof RegistryError) || error.kind !== 'COMPACTED') throw error;
      return { kvs, beginning: 'compacted' };
    }
  }
  return { kvs, beginning: 'limit' };
}

/** The differences in meaning between two texts, one entry each; a text where one of them cannot be used. */
export function changesBetween(before: string, after: string): readonly string[] {
  const [old, now] = [before, after].map((text) => judgeConfig(text, { isStored: true }).config);
  if (now === undefined) return ['it cannot be used'];
  if (old === undefined) return ['the one before could not be used', ...firstValues(after)];
  return configChanges(old, now);
}

function firstValues(text: string): readonly string[] {
  const { ipv4, ipv6 } = parseNetworkConfig(text);
  return [ipv4, ipv6].flatMap((pool) => (pool === undefined ? [] : [pool.network.text]));
}

const endings: Readonly<Record<Beginning, string>> = {
  created: '',
  compacted: 'etcd has compacted what was before.',
  limit: `Only the last ${mostVersions} versions are shown.`,
};

function historyLines(output: Output, versions: readonly Version[], beginning: Beginning): readonly string[] {
  const rows = versions.map(({ revision, text, changes }) => [
    String(revision),
    changes === undefined
      ? `${beginning === 'created' ? 'created: ' : ''}${excerpt(oneLine(text), 200)}`
      : changes.join(', ') || 'written again, means the same',
  ]);
  const [head = '', ...lines] = aligned([['REVISION', 'CHANGE'], ...rows]);
  const ending = endings[beginning];
  return [
    paint(output, 'bold', head),
    ...lines.flatMap((line) => wrapped(line, 10)),
    ...(ending === '' ? [] : [ending]),
    'etcd keeps no times. To go back: flanneld-ts config history --json, then config set.',
  ];
}
