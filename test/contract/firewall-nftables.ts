import { describe, expect, test } from 'vitest';
import { CheckedFirewall, type FirewallWorld, N, N6, Operator, S, S6 } from './firewall-world.ts';

const places = {
  4: { table: 'ip flannel-ipv4', protocol: 'ip', network: N, own: S, multicast: '224.0.0.0/4' },
  6: { table: 'ip6 flannel-ipv6', protocol: 'ip6', network: N6, own: S6, multicast: 'ff00::/8' },
} as const;

const prefix = (text: string) => {
  const [addr, length] = text.split('/');
  return { prefix: { addr, len: Number(length) } };
};

/** What `nft -j` lists for the rules of the contract, by chain. */
function expected(family: 4 | 6): Readonly<Record<string, readonly (readonly object[])[]>> {
  const { protocol, network, own, multicast } = places[family];
  const match = (field: string, subnet: string, op = '==') => ({
    match: { op, left: { payload: { protocol, field } }, right: prefix(subnet) },
  });
  const masquerade = { masquerade: { flags: 'fully-random' } };
  const marked = { match: { op: '==', left: { '&': [{ meta: { key: 'mark' } }, 0x4000] }, right: 0x4000 } };
  return {
    forward: [
      [match('saddr', network), { accept: null }],
      [match('daddr', network), { accept: null }],
    ],
    postrtg: [
      [marked, { return: null }],
      [match('saddr', own), match('daddr', network), { return: null }],
      [match('saddr', network), match('daddr', own), { return: null }],
      [match('saddr', network, '!='), match('daddr', own), { return: null }],
      [match('saddr', network), match('daddr', multicast, '!='), masquerade],
      [match('saddr', network, '!='), match('daddr', network), masquerade],
    ],
  };
}

interface Listed {
  readonly chain?: {
    readonly name: string;
    readonly type?: string;
    readonly hook?: string;
    readonly prio?: number;
  };
  readonly rule?: { readonly chain: string; readonly handle: number; readonly expr: readonly object[] };
}

async function list(operator: Operator, family: 4 | 6): Promise<readonly Listed[]> {
  const { nftables }: { nftables: Listed[] } = JSON.parse(
    await operator.run(`nft -j list table ${places[family].table}`),
  );
  return nftables;
}

async function rulesOf(operator: Operator, family: 4 | 6): Promise<Record<string, (readonly object[])[]>> {
  const found: Record<string, (readonly object[])[]> = {};
  for (const { rule } of await list(operator, family)) {
    if (rule !== undefined) (found[rule.chain] ??= []).push(rule.expr);
  }
  return found;
}

async function expectAll(operator: Operator, family: 4 | 6): Promise<void> {
  expect(await rulesOf(operator, family)).toEqual(expected(family));
  const chains = (await list(operator, family)).flatMap(({ chain }) => chain ?? []);
  const hooks = chains.map(({ name, type, hook, prio }) => [name, type, hook, prio]);
  expect(hooks.toSorted(([a], [b]) => String(a).localeCompare(String(b)))).toEqual([
    ['forward', 'filter', 'forward', 0],
    ['postrtg', 'nat', 'postrouting', 100],
  ]);
}

const NO_FORWARD = 'flush chain ip flannel-ipv4 forward\ndelete chain ip flannel-ipv4 forward\n';

type Damage = readonly [string, (operator: Operator) => Promise<string>];

const damages: readonly Damage[] = [
  ['the whole rule set flushed', (operator) => operator.run('nft flush ruleset')],
  [
    'one rule gone',
    async (operator) => {
      const gone = (await list(operator, 4)).find(({ rule }) => rule?.chain === 'postrtg')?.rule;
      return await operator.run('nft -f -', `delete rule ip flannel-ipv4 postrtg handle ${gone?.handle}\n`);
    },
  ],
  [
    'a rule of nobody in front',
    (operator) => operator.run('nft -f -', 'insert rule ip flannel-ipv4 postrtg return\n'),
  ],
  ['a chain gone', (operator) => operator.run('nft -f -', NO_FORWARD)],
  [
    'a chain that is not hooked in',
    (operator) => operator.run('nft -f -', `${NO_FORWARD}add chain ip flannel-ipv4 forward\n`),
  ],
];

/** The nftables section of the contract. */
export function nftablesContract(at: () => FirewallWorld): void {
  describe('nftables mode', () => {
    test.each([4, 6] as const)(
      'IPv%s: exactly these chains, hooks and rules, in this order',
      async (family) => {
        await new CheckedFirewall(at(), { mode: 'nftables' }).check();
        await expectAll(new Operator(at()), family);
      },
    );

    test('one write makes a table; a check with nothing to do reads each table once', async () => {
      const firewall = new CheckedFirewall(at(), { mode: 'nftables' });
      await firewall.check();
      expect(firewall.writes).toEqual(['nft -f -', 'nft -f -']);
      await firewall.check();
      expect(firewall.ran).toEqual([
        'nft -j list table ip flannel-ipv4',
        'nft -j list table ip6 flannel-ipv6',
      ]);
    });

    test('only the chain of what is switched on', async () => {
      const operator = new Operator(at());
      await new CheckedFirewall(at(), { mode: 'nftables', masquerade: false }).check();
      expect(Object.keys(await rulesOf(operator, 4))).toEqual(['forward']);
      await new CheckedFirewall(at(), { mode: 'nftables', forwardRules: false, fullyRandom: false }).check();
      const { postrtg = [], ...others } = await rulesOf(operator, 4);
      expect(others).toEqual({});
      expect(JSON.stringify(postrtg)).toContain('{"masquerade":null}');
    });

    test("flanneld's own rules: the mark without its mask and the rule that shadows the last are put right", async () => {
      const operator = new Operator(at());
      const script = [
        'add table ip flannel-ipv4',
        'add chain ip flannel-ipv4 forward { type filter hook forward priority 0; policy accept; }',
        'add chain ip flannel-ipv4 postrtg { type nat hook postrouting priority 100; policy accept; }',
        `add rule ip flannel-ipv4 forward ip saddr ${N} accept`,
        `add rule ip flannel-ipv4 forward ip daddr ${N} accept`,
        'add rule ip flannel-ipv4 postrtg meta mark & 4294967295 == 16384 return',
        `add rule ip flannel-ipv4 postrtg ip saddr ${S} ip daddr ${N} return`,
        `add rule ip flannel-ipv4 postrtg ip saddr ${N} ip daddr ${S} return`,
        `add rule ip flannel-ipv4 postrtg ip saddr != ${S} ip daddr ${N} return`,
        `add rule ip flannel-ipv4 postrtg ip saddr ${N} ip daddr != 224.0.0.0/4 masquerade fully-random`,
        `add rule ip flannel-ipv4 postrtg ip saddr != ${N} ip daddr ${N} masquerade fully-random`,
      ];
      await operator.run('nft -f -', `${script.join('\n')}\n`);
      const firewall = new CheckedFirewall(at(), { mode: 'nftables' });
      await firewall.check();
      expect(await rulesOf(operator, 4)).toEqual(expected(4));
      expect(firewall.writes).toHaveLength(2);
    });

    test.each(damages)('repaired: %s', async (_, damage) => {
      const operator = new Operator(at());
      const firewall = new CheckedFirewall(at(), { mode: 'nftables' });
      await firewall.check();
      await damage(operator);
      await firewall.check();
      await expectAll(operator, 4);
      expect(firewall.messages('firewall-repaired')[0]).toContain('nftables flannel-ipv4');
      await firewall.check();
      expect(firewall.writes).toEqual([]);
    });
  });
}
