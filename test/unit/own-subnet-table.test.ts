import { describe, expect, it } from 'vitest';
import { prefix, type SimCluster, type SimHost } from '../../sim/cluster.ts';
import { subnetsPrefix } from '../../src/subnet/keys.ts';
import { makeCluster } from './sim-worlds.ts';

// Which address and which lease are a host's own, in every order of what may become of them. A living host keeps its subnet, and so does
// this one unless nothing is left that it could know it by; no subnet has two owners, and no host calls its own key another's.

const old = '10.211.55.20';
const fresh = '10.211.99.1';
const DEAD = '172.20.200.0/24';
const EXCHANGED = 'it is exchanged with that of the other';
const under = subnetsPrefix(prefix);

/** The default route goes with the last address. */
const routeByDefault = ({ kernel }: SimHost) => {
  const { index: linkIndex } = kernel.link('eth0');
  if (!kernel.routes(4).some(({ dst }) => dst === '0.0.0.0/0'))
    kernel.addRoute({ dst: '0.0.0.0/0', gateway: '10.211.0.1', linkIndex });
};

/** What becomes of the host's address. */
const changes = {
  'another is added': (host: SimHost) => host.kernel.addAddress('eth0', `${fresh}/16`),
  'a host address is added': (host: SimHost) => host.kernel.addAddress('eth0', `${fresh}/32`),
  'it is replaced by another': (host: SimHost) => {
    host.kernel.removeAddress('eth0', `${old}/16`);
    host.kernel.addAddress('eth0', `${fresh}/16`);
    routeByDefault(host);
  },
  'another comes before it goes': (host: SimHost) => {
    host.kernel.addAddress('eth0', `${fresh}/17`);
    host.kernel.removeAddress('eth0', `${old}/16`);
  },
  'it is removed': ({ kernel }: SimHost) => kernel.removeAddress('eth0', `${old}/16`),
  [EXCHANGED]: (host: SimHost, all: SimCluster) => {
    const rival = all.host(2);
    rival.kernel.removeAddress('eth0', `${fresh}/17`);
    host.kernel.removeAddress('eth0', `${old}/16`);
    rival.kernel.addAddress('eth0', `${old}/16`);
    host.kernel.addAddress('eth0', `${fresh}/16`);
    for (const one of [rival, host]) routeByDefault(one);
  },
  'it is replaced for half a minute': (host: SimHost, cluster: SimCluster) => {
    changes['it is replaced by another'](host);
    return async () => {
      await cluster.clock.advance(30_000);
      host.kernel.removeAddress('eth0', `${fresh}/16`);
      host.kernel.addAddress('eth0', `${old}/16`);
      routeByDefault(host);
    };
  },
} satisfies Record<string, (host: SimHost, cluster: SimCluster) => (() => Promise<void>) | void>;

/** What becomes of the daemon meanwhile, and what it finds when it starts again. */
const daemons = {
  'the daemon runs': undefined,
  'the daemon is down': () => {},
  'the daemon is down and subnet.env goes': (host: SimHost) => host.files.clear(),
  'the host is booted again': (host: SimHost) => host.reboot(),
} satisfies Record<string, ((host: SimHost) => void) | undefined>;

/** Whose lease names the new address. */
const others = ['nobody', 'a dead host', 'a host that runs', 'a host that hears late'] as const;

let cluster: SimCluster;

interface Case {
  readonly change: keyof typeof changes;
  readonly daemon: keyof typeof daemons;
  readonly other: (typeof others)[number];
}

/** An exchange is with a host that lives; whoever has the new address is nothing to one that gets none. */
const isMeant = ({ change, other }: Case) =>
  change === 'it is removed' ? other === 'nobody' : change !== EXCHANGED || isAlive(other);

const isAlive = (other: Case['other']) => other === 'a host that runs' || other === 'a host that hears late';

const table: readonly Case[] = Object.keys(changes)
  .flatMap((change) =>
    Object.keys(daemons).flatMap((daemon) => others.map((other) => ({ change, daemon, other }) as Case)),
  )
  .filter(isMeant);

interface Outcome {
  readonly subnet: 'its own' | 'that of the dead host' | 'a new one' | 'none';
  /** What the lease of the subnet that it had names. */
  readonly leasedAt: string;
  /** Undefined: nothing of leases and other hosts. */
  readonly says?: RegExp;
}

