import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { VirtualClock } from '../../sim/clock.ts';
import { SimEtcd } from '../../sim/etcd.ts';
import { LensRegistry } from '../../sim/lens-registry.ts';
import type { SimLog } from '../../sim/log.ts';
import { SimPart } from '../../sim/part.ts';
import type { TroubleLog } from '../../src/runtime/trouble.ts';
import { parseNetworkConfig } from '../../src/subnet/config/config.ts';
import { ConfigWatch, configChanges } from '../../src/subnet/config/watch.ts';
import { RegistryError } from '../../src/subnet/registry/registry.ts';
import { rotate } from '../../src/subnet/registry/rotation.ts';
import { withBackend } from './config-helpers.ts';

const started = withBackend('"Network":"10.5.0.0/16"');

describe('configChanges', () => {
  const network = '"Network":"10.5.0.0/16"';
  const ipv6 = [
    'EnableIPv6 false → true',
    'IPv6Network (none) → fc00::/48',
    'IPv6SubnetLen (none) → 64',
    'IPv6SubnetMin (none) → fc00:0:0:1::',
    'IPv6SubnetMax (none) → fc00:0:0:ffff::',
  ];
  const moved = [
    'Network 10.5.0.0/16 → 10.6.0.0/16',
    'SubnetMin 10.5.1.0 → 10.6.1.0',
    'SubnetMax 10.5.255.0 → 10.6.255.0',
  ];
  const rows: readonly (readonly [string, string, readonly string[]])[] = [
    ['nothing', network, []],
    ['a default written out', '"network":"10.5.0.0/16","SubnetLen":24,"SubnetMin":"10.5.1.0"', []],
    ['another network', '"Network":"10.6.0.0/16"', moved],
    [
      'a subnet length, and with it the default bounds',
      `${network},"SubnetLen":25`,
      ['SubnetLen 24 → 25', 'SubnetMin 10.5.1.0 → 10.5.0.128', 'SubnetMax 10.5.255.0 → 10.5.255.128'],
    ],
    ['a smaller pool', `${network},"SubnetMax":"10.5.9.0"`, ['SubnetMax 10.5.255.0 → 10.5.9.0']],
    ['nftables', `${network},"EnableNFTables":true`, ['EnableNFTables false → true']],
    ['IPv6 on', `${network},"EnableIPv6":true,"IPv6Network":"fc00::/48"`, ipv6],
  ];
  it.each(rows)('names what is different: %s', (_, after, expected) => {
    expect(configChanges(parseNetworkConfig(started), parseNetworkConfig(withBackend(after)))).toEqual(
      expected,
    );
  });
});

describe('ConfigWatch', () => {
  let part: SimPart;
  let clock: VirtualClock;
  let etcd: SimEtcd;
  let log: SimLog;
  let notices: TroubleLog;
  let registry: LensRegistry;

  beforeEach(async () => {
    part = new SimPart();
    ({ clock, log, trouble: notices } = part);
    etcd = new SimEtcd({ clock, members: ['m0', 'm1', 'm2'] });
    etcd.put('/net/config', started);
    registry = new LensRegistry(rotate(etcd.connect('h0')));
    for (const each of [etcd, registry]) part.atEnd(() => each.close());
    const watch = new ConfigWatch({
      ...part.outside,
      registry,
      notices,
      etcdPrefix: '/net',
      config: parseNetworkConfig(started),
      isApplied: () => true,
    });
    part.begin((signal) => watch.run(signal));
    await clock.advance(10);
  });

  afterEach(async () => {
    expect(await part.stop()).toEqual(new Error('stopped'));
  });

  const edit = async (text: string) => {
    etcd.put('/net/config', text);
    await clock.advance(10);
  };

  it('says nothing while nothing changes, nor about other keys, nor about the same in other words', async () => {
    etcd.put('/net/config2', '{');
    etcd.put('/net/subnets/10.5.1.0-24', '{}');
    await edit(started.replace('{', '{ "SubnetLen": 24, '));
    await clock.advance(86_400_000);
    expect(notices.current).toEqual([]);
    expect(log.lines).toEqual([]);
  });

  it('reads the key once, and again only when it has changed', async () => {
    await clock.advance(86_400_000);
    expect(etcd.calls.range).toBe(1);
    await edit(`${started} `);
    expect(etcd.calls.range).toBe(2);
  });

  it('says what an edit or a removal changes and that a restart applies it, until that is undone', async () => {
    await edit(withBackend('"Network":"10.5.0.0/16","SubnetMax":"10.5.9.0"'));
    expect(notices.current).toEqual([
      'the network configuration /net/config was changed: SubnetMax 10.5.255.0 → 10.5.9.0. ' +
        'This host keeps using the configuration it was started with; restart the daemon to apply it',
    ]);
    await edit(started);
    expect(notices.current).toEqual([]);
    expect(log.lines.map(({ level }) => level)).toEqual(['warn', 'info']);
    etcd.delete('/net/config');
    await clock.advance(10);
    expect(notices.current.join()).toContain('was deleted');
    await edit(started);
    expect(notices.current).toEqual([]);
  });

  it('says why an edit cannot be used', async () => {
    await edit(withBackend('"Network":"10.5.0.0/16","SubnetLen":31'));
    expect(notices.current.join()).toMatch(
      /was changed and cannot be used: SubnetLen is 31.*at most 30.*keeps using/,
    );
    await edit('{');
    expect(notices.current.join()).toMatch(
      /cannot be used: it is not a JSON object.*to its end\. This host keeps using/,
    );
  });

  it('says when it may not watch, and not when etcd is away: the lease watch does', async () => {
    registry.beforeWatch = () => {
      throw new RegistryError('PERMISSION_DENIED', registry.endpoint, 'permission denied');
    };
    for (const member of etcd.members) etcd.stop(member);
    await clock.advance(60_000);
    expect(notices.current.join()).toContain('/net/config cannot be watched');
    for (const member of etcd.members) etcd.start(member);
    registry.beforeWatch = () => {};
    await clock.advance(60_000);
    expect(notices.current).toEqual([]);
    for (const member of etcd.members) etcd.stop(member);
    await clock.advance(3_600_000);
    expect(notices.current).toEqual([]);
  });

  it('notices an edit made while etcd could not be reached, after a compaction and when the member is lost', async () => {
    etcd.cut('h0');
    await clock.advance(60_000);
    etcd.put('/net/config', started.replace('10.5.', '10.6.'));
    etcd.compact(etcd.revision);
    etcd.heal('h0');
    etcd.stop('m0');
    await clock.advance(60_000);
    expect(notices.current).toEqual([expect.stringContaining('Network 10.5.0.0/16 → 10.6.0.0/16')]);
  });
});
