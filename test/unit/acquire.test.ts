import { beforeEach, describe, expect, it } from 'vitest';
import type { LeaseHost, LeaseHostOptions, LeaseWorld } from '../../sim/lease-world.ts';
import { poolOf, prefix, subnet, valueOf } from '../../sim/leases.ts';
import { prefixEnd } from '../../src/subnet/registry/registry.ts';
import { makeWorld } from './sim-worlds.ts';

const ip = '10.211.0.1';
const key = (text: string) => prefix + text;

let world: LeaseWorld;

beforeEach(() => {
  world = makeWorld();
});

/** Starts a host and waits until it holds a subnet. */
async function acquire(
  options: LeaseHostOptions = {},
  prepare: (host: LeaseHost) => void = () => {},
): Promise<LeaseHost> {
  const host = world.host(ip, { watch: false, ...options });
  prepare(host);
  await host.hold();
  return host;
}

const events = () => world.log.lines.map(({ fields }) => fields['event']);

describe('a host without a lease', () => {
  it('takes a free subnet of the pool, as flanneld writes it, with a lease of a day', async () => {
    const host = await acquire();
    const { lease } = host.manager;
    expect(lease).toMatchObject({ origin: 'new', ttlSeconds: 86_400, value: valueOf(ip) });
    expect(world.kvs).toMatchObject([{ key: lease?.key, value: valueOf(ip), lease: lease?.leaseId }]);
    expect(lease?.key).toBe(key(host.held?.replace('/', '-') ?? ''));
    expect(world.etcd.leaseIds).toEqual([lease?.leaseId]);
    expect(events()).toEqual(['lease-acquired']);
  });

  it.each([
    ['free and fitting', '10.1.77.0/24', [], '10.1.77.0/24'],
    ['leased', '10.1.77.0/24', ['10.1.77.0-24'], undefined],
    ['leased with an IPv6 half', '10.1.77.0/24', ['10.1.77.0-24&fc00::-64'], undefined],
    ['overlapped by a shorter length', '10.1.77.0/24', ['10.1.64.0-20'], undefined],
    ['overlapped by a longer length', '10.1.77.0/24', ['10.1.77.128-25'], undefined],
    ['of another length', '10.1.77.0/25', [], undefined],
    ['outside the pool', '10.2.77.0/24', [], undefined],
    ['beside a key that names no subnet', '10.1.77.0/24', ['10.1.77.0-240'], '10.1.77.0/24'],
  ])('uses a hint that is %s only when it may', async (_, hint, taken, expected) => {
    for (const name of taken) world.put(name, valueOf('10.211.0.2'), '0');
    const host = await acquire({ hint: { ipv4: subnet(hint) } });
    if (expected === undefined) expect(host.held).not.toBe(hint);
    else expect(host.held).toBe(expected);
    expect(host.manager.lease?.origin).toBe(expected === undefined ? 'new' : 'hint');
  });

  it('chooses again when another host was faster, also more often than it lists for', async () => {
    let races = 0;
    const loser = world.host('10.211.0.9', {
      watch: false,
      pools: { ipv4: poolOf('10.1.0.0/24', '10.1.63.0/24') },
    });
    loser.onCall = (call, argument) => {
      if (call !== 'txn' || races === 40) return;
      const put = (argument as { success: { op: string; key: string }[] }).success[0];
      if (put?.op !== 'put') return;
      races++;
      world.etcd.put(put.key, valueOf('10.211.0.8'));
    };
    await loser.hold();
    expect(races).toBe(40);
    expect(world.idleLeases).toEqual([]);
  });

  it('leaves the choice to its backoff when races never end', async () => {
    const host = world.host(ip, { watch: false });
    host.onCall = (call, argument) => {
      const put = (argument as { success?: { op: string; key: string }[] }).success?.[0];
      if (call === 'txn' && put?.op === 'put') {
        // Somebody grabs it, and lets go again.
        world.etcd.put(put.key, valueOf('10.211.0.8'));
        void world.clock.settle().then(() => world.etcd.delete(put.key));
      }
    };
    host.start();
    await world.clock.advance(300_000);
    expect(host.trouble.current.join()).toContain('other hosts keep changing /net/subnets/');
    expect(world.etcd.calls.txn).toBeLessThan(64 * 60);
    expect(world.log.lines.length).toBeLessThan(10);
  });

  it('gives way to an older key that overlaps and was put in the very same moment', async () => {
    let races = 0;
    const nearTheEdge = {
      pools: { ipv4: poolOf('10.1.127.0/24', '10.1.128.0/24') },
      hint: { ipv4: subnet('10.1.127.0/24') },
    };
    const host = await acquire(nearTheEdge, (self) => {
      self.onCall = (call) => {
        if (call === 'txn' && races++ === 0) world.put('10.1.0.0-17', valueOf('10.211.0.2'), '0');
      };
    });
    expect(host.held).toBe('10.1.128.0/24');
    expect(world.keys).toEqual(['10.1.0.0-17', '10.1.128.0-24']);
    expect(world.etcd.leaseIds).toHaveLength(1);
  });

  it('lists again when etcd was restored to a time before its list: the next keys may have older revisions', async () => {
    const before = world.etcd.snapshot();
    world.put('10.1.3.0-24', valueOf('10.211.0.3'), '0');
    world.put('10.1.4.0-24', valueOf('10.211.0.4'), '0');
    world.put('10.1.5.0-24', valueOf('10.211.0.5'), '0');
    let restores = 0;
    const host = await acquire({ hint: { ipv4: subnet('10.1.77.0/24') } }, (self) => {
      self.onCall = (call) => {
        if (call !== 'leaseGrant' || restores++ > 0) return;
        world.etcd.restore(before, { sameId: true });
        // Overlaps, and is older than the list.
        world.put('10.1.77.0-25', valueOf('10.211.0.2'), '0');
      };
    });
    expect(host.held).not.toBe('10.1.77.0/24');
    expect(restores).toBeGreaterThan(0);
  });
});

