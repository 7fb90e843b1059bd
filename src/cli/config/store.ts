import { counted, excerpt, plural } from '../../runtime/texts.ts';
import type { NetworkConfig } from '../../subnet/config/config.ts';
import { type Judgement, judgeConfig } from '../../subnet/config/judge.ts';
import { configKey, subnetsPrefix } from '../../subnet/keys.ts';
import { type Misfit, misfitsOf } from '../../subnet/lease/misfits.ts';
import { type KeyValue, listRange, RegistryError } from '../../subnet/registry/registry.ts';
import { askingEtcd, complain, type ExitCode, paint, printJson, wrapped } from '../output.ts';
import { type GivenText, judgementLines } from './check.ts';
import { type ConfigParts, changesBetween, readConfig } from './read.ts';

export interface StoreParts extends ConfigParts {
  readonly dryRun: boolean;
  /** Store it without a question. */
  readonly yes: boolean;
  /** Asks the operator; absent without a terminal. */
  readonly confirm?: (question: string) => Promise<boolean>;
}

/** What storing a text would do. */
interface Plan {
  readonly key: string;
  readonly before: KeyValue | undefined;
  readonly text: string;
  readonly changes: readonly string[];
  readonly leases: number;
  readonly misfits: readonly (Misfit & { readonly fitsNow: boolean })[];
}

/**
 * `config set`: stores a text as the network configuration, after checking it, showing what changes and which leases would no longer
 * fit, and asking. Stores nothing when somebody changes the key meanwhile.
 *
 * Resolves to the exit code: 0 stored, or nothing to change, or a dry run; 1 a fault, a no, or somebody else's change; 2 nobody to ask;
 * 3 etcd cannot be asked. Rejects only with `signal.reason`.
 */
export async function setConfig(parts: StoreParts, given: GivenText, signal: AbortSignal): Promise<ExitCode> {
  const judgement = judgeConfig(given.text);
  const { config } = judgement;
  if (config === undefined) return sayFaults(parts, given.name, judgement);
  return await askingEtcd(parts, signal, async () => {
    const before = await readConfig(parts, signal);
    return await storeConfig(parts, { before, text: judgement.text, config }, signal);
  });
}

/** Says why a text is not stored. */
export function sayFaults(parts: StoreParts, name: string, judgement: Judgement): 1 {
  const { faults, warnings, flanneld } = judgement;
  if (parts.json) printJson(parts, { stored: false, faults, warnings, flanneld });
  else for (const line of judgementLines(parts, name, judgement)) parts.err(line);
  return 1;
}

/** The configuration to store, and what it takes the place of. */
export interface Wanted {
  /** As read before; undefined: there was none. */
  readonly before: KeyValue | undefined;
  readonly text: string;
  readonly config: NetworkConfig;
}

/** As {@link setConfig}, for a text that has no fault. Rejects as the registry does. */
export async function storeConfig(
  parts: StoreParts,
  { before, text, config }: Wanted,
  signal: AbortSignal,
): Promise<ExitCode> {
  const { registry, etcdPrefix, dryRun, yes, confirm } = parts;
  const prefix = subnetsPrefix(etcdPrefix);
  const { kvs } = await listRange(registry, prefix, signal);
  const present = before && judgeConfig(before.value, { isStored: true }).config;
  const unfitNow = new Set(present && misfitsOf(prefix, kvs, present).map(({ subnet }) => subnet));
  const plan: Plan = {
    key: configKey(etcdPrefix),
    before,
    text,
    changes: before === undefined ? [] : changesBetween(before.value, text),
    leases: kvs.length,
    misfits: misfitsOf(prefix, kvs, config).map((one) => ({ ...one, fitsNow: !unfitNow.has(one.subnet) })),
  };
  if (before?.value === text) return report(parts, plan, { stored: false, why: 'etcd has this very text' });
  if (!parts.json) for (const line of planLines(parts, plan, config.warnings)) parts.out(line);
  if (dryRun) return report(parts, plan, { stored: false, why: 'dry run: nothing was stored' });
  if (!yes && confirm === undefined) {
    complain(parts, 'there is no terminal to ask at: pass --yes to store it, or --dry-run', 'NOBODY_TO_ASK');
    return 2;
  }
  if (!yes && !(await confirm?.('Store it?'))) {
    report(parts, plan, { stored: false, why: 'nothing was stored' });
    return 1;
  }
  const revision = await swap(parts, plan, signal);
  if (revision !== undefined) return report(parts, plan, { stored: true, revision });
  const why = `somebody else changed ${plan.key} meanwhile; nothing was stored. Run this again to see the change`;
  report(parts, plan, { stored: false, why });
  return 1;
}

