import { describe, expect, test } from 'vitest';
import { runCleanup } from '../../src/cli/cleanup.ts';
import type { FirewallSettings } from '../../src/firewall/tasks.ts';
import { flanneldsLines } from './firewall-iptables.ts';
import { CheckedFirewall, type FirewallWorld, Operator, otherIpv4 } from './firewall-world.ts';

const tables = ['filter', 'nat'] as const;

/** Rules and chains of ours in both modes, one line each. */
async function ours(operator: Operator): Promise<readonly string[]> {
  const found: string[] = [];
  for (const family of [4, 6] as const) {
    for (const table of tables) {
      const chains = (await operator.chains(table, family)).map((chain) => `-N ${chain}`);
      const rules = await operator.rules(table, undefined, family);
      found.push(...[...chains, ...rules].map((line) => `ipv${family} ${table} ${line}`));
    }
    const { exitCode, stdout } = await operator.try(
      `nft -j list table ${family === 4 ? 'ip' : 'ip6'} flannel-ipv${family}`,
    );
    if (exitCode === 0) found.push(`nft ${stdout}`);
  }
  return found.filter((line) => /flannel/i.test(line));
}

/** What is there after a fresh start with these settings. */
const fresh: readonly (readonly [string, Partial<FirewallSettings>, RegExp?])[] = [
  ['iptables mode', {}, /^ipv[46] (filter|nat) /],
  ['nftables mode', { mode: 'nftables' }, /^nft /],
  ['masquerade off', { masquerade: false }, /^ipv[46] filter /],
  ['forward rules off', { forwardRules: false }, /^ipv[46] nat /],
  ['nothing on', { masquerade: false, forwardRules: false }],
];

/** A way through `fresh` that takes every step from one to another once. */
const everyPair = [0, 1, 0, 2, 0, 3, 0, 4, 1, 2, 1, 3, 1, 4, 2, 3, 2, 4, 3, 4, 0];

function fail(): never {
  throw new Error('no such setting');
}

/** What is removed: of a mode or setting that is no longer on, once at the start, and by `cleanup`. */
export function modeContract(at: () => FirewallWorld): void {
  describe('what is no longer wanted', () => {
    test('from each setting to each other one: only what is wanted is left', async () => {
      const operator = new Operator(at());
      for (const index of everyPair) {
        const [what, settings, left] = fresh[index] ?? fail();
        const firewall = new CheckedFirewall(at(), settings);
        await firewall.check();
        const found = await ours(operator);
        expect(
          found.filter((line) => !left?.test(line)),
          what,
        ).toEqual([]);
        expect(found.length > 0, what).toBe(left !== undefined);
        await firewall.check();
        expect(firewall.writes, what).toEqual([]);
        await firewall.stop();
      }
    });

    test('what flanneld leaves after its switch to nftables: empty chains and jumps', async () => {
      const operator = new Operator(at());
      await operator.change('filter', flanneldsLines('filter'));
      await operator.change('nat', flanneldsLines('nat'));
      await operator.change('nat', ['-F FLANNEL-POSTRTG']);
      await new CheckedFirewall(at(), { mode: 'nftables' }).check();
      expect((await ours(operator)).filter((line) => line.startsWith('ipv'))).toEqual([]);
    });

    test('the wanted rules are there before the others go', async () => {
      await new CheckedFirewall(at()).check();
      const firewall = new CheckedFirewall(at(), { mode: 'nftables' });
      await firewall.check();
      expect(firewall.writes.slice(0, 2)).toEqual(['nft -f -', 'iptables-restore -w 5 --noflush']);
    });

    test('cleanup removes the rules of all networks in both modes and both families, and nothing else', async () => {
      const operator = new Operator(at());
      await operator.change('filter', ['-A FORWARD -s 192.168.0.0/16 -j ACCEPT']);
      await new CheckedFirewall(at()).check();
      await new CheckedFirewall(at(), { networks: { ipv4: otherIpv4 } }).check();
      await operator.run('nft -f -', 'add table ip flannel-ipv4\nadd table ip6 flannel-ipv6\n');
      const said: string[] = [];
      const clean = () => runCleanup({ commands: at().commands, say: (line) => said.push(line) });
      expect(await clean()).toBe(0);
      expect(await ours(operator)).toEqual([]);
      expect(await operator.rules('filter')).toEqual(['-A FORWARD -s 192.168.0.0/16 -j ACCEPT']);
      expect(said).toEqual([
        'removed our rules: iptables filter',
        'removed our rules: iptables nat',
        'removed our rules: nftables flannel-ipv4',
        'removed our rules: ip6tables filter',
        'removed our rules: ip6tables nat',
        'removed our rules: nftables flannel-ipv6',
      ]);
      said.length = 0;
      expect(await clean()).toBe(0);
      expect(said).toEqual(['nothing to remove']);
    });

    test("cleanup leaves a chain that somebody's own rule leads to, empty", async () => {
      const operator = new Operator(at());
      await new CheckedFirewall(at()).check();
      await operator.change('filter', ['-A FORWARD -i lo -j FLANNEL-FWD']);
      expect(await runCleanup({ commands: at().commands, say: () => undefined })).toBe(0);
      expect(await operator.rules('filter')).toEqual(['-A FORWARD -i lo -j FLANNEL-FWD']);
      expect(await operator.chains('filter')).toEqual(['FLANNEL-FWD']);
      expect(await operator.chains('nat')).toEqual([]);
    });
  });
}
