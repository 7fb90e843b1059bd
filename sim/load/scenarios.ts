import { renewIntervalMs } from '../../src/subnet/lease/keep/schedule.ts';
import type { LoadHost } from './load-host.ts';
import { dayMs, type LoadOptions, LoadWorld, leaseTtlSeconds } from './load-world.ts';
import type { Figures } from './meter.ts';

/** What one stretch of a cluster's life means to etcd. */
export interface Measured {
  readonly scenario: string;
  readonly hosts: number;
  readonly figures: Figures;
  /** The calls of as many flannelds; absent where they are not known. */
  readonly flanneldCalls?: number;
}

const minuteMs = 60_000;
const hourMs = 60 * minuteMs;

/** So many hosts are simulated through whole days, and stand for all. */
const sampled = 50;
/** Of 100 hosts so many go for good on a day, and as many come. */
const churnPercent = 10;
const upgradeSteps = 20;
const upgradeStepMs = 15_000;
const outageMs = 10_000;
/** Hosts that have gone before, and those that come, have the numbers from these on. */
const goneNumber = 32_768;
const newNumber = 49_152;

/**
 * What flanneld v0.28 asks: at a start a list, and twice the TTL of each lease; of each lease that is put the TTL, on every host. It puts
 * its own once in 23 hours, on a new etcd lease.
 */
const flanneld = {
  start: (hosts: number) => 2 * hosts + 3,
  putCalls: (hosts: number) => 2 + hosts,
  putEveryMs: 23 * hourMs,
};

/** Days in the life of a cluster: at rest, then with hosts that come and go. Hosts in a sample. */
export async function measureDays(
  hosts: number,
  days: number,
  options: Partial<LoadOptions> = {},
): Promise<Measured[]> {
  const world = new LoadWorld({ hosts, sample: Math.min(hosts, sampled), ...options });
  world.leaseToAll();
  await world.startWithin([...world.hosts], minuteMs);
  await world.untilUp();
  const rest = await world.during(() => world.clock.advance(days * dayMs));
  const churn = await world.during(() => comeAndGo(world, days));
  await world.close();
  const puts = ((hosts * days * dayMs) / flanneld.putEveryMs) * flanneld.putCalls(hosts);
  const joins = (hosts * days * churnPercent) / 100;
  return [
    { scenario: `at rest, ${plural(days, 'day')}`, hosts, figures: rest, flanneldCalls: puts },
    {
      scenario: `${churnPercent} % of the hosts go and as many come, each of ${plural(days, 'day')}`,
      hosts,
      figures: churn,
      flanneldCalls: puts + joins * (flanneld.start(hosts) + flanneld.putCalls(hosts)),
    },
  ];
}

/** What happens to all hosts within minutes. Every host is simulated. */
export async function measureEvents(hosts: number, options: Partial<LoadOptions> = {}): Promise<Measured[]> {
  const world = new LoadWorld({ hosts, ...options });
  world.leaseToAll();
  const starts = hosts * flanneld.start(hosts);
  const measured: Measured[] = [];
  const measure = async (scenario: string, what: () => Promise<void>, flanneldCalls?: number) => {
    const figures = await world.during(what);
    measured.push({ scenario, hosts, figures, ...(flanneldCalls !== undefined && { flanneldCalls }) });
  };
  await measure('power cut, all back within a minute', () => powerReturns(world), starts);
  await measure(
    `upgrade of all in ${upgradeSteps} steps, one in ${upgradeStepMs / 1000} s`,
    () => upgrade(world),
    starts,
  );
  await measure('at rest after that upgrade', () => world.clock.advance(2 * minuteMs));
  await measure(`etcd away for ${outageMs / 1000} s`, () => restartEtcd(world));
  await world.close();
  return measured;
}

/** To the end of the first minute after the last one is back. */
async function powerReturns(world: LoadWorld): Promise<void> {
  await world.startWithin(world.hosts, minuteMs);
  await world.untilUp();
  await world.clock.advance(minuteMs);
}

async function upgrade(world: LoadWorld): Promise<void> {
  const size = Math.ceil(world.hosts.length / upgradeSteps);
  for (let first = 0; first < world.hosts.length; first += size) {
    await restart(world.hosts.slice(first, first + size));
    await world.clock.advance(upgradeStepMs);
  }
  await world.untilUp();
}

/** All at one moment. */
export async function restart(hosts: readonly LoadHost[]): Promise<void> {
  await Promise.all(hosts.map((host) => host.stop()));
  for (const host of hosts) host.start();
}

/** Until all comparisons with a list that follow are over, too. */
async function restartEtcd({ etcd, clock }: LoadWorld): Promise<void> {
  for (const member of etcd.members) etcd.stop(member);
  await clock.advance(outageMs);
  for (const member of etcd.members) etcd.start(member);
  await clock.advance(minuteMs + outageMs);
}

/** Hosts go at random moments and others come. Leases end of those that have gone: the day before, and early on this one. */
async function comeAndGo(world: LoadWorld, days: number): Promise<void> {
  const { hosts, random, clock } = world;
  const perDay = Math.round((hosts.length * churnPercent) / 100);
  for (let index = 0; index < perDay; index++) {
    const lifeMs = dayMs - renewIntervalMs(leaseTtlSeconds, hourMs) * random.next();
    const leftSeconds = Math.floor((lifeMs - dayMs * random.next()) / 1_000);
    if (leftSeconds > 0) world.putLease(goneNumber + index, leftSeconds);
  }
  const staying = [...hosts];
  const moments = Array.from({ length: days * perDay }, () => days * dayMs * random.next());
  const startedMs = clock.monotonic();
  for (const atMs of moments.toSorted((a, b) => a - b)) {
    await clock.advance(startedMs + atMs - clock.monotonic());
    await staying.shift()?.stop();
    world.addHost(newNumber + hosts.length, dayMs).start();
  }
  await clock.advance(startedMs + days * dayMs - clock.monotonic());
}

function plural(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`;
}
