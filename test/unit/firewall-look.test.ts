import { describe, expect, it } from 'vitest';
import { type Blockage, readBlockages } from '../../src/firewall/blockages.ts';
import { FirewallError } from '../../src/firewall/tool.ts';
import { CommandError, type Commands } from '../../src/runtime/effects.ts';
import { ipv4 } from '../contract/firewall-world.ts';
import { firewallHost, type Settings } from './firewall-host.ts';

function start(settings: Settings = {}) {
  const { tools, firewall, operator } = firewallHost({ masquerade: false, ...settings });
  const passage = { ...ipv4, uplink: 'eth0', bridge: 'docker0' };
  let looks = 0;
  firewall.look = async () => {
    looks++;
    const mode = settings.mode ?? 'iptables';
    return await readBlockages({ commands: tools, passages: [passage], mode }, new AbortController().signal);
  };
  const checks = async (count: number) => {
    for (let i = 0; i < count; i++) await firewall.check();
  };
  return { firewall, operator, looks: () => looks, checks };
}

describe('a daemon that looks for rules which drop packets', () => {
  const docker28 = [
    '-N DOCKER',
    '-A DOCKER ! -i docker0 -o docker0 -j DROP',
    '-A FORWARD -o docker0 -j DOCKER',
  ];
  it.each([
    ['nothing but another accept', {}, ['-A FORWARD -s 10.9.0.0/16 -j ACCEPT'], undefined],
    ['a final REJECT in iptables mode', {}, ['-A FORWARD -j REJECT'], undefined],
    ['a final REJECT in nftables mode', { mode: 'nftables' }, ['-A FORWARD -j REJECT'], /cannot overrule/],
    ['a policy of DROP in nftables mode', { mode: 'nftables' }, [':FORWARD DROP [0:0]'], /cannot overrule/],
    ['Docker 28', {}, docker28, /unpublished ports/],
    [
      'a REJECT of the network before our jump',
      {},
      ['-I FORWARD 1 -s 10.5.0.0/16 -j REJECT'],
      /drops all packets between .*\(10\.5\.0\.0\/16\): iptables, table filter, chain FORWARD, rule "-s 10\.5\.0\.0\/16 -j REJECT .*Remove the rule \(iptables -D FORWARD -s 10\.5\.0\.0\/16 -j REJECT .*--iptables-forward-position=first/,
    ],
  ] as const)('finds with %s what is there', async (_, settings, lines, message) => {
    const { firewall, operator } = start(settings);
    await operator.change('filter', lines);
    await firewall.check();
    expect(firewall.trouble.current).toEqual(message === undefined ? [] : [expect.stringMatching(message)]);
    expect(firewall.notices.current).toEqual([]);
  });

  it('is not ready while all is dropped, and only says so when some may be', async () => {
    const { firewall, operator, checks } = start();
    await operator.change('filter', ['-I FORWARD 1 -p tcp -s 10.5.0.0/16 -j DROP']);
    await firewall.check();
    expect(firewall.trouble.current).toEqual([]);
    expect(firewall.notices.current).toEqual([
      expect.stringMatching(/may drop packets .*-p tcp.*If this is not intended, remove the rule /),
    ]);
    await operator.change('filter', ['-I FORWARD 1 -s 10.5.0.0/16 -j DROP']);
    await firewall.check();
    expect(firewall.trouble.current).toHaveLength(1);
    await operator.run('iptables -F');
    await checks(2);
    expect([...firewall.trouble.current, ...firewall.notices.current]).toEqual([]);
  });

  it('looks at start, when the table filter has changed, and otherwise once a minute', async () => {
    const { operator, looks, checks } = start();
    await checks(1);
    expect(looks()).toBe(1);
    await checks(10);
    expect(looks()).toBe(1);
    await operator.change('filter', ['-A FORWARD -s 10.9.0.0/16 -j ACCEPT']);
    await checks(1);
    expect(looks()).toBe(2);
    await checks(14);
    expect(looks()).toBe(3);
  });

  it('looks when rules of its own were gone: whoever has taken them away may have put others', async () => {
    const { operator, looks, checks } = start();
    await checks(2);
    expect(looks()).toBe(1);
    await operator.run('iptables -F');
    await checks(2);
    expect(looks()).toBe(2);
  });

  it('does not look at every check while another program takes its rules away again and again', async () => {
    const { operator, looks, checks } = start();
    await checks(1);
    for (let i = 0; i < 9; i++) {
      await operator.run('iptables -F');
      await checks(1);
    }
    expect(looks()).toBeLessThan(5);
  });

  it('looks again within seconds while something drops all packets, to see that it has been removed', async () => {
    const { firewall, operator, looks, checks } = start({ mode: 'nftables' });
    await operator.change('filter', ['-A FORWARD -j REJECT']);
    await checks(1);
    expect(firewall.trouble.current).toHaveLength(1);
    await operator.run('iptables -F');
    await checks(3);
    expect(firewall.trouble.current).toEqual([]);
    const seen = looks();
    await checks(9);
    expect(looks()).toBe(seen);
  });

  it('says when it cannot look, and stays ready', async () => {
    const { firewall, checks } = start();
    const works = firewall.look;
    firewall.look = async (): Promise<readonly Blockage[]> => {
      throw new FirewallError('FIREWALL_REFUSED', 'nft failed with exit code 1: no');
    };
    await firewall.check();
    expect(firewall.trouble.current).toEqual([]);
    expect(firewall.notices.current).toEqual([expect.stringContaining('nft failed with exit code 1')]);
    firewall.look = works;
    await checks(14);
    expect(firewall.notices.current).toEqual([]);
  });

  it('says what it cannot see without nft, where nftables is in use', async () => {
    const installed = new Set(['iptables-legacy-save']);
    const commands: Commands = {
      run: async (program) => {
        if (installed.has(program)) return { exitCode: 0, stdout: '', stderr: '' };
        throw new CommandError('COMMAND_MISSING', `${program} is not installed`);
      },
    };
    const look = () =>
      readBlockages({ commands, passages: [ipv4], mode: 'iptables' }, new AbortController().signal);
    expect(await look()).toEqual([]);
    installed.add('iptables-nft-save');
    expect(await look()).toEqual([
      {
        effect: 'partly',
        text: expect.stringMatching(
          /^nft is not installed, so the daemon cannot see .* firewalld's, drop packets /,
        ),
        remedy: 'Install the package nftables.',
      },
    ]);
  });
});