type Outcome =
  | { readonly stored: true; readonly revision: number }
  | { readonly stored: false; readonly why: string };

function report(parts: StoreParts, plan: Plan, outcome: Outcome): 0 {
  const { key, changes, misfits, leases, before } = plan;
  if (parts.json) {
    const revisionBefore = before?.modRevision ?? null;
    printJson(parts, { key, ...outcome, dryRun: parts.dryRun, revisionBefore, changes, leases, misfits });
  } else if (outcome.stored) {
    const next =
      before === undefined
        ? 'Daemons that wait for it go on within a second.'
        : 'Each daemon reports the change, and applies it at its next start: systemctl restart flanneld, host by host.';
    parts.out(paint(parts, 'green', `stored ${key} at revision ${outcome.revision}`));
    for (const line of wrapped(next, 0)) parts.out(line);
  } else for (const line of wrapped(outcome.why, 0)) parts.out(line);
  return 0;
}

/** More would push the changes off the screen; --json has all. */
const mostNamed = 10;

function planLines(
  parts: StoreParts,
  { key, before, changes, leases, misfits }: Plan,
  warnings: readonly string[],
): readonly string[] {
  const what =
    before === undefined
      ? [`${key} is new`]
      : changes.length === 0
        ? [`${key}: the text changes, and means the same`]
        : [`${key}:`, ...changes.flatMap((change) => wrapped(`  ${change}`, 4))];
  const named = misfits.slice(0, mostNamed).flatMap(({ subnet, host, why, fitsNow }) => {
    const already = fitsNow ? '' : ' (it does not fit now either)';
    return wrapped(`  ${subnet} of ${excerpt(host)}: ${why}${already}`, 4);
  });
  const more = misfits.length > mostNamed ? [`  and ${misfits.length - mostNamed} more`] : [];
  const unfit = `${misfits.length} of ${counted(leases, 'lease')} ${plural(misfits.length, 'does', 'do')} not fit`;
  const fate = `${plural(misfits.length, 'its host takes', 'their hosts take')} a new subnet at the next start:`;
  const fit =
    misfits.length > 0
      ? `${paint(parts, 'yellow', unfit)}; ${fate}`
      : leases === 0
        ? 'there are no leases yet'
        : plural(leases, 'the only lease fits', `all ${leases} leases fit`);
  return [...what, ...warnings.flatMap((text) => wrapped(`warning: ${text}`, 2)), fit, ...named, ...more];
}

/** Writes the key unless somebody changed it; resolves to the new revision, or undefined. Rejects as the registry does. */
async function swap(
  { registry }: StoreParts,
  { key, before, text }: Plan,
  signal: AbortSignal,
): Promise<number | undefined> {
  const compare =
    before === undefined
      ? [{ key, target: 'create', op: '=', value: 0 } as const]
      : [{ key, target: 'mod', op: '=', value: before.modRevision } as const];
  try {
    const success = [{ op: 'put', key, value: text, lease: '0' } as const];
    const { succeeded, header } = await registry.txn({ compare, success }, signal);
    return succeeded ? header.revision : undefined;
  } catch (error) {
    if (!(error instanceof RegistryError) || !error.outcomeUnknown) throw error;
    // The answer was lost: read the key to learn the outcome.
    const [now] = (await registry.range({ key }, signal)).kvs;
    if (now?.value === text && now.modRevision !== before?.modRevision) return now.modRevision;
    throw error;
  }
}
