import { describe, expect, test } from 'vitest';
import { type FirewallWorld, Operator } from './firewall-world.ts';

interface Row {
  readonly what: string;
  /** Lines of iptables-restore for the table nat; the chain MINE with one rule is there. */
  readonly lines: readonly string[];
}

const refused: readonly Row[] = [
  { what: 'to make a chain that exists', lines: ['-N MINE'] },
  { what: 'to remove a rule that is not there', lines: ['-D MINE -s 10.9.0.0/16 -j RETURN'] },
  { what: 'to remove a chain with rules', lines: ['-X MINE'] },
  { what: 'to remove a chain that is used', lines: ['-F MINE', '-A POSTROUTING -j MINE', '-X MINE'] },
  { what: 'to lead to a chain that is not there', lines: ['-A POSTROUTING -j NOWHERE'] },
  { what: 'to add to a chain that is not there', lines: ['-A NOWHERE -j RETURN'] },
  { what: 'to insert beyond the end', lines: ['-I MINE 3 -j RETURN'] },
  { what: 'an address of the other family', lines: ['-A MINE -s fc00::/16 -j RETURN'] },
];

const RULE = '-A MINE -s 10.1.0.0/16 -m comment --comment "two words" -j RETURN';

/** What the daemon relies on in iptables and nft, and the simulated ones have to do alike. */
export function toolsContract(at: () => FirewallWorld): void {
  describe('iptables', () => {
    test.each(refused)('refuses $what, and with it all the rest', async ({ lines }) => {
      const operator = new Operator(at());
      await operator.change('nat', ['-N MINE', RULE]);
      const input = `*nat\n-A MINE -s 10.2.0.0/16 -j RETURN\n-D MINE -s 10.2.0.0/16 -j RETURN\n-A POSTROUTING -s 10.3.0.0/16 -j RETURN\n${lines.join('\n')}\nCOMMIT\n`;
      expect((await operator.try('iptables-restore -w 5 --noflush', input)).exitCode).not.toBe(0);
      expect(await operator.rules('nat')).toEqual([RULE]);
    });

    test('a chain that is declared again is emptied, even with --noflush', async () => {
      const operator = new Operator(at());
      await operator.change('nat', ['-N MINE', RULE]);
      await operator.change('nat', [':MINE - [0:0]']);
      expect(await operator.rules('nat')).toEqual([]);
    });

    test('prints addresses first and masked, and a chain in its order', async () => {
      const operator = new Operator(at());
      await operator.change('nat', [
        '-N MINE',
        '-A MINE -j RETURN -d 10.1.2.3/16 ! -s 10.2.0.1',
        '-I MINE 1 -j ACCEPT',
      ]);
      expect(await operator.rules('nat', 'MINE')).toEqual([
        '-j ACCEPT',
        '! -s 10.2.0.1/32 -d 10.1.0.0/16 -j RETURN',
      ]);
    });

    test('knows no table it does not have', async () => {
      expect((await new Operator(at()).try('iptables-save -t nosuch')).exitCode).not.toBe(0);
    });

    test('tells its version', async () => {
      expect(await new Operator(at()).run('iptables --version')).toMatch(/ v\d+\.\d+\.\d+/);
    });
  });

  describe('nft', () => {
    test('says that a table is not there', async () => {
      const { exitCode, stderr } = await new Operator(at()).try('nft -j list table ip flannel-ipv4');
      expect(exitCode).toBe(1);
      expect(stderr).toMatch(/^Error: No such file or directory/m);
    });

    test.each([
      'delete rule ip flannel-ipv4 mine handle 4711',
      'delete chain ip flannel-ipv4 nowhere',
      'add rule ip flannel-ipv4 nowhere return',
      'delete table ip flannel-nowhere',
    ])('refuses %s, and with it all the rest', async (line) => {
      const operator = new Operator(at());
      const made =
        'add table ip flannel-ipv4\nadd chain ip flannel-ipv4 mine\nadd rule ip flannel-ipv4 mine return\n';
      await operator.run('nft -f -', made);
      const before = await operator.run('nft -j list table ip flannel-ipv4');
      const { exitCode } = await operator.try('nft -f -', `add rule ip flannel-ipv4 mine accept\n${line}\n`);
      expect(exitCode).not.toBe(0);
      expect(await operator.run('nft -j list table ip flannel-ipv4')).toBe(before);
    });

    test('removes a chain with its rules', async () => {
      const operator = new Operator(at());
      const made =
        'add table ip flannel-ipv4\nadd chain ip flannel-ipv4 mine\nadd rule ip flannel-ipv4 mine return\n';
      await operator.run('nft -f -', `${made}delete chain ip flannel-ipv4 mine\n`);
      expect(await operator.run('nft -j list table ip flannel-ipv4')).not.toContain('mine');
    });
  });
}
