import type { Wrappers } from '../host.ts';
import { faults } from './faults.ts';
import { checkDaemons, daemonProblems, isRefused, isStarved, waitingProblems } from './invariants-daemons.ts';
import { checkCommit, checkSubnets, leaseProblems } from './invariants-leases.ts';
import { checkRouteChange, lateRoutes, routeProblems } from './invariants-routes.ts';
import type { Violation } from './memory.ts';
import type { FaultEvent, Scenario } from './scenario.ts';
import { World } from './world.ts';

/** How a run went. */
export interface Outcome {
  readonly scenario: Scenario;
  /** The first invariant that did not hold; undefined: all did. */
  readonly violation?: Violation;
  /** All log lines, for the trace. */
  readonly log: string;
}

/** How often what holds at any time is looked at. */
const lookMs = 5_000;
/** By then everything is as it should be after all faults are over: the longest backoff but one is a minute. */
const settleLimitMs = 180_000;
/** A watch that was opened again tells at once what was missed. */
const promptMs = 20_000;
/** By then also who waits for a lease to end or an address to be his alone has what he waits for. */
const waitingLimitMs = 25 * 60_000;
const quietMs = 60_000;
/** Leases that live so long are waited for. */
const shortTtlSeconds = 300;

type Undo = () => Promise<void>;

/** Runs a scenario to its end or to the first invariant that does not hold. `wrappers` break a part on purpose. */
export async function simulate(scenario: Scenario, wrappers: Wrappers = {}): Promise<Outcome> {
  const world = new World(scenario, wrappers);
  const onRejection = (error: unknown) =>
    world.violate('no promise is left alone', String((error as Error)?.stack));
  process.on('unhandledRejection', onRejection);
  try {
    await run(world);
  } catch (error) {
    world.violate('the simulation goes on', String((error as Error)?.stack));
  } finally {
    for (const host of world.hosts) host.crash();
    world.cluster.etcd.close();
    await world.cluster.clock.settle();
    process.off('unhandledRejection', onRejection);
  }
  const [violation] = world.violations;
  return { scenario, ...(violation && { violation }), log: world.cluster.log.toString() };
}

async function run(world: World): Promise<void> {
  watchOver(world);
  const { scenario } = world;
  for (const [index, host] of world.hosts.entries())
    world.later(scenario.joinsMs[index] ?? 0, () => world.up(host));
  const undos = new Map<Undo, boolean>();
  for (const event of scenario.events) world.later(event.atMs, () => happen(world, event, undos));
  await world.passUntil(scenario.minutes * 60_000);
  await undoAll(undos, false);
  world.healAll();
  await settle(world, settleLimitMs, () => healed(world));
  await undoAll(undos, true);
  for (const [key, value] of world.lent) world.takeBack(key, value);
  await settle(world, settleLimitMs, () => atRest(world));
  const isShort = scenario.leaseTtlSeconds <= shortTtlSeconds;
  if (isShort) await settle(world, waitingLimitMs, () => allServed(world));
  world.resting = true;
  // Any lease that nobody renews ends within it.
  if (isShort) await world.passUntil(world.nowMs + scenario.leaseTtlSeconds * 1_000 + quietMs);
  await beQuiet(world, isShort);
}

/** Has every step judged as it is taken. */
function watchOver(world: World): void {
  const { etcd } = world.cluster;
  etcd.onCommit = (commit, writer) => {
    checkCommit(world, commit, writer);
    if (writer === 'expiry') world.expired++;
    world.note(commit);
  };
  for (const host of world.hosts)
    host.kernel.onDaemonChange = (change) => checkRouteChange(world, host, change);
  const look = () => {
    checkDaemons(world);
    checkSubnets(world);
    world.later(lookMs, look);
  };
  look();
}

async function happen(world: World, event: FaultEvent, undos: Map<Undo, boolean>): Promise<void> {
  const fault = faults.get(event.kind);
  if (fault === undefined) throw new RangeError(`no fault is called ${event.kind}`);
  const host = world.host(event.host);
  if (world.gone.has(host)) return;
  const calm = world.disturb(fault.whom === 'host' ? [host] : world.hosts);
  const undo = await fault.apply(world, event);
  if (fault.kernel) world.touch(host);
  const over: Undo = async () => {
    if (!undos.delete(over)) return;
    await undo?.();
    if (fault.kernel && undo) world.touch(host);
    calm();
  };
  undos.set(over, fault.lingers === true);
  if (!fault.lingers) world.later(event.forMs, over);
  else if (event.dice % 2) world.later(event.forMs, over);
}

async function undoAll(undos: ReadonlyMap<Undo, boolean>, lingering: boolean): Promise<void> {
  for (const [undo, lingers] of undos) if (lingering || !lingers) await undo();
}

/** Waits until all is as it should be. */
async function settle(world: World, limitMs: number, problems: () => readonly string[]): Promise<void> {
  const startMs = world.nowMs;
  const endMs = startMs + limitMs;
  while (world.violations.length === 0) {
    await world.passUntil(world.nowMs + 10_000);
    const left = problems();
    if (left.length === 0) return;
    const late = world.nowMs - startMs >= promptMs ? lateRoutes(world, promptMs) : [];
    if (late.length > 0) return world.violate('7 a lost watch loses nothing', late.join('\n  '));
    if (world.nowMs >= endMs)
      return world.violate('1, 7, 8, 9 all is well in the end', left.slice(0, 8).join('\n  '));
  }
}

function healed(world: World): readonly string[] {
  const served = world.present.filter((host) => !isStarved(world, host) && !isRefused(host));
  return [...leaseProblems(world), ...served.flatMap((host) => routeProblems(world, host))];
}

function atRest(world: World): readonly string[] {
  return [...healed(world), ...daemonProblems(world)];
}

/** Nobody waits any more, but hosts for which there is no subnet. */
function allServed(world: World): readonly string[] {
  return [...atRest(world), ...waitingProblems(world)];
}

/** At rest nothing is sent to the kernels, nothing written to etcd, and little asked. */
async function beQuiet(world: World, isShort: boolean): Promise<void> {
  const { etcd } = world.cluster;
  const messages = () => world.hosts.reduce((sum, { kernel }) => sum + kernel.counters.messages, 0);
  const calls = () => Object.values(etcd.calls).reduce((sum, count) => sum + count, 0);
  // A key whose lease ends meanwhile (one too many, of a host that got another) makes peers change their routes.
  // So does a host that waited for another one to give it its address: fewer wait then.
  const unready = () => world.present.filter(({ readiness }) => !readiness.ready).length;
  let before = { messages: 0, calls: 0, revision: 0, expired: -1, unready: 0 };
  do {
    const { revision } = etcd;
    before = { messages: messages(), calls: calls(), revision, expired: world.expired, unready: unready() };
    await world.passUntil(world.nowMs + quietMs);
  } while (world.expired !== before.expired || unready() < before.unready);
  if (world.violations.length > 0) return;
  const sent = messages() - before.messages;
  if (sent > 0) world.violate('1 a second pass sends no message', `${sent} messages at rest`);
  const writes = etcd.revision - before.revision;
  if (writes > 0) world.violate('nothing is written at rest', `${writes} revisions`);
  const asked = calls() - before.calls;
  if (asked > 20 * world.hosts.length) world.violate('little is asked at rest', `${asked} calls in a minute`);
  const wrong = isShort ? allServed(world) : atRest(world);
  if (wrong.length > 0) world.violate('1 rest lasts', wrong.join('\n  '));
}