it('fifty hosts that boot together all get a subnet of a pool of fifty', async () => {
  const pools = { ipv4: poolOf('10.1.0.0/24', '10.1.49.0/24') };
  for (let index = 1; index <= 50; index++) world.host(`10.211.0.${index}`, { pools, watch: false }).start();
  await world.clock.until('all', () => world.hosts.every(({ held }) => held !== undefined), 60_000);
  expect(new Set(world.keys).size).toBe(50);
  expect(new Set(world.hosts.map(({ held }) => held)).size).toBe(50);
  expect(world.etcd.leaseIds).toHaveLength(50);
});

describe('a pool without a free subnet', () => {
  const pools = { ipv4: poolOf('10.1.0.0/24', '10.1.3.0/24') };

  it('counts also the keys of hosts that have just taken the last ones', async () => {
    for (let index = 1; index <= 8; index++) world.host(`10.211.0.${index}`, { pools, watch: false }).start();
    await world.clock.advance(1_000);
    const waiting = world.hosts.filter(({ held }) => held === undefined);
    expect(waiting).toHaveLength(4);
    for (const { trouble } of waiting)
      expect(trouble.current.join()).toContain(
        'are used, by 4 keys, 0 of them reservations, under /net/subnets/; the first lease expires within 24 h',
      );
    for (const line of world.log.lines) expect(line.message).not.toMatch(/by [0-3] keys?,/);
  });

  it('is waited for, for a day, in a handful of lines that say what to do, without a lease in the meantime', async () => {
    world.put('10.1.0.0-23', valueOf('10.211.0.2'), world.etcd.grant(9e6));
    world.put('10.1.2.0-24', valueOf('10.211.0.3'), '0');
    world.put('10.1.3.128-25', 'junk counts as used', '0');
    world.put('10.9.9.0-24', valueOf(ip), '0');
    const host = world.host(ip, { watch: false, pools }).start();
    await world.clock.advance(86_400_000);
    expect(host.trouble.current).toEqual([
      `no lease for ${ip} under /net/subnets/ yet: no free subnet: all 4 from 10.1.0.0/24 to 10.1.3.0/24 are used, ` +
        'by 4 keys, 3 of them reservations, under /net/subnets/; the first lease expires in more than 24 h, ' +
        'unless its host renews it. Enlarge Network or SubnetMin..SubnetMax, or release the leases of hosts that are ' +
        'gone (flanneld-ts lease release)',
    ]);
    expect(world.log.lines.length).toBeLessThan(12);
    expect(world.etcd.calls.range).toBeLessThan(20_000);
    expect(world.idleLeases).toEqual([]);
    world.etcd.delete(key('10.1.2.0-24'));
    await host.hold(10_000);
    expect(host.held).toBe('10.1.2.0/24');
    expect(events().slice(-3)).toEqual(['other-own-leases', 'trouble-over', 'lease-acquired']);
  }, 30_000);

  it('is made free by giving back the own lease when only its length is in the way', async () => {
    world.put('10.1.0.0-22', valueOf(ip));
    const host = await acquire({ pools });
    expect(world.keys).toEqual([host.held?.replace('/', '-')]);
    expect(world.etcd.leaseIds).toEqual([host.manager.lease?.leaseId]);
  });
});

