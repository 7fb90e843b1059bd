import { describe, expect, it } from 'vitest';
import type { Call } from '../../sim/firewall.ts';
import { failed } from '../../sim/firewall-iptables.ts';
import { CommandError } from '../../src/runtime/effects.ts';
import { CheckedFirewall, ipv4, ipv6 } from '../contract/firewall-world.ts';
import { firewallHost, type Settings } from './firewall-host.ts';

/** Answers in the place of the real tools while it lasts; undefined leaves it to them. */
type Fault = (call: Call) => ReturnType<typeof failed> | undefined;

const prints = (stdout: string) => ({ exitCode: 0, stdout, stderr: '' });
const saveSays =
  (text: string): Fault =>
  ({ program, args: [, table] }) =>
    program.endsWith('-save') ? prints(text.replace('TABLE', String(table))) : undefined;
const says =
  (text: string, exitCode: number, program: RegExp): Fault =>
  (call) =>
    program.test(call.program) ? failed(exitCode, text) : undefined;
const onCall =
  (argument: string, answer: ReturnType<typeof failed>): Fault =>
  ({ args }) =>
    args[0] === argument ? answer : undefined;
const isMissing: Fault = ({ program }) => {
  throw new CommandError('COMMAND_MISSING', `${program} is not installed`);
};
const hangs: Fault = ({ program }) => {
  throw new CommandError('COMMAND_TIMEOUT', `${program} took longer than 20 s`);
};

const held = 'Another app is currently holding the xtables lock. Stopped waiting after 5s.';
const noModule = "can't initialize iptables table `nat': Table does not exist (do you need to insmod?)";
const noTables = failed(1, 'netlink: Error: cache initialization failed: Protocol not supported');
const notRoot = 'Fatal: Could not fetch rule set generation id: Permission denied (you must be root)';
const nftOnly = "# Table `nat' is incompatible, use 'nft' tool.\n";
const nftables = { mode: 'nftables' } as const;

