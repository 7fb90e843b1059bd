import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { FirewallSettings } from '../../src/firewall/tasks.ts';
import { CheckedFirewall, Operator, programOf } from '../contract/firewall-world.ts';
import { addresses, FirewallNetwork, networksOf, type Place } from './firewall-network.ts';

const modes = [
  { name: 'iptables-legacy', variant: 'legacy', mode: 'iptables' },
  { name: 'iptables-nft', variant: 'nft', mode: 'iptables' },
  { name: 'nftables', variant: 'nft', mode: 'nftables' },
] as const;

const families = [4, 6] as const;
const hosts = ['a', 'b'] as const;

let network: FirewallNetwork;

beforeAll(async () => {
  network = await FirewallNetwork.make();
});
afterAll(() => network?.close());

beforeEach(async () => {
  for (const host of hosts) {
    for (const variant of ['legacy', 'nft'] as const) {
      const operator = new Operator(network.tools(host, variant));
      for (const family of families) await operator.run(`${programOf(family)}-restore`, NOTHING);
    }
    await new Operator(network.tools(host, 'nft')).run('nft -f -', NO_TABLES);
  }
});

const NOTHING = [
  '*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n',
  '*nat\n:POSTROUTING ACCEPT [0:0]\nCOMMIT\n',
  '*mangle\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n',
].join('');

const NO_TABLES = ['ip flannel-ipv4', 'ip6 flannel-ipv6']
  .map((table) => `add table ${table}\ndelete table ${table}\n`)
  .join('');

/** Who connects to whom, and whom the other sees: with --ip-masq, and without. */
const rows: readonly (readonly [string, Place, Place, Place, Place])[] = [
  ['to the outside', 'ca', 'out', 'a', 'ca'],
  ["between two hosts' containers", 'ca', 'cb', 'ca', 'ca'],
  ["back between two hosts' containers", 'cb', 'ca', 'cb', 'cb'],
  ['from the outside to a container', 'out', 'ca', 'out', 'out'],
  ["another network's container to the network", 'cx', 'cb', 'a', 'cx'],
  ["from a host to another's container", 'b', 'ca', 'b', 'b'],
];

describe.each(modes)('$name', ({ variant, mode }) => {
  const start = async (settings: Partial<FirewallSettings>) => {
    for (const host of hosts) {
      const tools = network.tools(host, variant);
      await new CheckedFirewall(tools, { mode, networks: networksOf(host), ...settings }).check();
    }
  };
  const operator = (host: 'a' | 'b') => new Operator(network.tools(host, variant));
  const onBoth = async (lines: readonly string[], rejectWith: Readonly<Record<4 | 6, string>>) => {
    for (const host of hosts) {
      for (const family of families) {
        const own = lines.map((line) => line.replace('REJECT', `REJECT --reject-with ${rejectWith[family]}`));
        await operator(host).change('filter', own, family);
      }
    }
  };
  const prohibited = { 4: 'icmp-host-prohibited', 6: 'icmp6-adm-prohibited' };

  test.each(families)('IPv%s: whom the other sees', async (family) => {
    const seen = async () =>
      Object.fromEntries(
        await Promise.all(
          rows.map(async ([what, from, to]) => [what, await network.seenFrom(from, to, family)]),
        ),
      );
    await start({ masquerade: false });
    expect(await seen()).toEqual(
      Object.fromEntries(rows.map(([what, , , , plain]) => [what, addresses[family][plain]])),
    );
    await start({});
    expect(await seen()).toEqual(
      Object.fromEntries(rows.map(([what, , , masqueraded]) => [what, addresses[family][masqueraded]])),
    );
  });

  test.each(families)(
    'IPv%s: what carries the mark is not masqueraded, whatever else the mark says',
    async (family) => {
      await start({});
      const mark = '-A PREROUTING -i docker0 -j MARK --set-mark';
      await operator('a').change('mangle', [`${mark} 0x8001`], family);
      expect(await network.seenFrom('ca', 'out', family)).toBe(addresses[family].a);
      await operator('a').change('mangle', [`${mark} 0xc001`], family);
      expect(await network.seenFrom('ca', 'out', family)).toBe(addresses[family].ca);
    },
  );

  if (mode === 'iptables') {
    test('past a policy of DROP', async () => {
      await onBoth([':FORWARD DROP [0:0]'], prohibited);
      expect(await network.seenFrom('ca', 'cb', 4, 1)).toBeUndefined();
      await start({});
      for (const family of families) {
        expect(await network.seenFrom('ca', 'cb', family)).toBe(addresses[family].ca);
        expect(await network.seenFrom('ca', 'out', family)).toBe(addresses[family].a);
      }
    });

    test('past a final REJECT, also when the rules are already behind it', async () => {
      await start({ forwardPosition: 'last' });
      await onBoth(['-D FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD'], prohibited);
      await onBoth(['-A FORWARD -j REJECT'], prohibited);
      await start({ forwardPosition: 'last' });
      expect(await network.seenFrom('ca', 'cb', 4)).toBeUndefined();
      await start({});
      for (const family of families) {
        expect(await network.seenFrom('ca', 'cb', family)).toBe(addresses[family].ca);
      }
      expect(await network.seenFrom('cx', 'out', 4)).toBeUndefined();
    });
  } else {
    test("cannot get past iptables' REJECT", async () => {
      await onBoth(['-A FORWARD -j REJECT'], prohibited);
      await new CheckedFirewall(network.tools('a', variant), { mode, networks: networksOf('a') }).check();
      expect(await network.seenFrom('ca', 'cb', 4)).toBeUndefined();
    });
  }

  test('packets are hidden again at the check after each kind of flush', async () => {
    const tools = network.tools('a', variant);
    const firewall = new CheckedFirewall(tools, { mode, networks: networksOf('a') });
    await firewall.check();
    for (const line of ['iptables -F', 'iptables -t nat -F', 'nft flush ruleset']) {
      await operator('a').run(line);
      await firewall.check();
      expect(await network.seenFrom('ca', 'out', 4)).toBe(addresses[4].a);
    }
  });
});