describe('a host that finds its lease', () => {
  it('goes on with it, without a write, over any number of restarts', async () => {
    const host = await acquire();
    const { held } = host;
    const { leaseIds, revision } = world.etcd;
    for (let restart = 0; restart < 100; restart++) {
      if (restart % 2 === 0) await host.stop();
      else await host.crash();
      await world.clock.advance(60_000);
      await host.hold(1_000);
    }
    expect(host.held).toBe(held);
    expect(host.manager.lease?.origin).toBe('reused');
    expect(world.etcd.leaseIds).toEqual(leaseIds);
    expect(world.etcd.revision).toBe(revision);
  });

  it.each([
    ['another backend', '{"PublicIP":"10.211.0.1","BackendType":"vxlan","BackendData":{"VNI":1}}'],
    ['a PublicIPv6', '{"PublicIP":"10.211.0.1","PublicIPv6":"fd00::1","BackendType":"host-gw"}'],
    ['an escaped address', '{"PublicIP":"10\\u002e211.0.1"}'],
  ])('puts a value with %s right, keeping the lease', async (_, value) => {
    const lease = world.etcd.grant(500);
    world.put('10.1.5.0-24', value, lease);
    const host = await acquire();
    expect(host.held).toBe('10.1.5.0/24');
    expect(world.kvs).toMatchObject([{ value: valueOf(ip), lease }]);
    expect(host.manager.lease?.ttlSeconds).toBe(500);
    expect(world.etcd.leaseIds).toEqual([lease]);
  });

  it('prefers a reservation, and never turns it into a lease', async () => {
    world.put('10.1.4.0-24', valueOf(ip));
    world.put('10.1.5.0-24', `{"PublicIP":"${ip}"}`, '0');
    const host = await acquire();
    expect(host.held).toBe('10.1.5.0/24');
    expect(host.manager.lease).toMatchObject({ leaseId: '0', ttlSeconds: 0 });
    for (let restart = 0; restart < 5; restart++) {
      await host.stop();
      host.start();
      await world.clock.advance(86_400_000);
    }
    expect(world.etcd.get(key('10.1.5.0-24'))).toMatchObject({ value: valueOf(ip), lease: '0' });
    expect(world.etcd.calls.leaseKeepAlive + world.etcd.calls.leaseGrant).toBe(0);
    expect(world.log.events('other-own-leases')[0]?.message).toMatch(
      /another key carries .* or was leased by it: \S+10\.1\.4\.0-24; if no other host uses it, delete it: /,
    );
  });

  it('leaves an unfit reservation alone and takes another subnet', async () => {
    world.put('10.9.5.0-24', `{"PublicIP":"${ip}"}`, '0');
    await acquire();
    expect(world.etcd.get(key('10.9.5.0-24'))).toMatchObject({ value: `{"PublicIP":"${ip}"}`, lease: '0' });
    expect(world.keys).toHaveLength(2);
    expect(world.log.events('other-own-leases')).toHaveLength(1);
  });

  it('does not revoke the etcd lease of an unfit key when another key uses it', async () => {
    const lease = world.put('10.9.5.0-24', valueOf(ip));
    world.put('10.9.6.0-24', valueOf('10.211.0.2'), lease);
    await acquire();
    expect(world.keys).toContain('10.9.6.0-24');
    expect(world.keys).not.toContain('10.9.5.0-24');
  });

  it('takes the same subnet again when the lease dies between list and keepalive', async () => {
    const lease = world.put('10.1.5.0-24', valueOf(ip));
    const host = await acquire({}, (self) => {
      self.onCall = (call) => {
        if (call === 'leaseKeepAlive') world.etcd.revoke(lease);
      };
    });
    expect(host.held).toBe('10.1.5.0/24');
    expect(world.kvs).toHaveLength(1);
    expect(world.idleLeases).toEqual([]);
  });

  it('gives the key a new lease when its old one is dead but the key is still there', async () => {
    world.put('10.1.5.0-24', valueOf(ip));
    const host = await acquire({}, (self) => {
      self.onStart = (registry) => {
        registry.leaseKeepAlive = async () => ({ ttlSeconds: 0 });
      };
    });
    expect(host.held).toBe('10.1.5.0/24');
    expect(world.kvs).toMatchObject([{ lease: host.manager.lease?.leaseId }]);
    expect(world.etcd.calls.range).toBeLessThan(5);
  });

  it.each([
    ['a lease', undefined],
    ['a reservation', '0'],
  ])('does not go on with %s that overlaps an older key of another host', async (_, lease) => {
    world.put('10.1.4.0-22', valueOf('10.211.0.2'), '0');
    world.put('10.1.5.0-24', valueOf(ip), lease);
    const host = await acquire();
    expect(host.held).not.toBe('10.1.5.0/24');
    expect(world.keys.includes('10.1.5.0-24')).toBe(lease === '0');
    expect(world.etcd.leaseIds).toEqual([host.manager.lease?.leaseId]);
  });

  it('goes on with its lease when the key that overlaps it is younger', async () => {
    world.put('10.1.5.0-24', valueOf(ip));
    world.put('10.1.4.0-22', valueOf('10.211.0.2'), '0');
    expect((await acquire()).held).toBe('10.1.5.0/24');
  });
});