const rows: readonly [what: string, fault: Fault, message: RegExp, settings?: Settings][] = [
  ['iptables is not installed', isMissing, /^firewall: iptables-save is not.*Install the package iptables/],
  ['nft is not installed', isMissing, /^firewall: nft is not.*Install the package nftables/, nftables],
  ['a module is missing', says(noModule, 3, /-save/), /insmod.*Load the kernel module \(modprobe ip_tables/],
  ['the kernel has no nf_tables', onCall('-j', noTables), /Load the kernel module/, nftables],
  ['the lock is held', says(held, 4, /-restore/), /holding the xtables lock.*fuser/],
  ['no permission', says(notRoot, 4, /-save/), /Run as root, or with CAP_NET_ADMIN/],
  ['the tool hangs', hangs, /took longer than 20 s/],
  ['the output is cut off', saveSays('*TABLE\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j AC'), /no complete table/],
  ['the output is of another table', saveSays('*mangle\nCOMMIT\n'), /no complete table/],
  ['a line of no known form', saveSays('*TABLE\nwhat?\nCOMMIT\n'), /an unknown line: what\?/],
  ['a table iptables cannot show', saveSays(nftOnly), /only nft can print.*nft list ruleset/],
  ['nft prints no JSON', onCall('-j', prints('{"nfta')), /nft printed no table: \{"nfta/, nftables],
  [
    'nft was built without JSON',
    says('Error: JSON support not compiled-in', 1, /^nft/),
    /Install an nft with JSON support/,
    nftables,
  ],
  ['the version cannot be read', onCall('--version', prints('iptables')), /--version prints no version/],
];

describe('a firewall that cannot be kept', () => {
  it.each(rows)('%s: one line with the remedy, tried again, over when it works', async (...row) => {
    const [, fault, message, settings] = row;
    const { tools, firewall } = firewallHost(settings, 3_600_000);
    tools.before = fault;
    for (let i = 0; i < 5; i++) expect(await firewall.check()).toBeLessThanOrEqual(11_000);
    expect(firewall.messages('trouble')).toEqual([expect.stringMatching(message)]);
    expect(firewall.trouble.current).toHaveLength(1);
    tools.before = undefined;
    await firewall.check();
    expect(firewall.messages('trouble-over')).toEqual(['the firewall rules are in place']);
    expect(firewall.messages('firewall-set').length).toBeGreaterThan(0);
    await firewall.stop();
  });

  it('IPv6 out of order does not keep IPv4 from being put in place', async () => {
    const { tools, firewall, operator } = firewallHost({ networks: { ipv4, ipv6 } });
    tools.before = says('Protocol not supported', 1, /^ip6/);
    await firewall.check();
    expect(await operator.rules('nat')).toHaveLength(7);
    expect(firewall.trouble.current).toHaveLength(1);
  });

  it('rules of the former mode stay as long as the new mode cannot be put in place', async () => {
    const { tools, world, firewall: before, operator } = firewallHost();
    await before.check();
    const after = new CheckedFirewall(world, { mode: 'nftables', networks: { ipv4 } });
    tools.missing.add('nft');
    await after.check();
    expect(await operator.rules('nat')).toHaveLength(7);
    tools.missing.clear();
    await after.check();
    expect(await operator.rules('nat')).toEqual([]);
  });

  it('a tool of the other mode that is not installed has left nothing: no trouble', async () => {
    const { tools, firewall } = firewallHost();
    tools.missing.add('nft');
    await firewall.check();
    expect(firewall.trouble.current).toEqual([]);
  });

  it('a mistake in the program is a trouble too, and does not end it', async () => {
    const { tools, firewall } = firewallHost();
    tools.before = () => {
      throw new TypeError('undefined is not a function');
    };
    await firewall.check();
    await firewall.check();
    expect(firewall.log.events('trouble')).toMatchObject([{ level: 'error' }]);
    await firewall.stop();
  });

  it('rules that are gone right after they were written: says so', async () => {
    const { tools, firewall } = firewallHost({ masquerade: false });
    tools.before = (call) => (call.program.endsWith('-restore') ? prints('') : undefined);
    await firewall.check();
    expect(firewall.messages('trouble')).toEqual([expect.stringContaining('right after they were written')]);
  });

  it('a program that removes our rules again and again is a trouble, over when it stops', async () => {
    const { firewall, operator } = firewallHost({ masquerade: false });
    await firewall.check();
    for (let i = 0; i < 6; i++) {
      await operator.run('iptables -F');
      await firewall.check();
    }
    expect(firewall.messages('firewall-repaired')).toHaveLength(2);
    expect(firewall.messages('trouble')).toEqual([
      expect.stringContaining('another program keeps removing or changing'),
    ]);
    await firewall.check();
    expect(firewall.messages('trouble-over')).toEqual(['the firewall rules are stable again']);
    expect(firewall.trouble.current).toEqual([]);
  });
});

describe('when the firewall is checked', () => {
  it.each([1_000, 5_000, 3_600_000])('every %i ms, give or take a tenth', async (resyncMs) => {
    const { firewall } = firewallHost({}, resyncMs);
    for (let i = 0; i < 20; i++) {
      const waitMs = await firewall.check();
      expect(waitMs).toBeGreaterThanOrEqual(0.9 * resyncMs);
      expect(waitMs).toBeLessThanOrEqual(1.1 * resyncMs);
    }
  });
});

describe('what the installed iptables can', () => {
  it.each([
    ['1.4.21', [], false],
    ['1.6.1', [], false],
    ['1.6.2', ['-w', '5'], true],
    ['1.8.11', ['-w', '5'], true],
    ['2.0.0', ['-w', '5'], true],
  ] as const)('%s', async (version, wait, random) => {
    const { tools, firewall, operator } = firewallHost();
    tools.version = version;
    await firewall.check();
    expect(firewall.writes).toContain(['iptables-restore', ...wait, '--noflush'].join(' '));
    expect((await operator.rules('nat')).join('\n').includes('--random-fully')).toBe(random);
  });

  it('is asked once, and not at all when nothing has to be known', async () => {
    const { firewall } = firewallHost({ forwardRules: false, masquerade: false });
    await firewall.check();
    expect(firewall.ran.filter((call) => call.includes('version'))).toEqual([]);
    const { firewall: other, operator } = firewallHost();
    await other.check();
    expect(other.ran.filter((call) => call.includes('version'))).toEqual(['iptables --version']);
    await operator.run('iptables -t nat -F');
    await other.check();
    expect(other.ran.filter((call) => call.includes('version'))).toEqual([]);
  });
});
