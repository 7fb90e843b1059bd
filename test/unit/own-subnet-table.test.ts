import { afterEach, describe, expect, it } from 'vitest';
import { prefix, SimCluster, type SimHost } from '../../sim/cluster.ts';
import { subnetsPrefix } from '../../src/subnet/subnet-key.ts';

// Which address and which lease are a host's own, in every order of what may become of them. In each a living host keeps its subnet,
// no subnet has two owners, and no host calls its own key another's.

const old = '10.211.55.20';
const fresh = '10.211.99.1';
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

let cluster: SimCluster | undefined;

afterEach(() => cluster?.close());

interface Case {
  readonly change: keyof typeof changes;
  readonly daemon: keyof typeof daemons;
  readonly other: (typeof others)[number];
}

const table: readonly Case[] = Object.keys(changes).flatMap((change) =>
  Object.keys(daemons).flatMap((daemon) => others.map((other) => ({ change, daemon, other }) as Case)),
);

describe.each(table)('$change; $daemon; the new address is that of $other', ({ change, daemon, other }) => {
  it('the host keeps its subnet alone, and calls no key of its own another’s', async () => {
    cluster = new SimCluster({ seed: 11, hosts: 3 });
    const { clock, etcd, hosts } = cluster;
    const [host, peer, rival] = hosts;
    if (host === undefined || peer === undefined || rival === undefined) throw new Error('too few hosts');
    expect(host.address).toBe(old);
    const isRival = other === 'a host that runs' || other === 'a host that hears late';
    for (const one of isRival ? hosts : [host, peer]) one.start();
    await clock.until('ready', () => host.readiness.ready && peer.readiness.ready, 60_000);
    if (other === 'a dead host') etcd.put(`${under}172.20.200.0-24`, peerAt(fresh), etcd.grant(86_400));
    if (isRival) {
      rival.kernel.addAddress('eth0', `${fresh}/17`);
      rival.kernel.removeAddress('eth0', `${rival.address}/16`);
      await clock.until('moved', () => holders(etcd, fresh).length === 1, 60_000);
      await clock.until('ready', () => rival.readiness.ready, 60_000);
    }
    if (other === 'a host that hears late') etcd.slowWatches(rival.name, 1_000);
    const subnets = await Promise.all(hosts.map(async (one) => (await one.subnet())?.text));
    const prepare = daemons[daemon];
    if (prepare !== undefined) await host.stop();
    const back = changes[change](host, cluster);
    if (prepare !== undefined) {
      prepare(host);
      host.start();
    }
    await back?.();
    await clock.advance(120_000);
    const now = await Promise.all(hosts.map(async (one) => (await one.subnet())?.text));
    const inUse = now.filter((text) => text !== undefined);
    expect(new Set(inUse).size).toBe(inUse.length);
    expect(now.slice(1)).toEqual(subnets.slice(1));
    // One that is booted has nothing but its address to be known by, and no containers to lose.
    if (daemon === 'the host is booted again' && !change.endsWith('is added')) return;
    // An address that another host has is no way to this one: it takes nothing, and says so.
    const isReplaced = !change.endsWith('is added') && change !== 'it is replaced for half a minute';
    const isShared = isRival && isReplaced;
    if (!isShared || daemon !== 'the daemon is down and subnet.env goes') expect(now).toEqual(subnets);
    const own = `${under}${subnets[0]?.replace('/', '-')}`;
    const reasons = host.readiness.reasons.join('\n');
    expect(reasons).not.toContain(own.concat(' under'));
    expect(reasons).not.toContain('now belongs to');
    const expected = isReplaced && !isShared ? fresh : old;
    expect(etcd.get(own)?.value).toContain(`"PublicIP":"${expected}"`);
    if (isShared) expect(reasons).toContain('another host');
    else expect(reasons).not.toMatch(/lease|another host/);
  });
});

function peerAt(address: string): string {
  return JSON.stringify({ PublicIP: address, PublicIPv6: null, BackendType: 'host-gw' });
}

/** The keys that name an address. */
function holders(etcd: SimCluster['etcd'], address: string): readonly string[] {
  const all = etcd.list(under, `${under.slice(0, -1)}0`);
  return all.filter(({ value }) => value.includes(`"${address}"`)).map(({ key }) => key);
}