/** Prepared states of etcd in which a host makes different writes. */
const beginnings: Record<string, () => void> = {
  'an empty etcd': () => {},
  'a value to put right': () => world.put('10.1.5.0-24', `{"PublicIP":"${ip}"}`),
  'an unfit lease': () => world.put('10.9.5.0-24', valueOf(ip)),
  'a lease left in the way of an older one': () => {
    world.put('10.1.4.0-22', valueOf('10.211.0.2'), '0');
    world.put('10.1.5.0-24', valueOf(ip));
  },
};

describe.each(Object.keys(beginnings))('starting from %s', (beginning) => {
  const cases = [0, 1, 2, 3].flatMap((nth) => [true, false].map((applied) => ({ nth, applied })));

  /** Loses the reply of the host's n-th write. */
  const loseNth = (host: LeaseHost, nth: number, applied: boolean, then = (): void => {}) => {
    let write = 0;
    host.onCall = (call) => {
      if (call === 'leaseKeepAlive' || call === 'leaseTimeToLive' || write++ !== nth) return;
      world.etcd.loseNextReply({ applied });
      then();
    };
  };

  it.each(cases)(
    'a lost reply ends with one own key and no idle lease: $nth $applied',
    async ({ nth, applied }) => {
      beginnings[beginning]?.();
      const host = await acquire({}, (self) => loseNth(self, nth, applied));
      await world.clock.advance(60_000);
      expect(world.kvs.filter(({ value }) => value === valueOf(ip))).toHaveLength(1);
      expect(world.etcd.get(host.manager.lease?.key ?? '')?.lease).toBe(host.manager.lease?.leaseId);
      // The reply of giving an unfit lease back is not worth a retry: nobody renews that one.
      expect(world.idleLeases.length).toBeLessThanOrEqual(beginning === 'an empty etcd' ? 0 : 1);
    },
  );

  it.each(cases)(
    'a crash in a write ends, after a restart, with one own key: $nth $applied',
    async ({ nth, applied }) => {
      beginnings[beginning]?.();
      const host = world.host(ip, { watch: false });
      let crashed: Promise<void> | undefined;
      loseNth(host, nth, applied, () => {
        crashed = world.clock.settle().then(() => host.crash());
      });
      host.start();
      await world.clock.advance(2_000);
      await crashed;
      host.onCall = () => {};
      await host.hold();
      const own = world.kvs.filter(({ value }) => value.includes(ip));
      expect(own.map((kv) => kv.key)).toContain(host.manager.lease?.key);
      const used = world.keys.filter((name) => name !== '10.9.5.0-24');
      expect(new Set(used).size).toBe(used.length);
      if (beginning === 'a lease left in the way of an older one') expect(host.held).not.toBe('10.1.5.0/24');
      // Only a crash between grant and use leaves a lease behind.
      expect(world.idleLeases.length).toBeLessThanOrEqual(1);
    },
  );

  it('a stop at any moment leaves nothing running and no idle lease', async () => {
    for (let ms = 0; ms < 40; ms++) {
      world = makeWorld({ latencyMs: 3 });
      beginnings[beginning]?.();
      const host = world.host(ip, { watch: false }).start();
      await world.clock.advance(ms);
      await host.stop();
      expect(world.clock.pending, `stopped after ${ms} ms`).toBe(world.etcd.leaseIds.length > 0 ? 1 : 0);
      expect(world.idleLeases, `stopped after ${ms} ms`).toEqual([]);
    }
  });
});

