import { describe, expect, it } from 'vitest';
import { failed } from '../../sim/firewall-iptables.ts';
import { SimKernel } from '../../sim/kernel.ts';
import { runCleanup } from '../../src/cli/cleanup.ts';
import { ipv4, ipv6 } from '../contract/firewall-world.ts';
import { firewallHost } from './firewall-host.ts';

function host() {
  const { tools, firewall } = firewallHost({ networks: { ipv4, ipv6 } });
  const kernel = new SimKernel();
  kernel.createLink('eth0');
  kernel.addAddress('eth0', '10.211.55.100/24');
  kernel.addAddress('eth0', 'fd00:55::100/64');
  const linkIndex = kernel.link('eth0').index;
  const gateway = { linkIndex, gateway: '10.211.55.101' };
  const gateway6 = { linkIndex, gateway: 'fd00:55::101', metric: 1024 };
  kernel.addRoute({ dst: '172.20.1.0/24', ...gateway, protocol: 102 }, 'add');
  kernel.addRoute({ dst: '172.20.2.0/24', type: 'blackhole', protocol: 102, metric: 4000 }, 'add');
  kernel.addRoute({ dst: '172.20.3.0/24', ...gateway }, 'add');
  kernel.addRoute({ dst: 'fc00:1::/64', ...gateway6, protocol: 102 }, 'add');
  const connection = kernel.open();
  const said: string[] = [];
  const say = (line: string) => said.push(line);
  const dsts = async () =>
    [...(await connection.routes(4)), ...(await connection.routes(6))]
      .filter(({ protocol }) => protocol !== 2)
      .map(({ dst }) => dst);
  const routes = { kernel: connection, protocol: 102 };
  return { tools, firewall, kernel, routes, dsts, said, say };
}

describe('cleanup', () => {
  it('leaves the routes alone unless asked', async () => {
    const { tools, dsts, said, say } = host();
    expect(await runCleanup({ commands: tools, say })).toBe(0);
    expect(said).toEqual(['nothing to remove']);
    expect(await dsts()).toHaveLength(4);
  });

  it('removes the routes that carry our number, blackholes too, and no other', async () => {
    const { tools, routes, dsts, said, say } = host();
    expect(await runCleanup({ commands: tools, say, routes })).toBe(0);
    expect(said).toEqual(['removed our routes: 2 of IPv4', 'removed our routes: 1 of IPv6']);
    expect(await dsts()).toEqual(['172.20.3.0/24']);
  });

  it('only says what it would remove when that is all that is asked', async () => {
    const { tools, firewall, routes, dsts, said, say } = host();
    await firewall.check();
    const written: string[] = [];
    tools.before = ({ program }) => {
      if (program.endsWith('restore')) written.push(program);
      return undefined;
    };
    const before = await dsts();
    expect(await runCleanup({ commands: tools, say, routes, dryRun: true })).toBe(0);
    expect(said).toContain('would remove our rules: iptables filter');
    expect(said).toContain('would remove our route to 172.20.1.0/24');
    expect(said.filter((line) => !line.startsWith('would remove our '))).toEqual([]);
    expect([await dsts(), written]).toEqual([before, []]);
  });

  it('says which route it could not remove', async () => {
    const { tools, kernel, routes, said, say } = host();
    const odd = { gateway: '10.211.55.101', linkIndex: kernel.link('eth0').index, special: true };
    kernel.addRoute({ dst: '172.20.9.0/24', protocol: 102, ...odd }, 'add');
    expect(await runCleanup({ commands: tools, say, routes })).toBe(1);
    expect(said).toContain('not removed: the route to 172.20.9.0/24');
    expect(said).toContain('removed our routes: 2 of IPv4');
  });

  it('goes on after what it cannot remove, says why, and exits with 1', async () => {
    const { tools, firewall, routes, said, say } = host();
    await firewall.check();
    tools.before = ({ program }) =>
      program === 'iptables-restore' ? failed(4, 'Permission denied (you must be root)') : undefined;
    expect(await runCleanup({ commands: tools, say, routes })).toBe(1);
    expect(said.filter((line) => line.startsWith('not removed'))).toEqual([
      expect.stringMatching(/^not removed: iptables filter: .*Run as root/),
      expect.stringMatching(/^not removed: iptables nat: /),
    ]);
    expect(said).toContain('removed our rules: ip6tables nat');
    expect(said).toContain('removed our routes: 2 of IPv4');
  });

  it('does not take a tool that cannot start for one that found nothing', async () => {
    const { tools, said, say } = host();
    const text = 'nft: error while loading shared libraries: libnftables.so.1: No such file or directory';
    tools.before = ({ program }) => (program === 'nft' ? failed(127, text) : undefined);
    expect(await runCleanup({ commands: tools, say })).toBe(1);
    expect(said.join()).toMatch(/not removed: .*nft.*libnftables/);
  });

  it('does not mind tools that are not installed', async () => {
    const { tools, said, say } = host();
    for (const program of ['nft', 'iptables-save', 'ip6tables-save']) tools.missing.add(program);
    expect(await runCleanup({ commands: tools, say })).toBe(0);
    expect(said).toEqual(['nothing to remove']);
  });
});
