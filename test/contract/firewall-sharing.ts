import { describe, expect, test } from 'vitest';
import { CheckedFirewall, type FirewallWorld, ipv4, Operator, otherIpv4 } from './firewall-world.ts';

const modes = ['iptables', 'nftables'] as const;

/** All of both daemons' rules for one family, as text. */
async function all(operator: Operator, mode: (typeof modes)[number]): Promise<readonly string[]> {
  if (mode === 'iptables') return [...(await operator.rules('filter')), ...(await operator.rules('nat'))];
  const { exitCode, stdout } = await operator.try('nft -j list table ip flannel-ipv4');
  if (exitCode !== 0) return [];
  const { nftables }: { nftables: { rule?: { chain: string; expr: object[] } }[] } = JSON.parse(stdout);
  return nftables.flatMap(({ rule }) =>
    rule === undefined ? [] : [`${rule.chain} ${JSON.stringify(rule.expr)}`],
  );
}

const names = (network: string) => {
  const [address = ''] = network.split('/');
  return (rule: string) => rule.includes(address);
};
const first = names(ipv4.network.text);
const second = names(otherIpv4.network.text);

/** Two daemons with two networks on one host. */
export function sharingContract(at: () => FirewallWorld): void {
  describe.each(modes)('two networks on one host, %s', (mode) => {
    const start = async (network = ipv4, settings = {}) => {
      const firewall = new CheckedFirewall(at(), { mode, networks: { ipv4: network }, ...settings });
      await firewall.check();
      return firewall;
    };

    test('the second adds its own and touches nothing of the first', async () => {
      const operator = new Operator(at());
      const one = await start();
      const alone = await all(operator, mode);
      const two = await start(otherIpv4);
      const both = await all(operator, mode);
      expect(both.filter((rule) => !second(rule))).toEqual(alone);
      expect(both.filter(second)).toHaveLength(alone.filter(first).length);
      for (const firewall of [one, two]) {
        await firewall.check();
        expect(firewall.writes).toEqual([]);
      }
    });

    test('jumps and the mark rule are there once', async () => {
      await start();
      await start(otherIpv4);
      const shared = (await all(new Operator(at()), mode)).filter((rule) => !first(rule) && !second(rule));
      expect(shared).toHaveLength(mode === 'iptables' ? 3 : 1);
    });

    test('one repairs its own when all is gone, the other then its own', async () => {
      const operator = new Operator(at());
      const one = await start();
      const two = await start(otherIpv4);
      const before = await all(operator, mode);
      if (mode === 'nftables') await operator.run('nft flush ruleset');
      else for (const table of ['filter', 'nat']) await operator.run(`iptables -t ${table} -F`);
      await one.check();
      expect((await all(operator, mode)).filter(second)).toEqual([]);
      await two.check();
      expect((await all(operator, mode)).toSorted()).toEqual(before.toSorted());
      await one.check();
      expect(one.writes).toEqual([]);
    });

    test('the one that no longer masquerades takes its own away, the last one the shared as well', async () => {
      const operator = new Operator(at());
      await start();
      await start(otherIpv4);
      const off = { masquerade: false, forwardRules: false };
      const before = await all(operator, mode);
      await start(ipv4, off);
      expect(await all(operator, mode)).toEqual(before.filter((rule) => !first(rule)));
      await start(otherIpv4, off);
      expect(await all(operator, mode)).toEqual([]);
      for (const table of ['filter', 'nat']) expect(await operator.chains(table)).toEqual([]);
    });

    test('both at the same moment: the second sees that it was too late, looks again, and nothing is lost or doubled', async () => {
      const operator = new Operator(at());
      const one = new CheckedFirewall(at(), { mode, networks: { ipv4 } });
      const done = new Set<string>();
      one.before = async (call) => {
        if (!/-restore|nft -f/.test(call) || done.has('other')) return;
        done.add('other');
        await start(otherIpv4);
      };
      await one.check();
      expect(done.size).toBe(1);
      const both = await all(operator, mode);
      expect(both.filter(first)).toHaveLength(both.filter(second).length);
      expect(both.filter((rule) => !first(rule) && !second(rule))).toHaveLength(mode === 'iptables' ? 3 : 1);
      expect(one.trouble.current).toEqual([]);
    });
  });
}