// Several keys name this host's address: which one it keeps using, and that the others stay as they are.

const ip6 = 'fd00::1';
const theirs = valueOf('10.211.0.2');
const dual = {
  pools: {
    ipv4: poolOf('10.1.0.0/24', '10.1.255.0/24'),
    ipv6: poolOf('fc00:1::/64', 'fc00:1:0:ff::/64'),
  },
  addresses: { ipv4: ip, ipv6: ip6 },
};

describe('of several own keys', () => {
  it('a host keeps the first in byte order, as flanneld does, when none is better', async () => {
    for (const name of ['10.1.30.0-24', '10.1.200.0-24', '10.1.4.0-24']) world.put(name, valueOf(ip));
    const host = await acquire();
    expect(host.held).toBe('10.1.200.0/24');
    const others = ['10.1.30.0-24', '10.1.4.0-24'].map((name) => prefix + name);
    expect(world.log.events('other-own-leases').map(({ fields }) => fields['keys'])).toEqual([others]);
  });

  it('a host keeps the one with the IPv4 subnet when each has one family', async () => {
    world.put('0.0.0.0-0&fc00:1:0:5::-64', valueOf('0.0.0.0', ip6));
    world.put('10.1.5.0-24', valueOf(ip));
    const host = await acquire(dual);
    expect(host.held).toMatch(/^10\.1\.5\.0\/24 and fc00:1:/);
  });
});

it('a host takes no key for its own by PublicIPv6 that names another PublicIP, or an IPv4 subnet and none', async () => {
  const foreign = {
    '0.0.0.0-0&fc00:1:0:7::-64': valueOf('10.211.0.2', ip6),
    '10.1.5.0-24&fc00:1:0:5::-64': `{"PublicIP":null,"PublicIPv6":"${ip6}","BackendType":"host-gw"}`,
    '10.1.6.0-24&fc00:1:0:6::-64': valueOf('10.211.0.2', ip6),
  };
  for (const [name, value] of Object.entries(foreign)) world.put(name, value);
  const host = await acquire(dual);
  const own = host.manager.lease?.key.slice(prefix.length) ?? '';
  expect(world.keys.toSorted()).toEqual([...Object.keys(foreign), own].toSorted());
  for (const [name, value] of Object.entries(foreign))
    expect(world.etcd.get(prefix + name)?.value).toBe(value);
});

it('watchers see a key that gains an IPv6 subnet go and come again, in this order: flanneld keeps the route', async () => {
  world.put('10.1.5.0-24', valueOf(ip));
  const stop = new AbortController();
  const [member] = world.etcd.connect('watcher');
  const told: string[] = [];
  const watching = (async () => {
    const range = { key: prefix, rangeEnd: prefixEnd(prefix) };
    for await (const batch of member?.watch(range, stop.signal) ?? []) {
      for (const event of batch.events)
        told.push(`${event.type} ${event.type === 'put' ? event.kv.key : event.key}`);
    }
  })().catch(() => {});
  await world.clock.settle();
  const host = await acquire(dual);
  await world.clock.settle();
  stop.abort(new Error('stopped'));
  await watching;
  expect(told).toEqual([`delete ${prefix}10.1.5.0-24`, `put ${host.manager.lease?.key}`]);
});

it('a host gives back two leases that no longer fit, with the etcd lease that they share', async () => {
  const lease = world.etcd.grant(86_400);
  for (const name of ['10.2.5.0-24', '10.2.6.0-24']) world.put(name, valueOf(ip), lease);
  const host = await acquire();
  expect(world.keys).toEqual([host.manager.lease?.key.slice(prefix.length)]);
  expect(world.etcd.leaseIds).toEqual([host.manager.lease?.leaseId]);
});

it.each([
  ['a lease', undefined],
  ['a reservation', '0'],
])(
  'the value of %s is not corrected when another host has taken the key in the meantime',
  async (_, etcdLease) => {
    world.put('10.1.5.0-24', `{"PublicIP":"${ip}","BackendType":"vxlan"}`, etcdLease);
    let writes = 0;
    const host = await acquire({}, (self) => {
      self.onCall = (call) => {
        if (call === 'txn' && writes++ === 0) world.put('10.1.5.0-24', theirs, '0');
      };
    });
    expect(host.held).not.toBe('10.1.5.0/24');
    expect(world.etcd.get(key('10.1.5.0-24'))).toMatchObject({ value: theirs, lease: '0' });
  },
);
