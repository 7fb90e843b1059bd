import { V2Error } from '../subnet/etcd-v2/store.ts';
import { configKey } from '../subnet/keys.ts';
import { RegistryError } from '../subnet/registry/registry.ts';
import { type ConfigOutcome, judgeConfig } from './config.ts';
import { removeCopy, renewCopy, type Written, writeConfig, writeCopy } from './copy.ts';
import { type LeasePlan, type OnlyInV3, planLeases, type Row, type Step } from './plan.ts';
import { inBatches, readBoth, type Sides, type Snapshot, v2ConfigKey } from './snapshot.ts';

/** What a migration found and did. */
export interface Report {
  readonly config: ConfigOutcome;
  /** With `dryRun` their `copied` says what would be done. */
  readonly rows: readonly Row[];
  readonly onlyInV3: readonly OnlyInV3[];
}

/** A migration that etcd did not let finish: the error, and how many leases had been copied before. */
export interface Stopped {
  readonly stopped: V2Error | RegistryError;
  readonly copied: number;
}

/** There is no network at the prefix in v2. */
export interface NothingThere {
  readonly nothingAt: string;
  /** Other prefixes that have one, as far as this user may look. */
  readonly near: readonly string[];
}

/** The stores may change while they are compared: after so many rounds of writing, what is left waits for the next run. */
const maxRounds = 3;

/**
 * Copies all leases that live in v2, and then the network configuration, to v3. Only v3 is written to, and nothing that is there is
 * changed or removed. The configuration comes last: a daemon that waits for it would take a new subnet while its lease is not there yet.
 *
 * It may be killed at any moment and run again: what is there is found, and a lease that was granted for a key is used for it. After
 * each round of writing it reads both stores again, and takes back its own keys that are wrong by then: the lease has ended in v2,
 * or another host has the subnet.
 *
 * Rejects with `signal.reason` alone.
 */
export async function migrate(
  sides: Sides,
  { dryRun }: { readonly dryRun: boolean },
  signal: AbortSignal,
): Promise<Report | Stopped | NothingThere> {
  const { from, to } = sides;
  const written = new Map<string, Written>();
  try {
    const oldKey = v2ConfigKey(from.prefix);
    const newKey = configKey(to.prefix);
    const { node } = await from.store.get(oldKey, signal);
    const { kvs } = await to.registry.range({ key: newKey }, signal);
    const config = judgeConfig(node?.value, kvs[0]?.value);
    const first = await readBoth(sides, signal);
    if (node === undefined && first.v2.nodes.length === 0)
      return { nothingAt: oldKey, near: await prefixesNear(sides, signal) };
    if (dryRun) {
      const { steps, onlyInV3 } = planLeases(first);
      return { config, rows: steps.map(({ row }) => row), onlyInV3 };
    }
    const { steps, onlyInV3 } = await copyLeases(sides, first, written, signal);
    const rows = steps.map((step) => rowAfter(step, written));
    if (config.what !== 'copied' || node === undefined) return { config, rows, onlyInV3 };
    if (await writeConfig(to.registry, newKey, node.value, signal)) return { config, rows, onlyInV3 };
    // Somebody else was faster.
    const now = await to.registry.range({ key: newKey }, signal);
    return { config: judgeConfig(node.value, now.kvs[0]?.value), rows, onlyInV3 };
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof V2Error || error instanceof RegistryError)
      return { stopped: error, copied: written.size };
    throw error;
  }
}

/** Writes until both stores agree; resolves to how they stand then. Fills `written`, by key. */
async function copyLeases(
  sides: Sides,
  first: Snapshot,
  written: Map<string, Written>,
  signal: AbortSignal,
): Promise<LeasePlan> {
  const { registry } = sides.to;
  const { leasesPrefix } = first.v3;
  const renewed = new Set<string>();
  let snapshot = first;
  for (let round = 1; ; round++) {
    const plan = planLeases(snapshot);
    const wrong = wrongOnes(written, plan);
    const copies = plan.steps
      .flatMap(({ copy }) => copy ?? [])
      .filter(({ key, isThere }) => !isThere || !(written.has(key) || renewed.has(key)));
    if ((copies.length === 0 && wrong.length === 0) || round > maxRounds) return plan;
    await inBatches(wrong, async (one) => {
      await removeCopy(registry, one, signal);
      written.delete(one.key);
    });
    await inBatches(copies, async (copy) => {
      if (copy.isThere && (await renewCopy(registry, copy.leaseId, signal))) {
        renewed.add(copy.key);
        return;
      }
      const done = await writeCopy(registry, leasesPrefix, copy, signal);
      if (done !== undefined) written.set(done.key, done);
    });
    const next = await readBoth(sides, signal);
    requireSameStore(sides, snapshot, next);
    snapshot = next;
  }
}

/**
 * A lease that is missing from another store has not ended. Throws V2Error when the one that was read last is not the one before, but a
 * restored one, or that of another cluster among the endpoints.
 */
function requireSameStore({ from }: Sides, { v2: before }: Snapshot, { v2: now }: Snapshot): void {
  const { clusterId, index } = now.position;
  if (clusterId === before.position.clusterId && index >= before.position.index) return;
  const reason =
    'another v2 store answers than at first: etcd was restored, or the endpoints belong to two clusters';
  throw new V2Error(from.endpoints, { kind: 'UNEXPECTED', reason, remedy: 'Run this again.' });
}

/** What was written in this run and is not what v2 says any more. */
function wrongOnes(written: ReadonlyMap<string, Written>, { steps }: LeasePlan): readonly Written[] {
  const right = new Set(steps.filter(({ row }) => row.what === 'there').map(({ key }) => key));
  return [...written.values()].filter(({ key }) => !right.has(key));
}

function rowAfter({ row, key }: Step, written: ReadonlyMap<string, Written>): Row {
  if (row.what === 'there' && written.has(key)) return { ...row, what: 'copied' };
  if (row.what !== 'copied') return row;
  return { ...row, what: 'unfinished', why: 'the stores changed all the while: run this again' };
}

/** Where networks usually are: flannel's own default, those of CentOS 7's packages and guides. */
const usualPrefixes = ['/coreos.com/network', '/atomic.io/network', '/kube-centos/network'];

/** Which of the usual prefixes, and of the one for v3, have a network in v2. */
export async function prefixesNear({ from, to }: Sides, signal: AbortSignal): Promise<readonly string[]> {
  const near: string[] = [];
  for (const prefix of new Set([to.prefix, ...usualPrefixes])) {
    try {
      const { node } = await from.store.get(v2ConfigKey(prefix), signal);
      if (node !== undefined) near.push(prefix);
    } catch (error) {
      signal.throwIfAborted();
      // v2 may let this user see its own keys alone.
      if (!(error instanceof V2Error)) throw error;
    }
  }
  return near;
}