function outcomeOf({ change, daemon, other }: Case): Outcome {
  const isBooted = daemon === 'the host is booted again';
  const isForgotten = isBooted || daemon === 'the daemon is down and subnet.env goes';
  if (change.endsWith('is added')) return { subnet: 'its own', leasedAt: old };
  const unusable = isForgotten ? 'none' : 'its own';
  if (change === 'it is removed')
    return { subnet: unusable, leasedAt: old, says: /no (usable interface|other address can be used)/ };
  const isBack = change === 'it is replaced for half a minute';
  // An address that another host has is no way to this one: it takes nothing, and says so.
  if (isAlive(other) && !isBack && change !== EXCHANGED)
    return { subnet: unusable, leasedAt: old, says: /another host/ };
  if (!isBooted) return { subnet: 'its own', leasedAt: isBack ? old : fresh };
  // One that is booted has nothing but its address to be known by, and no containers to lose.
  if (other === 'a dead host') return { subnet: 'that of the dead host', leasedAt: old };
  return { subnet: isBack && isAlive(other) ? 'its own' : 'a new one', leasedAt: old };
}

describe.each(table)('$change; $daemon; the new address is that of $other', (row) => {
  const { change, daemon, other } = row;
  it('each host has the subnet that it should, alone, and calls no key of its own another’s', async () => {
    cluster = makeCluster({ seed: 11, hosts: 3 });
    const { clock, etcd, hosts } = cluster;
    const [host, peer, rival] = [cluster.host(0), cluster.host(1), cluster.host(2)];
    expect(host.address).toBe(old);
    for (const one of isAlive(other) ? hosts : [host, peer]) one.start();
    await clock.until('ready', () => host.readiness.ready && peer.readiness.ready, 60_000);
    if (other === 'a dead host')
      etcd.put(`${under}${DEAD.replace('/', '-')}`, peerAt(fresh), etcd.grant(86_400));
    if (isAlive(other)) {
      rival.kernel.addAddress('eth0', `${fresh}/17`);
      rival.kernel.removeAddress('eth0', `${rival.address}/16`);
      await clock.until('moved', () => holders(etcd, fresh).length === 1, 60_000);
      await clock.until('ready', () => rival.readiness.ready, 60_000);
    }
    if (other === 'a host that hears late') etcd.slowWatches(rival.name, 1_000);
    const before = await subnetsOf(hosts);
    const prepare = daemons[daemon];
    if (prepare !== undefined) await host.stop();
    const back = changes[change](host, cluster);
    if (prepare !== undefined) {
      prepare(host);
      host.start();
    }
    await back?.();
    let sharedMs = 0;
    for (let ms = 0; ms < 120_000; ms += 1_000) {
      await clock.advance(1_000);
      const used = await subnetsOf(hosts.filter(({ readiness }) => readiness.ready));
      sharedMs = new Set(used).size === used.length ? 0 : sharedMs + 1_000;
      // A host that has just got an address may not have heard of its other user yet.
      expect(sharedMs).toBeLessThan(10_000);
    }
    const now = await subnetsOf(hosts);
    const inUse = now.filter((text) => text !== undefined);
    expect(new Set(inUse).size).toBe(inUse.length);
    const leasedAt = (subnet = '') => etcd.get(`${under}${subnet.replace('/', '-')}`)?.value;
    // The others live on with what they have.
    expect(now.slice(1)).toEqual(before.slice(1));
    expect(leasedAt(now[1])).toBe(peerAt(peer.address));
    if (isAlive(other)) expect(leasedAt(now[2])).toBe(peerAt(change === EXCHANGED ? old : fresh));

    const { subnet, leasedAt: expected, says } = outcomeOf(row);
    if (subnet === 'a new one') expect([undefined, DEAD, ...before]).not.toContain(now[0]);
    else
      expect(now[0]).toBe({ 'its own': before[0], 'that of the dead host': DEAD, none: undefined }[subnet]);
    expect(leasedAt(before[0])).toBe(peerAt(expected));
    const reasons = host.readiness.reasons.join('\n');
    expect(reasons).not.toContain(`${before[0]?.replace('/', '-')} under`);
    for (const one of hosts) expect(one.readiness.reasons.join('\n')).not.toContain('now belongs to');
    if (says === undefined) expect(reasons).not.toMatch(/lease|another host/);
    else expect(reasons).toMatch(says);
  });
});

const subnetsOf = (hosts: readonly SimHost[]) =>
  Promise.all(hosts.map(async (one) => (await one.subnet())?.text));

function peerAt(address: string): string {
  return JSON.stringify({ PublicIP: address, PublicIPv6: null, BackendType: 'host-gw' });
}

/** The keys that name an address. */
function holders(etcd: SimCluster['etcd'], address: string): readonly string[] {
  const all = etcd.list(under, `${under.slice(0, -1)}0`);
  return all.filter(({ value }) => value.includes(`"${address}"`)).map(({ key }) => key);
}
